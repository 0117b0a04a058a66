"""State and parameters stay where they are: spread over the data axis (ZeRO-1), or in the memory of the host."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import OPTIMIZERS, cast, counted, eight_devices, run

import jadam

KINDS = pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
TX = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(jadam.constant_schedule(0.1)))
SHAPES = {"kernel": (64, 32), "heads": (8, 16, 32), "bias": (64,), "scale": ()}
WHOLE = {name: PartitionSpec(*(None,) * len(shape)) for name, shape in SHAPES.items()}
TENSOR = {**WHOLE, "kernel": PartitionSpec(None, "model"), "heads": PartitionSpec(None, None, "model")}


def numbers(dtype="float32", steps=3):
    """Parameters, and a gradient for each step."""
    rng = np.random.default_rng(0)
    start, *grads = ({name: rng.standard_normal(shape) for name, shape in SHAPES.items()} for _ in range(1 + steps))
    return cast(start, dtype), cast(grads, dtype)


def placed(mesh, specs, tree):
    return jax.device_put(tree, {name: NamedSharding(mesh, spec) for name, spec in specs.items()})


def bytes_a_device(state):
    return sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))


def check_run(tx, kind, specs=WHOLE, data=("data", "model"), memory_kind=None, dtype="float32", eager=False, atol=1e-6):
    """Steps on eight devices: what is where, what is compiled, and whether it is what one device computes."""
    mesh, (values, grads) = eight_devices(kind), numbers(dtype)
    params, grads_there = placed(mesh, specs, values), [placed(mesh, specs, g) for g in grads]
    where = jadam.state_shardings(tx, params, data=data, memory_kind=memory_kind)
    state = jax.jit(tx.init, out_shardings=where)(params)
    step = tx.step if eager else jax.jit(tx.step)
    after, compiled = params, []
    for g in grads_there:
        count, (after, state) = counted(lambda g=g, state=state, after=after: step(g, state, after))
        compiled.append(count)
        for name, p in after.items():
            assert p.sharding.is_equivalent_to(params[name].sharding, p.ndim), name
        for (path, x), place in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(where), strict=True):
            assert x.sharding.is_equivalent_to(place, x.ndim), path
            assert x.sharding.memory_kind == place.memory_kind, path
    assert not any(compiled[1:])
    expected = run(tx, values, grads)
    for x, y in zip(jax.tree.leaves((after, state)), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), atol=atol, rtol=1e-6)
    return state


@KINDS
@pytest.mark.parametrize("eager", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["jit", "eager"])
def test_the_state_is_spread_and_parameters_stay_whole(kind, eager):
    state = check_run(TX, kind, eager=eager)
    assert bytes_a_device(state.slots) <= 1.05 / 8 * sum(x.nbytes for x in jax.tree.leaves(state.slots))


@pytest.fixture
def host_memory():
    """Skips where XLA cannot keep the result of a program there: for CPU with JAX 0.7."""
    there = jax.sharding.SingleDeviceSharding(jax.devices()[0], memory_kind="pinned_host")
    try:
        jax.jit(lambda x: x + 1, out_shardings=there)(jnp.zeros(8))
    except jax.errors.JaxRuntimeError:
        pytest.skip("XLA for this platform does not know the memory of the host")


@pytest.mark.usefixtures("host_memory")
@KINDS
@pytest.mark.parametrize("data", [pytest.param(None, marks=pytest.mark.slow), "data"])
def test_in_the_memory_of_the_host(kind, data):
    check_run(TX, kind, data=data, memory_kind="pinned_host")


@pytest.mark.usefixtures("host_memory")
def test_one_device_with_a_state_on_the_host():
    params, grads = numbers()
    where = jadam.state_shardings(TX, params, memory_kind="pinned_host")
    state = jax.jit(TX.init, out_shardings=where)(params)
    after, state = jax.jit(TX.step)(grads[0], state, params)
    kinds = {(x.ndim > 0, x.sharding.memory_kind) for x in jax.tree.leaves(state.slots)}
    assert kinds == {(True, "pinned_host"), (False, "device")}
    assert {x.sharding.memory_kind for x in jax.tree.leaves((after, state.count))} == {"device"}
    np.testing.assert_array_equal(after["kernel"], run(TX, params, grads[:1])[0]["kernel"])


@KINDS
def test_beside_other_axes(kind):
    """Parameters spread over `model`, as for tensor parallelism, and the state over both axes."""
    state = check_run(TX, kind, specs=TENSOR, data="data")
    assert state.slots["adam"]["mu"]["kernel"].sharding.shard_shape((64, 32)) == (16, 16)


@KINDS
@pytest.mark.parametrize("state", ["bfloat16", pytest.param("int8", marks=pytest.mark.slow)])
def test_random_bits_are_those_of_one_device(state, kind):
    """A hash of the index in the whole array: what is stored is the same to the bit."""
    check_run(jadam.with_precision(jadam.adamw(0.1), state=state, params="stochastic"), kind, dtype="bfloat16", atol=0)


@pytest.mark.slow
def test_each_optimizer(optimizer):
    # SOAP divides rounding by rounding in the null space of a product of matrices.
    check_run(optimizer(0.1), AxisType.Auto, atol=5e-2 if optimizer is OPTIMIZERS["soap"] else 2e-5)


@pytest.mark.parametrize(
    "name", ["schedule_free_adamw", *(pytest.param(n, marks=pytest.mark.slow) for n in ("adafactor", "muon"))]
)
def test_optimizers_on_explicit_axes(name):
    check_run(OPTIMIZERS[name](0.1), AxisType.Explicit, atol=2e-5)


WRAPPED = {
    "accumulate": lambda tx: jadam.accumulate(tx, 2),
    "average": jadam.average,
    "cautious": jadam.cautious,
    "guard": jadam.guard,
    "lookahead": lambda tx: jadam.lookahead(tx, 2, 0.5),
    "loss_scale": jadam.loss_scale,
    "masked": lambda tx: jadam.accumulate(jadam.masked(tx, jadam.ndim_at_least(2)), 2),  # slots have None for some leaves
    "monitor": jadam.monitor,
    "optax": lambda tx: jadam.chain(optax.trace(0.9), tx),
}


@pytest.mark.slow
@KINDS
@pytest.mark.parametrize("name", WRAPPED)
def test_each_wrapper(name, kind):
    check_run(WRAPPED[name](jadam.adamw(0.1)), kind, memory_kind="pinned_host" if name == "guard" else None)


def test_a_pair_from_elsewhere_on_explicit_axes():
    """A sum of optax of a gradient and of a moment that is spread further; by itself it is refused, as the control shows."""
    specs = {**TENSOR, "bias": PartitionSpec("model")}
    tx = optax.sgd(0.1, momentum=0.9)
    check_run(jadam.chain(tx), AxisType.Explicit, specs=specs, data="data")
    params = placed(eight_devices(AxisType.Explicit), specs, numbers()[0])
    state = jax.jit(tx.init, out_shardings=jadam.state_shardings(tx, params, data="data"))(params)
    with pytest.raises(Exception, match="incompatible shardings"):
        jax.jit(tx.update)(params, state, params)


@pytest.mark.slow
def test_a_function_among_the_arguments():
    """`sam` asks for gradients at other parameters, inside a step on explicit axes."""
    mesh, (values, grads) = eight_devices(AxisType.Explicit), numbers()
    tx, params = jadam.sam(jadam.adamw(0.1)), placed(mesh, WHOLE, values)
    state = jax.jit(tx.init, out_shardings=jadam.state_shardings(tx, params, data="data"))(params)
    grad_fn = jax.grad(lambda p: sum(jnp.sum(x**2) for x in jax.tree.leaves(p)))
    found = tx.step(placed(mesh, WHOLE, grads[0]), state, params, grad_fn=grad_fn)[0]
    expected = tx.step(grads[0], tx.init(values), values, grad_fn=grad_fn)[0]
    np.testing.assert_allclose(found["kernel"], expected["kernel"], rtol=1e-6)
    assert found["kernel"].sharding.is_fully_replicated


def test_what_xla_does_by_itself():
    """The control: without a word from the optimizer, parameters come back in parts."""
    tx, params = optax.sgd(0.1, momentum=0.9), placed(eight_devices(AxisType.Auto), WHOLE, numbers()[0])
    where = jadam.state_shardings(tx, params, data=("data", "model"))
    state = jax.jit(tx.init, out_shardings=where)(params)
    after = jax.jit(lambda g, s, p: optax.apply_updates(p, tx.update(g, s, p)[0]))(params, state, params)
    assert not after["kernel"].sharding.is_fully_replicated


def test_steps_of_one_program_stay_each_with_their_own():
    """Two models of one kind, one whole and one in parts, shared a group of arrays: both came back in parts."""
    mesh, tx = eight_devices(AxisType.Auto), jadam.adamw(0.1)
    whole = placed(mesh, WHOLE, numbers()[0])
    parts = placed(mesh, {**WHOLE, "kernel": PartitionSpec("data", None)}, whole)
    state = jax.jit(tx.init, out_shardings=jadam.state_shardings(tx, whole, data="data"))(whole)

    @jax.jit
    def both(a, state_of_a, b, state_of_b):
        return tx.step(a, state_of_a, a), tx.step(b, state_of_b, b)

    (a, _), (b, _) = both(whole, state, parts, tx.init(parts))
    assert a["kernel"].sharding.is_fully_replicated
    assert b["kernel"].sharding.is_equivalent_to(parts["kernel"].sharding, 2)


def test_along_which_axis():
    """One that divides evenly, free if there is one, and the same for the codes and scales of 8 bits."""
    mesh = eight_devices(AxisType.Auto)
    tx = jadam.with_precision(jadam.adamw(0.1), state="int8", min_size=0)

    def spec(shape, given, data="data", slot="mu"):
        params = {"w": jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, PartitionSpec(*given)))}
        return jadam.state_shardings(tx, params, data=data).slots["adam"][slot]["w"].spec

    assert spec((256, 32), ()) == PartitionSpec("data", None)
    assert spec((64, 32), ()) == spec((64, 32), (), slot="mu.scales") == PartitionSpec(None, "data")  # two blocks
    assert spec((256, 32), ("model",)) == PartitionSpec("model", "data")
    assert spec((256, 33), ("model",)) == PartitionSpec(("model", "data"), None)
    assert spec((256, 32), (), ("data", "model")) == PartitionSpec(("data", "model"), None)
    assert spec((33, 35), ()) == PartitionSpec()  # none does
    assert spec((256, 32), (None, "data")) == PartitionSpec(None, "data")  # fully sharded already
