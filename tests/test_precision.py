"""What is stored in fewer bits: slots in bfloat16 and in blocks of 8 bits, parameters of 16 bits with their own rounding."""

import functools

import chex
import equinox as eqx
import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conftest import OPTIMIZERS, compilations
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import jadam
from jadam._landing import Kahan, Remainder
from jadam._rounding import Noise, leaf_key, step_key
from jadam._storage import BLOCK, Blocks

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Where a test compiles a program for every optimizer: half the time, and the same numbers."""

LANDED = ["stochastic", "kahan", "remainder"]


def wide(tree):
    """Leaves as float64 of numpy."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def noise(leaf=0):
    return Noise(step_key(jnp.int32(0)) ^ jnp.asarray(leaf_key(leaf)), "test")


def assert_differ(one, other):
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(one, other)


# Blocks of 8 bits


SIZES = (1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 33, 47, 63, 64, 65, 69, 70)


def spread(*shape, seed=0, width=2.0):
    """Normal numbers times e^(width z): what a block has to hold at once."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * np.exp(width * rng.standard_normal(shape))).astype(np.float32)


@jax.jit
def there_and_back(x, bits=None):
    stored = Blocks.encode(x, bits)
    return stored, stored.decode()


def expected_codes(x):
    """The nearest code of each element, of one block in float64: from the definition, without JAX."""
    x = np.asarray(x, np.float64)
    if x.min() >= 0:
        return np.maximum(np.round(256 * (x / x.max()) ** (1 / 8)), 1) - 129
    return np.copysign(np.round(127 * (np.abs(x) / np.abs(x).max()) ** (1 / 4)), x)


@pytest.mark.parametrize("kind", ["signed", "negative", "one-sided"])
def test_blocks_have_the_nearest_codes(kind):
    """Last axes of any length, of which the last block may be short. The error of an element is half a step in its root."""
    values = [spread(3, size, seed=size) for size in SIZES]
    values = [{"signed": x, "negative": -(x * x), "one-sided": x * x}[kind] for x in values]
    coded = jax.jit(lambda arrays: [there_and_back(x) for x in arrays])(values)
    for x, (stored, decoded) in zip(values, coded, strict=True):
        assert stored.codes.shape == decoded.shape == x.shape
        assert stored.codes.dtype == jnp.int8
        assert stored.scales.shape == (3, -(-x.shape[1] // BLOCK))
        assert stored.scales.dtype == decoded.dtype == jnp.float32
        for row in range(3):
            for at in range(0, x.shape[1], BLOCK):
                block = np.s_[row, at : at + BLOCK]
                signed = x[block].min() < 0
                power, codes = (4, 127) if signed else (8, 256)
                scale = np.abs(x[block]).max()
                np.testing.assert_array_equal(stored.codes[block], expected_codes(x[block]))
                root, found = ((np.abs(np.float64(y[block])) / scale) ** (1 / power) for y in (x, np.asarray(decoded)))
                assert np.abs(root - np.maximum(found, 0)).max() <= (0.5 + 1e-4) / codes
                largest = np.abs(x[block]).argmax()
                assert decoded[block][largest] == x[block][largest], "the largest of a block is exact"
                assert (np.sign(decoded[block]) * np.sign(x[block]) >= 0).all()


def test_the_error_against_the_largest():
    """At most 1/64 of the largest of the block, the half of the widest step; and nearly reached, so no other bar would do."""
    for power in (1, 2):
        x = np.random.default_rng(3).uniform(-1 if power == 1 else 0, 1, (512, 32)).astype(np.float32)
        error = np.abs(there_and_back(x)[1] - x).max(-1) / np.abs(x).max(-1)
        assert 0.9 / 64 < error.max() < 1.02 / 64


def test_zeros_stay_zeros():
    assert not np.any(there_and_back(np.zeros((2, 70), np.float32))[1])
    assert not np.any(there_and_back(np.zeros((2, 70), np.float32), noise().uniform((2, 70), 0))[1])
    x = spread(4, 64)
    x[:, ::3] = 0
    assert not np.any(there_and_back(x)[1][:, ::3])
    assert not np.any(there_and_back(x, noise().uniform(x.shape, 0))[1][:, ::3])


@pytest.mark.parametrize("chance", [False, True])
def test_one_sided_blocks_have_no_zero(chance):
    """A second moment of 0 beside a first moment that is not would make an update infinite."""
    x = np.square(spread(64, 64, width=8.0))
    x[:, ::5] = 0
    x[::2] *= np.float32(1e-15)
    x[:, 1] = np.maximum(x[:, 1], 1e-16)
    decoded = there_and_back(x, noise().uniform(x.shape, 0) if chance else None)[1]
    assert np.all(decoded > 0)
    assert np.any(there_and_back(np.concatenate([x, -x], -1)[:, ::4])[1] == 0)  # signed blocks have one


def test_stochastic_codes_are_right_on_average():
    """Within five standard errors of the mean of 4,096 draws between two codes."""
    x = np.stack([spread(32), np.square(spread(32, seed=1)), -np.abs(spread(32, seed=2))])
    u = np.asarray(noise().uniform((4096, *x.shape), 0))
    drawn = wide(jax.jit(lambda u: Blocks.encode(jnp.broadcast_to(x, u.shape), u).decode())(u))
    low, high = drawn.min(0), drawn.max(0)
    slack = 2e-6 * np.abs(x)  # float32 of the powers
    assert ((low - slack <= x) & (x <= high + slack)).all()
    assert all(len(np.unique(drawn[:, i, j])) <= 2 for i in range(3) for j in range(32))
    error = np.sqrt(np.maximum((x - low) * (high - x), 0) / len(u)) + slack
    assert (np.abs(drawn.mean(0) - x) < 5 * error).all()
    nearest = np.abs(wide(there_and_back(x)[1]) - x)
    assert (nearest > 5 * error).mean() > 0.5  # nearest codes fail this


def test_decoded_blocks_are_fixed_points():
    """What is not changed is not changed by storing it again and again, not even by chance."""
    x = np.stack([spread(70), np.square(spread(70, seed=1)), -np.abs(spread(70, seed=2)), 1e-30 * spread(70)])
    bits = noise().uniform(x.shape, 0)
    stored, once = there_and_back(x, bits)
    for again in (None, bits, noise(1).uniform(x.shape, 0)):
        chex.assert_trees_all_equal(there_and_back(once, again), (stored, once))
    assert_differ(there_and_back(x, noise(1).uniform(x.shape, 0))[0].codes, stored.codes)


def test_nan_fills_its_block_and_only_it():
    for chance in (None, noise().uniform((2, 96), 0)):
        for bad in (np.nan, np.inf, -np.inf):
            for x in (spread(2, 96), np.square(spread(2, 96))):
                clean = there_and_back(x, chance)[1]
                spoilt = x.copy()
                spoilt[1, 40] = bad
                decoded = np.array(there_and_back(spoilt, chance)[1])
                assert not np.isfinite(decoded[1, 40])
                assert np.isnan(decoded[1, 32:64]).all() or not np.isnan(bad)
                decoded[1, 32:64] = clean[1, 32:64]
                np.testing.assert_array_equal(decoded, clean)


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-37, 1e-36, 1e-30, 1e30, 3e38])
def test_tiny_and_huge_blocks(size):
    """Finite, of the right sign, no larger than the largest; what a float32 can divide by keeps its digits."""
    for x in (spread(4, 64), np.square(spread(4, 64))):
        largest = np.abs(x).reshape(4, 2, BLOCK).max(-1).repeat(BLOCK, -1)  # of each block
        x = (x / largest * np.float32(size)).astype(np.float32)
        for chance in (None, noise().uniform(x.shape, 0)):
            decoded = np.asarray(there_and_back(x, chance)[1])
            assert np.isfinite(decoded).all()
            assert np.abs(decoded).max() <= np.float32(size)
            assert (decoded * np.sign(x) >= 0).all()
            if size >= 1e-36:  # 2^-126 is lost besides where float32 has no normal numbers
                assert np.abs(decoded - x).max() <= (1.02 if chance is None else 2.04) / 64 * size + 2.0**-126
    mixed = np.float32([[1e-38] * 32 + [1.0] * 32 + [1e30] * 32])  # each block has its own scale
    np.testing.assert_allclose(there_and_back(mixed)[1][:, 32:], mixed[:, 32:], rtol=0)


def test_blocks_under_vmap():
    """Each model as if alone: blocks do not reach across models, whatever the last axis."""
    for size in (5, 70):
        x = np.stack([spread(3, size, seed=seed) * 10**seed for seed in range(4)])
        many = jax.jit(jax.vmap(there_and_back))(x)
        for model in range(4):
            chex.assert_trees_all_equal(jax.tree.map(lambda y, m=model: y[m], many), there_and_back(x[model]))


@pytest.mark.usefixtures("x64")
def test_blocks_of_float64():
    """Scales keep the dtype of the arithmetic, so its range too."""
    x = jnp.asarray(spread(3, 70), jnp.float64) * 1e-200
    stored, decoded = there_and_back(x)
    assert stored.scales.dtype == decoded.dtype == jnp.float64
    for block in (np.s_[:, :32], np.s_[:, 32:64], np.s_[:, 64:]):
        bound = 1.02 / 64 * np.abs(x[block]).max(-1, keepdims=True)
        assert (np.abs(decoded[block] - x[block]) <= bound).all()
        assert (np.abs(decoded[block]).max(-1) == np.abs(x[block]).max(-1)).all()


# Parameters of 16 bits


def every_exponent():
    """Both signs, all 256 exponents, and mantissas around every way to round, above all halves."""
    lower = [0, 1, 2, 0x00FF, 0x0100, 0x3FFF, 0x4000, 0x7FFE, 0x7FFF, 0x8000, 0x8001, 0x8002, 0xBFFF, 0xC000, 0xFFFE, 0xFFFF]
    lower += np.random.default_rng(0).integers(0, 2**16, 48).tolist()
    upper = [0x00, 0x01, 0x02, 0x3F, 0x40, 0x55, 0x7E, 0x7F]
    mantissas = np.add.outer(np.asarray(upper, np.uint32) << 16, np.asarray(lower, np.uint32)).reshape(-1)
    exponents = np.arange(2**9, dtype=np.uint32) << 23
    return np.add.outer(exponents, mantissas).reshape(-1).view(np.float32)


@jax.jit
def split_and_joined(x):
    storage = Remainder()
    p = storage.round(x, jnp.bfloat16, None)
    kept = storage.keep(x, p)
    return p, kept["remainder"], storage.decode(p, kept)


def test_a_remainder_loses_nothing():
    x = every_exponent()
    p, remainder, joined = map(np.asarray, split_and_joined(x))
    assert p.dtype == jnp.bfloat16
    assert remainder.dtype == np.int16
    known = ~np.isnan(x)
    assert (~known).sum() > 100
    np.testing.assert_array_equal(joined.view(np.uint32)[known], x.view(np.uint32)[known])
    assert np.isnan(joined[~known]).all()
    assert np.isnan(p[~known].astype(np.float32)).all()
    nearest = x.astype(jnp.bfloat16)  # that is what the model sees, but that halves are rounded away from zero
    np.testing.assert_array_equal(np.isinf(p.astype(np.float32)), np.isinf(nearest.astype(np.float32)))
    finite = np.isfinite(p.astype(np.float32)) & known
    distance, least = (np.abs(y[finite].astype(np.float64) - x[finite]) for y in (p, nearest))
    np.testing.assert_array_equal(distance, least)
    assert (p[finite] != nearest[finite]).any()


def test_halves_to_even_would_not_fit():
    """Negative control: rounded as bfloat16 rounds, a remainder of +2^15 has no place in 16 bits."""
    x = every_exponent()
    x = x[np.isfinite(x)]
    storage, p = Remainder(), jnp.asarray(x).astype(jnp.bfloat16)
    joined = np.asarray(storage.decode(p, storage.keep(jnp.asarray(x), p)))
    wrong = joined.view(np.uint32) != x.view(np.uint32)
    assert wrong.any()
    assert set((x.view(np.uint32)[wrong] & 0xFFFF).tolist()) == {0x8000}


def test_the_parts_of_other_storages():
    """Kahan's two parts hold 17 bits, from 2^-118 on to where bfloat16 ends; NaN and inf are not hidden by any."""
    x = every_exponent()
    storage = Kahan()
    p = jnp.asarray(x).astype(jnp.bfloat16)
    joined = np.asarray(jax.jit(storage.decode)(p, jax.jit(storage.keep)(jnp.asarray(x), p)))
    normal = (np.abs(x) > 2.0**-118) & np.isfinite(np.asarray(p, np.float32))
    assert (np.abs(joined[normal] - x[normal]) <= np.abs(x[normal]) * 2.0**-17).all()
    assert np.isnan(joined[np.isnan(x)]).all()
    assert not np.isfinite(joined[np.isinf(x)]).any()


STEPS = 200
GRID = (48, 40)


@functools.cache
def landing_problem():
    """Parameters from 1e-4 to 10, of both signs, which cross zero, halve and double under steps of 0.01."""
    rng = np.random.default_rng(4)
    p = 0.05 * rng.standard_normal(GRID) * np.exp(1.5 * rng.standard_normal(GRID))
    return jnp.asarray(p, jnp.bfloat16), jnp.asarray(rng.standard_normal((STEPS, *GRID)), jnp.float32)


def kept(state):
    return {name: tree["w"] for key in ("kahan", "remainder") for name, tree in state.slots.get(key, {}).items()}


def master(p, kept):
    """The parameter as the rules see it. Outside the program of the steps: inside one, XLA may leave out that `p` is rounded."""
    storage = Remainder() if "remainder" in kept else Kahan() if kept else None
    return p.astype(jnp.float32) if storage is None else storage.decode(p, kept)


@functools.cache
def landing_run(storage, by="step", dtype="bfloat16"):
    """The parameters and masters of a run, and what the other way to apply a step gives from the same state."""
    tx = jadam.adamw(1e-2, weight_decay=0.1)
    tx = jadam.with_precision(tx, params=storage) if storage else tx
    p, grads = landing_problem()

    def body(carry, g):
        (p, state), g = carry, {"w": g}
        updates, updated = tx.update(g, state, p)
        ways = {"step": tx.step(g, state, p), "update": (optax.apply_updates(p, updates), updated)}
        return ways[by], {"before": (p["w"], kept(state))} | {way: (p["w"], kept(state)) for way, (p, state) in ways.items()}

    start = {"w": p.astype(dtype)}
    with jax.numpy_dtype_promotion("standard"):
        seen = jax.jit(lambda start: jax.lax.scan(body, (start, tx.init(start)), grads)[1])(start)
    found = {f"{way} p": p for way, (p, _) in seen.items()} | {f"{way} master": master(*both) for way, both in seen.items()}
    found |= {"p": found[f"{by} p"], "master": found[f"{by} master"]}
    return wide(found)


def moved(seen):
    return np.abs(seen["step master"] - seen["before master"])


def benign(seen):
    """Where a step keeps the sign of the stored parameter, at least half its size and at most twice of it.

    The difference of two such numbers has no more digits than they (Sterbenz 1974), so the update is exact.
    """
    ratio = np.divide(seen["step p"], seen["before p"], out=np.zeros_like(seen["p"]), where=seen["before p"] != 0)
    return (ratio >= 0.5) & (ratio <= 2)


def test_a_remainder_trains_as_float32_does():
    """Two hundred steps, bit for bit; the parameter is the master rounded to nearest."""
    seen, full = landing_run("remainder"), landing_run(None, dtype="float32")
    np.testing.assert_array_equal(seen["master"], full["p"])
    assert (np.abs(seen["p"] - seen["master"]) <= np.abs(seen["master"]) * 2.0**-8).all()
    assert (np.sign(seen["p"][1:]) != np.sign(seen["p"][:-1])).sum() > 500  # zero was crossed
    assert (landing_run("kahan")["master"] != full["p"]).mean() > 0.5  # what holds 17 bits does not


@pytest.mark.parametrize("storage", LANDED)
@pytest.mark.parametrize("by", ["step", "update"])
def test_an_update_lands_where_a_step_does(storage, by):
    """At every step of a run: exactly, but where a parameter loses half its size or its sign, or more than doubles.

    There the update is rounded (by 1/256 of it), and the sum once more: both by no more than 1/128.
    """
    seen = landing_run(storage, by)
    easy = benign(seen)
    assert 0.5 < easy.mean() < 0.995
    np.testing.assert_array_equal(seen["update p"][easy], seen["step p"][easy])
    np.testing.assert_array_equal(seen["update master"][easy], seen["step master"][easy])
    off = [np.abs(seen[f"update {kind}"] - seen[f"step {kind}"]) / moved(seen) for kind in ("p", "master")]
    assert off[0].max() <= 1 / 128
    assert off[1].max() <= {"stochastic": 1 / 128, "remainder": 1 / 128, "kahan": 2.0**-15}[storage]
    assert off[0].max() > 1 / 300, "no hard case: the test shows less than it says"


@pytest.mark.parametrize("storage", LANDED)
def test_what_more_than_doubles_lands_exactly(storage):
    """`land` promises all but the loss of half the size or the sign; its difference was rounded to a half of the sum's grid."""
    seen = landing_run(storage)
    grown = (seen["step p"] / np.where(seen["before p"] == 0, np.inf, seen["before p"])) > 2
    assert grown.sum() > 1000
    np.testing.assert_array_equal(seen["update p"][grown], seen["step p"][grown])


def test_nearest_does_not_land():
    """Negative control: an update rounded on its own does not meet the parameter that other roundings give."""
    near, kahan = landing_run("nearest"), landing_run("kahan")
    np.testing.assert_array_equal(near["update p"], near["step p"])
    assert np.mean(near["p"][10] != kahan["p"][10]) > 0.1


def test_hard_steps_alone_leave_a_trace():
    """A run by `update` keeps its distance from float32 in all other steps; each hard one adds at most 1/128 of its update."""
    seen, full = landing_run("remainder", "update"), landing_run(None, dtype="float32")
    bound = np.cumsum(np.where(benign(seen), 0, moved(seen) / 128), 0)
    rounding = np.arange(1, STEPS + 1)[:, None, None] * 2.0**-23 * np.abs(full["p"]).max(0)
    assert (np.abs(seen["master"] - full["p"]) <= bound + rounding).all()
    untouched = benign(seen).all(0)
    assert untouched.mean() > 0.2
    np.testing.assert_array_equal(seen["master"][:, untouched], full["p"][:, untouched])


def test_kahan_keeps_what_rounding_takes():
    """Each step rounds the compensation, below 2^-8 of the parameter and of the update, to 8 bits: 2^-16 of both.

    So a run by `update` is as good as one by `step`: what a hard step leaves is in the compensation too.
    """
    full = landing_run(None, dtype="float32")["p"]
    for by in ("step", "update"):
        seen = landing_run("kahan", by)
        bound = np.cumsum((np.abs(seen["step master"]) + moved(seen)) * 2.0**-16, 0)
        assert (np.abs(seen["master"] - full) <= bound).all()
    lost = np.abs(landing_run("nearest")["p"] - full)
    assert (lost[-1] > bound[-1]).mean() > 0.5  # nearest rounding fails it


def test_stochastic_rounding_is_right_on_average():
    """Each error is noise, within five standard deviations, and so is their mean.

    Rounding a step of size |u| to a grid of distance d adds a variance of at most |u| d, and of d^2/4.
    """
    full = landing_run(None, dtype="float32")["p"]
    for by in ("step", "update"):
        seen = landing_run("stochastic", by)
        gap = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(seen["step p"]), np.abs(seen["before p"])))) - 7)
        deviation = np.sqrt(np.sum(np.minimum(moved(seen) * gap, gap**2 / 4), 0))
        scaled = (seen["p"] - full)[-1] / deviation
        assert np.abs(scaled).max() < 5
        assert np.abs(scaled.mean()) < 5 / np.sqrt(scaled.size)
    nearest = (landing_run("nearest")["p"] - full)[-1] / deviation
    assert np.abs(nearest * np.sign(full[-1])).max() > 1.5 * np.abs(scaled).max()  # steps that nearest rounding never takes


@pytest.mark.parametrize("storage", LANDED)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_whoever_applies_the_update(storage, dtype):
    """Other people's `apply_updates`, a plain sum, compiled and not, and inside one program with the update."""
    if (storage, dtype) == ("remainder", "float16"):
        return test_a_remainder_is_for_bfloat16()
    tx = jadam.with_precision(jadam.sgd(0.125), params=storage)
    rng = np.random.default_rng(5)
    p = {"w": jnp.asarray(1 + rng.uniform(size=(16, 33)), dtype)}
    g = {"w": jnp.asarray(rng.standard_normal((16, 33)), jnp.float32)}
    state = tx.init(p)
    stepped, kept = tx.step(g, state, p)
    updates, also = tx.update(g, state, p)
    chex.assert_trees_all_equal(kept, also)
    plain = lambda p, u: jax.tree.map(lambda a, b: a + b, p, u)  # noqa: E731
    for apply in (jadam.apply_updates, optax.apply_updates, eqx.apply_updates, plain):
        with jax.numpy_dtype_promotion("standard"):
            chex.assert_trees_all_equal(apply(p, updates), stepped)
            chex.assert_trees_all_equal(jax.jit(apply)(p, updates), stepped)
            together = jax.jit(lambda g, s, p, apply=apply: apply(p, tx.update(g, s, p)[0]))(g, state, p)
        chex.assert_trees_all_equal(together, stepped)
    assert updates["w"].dtype == p["w"].dtype
    assert_differ(stepped, jadam.sgd(0.125).step(g, jadam.sgd(0.125).init(p), p)[0])


def test_a_remainder_is_for_bfloat16():
    tx = jadam.with_precision(jadam.adamw(1e-3), params="remainder")
    words = (
        r"^with_precision\.init: params='remainder' is for bfloat16, and \['a'\]\['w'\] is float16; "
        r"take 'kahan' or 'stochastic' for it\.$"
    )
    with pytest.raises(TypeError, match=words):
        tx.init({"a": {"w": jnp.ones(3, jnp.float16)}})
    tx.init({"a": {"w": jnp.ones(3, jnp.bfloat16)}})
