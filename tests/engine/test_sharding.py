"""Eight devices: slots are placed like their parameters, all else is replicated, and the second step compiles nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import compilations, counted, eight_devices, run

import jadam

TX = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(jadam.constant_schedule(0.1)))
SPECS = {"kernel": PartitionSpec("data", "model"), "bias": PartitionSpec("model"), "scale": PartitionSpec()}


def setup(kind):
    mesh = eight_devices(kind)
    values = {"kernel": jnp.arange(32.0).reshape(8, 4), "bias": jnp.ones(4), "scale": jnp.ones(())}
    shardings = {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}
    return mesh, values, jax.device_put(values, shardings), shardings


def check(state, shardings, mesh):
    for slot in state.slots["adam"].values():
        for name, value in slot.items():
            assert value.sharding.is_equivalent_to(shardings[name], value.ndim), name
    for scalar in jax.tree.leaves((state.count, state.hyperparams)):
        assert scalar.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec()), 0)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_the_state_is_placed_like_the_parameters(kind):
    mesh, values, params, shardings = setup(kind)
    with jax.set_mesh(mesh):
        eager = TX.init(params)
        check(eager, shardings, mesh)
        inside = jax.jit(TX.init, out_shardings=jadam.state_shardings(TX, params))(params)
        check(inside, shardings, mesh)
        moved, after = TX.step(params, eager, params)
        check(after, shardings, mesh)
        assert moved["kernel"].sharding.is_equivalent_to(shardings["kernel"], 2)
        step = jax.jit(TX.step)
        moved, after = step(params, inside, params)
        check(after, shardings, mesh)
        compiled, (moved, after) = counted(lambda: step(params, after, moved))
        assert compiled == 0
        moved, after = step(params, after, moved)
    alone, _ = run(TX, values, [values] * 3)
    for name in values:
        np.testing.assert_allclose(moved[name], alone[name], rtol=2e-6)


def test_shardings_from_shapes_and_inside_shard_map():
    """For a model that is too large to exist before it is sharded; and where each device updates its own shard."""
    mesh, _, params, shardings = setup(AxisType.Auto)
    shapes = {name: jax.ShapeDtypeStruct(p.shape, p.dtype, sharding=shardings[name]) for name, p in params.items()}
    assert jadam.state_shardings(TX, shapes) == jadam.state_shardings(TX, params)
    assert jadam.state_shardings(TX, shapes).slots["adam"]["nu"]["kernel"] == shardings["kernel"]
    tx = jadam.adam(0.1)
    spec = jax.tree.map(lambda s: s.spec, jadam.state_shardings(tx, params))
    step = jax.jit(jax.shard_map(tx.step, mesh=mesh, in_specs=(SPECS, spec, SPECS), out_specs=(SPECS, spec)))
    moved, _ = step(params, tx.init(params), params)
    expected, _ = tx.step(params, tx.init(params), params)
    np.testing.assert_allclose(moved["kernel"], expected["kernel"], rtol=1e-6)


def test_one_committed_device():
    """On a device of the user's choice, not the default one."""
    device = jax.devices()[3]
    params = jax.device_put({"w": jnp.ones(3)}, device)
    state = TX.init(params)
    assert {d for x in jax.tree.leaves(state) for d in x.devices()} == {device}
    step = jax.jit(TX.step)
    moved, after = step(params, state, params)
    assert compilations(lambda: step(params, after, moved)) == 0
    assert jadam.state_shardings(TX, params).count.device_set == {device}


MATRICES = {
    "kernel": ((16, 64), PartitionSpec("data", "model")),
    "square": ((16, 16), PartitionSpec(None, "model")),
    "experts": ((8, 8, 16), PartitionSpec("data")),
    "bias": ((16,), PartitionSpec("data")),
}


def test_slots_of_another_shape_stay_where_they_are(optimizer):
    """XLA spread SOAP's matrices over other axes than `init` had: the next step was compiled again."""
    mesh = eight_devices(AxisType.Auto)
    params = {
        name: jax.device_put(jnp.full(shape, 0.1, jnp.float32), NamedSharding(mesh, spec))
        for name, (shape, spec) in MATRICES.items()
    }
    tx = optimizer(0.1)
    step = jax.jit(tx.step)
    after, state = step(params, tx.init(params), params)
    for path, (value, sharding) in jax.tree_util.tree_leaves_with_path(
        jax.tree.map(lambda *both: both, state, jadam.state_shardings(tx, params)), is_leaf=lambda x: type(x) is tuple
    ):
        assert value.sharding.is_equivalent_to(sharding, value.ndim), path
    assert compilations(lambda: step(params, state, after)) == 0


def test_matrices_of_the_sides_are_spread_too():
    """Those of SOAP, each as long as a side: where the parameter was spread along the other, each device had all of it."""
    mesh = eight_devices(AxisType.Auto)
    shapes = {"kernel": ((16, 64), PartitionSpec("data")), "query": ((16, 2, 8), PartitionSpec("data", "model"))}
    params = {
        name: jax.ShapeDtypeStruct(shape, "float32", sharding=NamedSharding(mesh, spec))
        for name, (shape, spec) in shapes.items()
    }
    slots = jadam.state_shardings(jadam.soap(0.1), params).slots["soap"]
    assert slots["gram_0"]["kernel"].spec == slots["basis_1"]["kernel"].spec == PartitionSpec("data", None)
    assert slots["gram_1"]["query"].spec == PartitionSpec(("data", "model"), None)
    rows = jadam.state_shardings(jadam.adafactor(0.1), params).slots["adafactor"]
    assert rows["nu_row"]["kernel"].spec == PartitionSpec("data", None)
    assert rows["nu_col"]["kernel"].spec == PartitionSpec(None, None)
