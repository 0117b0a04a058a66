"""Steps on some rows of a table: equal to dense steps where both move a row, and nothing else is touched."""

import json
from dataclasses import dataclass

import chex
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import ELEMENTWISE_RULES, OPTIMIZERS, EverySecond, assert_differ, run

import jadam
from jadam import Rows

RNG = np.random.default_rng(0)
SPARSE = {case["id"]: case for case in json.loads((golden.DATA / "sparse_adam.json").read_text())["cases"]}
ELEMENTWISE = [name for name in ELEMENTWISE_RULES if name != "prodigy"]
"""Without the rule that adds up, in `prepare`, what it keeps for all elements."""
IN_GENERAL = ("float32", "stochastic", "remainder")
USUAL = ("adamw", "sgd")
STORAGES = {
    "float32": ("float32", {"state": "float32"}),
    "bfloat16": ("float32", {"state": "bfloat16", "min_size": 1}),
    "stochastic": ("bfloat16", {"state": "bfloat16", "min_size": 1, "params": "stochastic"}),
    "kahan": ("bfloat16", {"params": "kahan"}),
    "remainder": ("bfloat16", {"params": "remainder"}),
    "nearest": ("float16", {"params": "nearest"}),
    "complex": ("complex64", {"params": "nearest"}),
}


def normal(*shape, dtype="float32"):
    x = RNG.standard_normal(shape)
    return jnp.asarray(x + 1j * RNG.standard_normal(shape) if jnp.dtype(dtype).kind == "c" else x, dtype)


def model(rows=6, width=3, dtype="float32"):
    return {"table": normal(rows, width, dtype=dtype), "bias": normal(width, dtype=dtype)}


def gradients(params, ids):
    """Of rows, and the same as a dense table."""
    values = normal(len(ids), *params["table"].shape[1:], dtype=params["table"].dtype)
    bias = normal(*params["bias"].shape, dtype=params["bias"].dtype)
    ids = jnp.asarray(ids, "int32")
    dense = jnp.zeros_like(params["table"]).at[ids].add(values, mode="drop")
    return {"table": Rows(ids, values), "bias": bias}, {"table": dense, "bias": bias}


def assert_alike(found, expected):
    """To the last digit of float32; what is stored in fewer is the same to the bit."""

    def compare(x, y):
        np.testing.assert_allclose(x, y, rtol=1e-6 if x.dtype in ("float32", "complex64") else 0)

    jax.tree.map(compare, found, expected)


def of_table(state, name="table"):
    """All that a state keeps for a table."""
    return [trees[slot][name] for trees in state.slots.values() for slot in trees if trees[slot][name] is not None]


# Against others


def sparse_adam(case, **kwargs):
    hypers = {name: case[name] for name in ("learning_rate", "b1", "b2", "eps")}
    return jadam.adam(**hypers | {"eps_form": "eps_hat"} | kwargs)


def from_torch(case, tx):
    """The largest difference from torch's SparseAdam, as a share of the way gone: of parameters, and of the last moments."""
    arrays = np.load(golden.DATA / "sparse_adam.npz")
    get = lambda name: arrays[f"{case['id']}/{name}"]  # noqa: E731
    params, apart = jnp.asarray(get("params")), []
    state = tx.init(params)
    for number, (ids, values) in enumerate(zip(get("ids"), get("values"), strict=True), 1):
        params, state = tx.step(Rows(jnp.asarray(ids), jnp.asarray(values)), state, params)
        if number in case["steps"]:
            apart.append(np.abs(params - get(f"step{number}")).max() / case["max_move"])
    moments = [np.abs(state.slots["adam"][name] - get(name)).max() / np.abs(get(name)).max() for name in ("mu", "nu")]
    return max(apart), max(moments)


@pytest.mark.parametrize("name", SPARSE)
@pytest.mark.usefixtures("x64")
def test_equals_sparse_adam_of_torch(name):
    """`SparseAdam` adds eps to the root before bias correction: "eps_hat". The other form is further away."""
    case = SPARSE[name]
    assert max(from_torch(case, sparse_adam(case))) <= 1e-11
    assert from_torch(case, sparse_adam(case, eps_form="standard"))[0] > 1e-8


OPTIONS = [
    {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.999, "eps": 1e-8},
    {"learning_rate": 1.0, "b1": 0.0, "b2": 0.9, "eps": 1e-2},
    {"learning_rate": 0.1, "b1": 0.99, "b2": 0.0, "eps": 1e-3, "maximize": True},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.usefixtures("x64")
def test_equals_sparse_adam_written_out(options):
    """With decays of 0, and towards a maximum; rows that stand there twice are summed."""
    lr, b1, b2, eps, maximize = (options.get(name, False) for name in ("learning_rate", "b1", "b2", "eps", "maximize"))
    tx = jadam.chain(jadam.scale(-1.0 if maximize else 1.0), jadam.adam(lr, b1=b1, b2=b2, eps=eps, eps_form="eps_hat"))
    p, rng = np.random.default_rng(1).standard_normal((20, 3)), np.random.default_rng(2)
    start, m, v = p.copy(), np.zeros_like(p), np.zeros_like(p)
    params, state = jnp.asarray(p), tx.init(jnp.asarray(p))
    for t in range(1, 21):
        ids, values = rng.integers(0, 20, 8), rng.standard_normal((8, 3))
        params, state = tx.step(Rows(ids, values), state, params)
        rows = np.unique(ids)
        g = (-1 if maximize else 1) * np.stack([values[ids == row].sum(0) for row in rows])
        m[rows] += (1 - b1) * (g - m[rows])
        v[rows] += (1 - b2) * (g * g - v[rows])
        p[rows] -= lr * np.sqrt(1 - b2**t) / (1 - b1**t) * m[rows] / (np.sqrt(v[rows]) + eps)
    assert np.abs(params - p).max() <= 1e-11 * np.abs(p - start).max()


# Against dense steps


@pytest.mark.parametrize(
    ("name", "storage"),
    [("adamw", "float32"), ("adamw", "stochastic"), ("adamw", "remainder"), ("lion", "float32"), ("adagrad", "float32")]
    + [
        pytest.param(name, storage, marks=pytest.mark.slow)
        for name in ELEMENTWISE
        for storage in (STORAGES if name == "adamw" else IN_GENERAL)
    ],
)
def test_all_rows_touched_is_a_dense_step(name, storage):
    """To the bit, but for a last digit where LLVM makes one operation of a product and a sum in one of the two programs."""
    dtype, formats = STORAGES[storage]
    tx = jadam.with_precision(OPTIMIZERS[name](1.0), **formats)
    params = model(dtype=dtype)
    steps = [gradients(params, RNG.permutation(6)) for _ in range(2)]
    found, expected = (run(tx, params, [pair[of] for pair in steps]) for of in (0, 1))
    assert_alike(found, expected)
    assert_differ(found, (params, tx.init(params)))
    assert bool((found[0]["table"] != params["table"]).any()) or name == "adadelta"  # whose first steps are tiny


@pytest.mark.parametrize("name", [pytest.param(name, marks=() if name in USUAL else pytest.mark.slow) for name in ELEMENTWISE])
def test_other_rows_stand_still(name):
    """The first step from a new state moves touched rows as a dense one does; a later one leaves the others to the bit."""
    tx, params = OPTIMIZERS[name](1e-2), model()
    rows, dense = gradients(params, [4, 1, 4, 9])
    one = run(tx, params, [rows])
    touched, others = np.array([1, 4]), np.array([0, 2, 3, 5])
    assert_alike(one[0]["table"][touched], run(tx, params, [dense])[0]["table"][touched])
    more, _ = gradients(params, [2, 2])
    two = run(tx, params, [rows, more])
    rest = np.delete(np.arange(6), 2)
    for new, old in zip([two[0]["table"], *of_table(two[1])], [one[0]["table"], *of_table(one[1])], strict=True):
        chex.assert_trees_all_equal(new[rest], old[rest])
    chex.assert_trees_all_equal(one[0]["table"][others], params["table"][others])
    assert bool((two[0]["table"][2] != one[0]["table"][2]).any())


@pytest.mark.parametrize("by", ["step", pytest.param("update", marks=pytest.mark.slow)])
def test_chance_is_that_of_the_row(by):
    """A row is rounded as in a dense step, whichever others are touched: random bits are by its number in the table."""
    tx = jadam.with_precision(jadam.adam(1e-2), state="bfloat16", params="stochastic", min_size=1)
    params = {"table": normal(200, 8, dtype="bfloat16")}
    ids, values = jnp.array([7, 150, 3, 199]), normal(4, 8, dtype="bfloat16")
    dense = jnp.zeros_like(params["table"]).at[ids].add(values)
    found, expected = (run(tx, params, [{"table": grads}], by) for grads in (Rows(ids, values), dense))
    moved = Rows(ids - 1, values)  # so that other bits show
    other = run(tx, {"table": jnp.roll(params["table"], -1, 0)}, [{"table": moved}], by)
    for new, same, elsewhere in zip(
        *([state["table"], *of_table(after)] for state, after in (found, expected, other)), strict=True
    ):
        chex.assert_trees_all_equal(new[ids], same[ids])
        assert bool((new[ids] != elsewhere[ids - 1]).any())


def test_update_returns_rows():
    """Sorted, each once, padded past the end; `apply_updates` and optax's add them, and `step` is both at once."""
    import optax

    tx, params = jadam.adamw(1e-2), model()
    rows, _ = gradients(params, [5, 2, 5, 7])
    updates, state = tx.update(rows, tx.init(params), params)
    assert updates["table"].ids.tolist() == [2, 5, 8, 9]
    assert updates["table"].distinct
    assert not updates["table"].values[2:].any()
    new, after = tx.step(rows, tx.init(params), params)
    chex.assert_trees_all_close((jadam.apply_updates(params, updates), state), (new, after), rtol=1e-6)
    chex.assert_trees_all_equal(optax.apply_updates(params, updates), jadam.apply_updates(params, updates))


@pytest.mark.usefixtures("lenient")
def test_in_a_train_state():
    from flax.training.train_state import TrainState

    tx, params = jadam.adamw(1e-2), model()
    rows, _ = gradients(params, [5, 2, 5, 7])
    found = TrainState.create(apply_fn=None, params=params, tx=tx).apply_gradients(grads=rows)
    expected, _ = tx.step(rows, tx.init(params), params)
    chex.assert_trees_all_close(found.params, expected, rtol=1e-6)


def test_order_and_duplicates_do_not_matter():
    """Sums of three in another order differ in the last digit."""
    tx, params = jadam.adam(1e-2), model()
    ids, values = jnp.array([3, 0, 3, 5, 3]), normal(5, 3)
    bias, order = params["bias"], jnp.array([4, 3, 1, 0, 2])
    one = run(tx, params, [{"table": Rows(ids, values), "bias": bias}])
    other = run(tx, params, [{"table": Rows(ids[order], values[order]), "bias": bias}])
    chex.assert_trees_all_close(one, other, rtol=1e-5)
    merged = Rows(jnp.array([0, 3, 5]), jnp.stack([values[1], values[0] + values[2] + values[4], values[3]]), distinct=True)
    chex.assert_trees_all_close(one, run(tx, params, [{"table": merged, "bias": bias}]), rtol=1e-5)


def test_the_gradient_of_gathered_rows_is_that_of_the_table():
    """The recipe of the docs, in a jitted step: `unique_rows`, positions, `value_and_grad`."""
    tx, params = jadam.chain(jadam.clip_by_global_norm(0.1), jadam.sgd(0.1)), model(rows=50)
    batch, targets = jnp.asarray(RNG.integers(0, 50, (4, 5))), normal(4, 5, 3)

    def loss(params, batch):
        return jnp.sum((params["table"][batch] + params["bias"][None, None] - targets) ** 2)

    @jax.jit
    def step(params, state, batch):
        ids = jadam.unique_rows(batch, rows=50, size=20)
        grads = jax.grad(loss)(params | {"table": params["table"][ids]}, jnp.searchsorted(ids, batch))
        return tx.step(grads | {"table": Rows(ids, grads["table"], distinct=True)}, state, params)

    found, _ = step(params, tx.init(params), batch)
    expected, _ = tx.step(jax.grad(loss)(params, batch), tx.init(params), params)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)


# Norms, wrappers, groups


def test_norms_count_each_row_once_and_no_padding():
    tx, params = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.sgd(1.0)), {"table": normal(6, 3)}
    ids, values = jnp.array([1, 1, 6, 1000]), normal(4, 3)
    new, _ = tx.step({"table": Rows(ids, values)}, tx.init(params), params)
    total = values[0] + values[1]
    assert np.linalg.norm(total) > 1
    np.testing.assert_allclose(new["table"][1] - params["table"][1], -total / np.linalg.norm(total), rtol=1e-5)
    in_table = {"table": Rows(ids[:2], values[:2])}
    np.testing.assert_allclose(jadam.global_norm(in_table), np.linalg.norm(total), rtol=1e-6)


@pytest.mark.parametrize("by", ["step", "update"])
def test_a_watched_and_guarded_step(by):
    """Norms are of the rows that a step touches; what is 0 / 0 for padding counts nowhere."""
    tx = jadam.monitor(jadam.guard(jadam.adam(1e-2, eps=0.0)), by_leaf=True)
    params = {"table": normal(6, 3)}
    rows = {"table": Rows(jnp.array([4, 2, 9, 8]), normal(4, 3))}
    new, state = run(tx, params, [rows], by)
    touched, scalars = np.array([2, 4]), jadam.metrics(state)
    for name, expected in {
        "grad_norm": rows["table"].values[:2],
        "update_norm": (new["table"] - params["table"])[touched],
        "param_norm": params["table"][touched],
    }.items():
        np.testing.assert_allclose(scalars[name], np.linalg.norm(expected), rtol=1e-4)
        np.testing.assert_allclose(state.slots["monitor"][name]["table"], np.linalg.norm(expected), rtol=1e-4)
    bad, skipped = run(tx, params, [{"table": rows["table"] * jnp.nan}], by)
    chex.assert_trees_all_equal(bad, params)
    assert skipped.scalars["guard"]["skipped"] == 1


def test_groups_masks_and_frozen_tables():
    """Names and groups are those of the whole parameter; a frozen table and one that no part acts on are passed over."""
    params = {"a": normal(6, 3), "b": normal(6, 3), "c": normal(6, 3), "w": normal(2)}
    groups = [(jadam.match("a"), jadam.adamw(1e-2)), (jadam.match("c"), jadam.freeze()), (True, jadam.sgd(0.1))]
    tx = jadam.partition(groups)
    ids, values = jnp.array([1, 4, 1]), normal(3, 3)
    dense = jnp.zeros((6, 3)).at[ids].add(values)
    state = tx.init(params)
    rows, all_dense = ({"a": x, "b": x, "c": x, "w": jnp.ones(2)} for x in (Rows(ids, values), dense))
    updates, _ = tx.update(rows, state, params)
    expected, _ = tx.step(all_dense, state, params)
    assert all(isinstance(updates[name], Rows) for name in "abc")
    assert not updates["c"].values.any()
    for found in (jadam.apply_updates(params, updates), tx.step(rows, state, params)[0]):
        chex.assert_trees_all_equal(found["c"], params["c"])
        chex.assert_trees_all_close(found["b"], expected["b"], rtol=1e-6)
        chex.assert_trees_all_close(found["a"][jnp.array([1, 4])], expected["a"][jnp.array([1, 4])], rtol=1e-6)
    passed, _ = jadam.masked(jadam.sgd(0.1), jadam.match("w")).update(rows, None, params)
    np.testing.assert_allclose(passed["a"].values[0], values[0] + values[2], rtol=1e-6)


def test_touched_rows_are_projected():
    tx, params = jadam.chain(jadam.sgd(1.0), jadam.keep_params_nonnegative()), {"table": jnp.full((4, 2), -1.0)}
    new, _ = tx.step({"table": Rows(jnp.array([2, 9]), jnp.full((2, 2), 3.0))}, tx.init(params), params)
    assert new["table"][:, 0].tolist() == [-1, -1, 0, -1]


def test_loss_scale_skips_rows():
    tx, params = jadam.loss_scale(jadam.adam(1e-2), init_scale=4.0), model(dtype="float16")
    rows, dense = gradients(params, [3, 0, 5])
    chex.assert_trees_all_close(run(tx, params, [rows])[0]["table"][0], run(tx, params, [dense])[0]["table"][0])
    rows["table"] = rows["table"] * jnp.inf
    chex.assert_trees_all_equal(run(tx, params, [rows])[0], params)


@dataclass(frozen=True)
class Longest(jadam.Wrapper):
    """Keeps the largest gradient that each element has had."""

    @property
    def needs_all_rows(self):
        return ""

    def init(self, p):
        return {"longest": jadam.zeros(p)}

    def around(self, inside):
        longest = [jnp.maximum(jnp.abs(g), x) for g, x in zip(inside.updates, inside.slots["longest"], strict=True)]
        return inside.run(inside.updates), {"longest": longest}, {}


def test_a_wrapper_with_slots_says_that_rows_are_enough():
    tx, params = jadam.wrap(Longest(), jadam.sgd(1.0)), {"table": jnp.zeros((4, 2))}
    steps = [{"table": Rows(jnp.array([row]), jnp.full((1, 2), size))} for row, size in ((1, 2.0), (3, 1.0), (1, -1.0))]
    _, state = run(tx, params, steps)
    assert state.slots["longest"]["longest"]["table"][:, 0].tolist() == [0, 2, 0, 1]
    with pytest.raises(ValueError, match="every_second keeps something for each row, of which some would miss this step"):
        run(jadam.wrap(EverySecond(), jadam.sgd(1.0)), params, steps)


# Storage


def test_the_format_is_that_of_the_table():
    """A slot is in 16 bits because the table is large, however few rows a step has."""
    tx, params = jadam.with_precision(jadam.adam(1e-2), state="bfloat16"), {"big": normal(2048, 2), "small": normal(4, 2)}
    rows = {name: Rows(jnp.array([3]), normal(1, 2)) for name in params}
    _, state = run(tx, params, [rows])
    assert {name: x.dtype.name for name, x in state.slots["adam"]["mu"].items()} == {"big": "bfloat16", "small": "float32"}
    assert bool(state.slots["adam"]["mu"]["big"][3].any())


@pytest.mark.slow
def test_blocks_of_8_bits_within_a_row():
    """Of a table whose rows are matrices; all rows touched is a dense step to the bit."""
    tx = jadam.with_precision(jadam.adam(1e-2), state="int8", min_size=1)
    params = {"table": normal(5, 64, 3), "bias": normal(2)}
    steps = [gradients(params, RNG.permutation(5)) for _ in range(2)]
    found, expected = (run(tx, params, [pair[of] for pair in steps]) for of in (0, 1))
    assert found[1].slots["adam"]["mu"]["table"].dtype == jnp.int8
    chex.assert_trees_all_equal(found, expected)
    few, _ = gradients(params, [3])
    after = run(tx, params, [pair[0] for pair in steps] + [few])
    for new, old in zip(of_table(after[1]), of_table(found[1]), strict=True):
        chex.assert_trees_all_equal(new[:3], old[:3])
