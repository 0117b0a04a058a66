"""States as flat dicts: bit for bit through every file format, and an error in words for whatever is not what was saved."""

import contextlib
import gc
import io
import itertools
import re
import warnings
import zipfile

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from support import EACH, OPTIMIZERS, EverySecond, eight_devices, run

import jadam
from jadam._errors import Misuse
from jadam._storage.params import PARAM_STORAGE
from jadam._storage.slots import SLOT_STORAGE

PARAMS = {"layers": [jnp.linspace(-1.0, 1.0, 128).reshape(2, 64), jnp.ones(3)], "mlp/~/b": jnp.asarray(0.5)}
GRADS = jax.tree.map(lambda x: x * x - 0.3, PARAMS)
LOW = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
MIXED = PARAMS | {
    "c": jnp.ones(3, jnp.complex64),
    "none": None,
    "key": jax.random.key(0),
    "n": jnp.arange(2),
    "k:0": jnp.ones(2),
}


def add_noise():
    """A pair with a random key, a bfloat16 and None in its state."""

    def init(params):
        return {"key": jax.random.key(3), "old": jax.random.PRNGKey(1), "low": jnp.ones(2, jnp.bfloat16), "none": None}

    return jadam.GradientTransformation(init, lambda updates, state, params=None: (updates, state))


CASES = {
    "adamw": (jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(jadam.cosine_decay_schedule(0.1, 9))), PARAMS),
    "mixed": (jadam.adam(1e-2), MIXED),
    "int8": (jadam.with_precision(jadam.adam(1e-2), "int8", params="kahan", min_size=0), LOW),
    "bfloat16": (jadam.with_precision(jadam.lion(1e-2), "bfloat16", params="remainder", min_size=0), LOW),
    "loss_scale": (jadam.loss_scale(jadam.sgd(0.1, momentum=0.9)), PARAMS),
    "wrapped": (jadam.chain(jadam.clip(1.0), jadam.wrap(EverySecond(), jadam.adam(0.1))), PARAMS),
    "groups": (jadam.partition([(jadam.match("layers/*"), jadam.prodigy(), "a/b"), (True, jadam.freeze())]), PARAMS),
    "pairs": (jadam.chain(optax.scale_by_adam(mu_dtype="bfloat16"), add_noise(), jadam.sgd(0.1)), PARAMS),
    "schedule_free": (jadam.schedule_free_adamw(0.1), PARAMS),
    "nothing": (jadam.sgd(0.1), PARAMS),
    "an array alone": (jadam.adam(0.1), jnp.ones(3)),
}


def state_of(tx, params):
    grads = jax.tree.map(lambda x: x * x - 0.3 if jnp.issubdtype(x.dtype, jnp.inexact) else x, params)
    return run(tx, params, [grads])[1]


# File formats: how a dict is written to bytes, and read from them.


def npz(saved):
    np.savez(file := io.BytesIO(), **saved)
    return file.getvalue()


def from_npz(data):
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        return dict(file)


FORMATS = {
    "npz": (npz, from_npz),
    "safetensors": (safetensors.numpy.save, safetensors.numpy.load),
    "msgpack": (flax.serialization.msgpack_serialize, flax.serialization.msgpack_restore),
}


@contextlib.contextmanager
def orbax():
    """A checkpointer, whose event loops are collected here: they are not closed, and a later test would be told."""
    with warnings.catch_warnings(action="ignore"):
        with ocp.StandardCheckpointer() as checkpointer:
            yield checkpointer
        del checkpointer
        gc.collect()


def orbax_files(saved, folder):
    with orbax() as checkpointer:
        checkpointer.save(folder / "state", saved)


def from_orbax(folder):
    with orbax() as checkpointer:
        return checkpointer.restore(folder / "state")


def assert_same_bits(one, other):
    chex.assert_trees_all_equal_shapes_and_dtypes(one, other)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("file", FORMATS)
@pytest.mark.usefixtures("lenient")
def test_bit_for_bit_through_files(name, file):
    tx, params = CASES[name]
    state = state_of(tx, params)
    saved = jadam.to_dict(state)
    assert all(type(x) is np.ndarray and x.dtype.isbuiltin == 1 and x.dtype.kind in "iufb" for x in saved.values())
    write, read = FORMATS[file]
    back = jadam.from_dict(tx, params, read(write(saved)))
    assert_same_bits(back, state)
    grads = jax.tree.map(lambda p: p if jnp.issubdtype(p.dtype, jnp.inexact) else None, params)
    assert_same_bits(tx.step(grads, back, params), tx.step(grads, state, params))


@pytest.mark.parametrize("name", ["int8", "pairs", "mixed"])
@pytest.mark.usefixtures("lenient")
@pytest.mark.filterwarnings("ignore")
def test_bit_for_bit_through_orbax(name, tmp_path):
    tx, params = CASES[name]
    state = state_of(tx, params)
    orbax_files(jadam.to_dict(state), tmp_path)
    assert_same_bits(jadam.from_dict(tx, params, from_orbax(tmp_path)), state)


def test_every_optimizer_and_storage(optimizer):
    """Arbitrary bits of every type that a state has; of hyperparameters, those of the code."""
    params = {"w": jax.ShapeDtypeStruct((64, 4), jnp.bfloat16), "b": jax.ShapeDtypeStruct((3,), jnp.bfloat16)}
    rng = np.random.default_rng(0)
    for storage, landing in itertools.product(SLOT_STORAGE, PARAM_STORAGE):
        tx = jadam.with_precision(optimizer(1e-2), storage, params=landing, min_size=0)
        like = jax.eval_shape(tx.init, params)
        numbers = {key: np.asarray(value, np.float32) for key, value in tx.recipe.numbers.items()}
        state = jax.tree.map(lambda x: rng.bytes(x.size * x.dtype.itemsize), like)
        state = jax.tree.map(lambda x, data: np.frombuffer(data, x.dtype).reshape(x.shape), like, state)
        state = state._replace(count=np.asarray(7, np.int32), hyperparams={k: numbers[k] for k in like.hyperparams})
        saved = jadam.to_dict(state)
        assert_same_bits(jadam.from_dict(tx, params, from_npz(npz(saved))), state)
        assert {name.split("/")[0] for name in saved} <= {*state._fields, "format", "checksum"}


def test_float64(x64):
    tx, params = jadam.adam(1e-3), {"w": jnp.linspace(0.0, 1.0, 5), "low": jnp.ones(3, jnp.float32)}
    state = run(tx, params, [params])[1]
    assert_same_bits(jadam.from_dict(tx, params, from_npz(npz(jadam.to_dict(state)))), state)
    with pytest.raises(
        ValueError, match=r"from_dict: 'hyperparams/.*' is float64\[\], and this transformation keeps float32\[\]"
    ):
        jadam.from_dict(tx, {"w": params["low"]}, jadam.to_dict(tx.init({"w": params["w"]})))


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit])
def test_arrays_are_placed_where_init_places_them(kind):
    mesh = eight_devices(kind)
    place = jax.NamedSharding(mesh, jax.P("data", "model"))
    params = {"w": jax.device_put(jnp.ones((64, 64)), place)}
    for tx in (jadam.adam(1e-3), jadam.with_precision(jadam.adafactor(1e-3), "int8", min_size=0)):
        state = tx.init(params)
        saved = jadam.to_dict(state)
        back = jadam.from_dict(tx, params, saved)
        assert [x.sharding for x in jax.tree.leaves(back)] == [x.sharding for x in jax.tree.leaves(state)]
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), params)
        assert_same_bits(jadam.from_dict(tx, shapes, saved), state)
    # On one device, and as free to move as those of `init`.
    alone = {"w": jnp.ones((64, 64))}
    assert not any(x.committed for x in jax.tree.leaves(jadam.from_dict(tx, alone, saved)))


MANY = ("adamw", "int8", "loss_scale", "groups", "schedule_free", "an array alone")


def stacked(tree, number=3):
    return jax.tree.map(lambda x: jnp.stack([x * (n + 1) for n in range(number)]), tree)


@pytest.mark.parametrize("name", MANY)
@pytest.mark.usefixtures("lenient")
def test_the_state_of_many_models(name):
    """What `vmap` made was written, and could be read by nothing."""
    tx, params = CASES[name][0], stacked(CASES[name][1])
    models, state = jax.vmap(tx.step)(params, jax.vmap(tx.init)(params), params)
    back = jadam.from_dict(tx, models, from_npz(npz(jadam.to_dict(state))))
    assert_same_bits(back, state)
    assert_same_bits(jax.vmap(tx.step)(models, back, models), jax.vmap(tx.step)(models, state, models))
    first = jax.tree.map(lambda x: x[0], state)
    assert_same_bits(jadam.from_dict(tx, jax.tree.map(lambda x: x[0], models), jadam.to_dict(first)), first)


def test_models_in_two_axes_and_a_sweep_over_rates():
    tx, params = jadam.adam(0.1), stacked(stacked(PARAMS, 2))
    state = jax.vmap(jax.vmap(tx.init))(params)
    rates = jnp.logspace(-4, -2, 6).reshape(3, 2)
    state = jax.vmap(jax.vmap(lambda s, rate: tx.set_hyperparams(s, learning_rate=rate)))(state, rates)
    back = jadam.from_dict(tx, params, jadam.to_dict(state))
    assert_same_bits(back, state)
    wrong = state._replace(hyperparams=state.hyperparams | {"adam.one_minus_b1": jnp.ones((3, 2)).at[2, 1].set(-1.0)})
    with pytest.raises(ValueError, match=r"adam\.one_minus_b1"):
        jadam.from_dict(tx, params, jadam.to_dict(wrong))


def test_many_models_and_the_parameters_of_one():
    tx, state = jadam.adam(0.1), jax.vmap(jadam.adam(0.1).init)(stacked(PARAMS))
    with pytest.raises(ValueError, match=r"of 3 models, and the parameter at .* has shape \(2, 64\); pass"):
        jadam.from_dict(tx, PARAMS, jadam.to_dict(state))
    for old in (state, jadam.to_dict(state)):
        with pytest.raises(ValueError, match="migrate: the state is of many models"):
            jadam.migrate(old, tx, stacked(PARAMS))
    one = jax.tree.map(lambda x: x[0], state)
    assert_same_bits(jadam.migrate(one, tx, PARAMS)[0], tx.init(PARAMS))


def test_many_models_are_placed_where_their_parameters_are():
    mesh = eight_devices(jax.sharding.AxisType.Auto)
    place = jax.NamedSharding(mesh, jax.P("data", None, "model"))
    params = {"w": jax.device_put(jnp.ones((8, 4, 64)), place)}
    tx = jadam.adam(1e-3)
    back = jadam.from_dict(tx, params, jadam.to_dict(jax.vmap(tx.init)(params)))
    assert back.slots["adam"]["mu"]["w"].sharding == place
    assert back.count.sharding.is_fully_replicated


def test_a_dict_is_a_copy():
    """The state may be donated, and the dict be changed, without the other knowing."""
    tx, params = CASES["adamw"]
    state = state_of(tx, params)
    saved = jadam.to_dict(state)
    kept = {name: x.copy() for name, x in saved.items()}
    back = jadam.from_dict(tx, params, saved)
    jax.jit(tx.step, donate_argnums=1)(GRADS, state, params)
    chex.assert_trees_all_equal(saved, kept)
    saved["slots/adam/mu/layers/1"][:] = 7.0
    assert not (np.asarray(back.slots["adam"]["mu"]["layers"][1]) == 7.0).any()


def test_names_that_are_alike():
    params = {"a/b": jnp.ones(2), "a": {"b": jnp.zeros(2)}, "w:float32": jnp.ones(3), "w:complex64": jnp.ones(3)}
    tx = jadam.adam(1e-3)
    state = state_of(tx, params)
    saved = jadam.to_dict(state)
    assert {"slots/adam/mu/a/b", "slots/adam/mu/a/b_1"} <= set(saved)
    assert_same_bits(jadam.from_dict(tx, params, saved), state)


def test_a_number_in_the_code_acts_after_a_load():
    tx, params = jadam.sgd(0.5), {"w": jnp.ones(2)}
    back = jadam.from_dict(jadam.sgd(0.25), params, jadam.to_dict(tx.init(params)))
    chex.assert_trees_all_equal(jadam.sgd(0.25).update(params, back, params)[0], {"w": jnp.full(2, -0.25)})


# Damage


def flips(data, number=60):
    rng = np.random.default_rng(0)
    for at in rng.integers(0, len(data), number):
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.integers(8)
        yield bytes(damaged)


def unharmed(tx, params, state, load):
    """Whether a damaged file is read as it was; an error is what it should be, and no warning beside it."""
    try:
        found = load()
    except Exception:  # the library's own: a header that cannot be read, a checksum of the zip
        return False
    try:
        back = jadam.from_dict(tx, params, found)
    except Misuse:
        return False
    assert_same_bits(back, state)  # what differs is not of the state: a time, the order of names
    return True


@pytest.mark.parametrize("name", ["adamw", "int8", "pairs"])
@pytest.mark.parametrize("file", FORMATS)
@pytest.mark.usefixtures("lenient")
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_refused(name, file):
    """60 flipped bits and 30 cuts: 118 flips were loaded in silence."""
    tx, params = CASES[name]
    state = state_of(tx, params)
    write, read = FORMATS[file]
    data = write(jadam.to_dict(state))
    assert unharmed(tx, params, state, lambda: read(data))
    loaded = sum(unharmed(tx, params, state, lambda bad=bad: read(bad)) for bad in flips(data))
    assert loaded <= (25 if file == "npz" else 0)  # a zip has dates and attributes
    cuts = np.linspace(0, len(data) - 1, 30).astype(int)
    assert not any(unharmed(tx, params, state, lambda end=end: read(data[:end])) for end in cuts)


@pytest.mark.usefixtures("lenient")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_damaged_files_of_orbax_are_refused(tmp_path):
    tx, params = CASES["adamw"]
    state = state_of(tx, params)
    orbax_files(jadam.to_dict(state), tmp_path)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_size)
    rng = np.random.default_rng(0)
    refused = 0
    for n in range(60):
        file = files[rng.integers(len(files))]
        data = file.read_bytes()
        file.write_bytes(data[: rng.integers(len(data))] if n % 3 == 0 else next(flips(data, 1)))
        refused += not unharmed(tx, params, state, lambda: from_orbax(tmp_path))
        file.write_bytes(data)
    assert refused > 10  # of the others, nothing that belongs to the state was hit


def test_every_kind_of_byte():
    """One flip in each array, each name, and in the checksums."""
    tx, params = CASES["int8"]
    saved = jadam.to_dict(state_of(tx, params))
    for name, x in saved.items():
        for position in {0, x.nbytes // 2, x.nbytes - 1}:
            data = bytearray(x.tobytes())
            data[position] ^= 1 << (position % 8)
            damaged = np.frombuffer(bytes(data), x.dtype).reshape(x.shape)
            with pytest.raises(Misuse, match="from_dict: "):
                jadam.from_dict(tx, params, saved | {name: damaged})
        others = {other: value for other, value in saved.items() if other != name}
        for renamed in (others, others | {name + "x": x}):
            with pytest.raises(Misuse, match="from_dict: "):
                jadam.from_dict(tx, params, renamed)
        if x.size and x.shape:
            with pytest.raises(Misuse, match="from_dict: "):
                jadam.from_dict(tx, params, saved | {name: x[:-1]})
    with pytest.raises(Misuse, match=r"from_dict: 'slots/adam/mu/mlp/~/b' is not what was saved, by its checksum"):
        jadam.from_dict(tx, params, saved | {"slots/adam/mu/mlp/~/b": saved["slots/adam/mu/mlp/~/b"] + 1})


def test_zip_and_dict_have_the_same_names():
    saved = jadam.to_dict(state_of(*CASES["adamw"]))
    assert {name.removesuffix(".npy") for name in zipfile.ZipFile(io.BytesIO(npz(saved))).namelist()} == set(saved)


@pytest.mark.parametrize("name", EACH)
def test_values_out_of_range_are_refused(name):
    """Of a state that was wrong when it was saved: the checksum is right."""
    tx, params = OPTIMIZERS[name](1e-2), {"w": jnp.ones((4, 4))}
    state = tx.init(params)
    with pytest.raises(ValueError, match="from_dict: the count of the state is -1, and not the number of updates done"):
        jadam.from_dict(tx, params, jadam.to_dict(state._replace(count=jnp.asarray(-1, jnp.int32))))
    for key in state.hyperparams:
        bad = state._replace(hyperparams=state.hyperparams | {key: jnp.asarray(np.nan, jnp.float32)})
        with pytest.raises(ValueError, match=rf"from_dict\({re.escape(key)}=nan\): {re.escape(key)} must be"):
            jadam.from_dict(tx, params, jadam.to_dict(bad))
