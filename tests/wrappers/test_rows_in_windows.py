"""Windows of micro-batches whose gradients are rows of a table: one step on the rows of all of them."""

import functools
import operator

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from micro_batches import NAN
from support import assert_differ, eight_devices, run

import jadam
from jadam import Rows

ROWS, WIDTH = 20, 3
ROOM = [(jadam.match("table"), 12)]
IS_ROWS = lambda x: isinstance(x, Rows)  # noqa: E731
INNER = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-2))


def params(dtype="float32"):
    rng = np.random.default_rng(0)
    return {"table": jnp.asarray(rng.standard_normal((ROWS, WIDTH)), dtype), "b": jnp.ones(WIDTH, dtype)}


def grads(n, dtype="float32"):
    """Of four rows, of which some may be one, and one is padding."""
    rng = np.random.default_rng(n + 1)
    values, b = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((4, WIDTH), (WIDTH,)))
    return {"table": Rows(jnp.asarray([*rng.integers(0, ROWS, 3), ROWS + n], "int32"), values), "b": b}


def times(factor, tree):
    return jax.tree.map(lambda x: x * factor, tree, is_leaf=IS_ROWS)


def added(trees):
    return functools.reduce(lambda a, b: jax.tree.map(operator.add, a, b, is_leaf=IS_ROWS), trees)


def mean(trees, weights=None):
    weights = [1.0] * len(trees) if weights is None else weights
    return times(1 / sum(weights), added([times(w, tree) for w, tree in zip(weights, trees, strict=True)]))


def spoiled(tree, number=NAN):
    return tree | {"table": tree["table"] * number}


def window(tx=INNER, every=3, **options):
    return jadam.accumulate(tx, every, rows=ROOM, **options)


def without(state):
    """What is inside of `accumulate`."""
    return [state.count, {key: slots for key, slots in state.slots.items() if key != "accumulate"}]


def assert_close(found, expected, **options):
    chex.assert_trees_all_close(
        (found[0], without(found[1])), (expected[0], without(expected[1])), **{"rtol": 2e-6, "atol": 1e-7} | options
    )


@pytest.mark.parametrize(
    ("how", "by"),
    [
        ("loop", "step"),
        pytest.param("loop", "update", marks=pytest.mark.slow),
        pytest.param("cond", "step", marks=pytest.mark.slow),
    ],
)
def test_it_is_one_step_on_the_rows_of_a_window(how, by):
    """Two windows, so that rows of the first are not touched in the second, and its ids are forgotten."""
    given = [grads(n) for n in range(6)]
    expected = run(INNER, params(), [mean(given[:3]), mean(given[3:])])
    found = run(window(how=how), params(), given, by)
    assert_close(found, expected)
    assert found[1].count == 2
    assert_differ(found[0], run(INNER, params(), [mean(given[:3])])[0])


def test_it_is_a_window_of_dense_gradients():
    """Where a row has no past, so that it would stand still without a gradient."""
    given = [grads(n) for n in range(3)]
    dense = [g | {"table": jnp.zeros((ROWS, WIDTH)) + g["table"]} for g in given]
    tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.sgd(0.1, momentum=0.5))
    assert_close(run(window(tx), params(), given), run(jadam.accumulate(tx, 3), params(), dense))


STORAGES = {
    "float32": ("float32", {}),
    "remainder": ("bfloat16", {"params": "remainder", "state": "bfloat16", "min_size": 1}),
    "kahan": ("bfloat16", {"params": "kahan"}),
    "stochastic": ("bfloat16", {"params": "stochastic", "state": "bfloat16", "min_size": 1}),
}


@pytest.mark.parametrize(
    "storage", ["float32", "remainder", *(pytest.param(x, marks=pytest.mark.slow) for x in ("kahan", "stochastic"))]
)
def test_a_window_of_one_is_the_identity(storage):
    dtype, formats = STORAGES[storage]
    tx = jadam.with_precision(INNER, **formats)
    given = [grads(n, dtype) for n in range(2)]
    found, expected = (run(one, params(dtype), given) for one in (window(tx, 1), tx))
    chex.assert_trees_all_equal((found[0], without(found[1])), (expected[0], without(expected[1])))


def test_the_storage_of_a_window_by_name():
    """What a wrapper keeps for leaves of which it collects rows has names too: `values` was said to be of no rule."""

    def dtypes(**formats):
        tx = jadam.with_precision(window(), formats, min_size=1)
        slots = jax.eval_shape(tx.init, params()).slots["accumulate"]
        return {name: str(slot["table"].dtype) for name, slot in slots.items() if slot["table"] is not None}

    assert dtypes(values="bfloat16") == {"ids": "int32", "values": "bfloat16", "weights": "float32"}
    assert dtypes(mean="bfloat16") == {"ids": "int32", "values": "float32", "weights": "float32"}


def test_a_step_that_waits_keeps_its_rows_alone():
    """And an update is of no row."""
    tx = window()
    after, before = run(tx, params(), [grads(n) for n in range(3)])
    updates, state = tx.update(grads(3), before, after)
    assert not any(x.any() for x in jax.tree.leaves(jadam.apply_updates(jax.tree.map(jnp.zeros_like, after), updates)))
    new, stepped = tx.step(grads(3), before, after)
    chex.assert_trees_all_equal(new, after)
    chex.assert_trees_all_equal(without(state), without(stepped), without(before))
    slots = {name: slot["table"] for name, slot in state.slots["accumulate"].items() if name != "mean"}
    real = slots["ids"] < ROWS
    found = jnp.zeros((ROWS, WIDTH)) + Rows(slots["ids"][real], slots["values"][real])
    chex.assert_trees_all_close(found, jnp.zeros((ROWS, WIDTH)) + grads(3)["table"], rtol=1e-6)


@pytest.mark.parametrize("reduction", ["mean", pytest.param("sum", marks=pytest.mark.slow)])
def test_weights(reduction):
    given, weights = [grads(n) for n in range(3)], [3.0, 0.0, 5.0]
    tx = window(jadam.sgd(1.0), reduction=reduction)
    found, state = params(), tx.init(params())
    for g, weight in zip(given, weights, strict=True):
        found, state = tx.step(g, state, found, weight=weight)
    expected = run(jadam.sgd(8.0 if reduction == "sum" else 1.0), params(), [mean(given, weights)])[0]
    chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-5)


def test_what_is_not_finite():
    """A micro-batch is dropped, or its window, or neither; what comes after begins anew."""
    given = [grads(0), spoiled(grads(1)), grads(2)]
    found = run(window(), params(), given)
    assert_close(found, run(INNER, params(), [mean([given[0], given[2]])]))
    assert found[1].scalars["accumulate"]["dropped"] == 1
    dropped = window(nonfinite="drop_window")
    chex.assert_trees_all_equal(run(dropped, params(), given)[0], params())
    more = [grads(n) for n in range(3, 6)]
    assert_close(run(dropped, params(), given + more), run(INNER, params(), [mean(more)]))
    kept, _ = run(window(jadam.sgd(1.0), nonfinite="keep"), params(), given)
    touched = np.asarray(given[1]["table"].ids[:3])
    assert np.isnan(kept["table"][touched]).all()
    assert not np.isnan(np.delete(kept["table"], touched, 0)).any()


def test_flush_is_a_step_on_what_is_there():
    tx = window()
    found = run(tx, params(), [grads(n) for n in range(2)])
    expected = run(INNER, params(), [mean([grads(n) for n in range(2)])])
    assert_close(jadam.flush(tx, found[1], found[0]), expected)


def test_room():
    """It is for rows that are touched: padding and duplicates take none. Without room the step is NaN, and nothing is lost."""
    p, given = params()["table"], [Rows(jnp.array([n, 7, 7, 99]), jnp.ones((4, WIDTH))) for n in (1, 2, 3)]
    for room, every, fits in ((4, 2, True), (3, 2, False), (5, 3, False)):
        found, _ = run(jadam.accumulate(jadam.sgd(1.0), every, rows=room), p, given[:every])
        expected, _ = run(jadam.sgd(1.0), p, [mean(given[:every])])
        if fits:
            chex.assert_trees_all_close(found, expected, rtol=1e-6)
        else:
            assert np.isnan(found).any()


def test_windows_may_become_longer():
    """By a schedule, and by hand: the room stays, and nothing is compiled for it."""
    tx = window(jadam.sgd(1.0), jadam.piecewise_constant_schedule(1, {1: 2}))
    given = [grads(n) for n in range(3)]
    expected = run(jadam.sgd(1.0), params(), [given[0], mean(given[1:])])[0]
    chex.assert_trees_all_close(run(tx, params(), given)[0], expected, rtol=1e-5, atol=1e-6)
    tx = window(jadam.sgd(1.0), 1)
    state = tx.set_hyperparams(tx.init(params()), every=2)
    assert not jadam.has_updated(tx.step(given[0], state, params())[1])


# With others


def test_in_a_guard_a_monitor_and_a_group():
    """Norms are those of a micro-batch's rows outside, and of the window's inside; what a monitor sees moved are these."""
    guarded = jadam.monitor(jadam.guard(window(jadam.guard(INNER))))
    tx = jadam.partition([(jadam.match("table"), window(INNER)), (True, jadam.accumulate(INNER, 3))])
    given = [grads(n) for n in range(3)]
    found, state = run(guarded, params(), given)
    expected, _ = run(INNER, params(), [mean(given)])
    chex.assert_trees_all_close(found, expected, rtol=2e-6, atol=1e-7)
    one = jadam.metrics(state)
    summed = jnp.zeros((ROWS, WIDTH)) + given[-1]["table"]
    np.testing.assert_allclose(one["grad_norm"], jadam.global_norm({"t": summed, "b": given[-1]["b"]}), rtol=1e-5)
    moved = jax.tree.map(jnp.subtract, found, params())
    np.testing.assert_allclose(one["update_norm"], jadam.global_norm(moved), rtol=1e-4)
    touched = np.unique(np.concatenate([g["table"].ids[:3] for g in given]))
    of_rows = {"table": params()["table"][touched], "b": params()["b"]}
    np.testing.assert_allclose(one["param_norm"], jadam.global_norm(of_rows), rtol=1e-5)
    skipped, state = run(guarded, params(), [given[0], spoiled(given[1]), given[1], given[2]])
    chex.assert_trees_all_close(skipped, found, rtol=1e-6)
    by_group, _ = run(tx, params(), given)
    apart = jadam.partition([(jadam.match("table"), INNER), (True, INNER)])
    chex.assert_trees_all_close(by_group, run(apart, params(), [mean(given)])[0], rtol=2e-6, atol=1e-7)


def test_what_stands_before_sees_each_micro_batch():
    clip = jadam.clip_by_global_norm(0.1)
    given = [grads(n) for n in range(3)]
    cut = [clip.update(g, None, params())[0] for g in given]
    found = run(jadam.chain(clip, window(jadam.adam(1e-2))), params(), given)[0]
    chex.assert_trees_all_close(found, run(jadam.adam(1e-2), params(), [mean(cut)])[0], rtol=2e-6, atol=1e-6)


@pytest.mark.slow
def test_rows_catch_up_and_losses_are_scaled():
    lazy = jadam.lazy(jadam.adamw(1e-2), catch_up=True)
    given = [grads(n) for n in range(6)]
    assert_close(run(window(lazy), params(), given), run(lazy, params(), [mean(given[:3]), mean(given[3:])]))
    scaled = jadam.loss_scale(window(INNER), init_scale=4.0)
    steps = [times(4.0, given[0]), spoiled(given[1], jnp.inf), *(times(2.0, g) for g in given[1:3])]
    found = run(scaled, params(), steps)[0]
    chex.assert_trees_all_close(found, run(INNER, params(), [mean(given[:3])])[0], rtol=2e-6, atol=1e-6)


def test_in_a_file_and_with_another_room():
    """The rows of a window go along into a larger room."""
    tx = window()
    found, state = run(tx, params(), [grads(0), grads(1)])
    stored = jadam.to_dict(state)
    assert stored["slots/accumulate/ids/table"].dtype == jnp.int32
    larger = jadam.accumulate(INNER, 3, rows=[(jadam.match("table"), 15)])
    expected = tx.step(grads(2), state, found)
    for other, room in ((tx, 12), (larger, 15)):
        moved, _ = jadam.migrate(stored, other, params())
        assert moved.slots["accumulate"]["ids"]["table"].shape == (room,)
        assert_close(other.step(grads(2), moved, found), expected, rtol=1e-6)
    assert "ids int32" in jadam.describe(tx, params())


@pytest.mark.parametrize("kind", [AxisType.Explicit, pytest.param(AxisType.Auto, marks=pytest.mark.slow)], ids=str)
def test_a_table_that_is_spread_over_devices(kind):
    mesh = eight_devices(kind)
    big = {"table": jnp.linspace(-1.0, 1.0, 64 * 4).reshape(64, 4)}
    place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))  # noqa: E731
    rng = np.random.default_rng(0)
    given = [{"table": Rows(rng.integers(0, 64, 8), rng.standard_normal((8, 4)).astype("float32"))} for _ in range(4)]
    tx = jadam.accumulate(jadam.adam(1e-2), 2, rows=16)
    expected = run(tx, big, given)
    found, state = {"table": place(big["table"], "data", None)}, None
    state = tx.init(found)
    with jax.sharding.set_mesh(mesh):
        for g in given:
            found, state = tx.step(g, state, found)
    assert found["table"].sharding.spec[0] == "data"
    assert state.slots["adam"]["mu"]["table"].sharding.spec[0] == "data"
    chex.assert_trees_all_close((found, without(state)), (expected[0], without(expected[1])), rtol=1e-5, atol=1e-7)
