"""Lookahead: the paper's two loops, optax's numbers, and a state that begins again."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import run, wide

import jadam

RNG = np.random.default_rng(0)
PARAMS, *GRADS = [
    {"w": jnp.asarray(RNG.standard_normal((3, 4)), jnp.float32), "b": jnp.asarray(RNG.standard_normal(5), jnp.float32)}
    for _ in range(12)
]


@pytest.mark.parametrize(("period", "size"), [(1, 0.5), (3, 0.5), (5, 0.8), (4, 0.0), (4, 1.0)])
def test_it_is_the_loops_of_the_paper(period, size):
    params, slow, fast = PARAMS, wide(PARAMS), wide(PARAMS)
    tx = jadam.lookahead(jadam.sgd(0.1), period, size)
    step, state = jax.jit(tx.step), tx.init(params)
    for t, g in enumerate(GRADS, 1):
        params, state = step(g, state, params)
        fast = jax.tree.map(lambda p, g: p - 0.1 * np.asarray(g, np.float64), fast, g)
        if t % period == 0:
            slow = jax.tree.map(lambda s, p: s + size * (p - s), slow, fast)
            fast = slow
        chex.assert_trees_all_close(params, fast, rtol=1e-5, atol=1e-6)
        chex.assert_trees_all_close(state.slots["lookahead"]["slow"], slow, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("lenient")  # for optax
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("name", ["adam", "adamw", "lion", "sgd"])
def test_equals_optax(name, reset):
    """The fast weights are ours, with a schedule inside that begins again where the state does."""
    options = {"sgd": {"momentum": 0.9}, "adam": {}}.get(name, {"weight_decay": 0.1})
    build = lambda lib: lib.lookahead(getattr(lib, name)(lib.linear_schedule(0.1, 0.01, 7), **options), 3, 0.6, reset)  # noqa: E731
    ours, theirs = build(jadam), build(optax)
    both = optax.LookaheadParams.init_synced(PARAMS)
    kept, params, state = theirs.init(both), PARAMS, ours.init(PARAMS)
    for g in GRADS[:8]:
        params, state = ours.step(g, state, params)
        updates, kept = theirs.update(g, kept, both)
        both = optax.apply_updates(both, updates)
        chex.assert_trees_all_close(params, both.fast, rtol=1e-4, atol=1e-5)
        chex.assert_trees_all_close(state.slots["lookahead"]["slow"], both.slow, rtol=1e-4, atol=1e-5)
    assert state.count == 8


@pytest.mark.parametrize("storage", [{}, {"state": "int8", "params": "remainder", "min_size": 0}], ids=["float32", "int8"])
def test_a_reset_state_is_the_initial_one(storage):
    """Of everything inside: slots in any storage, scalars, counts, and the state of a pair of optax's."""
    inner = jadam.chain(optax.trace(0.9), jadam.reduce_on_plateau(patience=1), jadam.prodigy(0.1))
    tx = jadam.with_precision(jadam.lookahead(inner, 2, 0.5, reset_state=True), **storage)
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    first = state = tx.init(params)
    for t, g in enumerate(GRADS[:4], 1):
        before, grads = params, jax.tree.map(lambda x: x.astype(jnp.bfloat16), g)
        params, state = jax.jit(tx.step)(grads, state, params, value=1.0)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, first)
        strip = lambda kept: {k: v for k, v in kept.items() if k not in ("lookahead", "remainder")}  # noqa: E731
        fresh = tx.init(before)
        if t % 2 == 0:
            chex.assert_trees_all_equal(strip(state.slots), strip(fresh.slots))
            chex.assert_trees_all_equal(state.scalars, fresh.scalars)
        else:
            assert state.scalars["restart"]["count"] == 1
            assert state.scalars["reduce_on_plateau"]["best_value"] == 1
    assert state.count == 4


def test_on_both_sides_of_others():
    """In a group, within a mask and around an average; what is frozen keeps no slow weights."""
    slow = jadam.lookahead(jadam.average(jadam.sgd(0.1), "uniform"), 2, 0.5, reset_state=True)
    tx = jadam.partition([(jadam.match("b"), jadam.freeze()), (True, slow)])
    params, state = run(tx, PARAMS, GRADS[:3])
    chex.assert_trees_all_equal(params["b"], PARAMS["b"])
    [key] = [key for key in state.slots if key.endswith("lookahead")]
    assert state.slots[key]["slow"]["b"] is None
    alone = run(jadam.lookahead(jadam.sgd(0.1), 2, 0.5), PARAMS, GRADS[:3])[0]
    chex.assert_trees_all_close(params["w"], alone["w"], rtol=1e-6)
    frozen = jadam.lookahead(jadam.partition([(jadam.match("b"), jadam.freeze()), (True, jadam.sgd(0.1))]), 2, 0.5)
    assert frozen.init(PARAMS).slots["lookahead"]["slow"]["b"] is None


def test_under_vmap_and_scan():
    tx = jadam.lookahead(jadam.adam(0.1), 2, 0.5, reset_state=True)
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)
    train = lambda p: jax.lax.scan(lambda c, _: (tx.step(c[0], c[1], c[0]), None), (p, tx.init(p)), None, length=5)[0]  # noqa: E731
    params, states = jax.vmap(train)(many)
    alone, state = train(jax.tree.map(lambda x: x[1], many))
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], (params, states)), (alone, state), rtol=1e-5, atol=1e-6)
    assert (states.scalars["restart"]["count"] == 1).all()


def test_it_is_seen_through():
    tx = jadam.lookahead(jadam.adam(0.1), 5, 0.5, reset_state=True)
    state = tx.set_hyperparams(tx.init(PARAMS), learning_rate=0.2, slow_step_size=0.8)
    assert jadam.hyperparams(state)["slow_step_size"] == jnp.float32(0.8)
    low = jadam.with_precision(tx, "int8", min_size=0).init(PARAMS).slots
    assert low["lookahead"]["slow"]["w"].dtype == jnp.float32
    assert "lookahead" in jadam.describe(tx, PARAMS)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(PARAMS, tx.init(PARAMS))


def test_a_shorter_period_restarts_at_once():
    """A run that resumes behind the new period: the state inside must not wait for a count that is past."""
    longer, shorter = (jadam.lookahead(jadam.adam(0.1), period, 0.5, reset_state=True) for period in (10, 5))
    params = {"w": jnp.ones(3)}
    state = longer.init(params)
    for _ in range(7):
        params, state = longer.step(params, state, params)
    for _ in range(5):
        params, state = shorter.step(params, state, params)
    assert max(int(scalars["count"]) for scalars in state.scalars.values() if "count" in scalars) < 5
