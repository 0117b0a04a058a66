"""A bare `(init, update)` pair is a transformation, as in optax: in chains, under masks and in every wrapper."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jadam

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6), "b": jnp.ones(2)}
GRADS = jax.tree.map(lambda x: x * x - 0.35, PARAMS)


def halve(params):
    del params
    return {"seen": jnp.int32(0)}


def halve_update(updates, state, params=None):
    return jax.tree.map(lambda u: u / 2, updates), {"seen": state["seen"] + 1}


@pytest.mark.parametrize("make", [jadam.GradientTransformation, jadam.GradientTransformationExtraArgs])
def test_a_pair_is_a_transformation(make):
    own = make(halve, halve_update)
    assert isinstance(own, jadam.GradientTransformation)
    assert own == make(init=halve, update=halve_update)
    for tx, masked_out in (
        (own, False),
        (jadam.chain(own), False),
        (jadam.masked(own, jadam.match("w")), True),
        (jadam.partition([(jadam.match("w"), own), (True, jadam.identity())]), True),
        (jadam.loss_scale(own, init_scale=1.0), False),
        (optax.chain(own), False),
    ):
        for update in (tx.update, jax.jit(tx.update)):
            updates, state = update(GRADS, tx.init(PARAMS), PARAMS)
            np.testing.assert_allclose(updates["w"], GRADS["w"] / 2)
            np.testing.assert_allclose(updates["b"], GRADS["b"] / (1 if masked_out else 2))
        assert [int(x) for x in jax.tree.leaves(state) if x.dtype == jnp.int32 and x.shape == ()].count(1) >= 1


def test_every_transformation_is_an_instance():
    for tx in (jadam.adamw(1e-3), jadam.chain(), jadam.masked(jadam.sgd(1.0), True), jadam.loss_scale(jadam.sgd(1.0))):
        assert isinstance(tx, jadam.GradientTransformation)
        assert isinstance(tx, jadam.GradientTransformationExtraArgs)
    with pytest.raises(TypeError, match=r"GradientTransformation: init and update must be functions, not 0.1 and None"):
        jadam.GradientTransformation(0.1, None)


def test_outside_jit_its_python_sees_values():
    """As in optax: `if` on a value, numpy, printing; under the user's `jit` it is traced."""
    seen = []

    def update(updates, state, params=None, *, value):
        if float(value) > 1 and np.asarray(updates["w"]).max() > 0:
            seen.append(float(value))
        return updates, state + 1

    tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.GradientTransformation(lambda p: 0, update), jadam.adam(0.1))
    state = tx.init(PARAMS)
    for value in (0.5, 2.0, 3.0):
        updates, state = tx.update(GRADS, state, PARAMS, value=value, other="not for it")
    assert seen == [2.0, 3.0]
    assert state.slots["test_outside_jit_its_python_sees_values"] == 3
    with pytest.raises(jax.errors.ConcretizationTypeError):
        jax.jit(lambda v: tx.update(GRADS, state, PARAMS, value=v))(0.5)
    plain = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adam(0.1))
    expected, kept = None, plain.init(PARAMS)
    for _ in range(3):
        expected, kept = plain.update(GRADS, kept, PARAMS)
    chex.assert_trees_all_close(updates, expected, rtol=1e-6)


def test_arguments_go_to_who_has_a_parameter_for_them():
    got = {}

    def some(updates, state, params=None, *, value=None):
        got["some"] = value
        return updates, state

    def every(updates, state, params=None, **extra):
        got["every"] = sorted(extra)
        return updates, state

    def none(updates, state, params=None):
        return updates, state

    pairs = [jadam.GradientTransformation(lambda p: (), f) for f in (some, every, none)]
    tx = jadam.loss_scale(jadam.chain(*pairs), init_scale=1.0)
    tx.update(GRADS, tx.init(PARAMS), PARAMS, value=1.0, loss_fn=len)
    assert got == {"some": 1.0, "every": ["loss_fn", "value"]}


def test_hyperparameters_of_a_transformation_inside_a_pair():
    """Those that `hyperparams` shows can be set, whoever stands around the state."""
    inner = optax.chain(jadam.adamw(1e-3), optax.identity())
    tx = jadam.chain(inner, jadam.scale(2.0))
    state = tx.set_hyperparams(tx.init(PARAMS), learning_rate=0.5, step_size=1.0)
    assert jadam.hyperparams(state)["learning_rate"] == 0.5
    expected = jadam.adamw(0.5)
    chex.assert_trees_all_close(
        tx.update(GRADS, state, PARAMS)[0], expected.update(GRADS, expected.init(PARAMS), PARAMS)[0], rtol=1e-6
    )


@pytest.mark.usefixtures("lenient")
def test_cautious_masks_the_direction_of_a_pair():
    """Before a learning rate it is one; without, the pair may have descended already."""
    tx = jadam.cautious(jadam.chain(optax.scale_by_adam(), jadam.scale_by_learning_rate(0.1)))
    ours, turned = jadam.cautious(jadam.adam(0.1)), jax.tree.map(jnp.negative, GRADS)
    states = [tx.init(PARAMS), ours.init(PARAMS)]
    for grads in (GRADS, jax.tree.map(lambda g: 0.1 * g, turned)):
        (found, states[0]), (expected, states[1]) = tx.update(grads, states[0], PARAMS), ours.update(grads, states[1], PARAMS)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)
    assert "cautious_mask" in repr(jadam.cautious(jadam.chain(optax.clip(1.0), jadam.adamw(1e-3))))
    with pytest.raises(TypeError, match=r"cautious: chain\(...\) makes the direction, and may have a learning rate"):
        jadam.cautious(jadam.chain(optax.adam(1e-3)))
