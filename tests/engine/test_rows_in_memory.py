"""Where tables are in a step on rows: in the memory that they had, on the devices that they were on."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import eight_devices

import jadam
from jadam import Rows

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.standard_normal(shape), "float32")


@pytest.mark.parametrize("by", ["step", "update"])
@pytest.mark.parametrize("tx", [jadam.adam(1e-3), jadam.guard(jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-3)))])
def test_a_donated_table_stays_where_it_is(tx, by):
    """1,000,000 rows of 64, of which 4,096 are touched: 5.3 MB beside 768 MB of tables, of which none is copied."""
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
    assert program.memory_analysis().temp_size_in_bytes <= 8e6
    assert program.memory_analysis().alias_size_in_bytes >= 768e6
    assert copies(program) == 0
    assert copies(compiled(())) == 3  # so the count can tell


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize("spec", [("data", None), (None, "model"), ("data", "model")])
def test_a_table_that_is_spread_over_devices(spec, kind):
    """By rows, by columns, by both: equal to one device, placed as before, and no table is put together anywhere."""
    mesh, tx = eight_devices(kind), jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-2))
    params = {"table": normal(64, 16)}
    rows = {"table": Rows(jnp.asarray(RNG.integers(0, 70, 20)), normal(20, 16))}
    expected, state = tx.step(rows, tx.init(params), params)
    with jax.set_mesh(mesh):
        place = lambda x, *spec: jax.device_put(x, NamedSharding(mesh, PartitionSpec(*spec)))  # noqa: E731
        spread = {"table": place(params["table"], *spec)}
        everywhere = {"table": Rows(place(rows["table"].ids, None), place(rows["table"].values, None, None))}
        new, after = tx.step(everywhere, tx.init(spread), spread)
        updates, _ = tx.update(everywhere, tx.init(spread), spread)
        added = jadam.apply_updates(spread, updates)
        program = jax.jit(tx.step).lower(everywhere, tx.init(spread), spread).compile().as_text()
    chex.assert_trees_all_close(jax.device_get((new, after)), (expected, state), rtol=1e-5, atol=1e-7)
    chex.assert_trees_all_close(jax.device_get(added), expected, rtol=1e-5)
    for x in (new["table"], added["table"], *[slot["table"] for slot in after.slots["adam"].values()]):
        assert x.sharding.is_equivalent_to(spread["table"].sharding, 2)
    assert "all-gather(" not in program
    assert "all-reduce(" in program  # the rows, or their norm
