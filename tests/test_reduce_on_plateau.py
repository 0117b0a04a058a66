"""A scale that falls where the loss does not: optax's numbers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jadam

RNG = np.random.default_rng(0)
PARAMS = {"w": jnp.ones(3)}
OPTIONS = [
    {},
    {"factor": 0.5, "patience": 2},
    {"factor": 0.5, "patience": 3, "cooldown": 4},
    {"factor": 0.3, "patience": 2, "accumulation_size": 3, "cooldown": 1},
    {"factor": 0.1, "patience": 1, "min_scale": 0.05},
    {"factor": 0.5, "patience": 2, "rtol": 0.0, "atol": 0.2},
]


def losses(kind):
    noise = RNG.standard_normal(80)
    return {
        "flat": np.ones(80),
        "falling": np.exp(-np.arange(80) / 20) + 0.1 * noise,
        "rising": np.arange(80.0),
        "not finite": np.where(np.arange(80) % 7 == 3, np.nan, np.where(np.arange(80) % 11 == 5, np.inf, noise)),
    }[kind].astype(np.float32)


@pytest.mark.usefixtures("lenient")  # for optax
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", ["flat", "falling", "rising", "not finite"])
def test_equals_optax(kind, options):
    values, paths = jnp.asarray(losses(kind)), []
    for reduce in (jadam.reduce_on_plateau(**options), optax.contrib.reduce_on_plateau(**options)):
        scale = lambda state, value, tx=reduce: tx.update(PARAMS, state, PARAMS, value=value)[::-1]  # noqa: E731
        paths.append(jax.lax.scan(scale, reduce.init(PARAMS), values)[1]["w"])
    np.testing.assert_allclose(*paths, rtol=1e-6)
    assert (paths[0][-1] < 1).all() or (options == {} and kind != "flat")


def test_in_a_chain_it_scales_the_step():
    """Behind an optimizer or before its learning rate, in groups; the state says the scale."""
    reduce = jadam.reduce_on_plateau(0.5, 1)
    tx = jadam.partition([(True, jadam.chain(jadam.sgd(1.0), reduce), "body")])
    params, state = PARAMS, tx.init(PARAMS)
    for n in range(4):
        before = params
        params, state = jax.jit(tx.step)(PARAMS, state, params, value=jnp.bfloat16(2.0))
        np.testing.assert_array_equal(before["w"] - params["w"], 0.5**n)
    assert state.scalars["body.reduce_on_plateau"]["scale"] == 0.125
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(PARAMS))


def test_many_models():
    tx = jadam.chain(jadam.sgd(1.0), jadam.reduce_on_plateau(0.5, 1))
    states = jax.vmap(tx.init)({"w": jnp.ones((2, 3))})
    for value in ([3.0, 3.0], [2.0, 3.0], [1.0, 3.0]):
        updates, states = jax.vmap(lambda s, v: tx.update(PARAMS, s, PARAMS, value=v))(states, jnp.asarray(value))
    np.testing.assert_array_equal(states.scalars["reduce_on_plateau"]["scale"], [1.0, 0.25])
    np.testing.assert_array_equal(updates["w"][:, 0], [-1.0, -0.25])


@pytest.mark.parametrize("value", [jnp.ones(2), "a", None, 1j, [1.0]], ids=str)
def test_what_is_not_a_number_is_refused(value):
    tx = jadam.reduce_on_plateau()
    with pytest.raises(TypeError, match=r"reduce_on_plateau.update: value must be a real number, not [^J]"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=value)


def test_without_a_value():
    tx = jadam.chain(jadam.adam(0.1), jadam.reduce_on_plateau())
    with pytest.raises(ValueError, match=r"value is missing; call update\(grads, state, params, value=...\), and step alike"):
        tx.step(PARAMS, tx.init(PARAMS), PARAMS)
