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
from jadam._rounding import Noise, number_key, step_key
from jadam._storage import BLOCK, Blocks

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Where a test compiles a program for every optimizer: half the time, and the same numbers."""

LANDED = ["stochastic", "kahan", "remainder"]


@pytest.fixture
def quick():
    """Compiles without XLA's optimizations, where a test is of how things are stored and not of how they are fused."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def wide(tree):
    """Leaves as float64 of numpy."""
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def noise(leaf=0):
    return Noise(step_key(jnp.int32(0)) ^ jnp.asarray(number_key(leaf)), "test")


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


@pytest.mark.usefixtures("quick")
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


@pytest.mark.usefixtures("quick")
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


@pytest.mark.usefixtures("quick")
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


@pytest.mark.usefixtures("quick")
def test_decoded_blocks_are_fixed_points():
    """What is not changed is not changed by storing it again and again, not even by chance."""
    x = np.stack([spread(70), np.square(spread(70, seed=1)), -np.abs(spread(70, seed=2)), 1e-30 * spread(70)])
    bits = noise().uniform(x.shape, 0)
    stored, once = there_and_back(x, bits)
    for again in (None, bits, noise(1).uniform(x.shape, 0)):
        chex.assert_trees_all_equal(there_and_back(once, again), (stored, once))
    assert_differ(there_and_back(x, noise(1).uniform(x.shape, 0))[0].codes, stored.codes)


@pytest.mark.usefixtures("quick")
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


@pytest.mark.usefixtures("quick")
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
            if size >= 1e-36:  # 2^-123 is lost besides where an eighth of a float32 is no normal number
                assert np.abs(decoded - x).max() <= (1.02 if chance is None else 2.04) / 64 * size + 2.0**-123
    mixed = np.float32([[1e-38] * 32 + [1.0] * 32 + [1e30] * 32])  # each block has its own scale
    np.testing.assert_allclose(there_and_back(mixed)[1][:, 32:], mixed[:, 32:], rtol=0)


@pytest.mark.usefixtures("quick")
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
    with np.errstate(invalid="ignore"):
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
    """Kahan's two parts hold 17 bits, from 2^-109 on to where bfloat16 ends; NaN and inf are not hidden by any."""
    x = every_exponent()
    storage = Kahan()
    p = jnp.asarray(x).astype(jnp.bfloat16)
    joined = np.asarray(jax.jit(storage.decode)(p, jax.jit(storage.keep)(jnp.asarray(x), p)))
    normal = (np.abs(x) > 2.0**-109) & np.isfinite(np.asarray(p, np.float32))
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
    """The parameter as the rules see it. Call it outside the steps' program, in which XLA may leave out that `p` is rounded."""
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
    update = np.abs(seen["step p"] - seen["before p"])
    hard = ~easy & (update > 0)
    off = [np.abs(seen[f"update {kind}"] - seen[f"step {kind}"])[hard] / update[hard] for kind in ("p", "master")]
    assert off[0].max() <= 1 / 128
    assert off[1].max() <= {"stochastic": 1 / 128, "remainder": 1 / 128, "kahan": 2.0**-15}[storage]
    assert off[0].max() > 1 / 300, "no hard case: the test shows less than it says"


@pytest.mark.parametrize("storage", LANDED)
def test_what_more_than_doubles_lands_beside_at_most(storage):
    """Where the difference has the exponent of the sum, the sum may be a tie: one unit of the parameter, 1/128 of the step."""
    seen = landing_run(storage)
    grown = (seen["step p"] / np.where(seen["before p"] == 0, np.inf, seen["before p"])) > 2
    assert grown.sum() > 1000
    missed = np.abs(seen["update p"] - seen["step p"])[grown]
    assert 0.9 < np.mean(missed == 0) < 1
    assert (missed <= np.abs(seen["step p"] - seen["before p"])[grown] / 128).all()


def test_an_update_of_float16_lands_near():
    """1/1024 of the step, where that is as large as the parameter."""
    rng = np.random.default_rng(0)
    old, g = (jnp.asarray(rng.standard_normal(20_000), dtype) for dtype in (jnp.float16, jnp.float32))
    tx = jadam.with_precision(jadam.sgd(1.0), params="kahan")
    updates, _ = tx.update(g, tx.init(old), old)
    new, landed = (np.asarray(x, np.float64) for x in (tx.step(g, tx.init(old), old)[0], old + updates))
    step = np.abs(new - np.asarray(old, np.float64))
    assert (np.abs(landed - new) <= step / 1024).all()
    assert (landed != new).any()


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


def mixed(rng=None):
    """A tree with leaves of three dtypes: values from `rng`, or ones."""
    draw = (lambda *shape: np.ones(shape)) if rng is None else (lambda *shape: rng.standard_normal(shape))
    return {
        "low": {"w": jnp.asarray(draw(6, 40), jnp.bfloat16), "b": jnp.asarray(draw(5), jnp.bfloat16)},
        "half": jnp.asarray(draw(4, 8), jnp.float16),
        "full": {"w": jnp.asarray(draw(4, 8), jnp.float32), "frozen": jnp.asarray(draw(3), jnp.bfloat16)},
    }


PARAMS, GRADS = mixed(np.random.default_rng(6)), [mixed(np.random.default_rng(7 + i)) for i in range(3)]


def run(tx, params, grads, by="step"):
    state = tx.init(params)
    for g in grads:
        if by == "step":
            params, state = tx.step(g, state, params)
        else:
            updates, state = tx.update(g, state, params)
            params = jadam.apply_updates(params, updates)
    return params, state


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("storage", LANDED[:2])
@pytest.mark.parametrize("by", ["step", "update"])
def test_float32_parameters_are_untouched(storage, by):
    """They are stored as they are, keep nothing beside them, and move as without `params`."""
    tx = jadam.adamw(1e-2)
    plain, _ = run(tx, PARAMS, GRADS, by)
    landed, state = run(jadam.with_precision(tx, params=storage), PARAMS, GRADS, by)
    np.testing.assert_array_equal(landed["full"]["w"], plain["full"]["w"])
    assert_differ(landed["low"], plain["low"])
    if storage == "kahan":
        (tree,) = state.slots["kahan"].values()
        assert tree["full"]["w"] is None
        assert tree["half"].dtype == tree["low"]["w"].dtype == jnp.bfloat16
        assert tree["low"]["w"].shape == (6, 40)
    else:
        assert set(state.slots) == {"adam"}


@pytest.mark.usefixtures("quick")
def test_groups_store_their_parameters_each_its_own_way():
    adam, low, half = jadam.adamw(1e-2), jadam.match("low/**"), jadam.match("half")
    tx = jadam.partition(
        [
            (jadam.match("**/frozen"), jadam.freeze()),
            (low, jadam.with_precision(adam, params="remainder")),
            (half, jadam.with_precision(adam, params="kahan")),
            (True, adam),
        ]
    )
    params, state = run(tx, PARAMS, GRADS)
    remainder, _ = run(jadam.with_precision(adam, params="remainder"), PARAMS["low"], [g["low"] for g in GRADS])
    kahan, _ = run(jadam.with_precision(adam, params="kahan"), PARAMS["half"], [g["half"] for g in GRADS])
    chex.assert_trees_all_equal((params["low"], params["half"]), (remainder, kahan))
    np.testing.assert_array_equal(params["full"]["w"], run(adam, PARAMS, GRADS)[0]["full"]["w"])
    np.testing.assert_array_equal(params["full"]["frozen"], PARAMS["full"]["frozen"])
    stored = {key: tree for key, tree in state.slots.items() if "adam" not in key}
    assert sorted(key.split(".")[-1] for key in stored) == ["kahan", "remainder"]
    assert sorted(x.dtype.name for x in jax.tree.leaves(stored)) == ["bfloat16", "int16", "int16"]


@pytest.mark.usefixtures("quick")
def test_frozen_parameters_do_not_move():
    """Nothing is rounded where nothing is added: also by chance."""
    frozen = jadam.freeze(jadam.match("low/**"))
    for storage in ("stochastic", "kahan"):
        tx = jadam.with_precision(jadam.chain(jadam.adam(1e-2), frozen), params=storage)
        for by in ("step", "update"):
            params, state = run(tx, PARAMS, GRADS, by)
            chex.assert_trees_all_equal(params["low"], PARAMS["low"])
            assert_differ(params["half"], PARAMS["half"])
            assert not np.any(state.slots["kahan"]["compensation"]["low"]["w"] if storage == "kahan" else 0)


@pytest.mark.usefixtures("quick")
def test_masked():
    """Only what the mask chooses is stored otherwise, and only there it lands."""
    inner = jadam.with_precision(jadam.adamw(1e-2), state="int8", params="kahan", min_size=0, rounding="nearest")
    tx = jadam.masked(inner, jadam.match("low/**"))
    params, state = run(tx, PARAMS, GRADS)
    alone, own = run(inner, PARAMS["low"], [g["low"] for g in GRADS])
    chex.assert_trees_all_equal(params["low"], alone)
    assert isinstance(own.slots["adam"]["mu"]["w"], Blocks)
    chex.assert_trees_all_equal(state.slots["adam"]["mu"]["low"]["w"], own.slots["adam"]["mu"]["w"])
    assert state.slots["kahan"]["compensation"]["half"] is None
    updates, _ = tx.update(GRADS[0], tx.init(PARAMS), PARAMS)
    np.testing.assert_array_equal(updates["half"], GRADS[0]["half"])


@pytest.mark.usefixtures("quick")
def test_schedules_and_numbers_in_the_state():
    rising = jadam.linear_schedule(0.0, 2.0**-6, 4)  # exact, however it is compiled
    for storage in LANDED:
        low, grads = PARAMS["low"], [g["low"] for g in GRADS]
        scheduled = jadam.with_precision(jadam.adamw(rising), params=storage, state="bfloat16", min_size=0)
        params, state = run(scheduled, low, grads)
        number = jadam.with_precision(jadam.adamw(1.0), params=storage, state="bfloat16", min_size=0)
        by_hand, set_state = low, number.init(low)
        for count, g in enumerate(grads):
            set_state = number.set_hyperparams(set_state, learning_rate=float(rising(jnp.int32(count))))
            by_hand, set_state = number.step(g, set_state, by_hand)
        chex.assert_trees_all_equal((params, state.slots), (by_hand, set_state.slots))
        assert jadam.hyperparams(state)["learning_rate"] == 2.0**-7


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("storage", LANDED)
def test_as_a_transformation_of_optax(storage):
    """Around a whole chain of jadam, alone in `optax.chain`, under its `apply_updates` and `MultiSteps`."""
    tx = jadam.with_precision(jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-2)), params=storage)
    params, grads = {"w": 2 + PARAMS["low"]["w"] / 8}, [{"w": g["low"]["w"]} for g in GRADS]
    expected, _ = run(tx, params, grads)
    with jax.numpy_dtype_promotion("standard"):
        theirs, several = optax.chain(tx, optax.identity()), optax.MultiSteps(tx, 1)
        for other in (theirs, several):
            found, state = params, other.init(params)
            for g in grads:
                updates, state = other.update(g, state, found)
                found = optax.apply_updates(found, updates)
            chex.assert_trees_all_equal(found, expected)
    assert_differ(run(jadam.adamw(1e-2), params, grads)[0], expected)


@pytest.mark.usefixtures("quick")
def test_the_inner_word_holds():
    inner = jadam.with_precision(jadam.adamw(1e-2), state={"mu": "bfloat16"}, params="kahan", min_size=0)
    outer = jadam.with_precision(inner, state="int8", params="stochastic", min_size=0)
    state = outer.init(PARAMS["low"])
    assert state.slots["adam"]["mu"]["w"].dtype == jnp.bfloat16
    assert isinstance(state.slots["adam"]["nu"]["w"], Blocks)
    assert state.slots["kahan"]["compensation"]["w"].shape == (6, 40)
    grads = [g["low"] for g in GRADS]
    plain = jadam.with_precision(inner, state={"nu": "int8"}, min_size=0)
    chex.assert_trees_all_equal(run(outer, PARAMS["low"], grads)[0], run(plain, PARAMS["low"], grads)[0])
    kept32 = jadam.with_precision(jadam.with_precision(jadam.adamw(1e-2), state="float32"), state="int8", min_size=0)
    assert kept32.init(PARAMS["low"]).slots["adam"]["mu"]["w"].dtype == jnp.float32


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("storage", LANDED)
def test_what_follows_in_a_chain_lands_too(storage):
    """The parameter lands once, after the last rule, wherever in the chain its storage is said."""
    first, more = jadam.scale_by_adam(), jadam.chain(jadam.add_decayed_weights(0.1), jadam.scale_by_learning_rate(1e-3))
    early = jadam.chain(jadam.with_precision(first, params=storage), more)
    late = jadam.with_precision(jadam.chain(first, more), params=storage)
    low, grads = PARAMS["low"], [g["low"] for g in GRADS]
    for by in ("step", "update"):
        one, other = run(early, low, grads, by), run(late, low, grads, by)
        chex.assert_trees_all_equal((one[0], one[1].slots), (other[0], other[1].slots))
    assert_differ(one[0], run(jadam.chain(first, more), low, grads)[0])


# What is stored how


@pytest.mark.usefixtures("quick")
def test_small_slots_stay_float32():
    params = {"large": jnp.ones((64, 64)), "small": jnp.ones((63, 65)), "short": jnp.ones((2048, 3)), "scalar": jnp.ones(())}
    slots = jadam.with_precision(jadam.adam(1e-3), state="int8").init(params).slots["adam"]["mu"]
    assert isinstance(slots["large"], Blocks)
    assert slots["small"].dtype == slots["short"].dtype == slots["scalar"].dtype == jnp.float32
    slots = jadam.with_precision(jadam.adam(1e-3), state="int8", min_size=0).init(params).slots["adam"]["mu"]
    assert isinstance(slots["small"], Blocks)
    assert slots["small"].codes.shape == (63, 65)
    assert slots["small"].scales.shape == (63, 3)
    assert slots["short"].dtype == slots["scalar"].dtype == jnp.float32
    slots = jadam.with_precision(jadam.adam(1e-3), state="bfloat16", min_size=0).init(params).slots["adam"]["mu"]
    assert {x.dtype for x in jax.tree.leaves(slots)} == {jnp.dtype("bfloat16")}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("tx", "copies"),
    [
        (jadam.schedule_free_adamw(1e-3), ["z", "x"]),
        (jadam.schedule_free(jadam.sgd(1e-3, momentum=0.9)), ["z", "x"]),
        (jadam.prodigy(1.0), ["p0"]),
    ],
    ids=["schedule_free_adamw", "schedule_free", "prodigy"],
)
def test_copies_of_parameters_change_only_by_name(tx, copies):
    """An average may be rough; a position in 8 bits is not where the model was."""
    params = {"w": jnp.asarray(spread(8, 64))}

    def stored(**state):
        slots = jadam.with_precision(tx, **state, min_size=0).init(params).slots
        return {slot: tree["w"] for own in slots.values() for slot, tree in own.items()}

    found = stored(state="int8")
    assert {slot for slot, x in found.items() if not isinstance(x, Blocks)} == set(copies)
    assert all(found[slot].dtype == jnp.float32 for slot in copies)
    for slot in copies:
        found = stored(state={slot: "int8"})
        assert {slot for slot, x in found.items() if isinstance(x, Blocks)} == {slot}
        found = stored(state={slot: "bfloat16"})
        assert [slot for slot, x in found.items() if x.dtype == jnp.bfloat16] == [slot]


@pytest.mark.usefixtures("quick")
def test_averages_of_schedule_free_can_be_read_from_any_storage():
    params = {"w": jnp.asarray(spread(8, 64))}
    for storage, bound in {"bfloat16": 2.0**-8, "int8": 1.02 / 32}.items():
        tx = jadam.with_precision(jadam.schedule_free_adamw(1e-3), state={"x": storage}, min_size=0)
        x = jadam.schedule_free_params(tx.init(params), params)["w"]
        assert x.dtype == jnp.float32
        assert 0 < np.abs(x - params["w"]).max() <= bound * np.abs(params["w"]).max()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("state", ["float32", "bfloat16", "int8"])
def test_bytes_a_parameter(state):
    params = {"w": jnp.ones((256, 512)), "v": jnp.ones((8192,))}
    tx = jadam.with_precision(jadam.adamw(1e-3), state=state)
    size = sum(x.nbytes for x in jax.tree.leaves(tx.init(params).slots)) / (256 * 512 + 8192)
    assert size == {"float32": 8, "bfloat16": 4, "int8": 2.25}[state]
    assert f"{2 * 256 * 512 * size / 2:,.0f}" in jadam.describe(tx, params)
    assert jadam.describe(tx, params).endswith(f"{size:.2f} a parameter")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("last", "size"), [(3, 4), (4, 2), (32, 1.125)])
def test_bytes_of_short_axes(last, size):
    tx = jadam.with_precision(jadam.lion(1e-3), state="int8", min_size=0)
    assert sum(x.nbytes for x in jax.tree.leaves(tx.init({"w": jnp.ones((64, last))}).slots)) == size * 64 * last


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("storage", "size"), [("nearest", 0), ("stochastic", 0), ("kahan", 2), ("remainder", 2)])
def test_bytes_beside_a_parameter(storage, size):
    params = {"w": jnp.ones((64, 64), jnp.bfloat16)}
    tx = jadam.with_precision(jadam.sgd(1e-3), params=storage)
    assert sum(x.nbytes for x in jax.tree.leaves(tx.init(params).slots)) == size * 4096
    assert f"  {size * 4096:,}\n" in jadam.describe(tx, params)


CHOICES = {
    "bfloat16": {"state": "bfloat16"},
    "int8": {"state": "int8"},
    "int8 nearest": {"state": "int8", "rounding": "nearest"},
    "by slot": {"state": {"mu": "bfloat16", "nu": "int8"}, "params": "stochastic"},
    "kahan": {"params": "kahan"},
    "remainder": {"state": "int8", "params": "remainder"},
}


def chosen(name, tx=None):
    return jadam.with_precision(tx or jadam.adamw(1e-2), **CHOICES[name], min_size=0)


@pytest.mark.parametrize("name", CHOICES)
def test_transformations_are_values(name):
    one, other = chosen(name), chosen(name)
    assert one == other
    assert hash(one) == hash(other)
    assert one != jadam.adamw(1e-2)
    assert one not in [chosen(another) for another in CHOICES if another != name]
    assert "with_precision(" in repr(one)
    for word in jax.tree.leaves(CHOICES[name]):
        assert word.lower() in repr(one).lower()


def test_seeds_and_sizes_count_where_they_matter():
    make = lambda **kwargs: jadam.with_precision(jadam.adam(1e-3), **{"state": "int8", "params": "stochastic"} | kwargs)  # noqa: E731
    assert len({make(), make(seed=1), make(min_size=0), make(rounding="nearest"), make(state="bfloat16")}) == 5


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", CHOICES)
def test_a_step_is_a_fixed_point_and_takes_donated_buffers(name):
    """A scan refuses another carry. The second step compiles nothing, and every buffer of the state is used again."""
    tx, low = chosen(name), PARAMS["low"]
    state = tx.init(low)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, low), state)
    chex.assert_trees_all_equal(jax.jit(tx.init)(low), state)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *[g["low"] for g in GRADS])
    carry = jax.eval_shape(lambda *c: jax.lax.scan(lambda c, g: (tx.step(g, c[1], c[0]), None), c, stacked)[0], low, state)
    chex.assert_trees_all_equal_shapes_and_dtypes(carry, (low, state))
    assert not any(x.weak_type for x in jax.tree.leaves(carry))
    expected = run(tx, low, [g["low"] for g in GRADS[:2]])
    step = jax.jit(tx.step, donate_argnums=(1, 2))
    given = jax.tree.map(jnp.copy, (state, low))
    params, after = step(GRADS[0]["low"], *given)
    assert all(x.is_deleted() for x in jax.tree.leaves(given))
    again = []
    assert compilations(lambda: again.append(step(GRADS[1]["low"], after, params))) == 0
    chex.assert_trees_all_equal(again[0], expected)


ON_A_MESH = {  # of parameters: shape, where they lie, and where their scales do
    "whole": ((8, 128), ("data", "model"), ("data", "model")),
    "odd": ((8, 70), ("data", None), ("data", None)),
    "cut": ((8, 96), ("data", "model"), ("data", None)),  # 48 columns a device, a block and a half
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ON_A_MESH)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_storages_on_a_mesh(kind, name):
    """Codes and what is kept lie like their parameter, scales with them where a device has whole blocks; a step keeps that."""
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(kind,) * 2)
    shape, *specs = ON_A_MESH[name]
    own, scales = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs)
    alone = {"w": jnp.ones(shape, jnp.bfloat16)}
    tx, params = chosen("remainder"), jax.device_put(alone, own)

    def check(state):
        for slot in state.slots["adam"].values():
            assert slot["w"].codes.shape == shape
            assert slot["w"].codes.sharding.is_equivalent_to(own, 2)
            assert slot["w"].scales.sharding.is_equivalent_to(scales, 2)
        assert state.slots["remainder"]["remainder"]["w"].sharding.is_equivalent_to(own, 2)
        assert state.count.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec()), 0)

    with jax.set_mesh(mesh):
        eager = tx.init(params)
        check(eager)
        planned = jadam.state_shardings(tx, params)
        assert jax.tree.map(lambda x: x.sharding, eager) == planned
        inside = jax.jit(tx.init, out_shardings=planned)(params)
        check(inside)
        chex.assert_trees_all_equal(inside, eager)
        step = jax.jit(tx.step)
        moved, after = step(params, inside, params)
        later = []
        compiled = compilations(lambda: later.append(step(params, after, moved)))
    chex.assert_trees_all_equal(later[0], run(tx, alone, [alone, alone]))
    check(after)
    check(later[0][1])
    assert compiled == 0


@pytest.mark.usefixtures("quick")
def test_models_side_by_side():
    """Under `vmap`, each learning rate as if it trained alone."""
    tx, low = chosen("remainder"), PARAMS["low"]
    rates = jnp.asarray([1e-3, 1e-2, 0.1])
    with_rate = lambda rate: tx.set_hyperparams(tx.init(low), learning_rate=rate)  # noqa: E731
    many = jax.tree.map(lambda x: jnp.stack([x] * 3), low)
    states, step = jax.vmap(with_rate)(rates), jax.jit(jax.vmap(tx.step, in_axes=(None, 0, 0)))
    alone = jax.jit(tx.step)
    single = [(low, with_rate(rate)) for rate in rates]
    for g in GRADS[:2]:
        many, states = step(g["low"], states, many)
        single = [alone(g["low"], state, params) for params, state in single]
    chex.assert_trees_all_equal((many, states), jax.tree.map(lambda *x: jnp.stack(x), *single))


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"state": "int4"}, r"with_precision(state='int4'): 'int4' must be one of float32, bfloat16, int8."),
        ({"state": {"mu": "int4"}}, r"with_precision(state={'mu': 'int4'}): 'int4' must be one of float32, bfloat16, int8."),
        ({"params": "exact"}, "with_precision(params='exact'): 'exact' must be one of nearest, stochastic, kahan, remainder."),
        ({"seed": 0.5}, "with_precision(seed=0.5): seed must be an integer."),
        ({"min_size": True}, "with_precision(min_size=True): min_size must be an integer >= 0."),
        ({"state": {"": "int8"}}, "with_precision: no rule keeps ''; there are mu, nu."),
        ({"rounding": "up"}, "with_precision(rounding='up'): 'up' must be one of stochastic, nearest."),
        ({"state": {"m": "int8"}}, "with_precision: no rule keeps 'm'; there are mu, nu."),
        ({"min_size": -1}, "with_precision(min_size=-1): min_size must be an integer >= 0."),
        ({"min_size": 4096.0}, "with_precision(min_size=4096.0): min_size must be an integer >= 0."),
    ],
)
def test_wrong_arguments(kwargs, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        jadam.with_precision(jadam.adamw(1e-3), **kwargs)
    assert str(error.value) == words


def test_no_slots_to_store():
    with pytest.raises(ValueError, match=r"^with_precision: no rule keeps 'mu'; there are no slots\.$"):
        jadam.with_precision(jadam.sgd(1e-3), state={"mu": "int8"})
    assert jadam.with_precision(jadam.sgd(1e-3), state="int8").init(PARAMS).slots == {}


@pytest.mark.usefixtures("quick")
def test_a_state_of_another_storage():
    """Wherever shapes or names tell it, the error says what the state has and what the transformation keeps."""
    params = {"w": jnp.ones((8, 64), jnp.bfloat16)}
    make = functools.partial(jadam.with_precision, jadam.adamw(1e-3), min_size=0)
    blocks, plain = make(state="int8"), make(state="float32")
    words = (
        r"^with_precision\.update: the state does not fit the parameter at \['w'\]: scale_by_adam keeps mu of shape \(8, 64\), "
        r"nu of shape \(8, 64\), the state has mu of shape Blocks\(codes=\(8, 64\), scales=\(8, 2\)\)"
    )
    with pytest.raises(ValueError, match=words):
        plain.update(params, blocks.init(params), params)
    kahan, remainder = make(params="kahan"), make(params="remainder")
    for tx, other in ((kahan, remainder), (plain, kahan)):
        with pytest.raises(ValueError, match=r"^with_precision\.step: the state belongs to another transformation: it is of"):
            tx.step(params, other.init(params), params)
    for tx in (kahan, remainder):
        with pytest.raises(
            ValueError, match=r"^with_precision\.step: the state does not fit the parameter at \['w'\]: with_precis"
        ):
            tx.step(params, plain.init(params), params)
    with pytest.raises(ValueError, match=r"needs the parameters; call update\(grads, state, params\)\."):
        kahan.update(params, kahan.init(params))


def test_parameters_may_not_be_left_out_or_change_their_dtype():
    """What is kept beside them vanished from the state, without a word, where gradients or parameters were float32."""
    low, full = {"w": jnp.ones((4, 4), jnp.bfloat16)}, {"w": jnp.ones((4, 4))}
    for storage in LANDED:
        tx = jadam.with_precision(jadam.adam(1e-4), params=storage)
        with pytest.raises(
            ValueError, match=rf"params='{storage}'\) needs the parameters; call update\(grads, state, params\)"
        ):
            tx.update(full, tx.init(low))
        if storage != "stochastic":
            with pytest.raises(ValueError, match=r"does not fit the parameter at \['w'\]: .* keeps nothing beside it"):
                tx.update(full, tx.init(low), full)


def test_slots_that_begin_with_ones_are_no_copies():
    """A parameter of 1.0 made them look like copies of it, and they stayed float32."""
    tx = jadam.with_precision(jadam.adagrad(1e-2, initial_accumulator_value=1.0), state="bfloat16", min_size=0)
    assert tx.init({"w": jnp.ones((8, 8))}).slots["rss"]["sum_of_squares"]["w"].dtype == jnp.bfloat16


def test_slots_from_elsewhere_are_no_matter_of_ours():
    import optax

    with pytest.raises(ValueError, match=r"come from elsewhere; use an optimizer of jadam"):
        jadam.with_precision(jadam.chain(optax.adam(1e-3)), state="int8")
    with pytest.raises(TypeError, match=r"with_precision: a GradientTransformationExtraArgs is no transformation of jadam"):
        jadam.with_precision(optax.adam(1e-3), state="int8")  # pyright: ignore[reportArgumentType]


# Every optimizer, every storage


@functools.cache
def golden_problem():
    """The recorded gradients of the authors' trajectories, twice over: 200 steps.

    Its four leaves as a matrix and a vector, so that a program has two: the scalar would stay float32 anyway. From
    parameters that bfloat16 holds.
    """
    params, grads = golden.problem(golden.CASES["adam_default"], "float32")
    join = lambda tree, *lead: {  # noqa: E731
        "w": tree["w"],
        "v": jnp.concatenate([tree[leaf].reshape(*lead, -1) for leaf in ("b", "c", "s")], -1),
    }
    params = jax.tree.map(lambda x: x.astype("bfloat16").astype("float32"), join(params))
    return params, jax.tree.map(lambda x: jnp.concatenate([x, x]), join(grads, 100))


@functools.cache
def trained(name, state=None, rounding="stochastic", params=None):
    """All updates of a run, the parameters after each, and the last state; by `step` if they are stored otherwise."""
    tx = OPTIMIZERS[name](1e-3)
    if state or params:
        tx = jadam.with_precision(tx, state=state, params=params, rounding=rounding, min_size=0)
    start, grads = golden_problem()
    if params:
        start = jax.tree.map(lambda p: p.astype("bfloat16"), start)

    def body(carry, g):
        p, state = carry
        if params:
            p, state = tx.step(g, state, p)
            return (p, state), (p, p)
        updates, state = tx.update(g, state, p)
        p = jadam.apply_updates(p, updates)
        return (p, state), (updates, p)

    train = jax.jit(lambda p, grads: jax.lax.scan(body, (p, tx.init(p)), grads), compiler_options=QUICK)
    (_, last), (updates, path) = train(start, grads)
    return wide(updates), path, last


@pytest.mark.parametrize(("state", "rounding"), [("bfloat16", "stochastic"), ("int8", "stochastic"), ("int8", "nearest")])
@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_with_slots_in_fewer_bits(name, state, rounding):
    """The updates of 200 steps point where those of float32 slots do; a scan holds the state to its dtypes."""
    updates, _, last = trained(name, state, rounding)
    expected, _, full = trained(name)
    one, other = (np.concatenate([x.reshape(-1) for x in jax.tree.leaves(tree)]) for tree in (updates, expected))
    assert np.isfinite(one).all()
    assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves(last))
    kept, most = (sum(x.nbytes for x in jax.tree.leaves(state.slots)) for state in (last, full))
    assert kept < most or most == 0, "nothing is stored in fewer bits"
    cosine = one @ other / np.sqrt((one @ one) * (other @ other))
    signs = name == "lion"  # an average within a rounding of zero may get the other sign, which is a full step
    assert cosine > {"bfloat16": 0.99 if signs else 0.999, "int8": 0.97 if signs else 0.99}[state]
    assert cosine < 1 or not most


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer_with_parameters_in_16_bits(name):
    """After 200 steps as far from float32 as the storage can hold.

    The remainder: not at all. Kahan: 2^-16 of the parameter a step. Stochastic: five standard deviations of a walk in which
    a step of |u| on a grid of distance d has the variance |u| d.
    """
    _, path, _ = trained(name)
    full = wide(path)
    start = wide(golden_problem()[0])
    steps = jax.tree.map(lambda x, p: np.abs(np.diff(x, axis=0, prepend=p[None])), full, start)
    for storage in LANDED:
        _, low, last = trained(name, params=storage)
        assert all(np.isfinite(np.asarray(x, np.float32)).all() for x in jax.tree.leaves((low, last)))
        for leaf in ("w", "v"):
            p = low[leaf][-1]
            beside = {slot: tree[leaf] for slot, tree in last.slots.get(storage, {}).items()}
            error = np.abs(np.asarray(master(p, beside), np.float64) - full[leaf][-1])
            largest = np.abs(full[leaf]).max(0)
            gap = 2.0 ** (np.floor(np.log2(largest)) - 7)
            if storage == "remainder":
                np.testing.assert_array_equal(error, 0)
            elif storage == "kahan":
                assert (error <= 200 * 2.0**-16 * largest).all()
            else:
                assert (error <= 5 * np.sqrt(np.sum(np.minimum(steps[leaf] * gap, gap**2 / 4), 0)) + gap).all()


def test_nearest_loses_what_others_keep():
    """Negative control: the bars above can tell it."""
    full, low = wide(trained("adam")[1]), wide(trained("adam", params="nearest")[1])
    kahan = 200 * 2.0**-16 * np.abs(full["w"]).max(0)
    assert (np.abs(low["w"][-1] - full["w"][-1]) > kahan).mean() > 0.5
