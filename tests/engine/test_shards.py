"""Inside `shard_map` a device sees a part of each array: what needs whole ones is refused in words, or adds up."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec
from support import ELEMENTWISE_RULES, OPTIMIZERS, cast, run

import jadam

ROWS = {"kernel": PartitionSpec("data"), "bias": PartitionSpec()}
COLUMNS = {"kernel": PartitionSpec(None, "data"), "bias": PartitionSpec()}
SHAPES = {"kernel": (256, 16), "bias": (16,)}
ALONE = [name for name in ELEMENTWISE_RULES if name != "prodigy"]  # whose estimate is a sum over all elements
EACH = ["adamw", *(pytest.param(name, marks=pytest.mark.slow) for name in ALONE[::4] if name != "adamw")]
IN_JIT = "write jax.jit without shard_map, where XLA sees whole arrays."
PART = "inside shard_map each device along 'data' has only a part of kernel"


def numbers(dtype="float32", steps=3):
    rng = np.random.default_rng(0)
    start, *grads = ({name: rng.standard_normal(shape) for name, shape in SHAPES.items()} for _ in range(1 + steps))
    return cast(start, dtype), cast(grads, "float32")


def in_parts(tx, specs, dtype="float32", check_vma=True, given=None):
    """Parameters and state after three steps, each device on its own part."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    params, grads = given or numbers(dtype)
    state = tx.init(params)
    shared = jax.tree.map(lambda _: PartitionSpec(), state)
    of_slots = {
        key: {
            name: jax.tree.map(lambda x, spec: spec if x.ndim else PartitionSpec(), slot, specs) for name, slot in own.items()
        }
        for key, own in state.slots.items()
    }
    of_state = shared._replace(slots=of_slots)
    step = jax.shard_map(
        tx.step, mesh=mesh, in_specs=(specs, of_state, specs), out_specs=(specs, of_state), check_vma=check_vma
    )
    step = jax.jit(step)
    for g in grads:
        params, state = step(g, state, params)
    return params, state


def assert_equal(found, expected, atol=0.0):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(x, np.float64), np.asarray(y, np.float64), rtol=1e-6 * bool(atol), atol=atol)


@pytest.mark.parametrize("name", EACH)
def test_elementwise_optimizers_run_on_parts(name):
    tx = OPTIMIZERS[name](0.1)
    assert_equal(in_parts(tx, ROWS), run(tx, *numbers()), atol=1e-6)


@pytest.mark.parametrize("specs", [ROWS, pytest.param(COLUMNS, marks=pytest.mark.slow)], ids=["rows", "columns"])
def test_a_clip_adds_up(specs):
    tx = jadam.chain(jadam.clip_by_global_norm(1.0, axis_name="data"), jadam.adamw(0.1))
    assert_equal(in_parts(tx, specs), run(tx, *numbers()), atol=1e-6)
    small = jadam.chain(jadam.clip_by_global_norm(0.9, axis_name="data"), jadam.sgd(0.1))  # of which the norm is seen
    assert_equal(in_parts(small, specs)[0], run(small, *numbers())[0], atol=1e-6)
    with pytest.raises(AssertionError):
        assert_equal(in_parts(small, specs)[0], run(jadam.sgd(0.1), *numbers())[0], atol=1e-6)


@pytest.mark.parametrize("specs", [ROWS, pytest.param(COLUMNS, marks=pytest.mark.slow)], ids=["rows", "columns"])
def test_a_monitor_adds_up_what_devices_see(specs):
    clipped = jadam.chain(jadam.clip_by_global_norm(0.9, axis_name="data"), jadam.adamw(0.1))
    tx = jadam.monitor(clipped, by_leaf=True, signal_to_noise=True, axis_name="data")
    (params, state), expected = in_parts(tx, specs), run(tx, *numbers())
    assert_equal((params, state), expected, atol=1e-6)
    assert jadam.metrics(state) == pytest.approx(jadam.metrics(expected[1]), rel=1e-5)


WRAPPERS = {
    "guard": lambda tx: jadam.guard(tx, axis_name="data", sigma_factor=1.0, warmup_steps=1),
    "loss_scale": lambda tx: jadam.loss_scale(tx, axis_name="data", init_scale=8.0),
    "accumulate": lambda tx: jadam.accumulate(tx, every=2, axis_name="data"),
}


@pytest.mark.parametrize("name", WRAPPERS)
@pytest.mark.parametrize("specs", [ROWS, pytest.param(COLUMNS, marks=pytest.mark.slow)], ids=["rows", "columns"])
def test_all_devices_skip_a_step_together(name, specs):
    """One element is NaN, which is seen where its part is alone."""
    tx, (start, grads) = WRAPPERS[name](jadam.adamw(0.1)), numbers()
    grads[1]["kernel"] = grads[1]["kernel"].at[17, 3].set(jnp.nan)
    found, state = in_parts(tx, specs, given=(start, grads))
    assert_equal((found, state), run(tx, start, grads), atol=1e-5)  # a variance of norms is a small difference
    assert state.scalars[name]["dropped" if name == "accumulate" else "skipped"] >= 1
    assert not np.allclose(found["kernel"], start["kernel"])


@pytest.mark.parametrize("state", ["bfloat16", pytest.param("int8", marks=pytest.mark.slow)])
def test_random_bits_are_those_of_the_whole_array(state):
    """The bits of every part were those of the first."""
    tx = jadam.with_precision(jadam.adamw(0.1), state=state, params="stochastic", min_size=0)
    assert_equal(in_parts(tx, ROWS, "bfloat16"), run(tx, *numbers("bfloat16")))


def test_parts_that_are_no_rows_have_bits_of_their_own():
    """Of equal numbers, which are rounded up or down by chance, every device rounds others."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    tx, spec = jadam.with_precision(jadam.sgd(1e-3), params="stochastic"), PartitionSpec(None, "data")
    p = jnp.ones((256, 16), jnp.bfloat16)
    step = jax.jit(jax.shard_map(lambda p: tx.step(p, tx.init(p), p)[0], mesh=mesh, in_specs=spec, out_specs=spec))
    parts = np.split(np.asarray(step(p), np.float32), 8, axis=1)
    assert 0.9 < np.mean(parts) < 1
    assert all((a != b).any() for n, a in enumerate(parts) for b in parts[:n])


@pytest.mark.parametrize(
    ("tx", "words"),
    [
        (jadam.clip_by_global_norm(1.0), f"clip_by_global_norm reads all elements, and {PART}; write axis_name='data'."),
        (
            jadam.clip_by_global_norm(1.0, axis_name="model"),
            f"reads all elements, and {PART}; write axis_name=('model', 'data').",
        ),
        (jadam.lamb(0.1), f"scale_by_trust_ratio mixes the elements of a parameter, and {PART}; {IN_JIT}"),
        (jadam.prodigy(), f"scale_by_prodigy reads all elements, and {PART}; {IN_JIT}"),
        (jadam.guard(jadam.sgd(0.1)), f"guard reads all elements, and {PART}; write axis_name='data'."),
        (jadam.loss_scale(jadam.sgd(0.1)), f"loss_scale reads all elements, and {PART}; write axis_name='data'."),
        (jadam.monitor(jadam.sgd(0.1)), f"monitor reads all elements, and {PART}; write axis_name='data'."),
    ],
    ids=["clip", "another axis", "lamb", "prodigy", "guard", "loss_scale", "monitor"],
)
def test_what_needs_whole_arrays_is_refused(tx, words):
    with pytest.raises(ValueError, match="shard_map") as error:
        in_parts(tx, ROWS)
    assert words in str(error.value)


def test_an_axis_needs_types_that_say_what_is_a_part():
    tx = jadam.clip_by_global_norm(1.0, axis_name="data")
    with pytest.raises(ValueError, match=r"cannot know which arrays are parts under shard_map\(..., check_vma=False"):
        in_parts(tx, ROWS, check_vma=False)


def test_a_loss_that_nobody_averaged():
    mesh, tx = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), jadam.guard(jadam.sgd(0.1))
    whole, data = PartitionSpec(), PartitionSpec("data")
    p = numbers()[0]

    def update(loss):
        return tx.update(p, tx.init(p), p, value=loss[0])[0]

    with pytest.raises(ValueError, match=r"average it first: jax.lax.pmean\(value, \('data',\)\)"):
        jax.shard_map(update, mesh=mesh, in_specs=data, out_specs=whole)(jnp.ones(8))


def test_gradients_that_nobody_averaged():
    mesh, tx = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,)), jadam.clip_by_global_norm(1.0)
    params, data, whole = numbers()[0], PartitionSpec("data"), PartitionSpec()

    def update(params, batch, average):
        grads = jax.tree.map(lambda p: p * batch.sum(), params)
        return tx.update(average(grads), tx.init(params), params)[0]

    def on_devices(average, specs):
        return jax.jit(jax.shard_map(lambda p, b: update(p, b, average), mesh=mesh, in_specs=(whole, data), out_specs=specs))(
            params, jnp.ones(8)
        )

    assert jadam.global_norm(on_devices(lambda g: jax.lax.pmean(g, "data"), whole)) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"average it first: jax.lax.pmean\(grads, 'data'\)"):
        on_devices(lambda g: g, data)
