"""Ids of rows: of any type, padding, twice the same, none, too many, and such that are lost."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jadam
from jadam import Rows

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), "float32")


@pytest.mark.parametrize("dtype", ["int32", "int8", "uint8", "uint32"])
def test_ids_of_any_integer_type(dtype):
    tx, params = jadam.sgd(1.0), {"table": jnp.zeros((6, 2))}
    ids = jnp.asarray([5, 100, 5, 2], dtype)
    new, _ = tx.step({"table": Rows(ids, jnp.ones((4, 2)))}, tx.init(params), params)
    assert new["table"][:, 0].tolist() == [0, 0, -1, 0, 0, -2]


@pytest.mark.usefixtures("x64")
def test_ids_of_64_bits_are_not_cut():
    """4294967298 is 2 in the lower 32 bits."""
    tx, params = jadam.sgd(1.0), {"table": jnp.zeros((6, 2))}
    ids = jnp.asarray([2**32 + 2, 3], "int64")
    new, _ = tx.step({"table": Rows(ids, jnp.ones((2, 2)))}, tx.init(params), params)
    assert new["table"][:, 0].tolist() == [0, 0, 0, -1, 0, 0]


def test_no_rows_and_more_than_there_are():
    tx, params = jadam.adam(1e-2), {"table": normal(3, 2)}
    none = {"table": Rows(jnp.zeros(0, "int32"), jnp.zeros((0, 2)))}
    new, state = tx.step(none, tx.init(params), params)
    chex.assert_trees_all_equal(new, params)
    assert state.count == 1
    ids, values = jnp.asarray(RNG.integers(0, 3, 40)), normal(40, 2)
    updates, _ = tx.update({"table": Rows(ids, values)}, state, params)
    assert updates["table"].ids.tolist() == [0, 1, 2]


def test_what_is_lost_under_jit_is_nan():
    """Ids before the first row, and more distinct ids than `unique_rows` has room for: no step without them."""
    tx, params = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adam(1e-2)), {"table": normal(6, 2)}
    state = tx.init(params)

    @jax.jit
    def step(ids):
        return tx.step({"table": Rows(ids, jnp.ones((ids.size, 2)))}, state, params)[0]["table"]

    chex.assert_trees_all_equal(step(jnp.array([-1, 2])), step(jnp.array([5, 2])))  # as table[ids]
    assert bool(jnp.isnan(step(jnp.array([-7, 2]))).any())

    @jax.jit
    def unique_step(batch):
        ids = jadam.unique_rows(batch, rows=6, size=2)
        return tx.step({"table": Rows(ids, jnp.ones((2, 2)), distinct=True)}, state, params)[0]["table"]

    assert bool(jnp.isfinite(unique_step(jnp.array([3, 1, 3]))).all())
    assert bool(jnp.isnan(unique_step(jnp.array([3, 1, 2]))).any())
    assert bool(jnp.isnan(unique_step(jnp.array([3, -1, 3]))).any())


def test_unique_rows_are_sorted_and_padded():
    batch = jnp.asarray(RNG.integers(0, 30, (4, 9)))
    found = jadam.unique_rows(batch, rows=20, size=25)
    distinct = np.unique(np.asarray(batch)[np.asarray(batch) < 20])
    assert found.tolist() == [*distinct, *range(20 + len(distinct), 45)]
    assert jadam.unique_rows(batch, rows=30).shape == (30,)
    assert jadam.unique_rows(jnp.zeros(0, "int32"), rows=5).tolist() == [5]
    jitted = jax.jit(lambda batch: jadam.unique_rows(batch, rows=20, size=25))(batch)
    chex.assert_trees_all_equal(jitted, found)


def test_arithmetic():
    """Sums of gradients are concatenated: the recipe for micro-batches."""
    a, b = Rows(jnp.array([1, 2]), jnp.ones((2, 2))), Rows(jnp.array([2]), 3 * jnp.ones((1, 2)))
    table = np.zeros((4, 2), "float32")
    mean = (a + b) * 0.5
    assert not mean.distinct
    for new in (table + mean, jnp.asarray(table) + mean, mean + table, jadam.apply_updates(table, 0.5 * (a + b))):
        assert new[:, 0].tolist() == [0, 0.5, 2, 0]


def test_ids_that_something_has_changed_are_nan():
    """`optax.scale(2)` doubled ids, unseen: whole rows moved that had no gradient. What only moves arrays is not arithmetic."""
    import optax

    params = {"table": jnp.ones((6, 2))}
    grads = {"table": Rows(jnp.array([1, 2]), jnp.ones((2, 2)))}
    for factor, changes in ((2, True), (0, True), (1, False)):
        pair = optax.scale(factor)
        for tx in (optax.chain(pair, jadam.sgd(1.0)), optax.chain(jadam.sgd(1.0), pair)):
            updates, _ = tx.update(grads, tx.init(params), params)
            for new in (jadam.apply_updates(params, updates), optax.apply_updates(params, updates)):
                assert np.isnan(new["table"]).any() == changes
    moved = jax.tree.map(lambda x: jnp.stack([x, x])[1][::-1], jax.device_get(grads))
    chex.assert_trees_all_equal(*(jadam.sgd(1.0).step(g, jadam.sgd(1.0).init(params), params)[0] for g in (moved, grads)))
