"""Chains, their laws, steps, and hyperparameters in the state."""

import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import compilations

import jadam

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6), "b": jnp.ones(2)}
GRADS = jax.tree.map(lambda x: x * x - 0.35, PARAMS)
SCHEDULE = jadam.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100)


def test_laws_of_chain():
    a, b, c = jadam.clip_by_global_norm(1.0), jadam.scale_by_adam(), jadam.scale(-0.1)
    assert jadam.chain() == jadam.identity()
    assert jadam.chain(a, jadam.identity(), b) == jadam.chain(a, b)
    assert jadam.chain(jadam.chain(a, b), c) == jadam.chain(a, jadam.chain(b, c)) == jadam.chain(a, b, c)
    assert jadam.chain(a, b) != jadam.chain(b, a)
    updates, state = jadam.identity().update(GRADS, jadam.identity().init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(updates, GRADS)
    assert state == (1, {}, {}, {}, {})


def test_equal_and_hashable_and_printed_as_the_recipe():
    def build(norm):
        return jadam.chain(jadam.clip_by_global_norm(norm), jadam.adamw(SCHEDULE, mask=jadam.match("w")))

    assert build(1.0) == build(1.0)
    assert hash(build(1.0)) == hash(build(1.0))
    assert build(1.0) != build(2.0)
    recipe = "chain(scale(step_size=2.0), scale_by_learning_rate(learning_rate=0.1))"
    assert repr(jadam.chain(jadam.scale(2.0), jadam.sgd(0.1))) == recipe
    assert "learning_rate=warmup_cosine_decay_schedule(init_value=0.0, peak_value=0.1" in repr(build(1.0))


def test_it_is_a_pair():
    tx = jadam.adam(0.1)
    init, update = tx
    assert (init, update) == (tx.init, tx.update)
    assert len(tx) == 2
    assert tx[0] == init


def test_its_functions_are_values():
    """`jax.jit(tx.update)` in a cell that is run twice compiles once."""
    one, two, other = jadam.adam(0.1), jadam.adam(0.1), jadam.adam(0.2)
    assert one.update is two.update
    assert one.update != other.update
    assert one.step != one.update
    assert str(inspect.signature(one.update)).startswith("(updates: 'PyTree', state: 'OptState', params:")
    step = jax.jit(one.step, donate_argnames=("state", "params"))
    step(GRADS, one.init(PARAMS), params=jax.tree.map(jnp.copy, PARAMS))


def test_step_is_update_and_apply():
    tx = jadam.chain(jadam.clip_by_global_norm(0.5), jadam.adamw(SCHEDULE))
    for dtype in ("float32", "bfloat16", "float16"):
        params, state = jax.tree.map(lambda x, d=dtype: x.astype(d), PARAMS), tx.init(PARAMS)
        state = jax.jit(tx.update)(GRADS, state, params)[1]  # a second step: the first has a learning rate of 0
        stepped, one = tx.step(GRADS, state, params)
        updates, two = tx.update(GRADS, state, params)
        chex.assert_trees_all_close(stepped, jadam.apply_updates(params, updates), rtol=1.2e-7)
        chex.assert_trees_all_equal(one, two)
        assert not bool((stepped["w"] == params["w"]).all())


def test_apply_updates_keeps_dtypes():
    params = {"a": jnp.ones(2, jnp.bfloat16), "n": jnp.arange(2), "none": None}
    moved = jadam.apply_updates(params, {"a": jnp.full(2, 0.01), "n": jnp.zeros(2, jnp.int32), "none": None})
    assert moved["a"].dtype == jnp.bfloat16
    assert float(moved["a"][0]) == pytest.approx(1.01, rel=2**-8)
    assert (moved["n"] == params["n"]).all()
    chex.assert_trees_all_equal(jadam.apply_updates(params, {"a": None, "n": None, "none": None}), params)


def test_a_number_and_a_schedule_have_states_of_one_structure():
    by_number, by_schedule = jadam.adamw(1e-3).init(PARAMS), jadam.adamw(SCHEDULE).init(PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(by_number, by_schedule)
    assert jadam.hyperparams(by_number)["learning_rate"] == np.float32(1e-3)
    tx, state = jadam.adamw(SCHEDULE), by_schedule
    for step in range(3):
        assert jadam.hyperparams(state)["learning_rate"] == pytest.approx(float(SCHEDULE(max(step - 1, 0))))
        _, state = tx.update(GRADS, state, PARAMS)


def test_hyperparams_reads_what_the_user_wrote():
    state = jadam.adamw(1e-3, b2=0.99999, weight_decay=0.1).init(PARAMS)
    found = {name: float(value) for name, value in jadam.hyperparams(state).items()}
    expected = {"b1": 0.9, "b2": 0.99999, "eps": 1e-8, "eps_root": 0.0, "weight_decay": 0.1, "learning_rate": 1e-3}
    assert found == pytest.approx(expected, rel=1e-7)
    assert float(state.hyperparams["adam.one_minus_b2"]) == pytest.approx(1e-5, rel=1e-7)  # not 1 - float32(b2)
    twice = jadam.chain(jadam.scale_by_adam(), jadam.scale_by_adam(b1=0.5), jadam.scale(1.0)).init(PARAMS)
    assert set(jadam.hyperparams(twice)) >= {"adam.b1", "adam_1.b1", "step_size"}


def test_setting_the_learning_rate():
    tx = jadam.adamw(1e-3)
    state = tx.init(PARAMS)
    changed = tx.set_hyperparams(state, learning_rate=0.5, b2=0.9999)
    expected = jadam.adamw(0.5, b2=0.9999)
    found, wanted = tx.update(GRADS, changed, PARAMS), expected.update(GRADS, expected.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal((found[0], found[1]._replace(given={})), (wanted[0], wanted[1]._replace(given={})))
    assert jadam.hyperparams(state)["learning_rate"] == np.float32(1e-3)  # nothing is changed in place


def test_setting_a_hyperparameter_compiles_nothing():
    tx, state = jadam.adamw(1e-3), jadam.adamw(1e-3).init(PARAMS)
    step = jax.jit(tx.step)
    step(GRADS, state, PARAMS), tx.update(GRADS, state, PARAMS)

    def change():
        other = tx.set_hyperparams(state, learning_rate=0.5, b2=0.99)
        step(GRADS, other, PARAMS), tx.update(GRADS, other, PARAMS)

    assert compilations(change) == 0
    assert compilations(lambda: jax.jit(lambda x: x * 3 + 1)(jnp.ones(11))) > 0  # the counter counts


def test_a_second_equal_optimizer_compiles_nothing():
    """Nor does one with other numbers: numbers are in the state, not in the program."""
    params = jax.tree.map(lambda x: jnp.concatenate([x, x, x]), PARAMS)

    def train(tx):
        updates, _ = tx.update(params, tx.init(params), params)
        jadam.apply_updates(params, updates)

    train(jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(SCHEDULE)))
    again = jadam.warmup_cosine_decay_schedule(0.0, 0.1, 10, 100)
    assert compilations(lambda: train(jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(again)))) == 0
    assert compilations(lambda: train(jadam.chain(jadam.clip_by_global_norm(9.0), jadam.adamw(again, b1=0.8)))) == 0
    assert compilations(lambda: train(jadam.chain(jadam.clip_by_global_norm(9.0), jadam.adamw(1e-2)))) > 0


def test_eight_learning_rates_in_one_program():
    rates = jnp.logspace(-3, -1, 8)
    states = jax.vmap(lambda rate: jadam.adamw(rate).init(PARAMS))(rates)
    tx = jadam.adamw(1.0)
    many, states = jax.vmap(tx.step, in_axes=(None, 0, None))(GRADS, states, PARAMS)
    assert jadam.hyperparams(states)["learning_rate"].shape == (8,)
    moved = jnp.abs(many["b"] - 1)[:, 0] / rates
    np.testing.assert_allclose(moved, moved[0], rtol=1e-3)
    halved = tx.set_hyperparams(states, learning_rate=rates / 2)
    np.testing.assert_allclose(jadam.hyperparams(halved)["learning_rate"], rates / 2)
    assert jadam.hyperparams(tx.set_hyperparams(states, learning_rate=0.5))["learning_rate"].shape == (8,)


@pytest.mark.usefixtures("x64")
def test_set_hyperparams_keeps_the_dtype():
    for dtype in ("float32", "float64"):
        params = {"w": jnp.ones(2, dtype)}
        tx = jadam.adamw(1e-3)
        changed = tx.set_hyperparams(tx.init(params), learning_rate=0.1, b1=0.5)
        chex.assert_trees_all_equal_shapes_and_dtypes(changed, tx.init(params))
        assert jadam.hyperparams(changed)["learning_rate"].dtype == dtype


def test_independent_decay_does_not_depend_on_the_learning_rate():
    """Optax and torch multiply the decay by the learning rate: tuning one changes the other."""
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    for peak in (1e-2, 1e-3):
        for rate in (peak, jadam.warmup_constant_schedule(peak, peak, 5)):
            tx = jadam.adamw(rate, weight_decay=1e-3, decay="independent")
            moved, _ = tx.step(zero, tx.init(PARAMS), PARAMS)
            np.testing.assert_allclose(moved["b"], (1 - 1e-3) * np.ones(2), rtol=1e-6)
    halfway = jadam.adamw(jadam.warmup_constant_schedule(0.5, 1.0, 10), weight_decay=1e-3, decay="independent")
    np.testing.assert_allclose(halfway.step(zero, halfway.init(PARAMS), PARAMS)[0]["b"], (1 - 5e-4) * np.ones(2), rtol=1e-6)


def test_coupled_decay_is_the_block_before_adam():
    """L2 regularisation, as torch.optim.Adam(weight_decay=...) has it: the gradient of wd/2 |p|^2 goes through Adam."""
    tx = jadam.chain(jadam.add_decayed_weights(0.1), jadam.adam(0.01))
    plain = jadam.adam(0.01)
    regularised = jax.tree.map(lambda g, p: g + 0.1 * p, GRADS, PARAMS)
    expected, _ = plain.update(regularised, plain.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(tx.update(GRADS, tx.init(PARAMS), PARAMS)[0], expected, rtol=1e-6)


def test_tiny_decay_is_not_lost():
    """P * (1 - lr*wd) in float32 is nothing at lr*wd = 2e-8."""
    tx, params = jadam.adamw(1e-4, weight_decay=2e-4), jnp.ones(1)
    updates, _ = tx.update(jnp.zeros(1), tx.init(params), params)
    assert float(updates[0]) == pytest.approx(-2e-8, rel=1e-6)


def test_gradients_through_the_update_are_finite_at_zero():
    """With eps_root and without it, where optax has NaN: a step from a gradient of zero has the slope of rate over eps."""

    def update(g, eps_root):
        tx = jadam.adam(0.1, eps_root=eps_root)
        return tx.update(g, tx.init(g), g)[0].sum()

    assert jnp.isfinite(jax.grad(update)(jnp.zeros(3), 1e-16)).all()
    np.testing.assert_allclose(jax.grad(update)(jnp.zeros(3), 0.0), -0.1 / 1e-8, rtol=1e-5)


def test_scale_blocks():
    for tx, factor in (
        (jadam.scale(-3.0), -3.0),
        (jadam.scale_by_learning_rate(0.5), -0.5),
        (jadam.scale_by_learning_rate(0.5, flip_sign=False), 0.5),
        (jadam.scale_by_schedule(lambda count: -2.0 - count.astype(jnp.float32)), -2.0),
        (jadam.set_to_zero(), 0.0),
    ):
        updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS)
        chex.assert_trees_all_close(updates, jax.tree.map(lambda g, f=factor: f * g, GRADS), rtol=1e-6)
