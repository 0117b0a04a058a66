"""Where tables are in a step on rows: in the memory that they had, on the devices that they were on."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import eight_devices

import jadam
from jadam import Rows

pytestmark = pytest.mark.usefixtures("optimized")
RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), "float32")


@pytest.mark.parametrize("by", ["step", "update"])
@pytest.mark.parametrize(
    ("tx", "megabytes"),
    [
        (jadam.adam(1e-3), 8),
        (jadam.guard(jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-3))), 8),
        pytest.param(jadam.accumulate(jadam.adam(1e-3), 4, rows=4 * 4096), 20, marks=pytest.mark.slow),
        pytest.param(jadam.guard(jadam.accumulate(jadam.adam(1e-3), 4, rows=4 * 4096)), 24, marks=pytest.mark.slow),
    ],
)
def test_a_donated_table_stays_where_it_is(tx, megabytes, by):
    """1,000,000 rows of 64, of which 4,096 are touched: 5.3 MB beside 768 MB of tables, of which none is copied. A window has
    four times as many rows, which a loop gathers and leaves for a scatter.
    """
    shape, ids = jax.ShapeDtypeStruct((1_000_000, 64), "float32"), jax.ShapeDtypeStruct((4096,), "int32")
    values = jax.ShapeDtypeStruct((4096, 64), "float32")

    def step(params, state, ids, values):
        if by == "step":
            return tx.step(Rows(ids, values), state, params)
        updates, state = tx.update(Rows(ids, values), state, params)
        return jadam.apply_updates(params, updates), state

    def compiled(donate):
        return jax.jit(step, donate_argnums=donate).lower(shape, jax.eval_shape(tx.init, shape), ids, values).compile()

    copies = lambda program: program.as_text().count("f32[1000000,64]{1,0} copy(")  # noqa: E731
    program = compiled((0, 1))
    assert program.memory_analysis().temp_size_in_bytes <= megabytes * 1e6
    assert program.memory_analysis().alias_size_in_bytes >= 768e6
    assert copies(program) == 0
    assert copies(compiled(())) == 3  # so the count can tell


BY_OWNER = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-2))
CAUGHT_UP = jadam.lazy(BY_OWNER, catch_up=True)
BY_CHANCE = jadam.with_precision(jadam.adam(1e-2), state="bfloat16", min_size=1)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize(
    ("spec", "of_rows", "tx"),
    [
        (("data", None), "data", BY_OWNER),
        pytest.param((None, "model"), "data", BY_OWNER, marks=pytest.mark.slow),
        pytest.param((("data", "model"), None), None, CAUGHT_UP, marks=pytest.mark.slow),
        pytest.param(("data", "model"), "model", BY_CHANCE, marks=pytest.mark.slow),
    ],
)
def test_a_table_that_is_spread_over_devices(spec, of_rows, tx, kind):
    """By rows, by columns, by both; gradients too: equal to one device, placed as before, and no table is put together.

    Where types say that rows are spread, what is sent is the gradients and a norm, not the rows of parameter and slots.
    """
    mesh, params = eight_devices(kind), {"table": normal(64, 16)}
    steps = [{"table": Rows(jnp.asarray(RNG.permutation(70)[:20]), normal(20, 16))} for _ in range(2)]
    once, state = tx.step(steps[0], tx.init(params), params)
    expected = tx.step(steps[1], state, once)
    updated = jadam.apply_updates(once, tx.update(steps[1], state, once)[0])
    with jax.set_mesh(mesh):
        place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))  # noqa: E731
        spread = {"table": place(params["table"], *spec)}
        steps = [
            {"table": Rows(place(grads["table"].ids, of_rows), place(grads["table"].values, of_rows, None))} for grads in steps
        ]
        program = jax.jit(tx.step).lower(steps[0], tx.init(spread), spread).compile().as_text()
        once, state = tx.step(steps[0], tx.init(spread), spread)
        found = tx.step(steps[1], state, once)
        added = jadam.apply_updates(once, tx.update(steps[1], state, once)[0])
    chex.assert_trees_all_close(jax.device_get(found), expected, rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(jax.device_get(added), updated, rtol=1e-5, atol=1e-7)
    slots = [slot["table"] for slot in found[1].slots["adam"].values()]
    for x in (found[0]["table"], added["table"], *slots):
        assert x.sharding.is_equivalent_to(spread["table"].sharding, 2)
    sent = re.findall(r"= (.*) (?:all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(", program)
    assert sent  # rows, or their norm
    sizes = [int(rows) for arrays in sent for rows in re.findall(r"\[(\d+),", arrays)]
    assert all(rows <= 20 for rows in sizes)
    if spec[0] is not None:
        assert (len(sizes) <= 1) == (kind == AxisType.Explicit)


def test_ids_that_no_device_owns_are_nan():
    """Under `jit`, an id before the first row; a negative one counts from the end, whoever owns that."""
    mesh, tx, params = eight_devices(AxisType.Explicit), jadam.sgd(1.0), jnp.zeros((16, 2))
    with jax.set_mesh(mesh):
        spread = jax.device_put(params, NamedSharding(mesh, PartitionSpec("data", None)))
        step = jax.jit(lambda ids: tx.step(Rows(ids, jnp.ones((3, 2))), tx.init(spread), spread)[0])
        found, lost = jax.device_get((step(jnp.array([-1, 3, -16])), step(jnp.array([1, 3, -17]))))
    assert np.flatnonzero(found[:, 0]).tolist() == [0, 3, 15]
    assert np.isnan(lost).any()
