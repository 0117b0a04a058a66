"""The Pallas kernel on rows of a table computes what XLA does: interpreted here, compiled in `test_cost_of_rows.py`."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import ELEMENTWISE_RULES, OPTIMIZERS, assert_equal_but_for_rounding, eight_devices, kernels, run

import jadam
from jadam import Rows

RNG = np.random.default_rng(0)
# Rows that are whole tiles, that are not, that are longer; of one number; matrices, whose blocks of 8 bits lie within a row.
SHAPES = {"whole": (40, 64), "cut": (300, 3), "long": (6, 2500), "vector": (30,), "matrix": (12, 40, 5), "stack": (9, 2, 33, 3)}
STATES = [("float32", "nearest"), *itertools.product(("bfloat16", "int8"), ("stochastic", "nearest"))]
PARAMS = [None, "nearest", "stochastic", "kahan", "remainder"]
ELEMENTWISE = [name for name in ELEMENTWISE_RULES if name != "prodigy"]  # which sums over all rows
CLIPPED = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-2))


def build(tx, state="float32", params=None, rounding="nearest", kernel="pallas"):
    return jadam.with_precision(tx, state, params, rounding=rounding, min_size=1, kernel=kernel)


def numbers(shape, dtype="float32"):
    return jnp.asarray(RNG.standard_normal(shape), dtype)


def rows(shape, distinct=False, dtype="float32"):
    """Of 17 rows at most, with padding; if they are not distinct, out of order, and one of them twice at least."""
    n = min(17, shape[0])
    ids = RNG.choice(shape[0] + 3, n, replace=False)
    ids = np.sort(ids) if distinct else np.concatenate([ids, ids[:6], ids[:1]])
    return Rows(jnp.asarray(ids, "int32"), numbers((len(ids), *shape[1:]), dtype), distinct=distinct)


def check(tx, state="float32", params=None, rounding="nearest", shapes=("whole", "cut"), distinct=False, by="step"):
    dtype = "float32" if params is None else "bfloat16"
    shapes = {name: SHAPES[name] for name in shapes}
    start = {name: numbers(shape, dtype) for name, shape in shapes.items()}
    grads = [{name: rows(shape, distinct, dtype) for name, shape in shapes.items()} for _ in range(2)]
    found, expected = (run(build(tx, state, params, rounding, kernel), start, grads, by) for kernel in ("pallas", "xla"))
    assert_equal_but_for_rounding(found, expected)
    for name, shape in shapes.items():
        touched = {int(i) for g in grads for i in g[name].ids if i < shape[0]}
        assert bool((found[0][name] != start[name])[np.array(sorted(touched))].any())
        others = np.array(sorted(set(range(shape[0])) - touched), int)
        np.testing.assert_array_equal(found[0][name][others], start[name][others])


def test_what_a_kernel_computes():
    """Tables of 32 and 16 bits, one kernel each, compiled or interpreted; XLA what a wrapper runs, and what mixes elements."""
    params = {name: jnp.zeros(SHAPES[name]) for name in ("whole", "vector")}
    grads = {name: Rows(jnp.array([1]), jnp.ones((1, *p.shape[1:]))) for name, p in params.items()}

    def count(tx, params=params, by="step"):
        return kernels(getattr(tx, by), grads, tx.init(params), params)

    assert count(build(CLIPPED)) == count(build(CLIPPED), by="update") == 2 * len(params)
    assert count(build(CLIPPED, kernel="xla")) == count(jadam.guard(build(jadam.adam(1e-2)))) == 0
    after_history = jadam.chain(jadam.percentile_clip(percentile=50, history=4), build(jadam.adam(1e-2)))
    assert count(after_history) == 2 * len(params)
    half = jax.tree.map(lambda x: x.astype(jnp.float16), params)
    assert count(build(CLIPPED), half) == 0


def test_what_triton_could_not_count():
    """Elements of 8 bits between 2 and 4 GiB: their places would be negative. Of more, Pallas counts in 64 bits."""
    tx, ids = build(jadam.sgd(0.1, momentum=0.9), "int8"), jnp.arange(2)
    for columns, count in ((30, 2), (40, 0), (70, 2)):
        table = jax.ShapeDtypeStruct((10**6, 64, columns), jnp.float32)
        grads = Rows(ids, jnp.ones((2, 64, columns)))
        assert kernels(tx.step, grads, jax.eval_shape(tx.init, table), table) == count


@pytest.mark.parametrize(
    ("shapes", "by", "distinct"),
    [
        (["cut"], "step", False),
        (["vector"], "update", True),
        *(
            pytest.param([*SHAPES], by, distinct, marks=pytest.mark.slow)
            for by in ("step", "update")
            for distinct in (True, False)
        ),
    ],
)
def test_every_shape(shapes, by, distinct):
    check(CLIPPED, shapes=shapes, distinct=distinct, by=by)


@pytest.mark.parametrize(
    ("state", "rounding", "params"),
    [
        ("int8", "stochastic", "remainder"),
        *(pytest.param(*state, params, marks=pytest.mark.slow) for state, params in itertools.product(STATES, PARAMS)),
    ],
)
def test_every_storage(state, rounding, params):
    """With the random bits that XLA has, by the number of the row in the table."""
    check(jadam.adamw(1e-2), state, params, rounding, ["matrix"] if state == "int8" else ["cut"], distinct=params == "kahan")


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(STATES)))
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_elementwise_optimizer_in_every_storage(name, place):
    """Each storage of slots, each of parameters, and by turns all pairs of them."""
    (state, rounding), turn = STATES[place], ELEMENTWISE.index(name)
    params = PARAMS[(place + turn) % len(PARAMS)]
    tx = OPTIMIZERS[name](1e-2, **({"momentum": 0.9} if name == "sgd" else {}))
    check(tx, state, params, rounding, ["stack"], distinct=bool(turn % 2))


@pytest.mark.parametrize("by", ["step", pytest.param("update", marks=pytest.mark.slow)])
def test_rules_after_which_something_is_measured(by):
    """Two passes: what the first makes of rows is between them, and what is stored beside the parameter is left as it is."""
    tx = jadam.chain(jadam.trace(0.9), jadam.clip_by_global_norm(0.1), jadam.ema(0.9), jadam.scale_by_learning_rate(0.1))
    check(tx, "bfloat16", "kahan", shapes=["cut"], by=by)


@pytest.mark.slow
@pytest.mark.parametrize("by", ["step", "update"])
def test_in_front_of_wrappers(by):
    """Inside them XLA computes the rows, and before them a kernel."""
    room = [(jadam.match("*"), 38)]
    for wrapped in (jadam.guard(jadam.adam(1e-2)), jadam.accumulate(jadam.adam(1e-2), every=2, rows=room)):
        check(jadam.chain(jadam.trace(0.9), wrapped), params="remainder", by=by)
    check(jadam.lazy(jadam.adam(1e-2), catch_up=True), by=by)


def test_what_is_lost_is_nan():
    """An id before the first row, and none at all."""
    params = {"table": numbers((6, 3))}
    tx = build(jadam.adam(1e-2))
    step = jax.jit(lambda ids: tx.step({"table": Rows(ids, jnp.ones((2, 3)))}, tx.init(params), params)[0]["table"])
    np.testing.assert_array_equal(step(jnp.array([-1, 2])), step(jnp.array([2, 5])))
    assert bool(jnp.isfinite(step(jnp.array([-1, 2]))).all())
    assert bool(jnp.isnan(step(jnp.array([-7, 2]))).any())
    none = {"table": Rows(jnp.zeros(0, "int32"), jnp.zeros((0, 3)))}
    np.testing.assert_array_equal(tx.step(none, tx.init(params), params)[0]["table"], params["table"])


def test_many_tables_and_derivatives_are_computed_by_xla():
    many, ids = numbers((3, 8, 5)), jnp.array([[1, 2, 1], [0, 9, 4], [7, 7, 7]])
    values = numbers((3, 3, 5))

    def stepped(kernel):
        tx = build(jadam.adam(1e-2), kernel=kernel)
        return jax.vmap(lambda p, i, v: tx.step(Rows(i, v), tx.init(p), p)[0])(many, ids, values)

    np.testing.assert_allclose(stepped("pallas"), stepped("xla"), rtol=1e-6)

    def slope(kernel):
        tx = build(jadam.sgd(0.1, momentum=0.9), kernel=kernel)
        p = many[0]
        return jax.grad(lambda v: jnp.sum(jnp.square(tx.step(Rows(ids[0], v), tx.init(p), p)[0])))(values[0])

    assert bool(slope("pallas").all())
    np.testing.assert_allclose(slope("pallas"), slope("xla"), rtol=1e-5)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        pytest.param(spec, kind, marks=pytest.mark.slow)
        for spec in [("data", "model"), ("data", None), (None, "model"), (("data", "model"), None)]
        for kind in (AxisType.Auto, AxisType.Explicit)
    ],
)
def test_each_device_computes_the_rows_that_it_has(spec, kind):
    """Where XLA places arrays, it sends neither rows of tables nor gradients, but for those that `update` returns to all."""
    mesh, params = eight_devices(kind), {"table": numbers((64, 16), "bfloat16")}
    grads = {"table": rows((64, 16), dtype="bfloat16")}
    tx = build(CLIPPED, "bfloat16", "stochastic", "stochastic")
    expected = tx.step(grads, tx.init(params), params)
    with jax.set_mesh(mesh):
        place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))  # noqa: E731
        spread = {"table": Rows(place(grads["table"].ids, "model"), place(grads["table"].values, None, "data"))}
        placed = {"table": place(params["table"], *spec)}
        state = tx.init(placed)
        program = jax.jit(tx.step).lower(grads, state, placed).compile().as_text()
        found = tx.step(grads, state, placed)
        updates, after = tx.update(grads, state, placed)
        of_spread = tx.step(spread, state, placed)
    assert_equal_but_for_rounding(jax.device_get(found), expected)
    assert_equal_but_for_rounding(jax.device_get(of_spread), expected)
    assert_equal_but_for_rounding(jax.device_get((jadam.apply_updates(placed, updates), after)), expected)
    for x in (found[0]["table"], found[1].slots["adam"]["mu"]["table"]):
        assert x.sharding.is_equivalent_to(placed["table"].sharding, 2)
    sent = re.findall(r"= (\S*) (?:all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", program)
    assert kind == AxisType.Explicit or set(sent) <= {"f32[]"}
