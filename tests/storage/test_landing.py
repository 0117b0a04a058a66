"""Parameters of 16 bits with their own rounding: what they keep, and where a step and an update land."""

import functools
import operator
from dataclasses import dataclass
from typing import NamedTuple

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import assert_differ, master, wide

import jadam
from jadam._storage.params import Kahan, Remainder

LANDED = ["stochastic", "kahan", "remainder"]


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
    beside = storage.keep(x, p)
    return p, beside["remainder"], storage.decode(p, beside)


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


def test_kahan_keeps_17_bits():
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


class Stored(NamedTuple):
    """A parameter, and its master: what the rules see of it and of what is kept beside it."""

    p: np.ndarray
    master: np.ndarray


@dataclass(frozen=True)
class Ways:
    """At each step of a run: what it started from, what both ways to apply it give, and which of them the run took."""

    before: Stored
    step: Stored
    update: Stored
    taken: Stored

    def moved(self):
        return np.abs(self.step.master - self.before.master)

    def benign(self):
        """Where a step keeps the sign of the stored parameter, at least half its size and at most twice of it.

        The difference of two such numbers has no more digits than they (Sterbenz 1974), so the update is exact.
        """
        old, new = self.before.p, self.step.p
        ratio = np.divide(new, old, out=np.zeros_like(old), where=old != 0)
        return (ratio >= 0.5) & (ratio <= 2)


@functools.cache
def landing_run(storage, by="step", dtype="bfloat16"):
    tx = jadam.adamw(1e-2, weight_decay=0.1)
    tx = jadam.with_precision(tx, params=storage) if storage else tx
    p, grads = landing_problem()

    def kept(state):
        return {name: tree["w"] for name, tree in state.slots.get(storage, {}).items()}

    def body(carry, g):
        (p, state), g = carry, {"w": g}
        updates, updated = tx.update(g, state, p)
        ways = {"before": carry, "step": tx.step(g, state, p), "update": (optax.apply_updates(p, updates), updated)}
        return ways[by], {way: (p["w"], kept(state)) for way, (p, state) in ways.items()}

    start = {"w": p.astype(dtype)}
    with jax.numpy_dtype_promotion("standard"):
        seen = jax.jit(lambda start: jax.lax.scan(body, (start, tx.init(start)), grads)[1])(start)
    ways = {way: wide(Stored(p, master(p, beside))) for way, (p, beside) in seen.items()}
    return Ways(**ways, taken=ways[by])


def test_a_remainder_trains_as_float32_does():
    """Two hundred steps, bit for bit; the parameter is the master rounded to nearest."""
    seen, full = landing_run("remainder"), landing_run(None, dtype="float32")
    np.testing.assert_array_equal(seen.taken.master, full.taken.p)
    assert (np.abs(seen.taken.p - seen.taken.master) <= np.abs(seen.taken.master) * 2.0**-8).all()
    assert (np.sign(seen.taken.p[1:]) != np.sign(seen.taken.p[:-1])).sum() > 500  # zero was crossed
    assert (landing_run("kahan").taken.master != full.taken.p).mean() > 0.5  # what holds 17 bits does not


@pytest.mark.parametrize("storage", LANDED)
@pytest.mark.parametrize("by", ["step", "update"])
def test_an_update_lands_where_a_step_does(storage, by):
    """At every step of a run: exactly, but where a parameter loses half its size or its sign, or more than doubles.

    There the update is rounded (by 1/256 of it), and the sum once more: both by no more than 1/128.
    """
    seen = landing_run(storage, by)
    easy = seen.benign()
    assert 0.5 < easy.mean() < 0.995
    np.testing.assert_array_equal(seen.update.p[easy], seen.step.p[easy])
    np.testing.assert_array_equal(seen.update.master[easy], seen.step.master[easy])
    update = np.abs(seen.step.p - seen.before.p)
    hard = ~easy & (update > 0)
    off = [np.abs(one - other)[hard] / update[hard] for one, other in zip(seen.update, seen.step, strict=True)]
    assert off[0].max() <= 1 / 128
    assert off[1].max() <= 1 / 128
    assert off[0].max() > 1 / 300, "no hard case: the test shows less than it says"


@pytest.mark.parametrize("storage", LANDED)
def test_what_more_than_doubles_is_off_by_one_unit_at_most(storage):
    """Where the difference has the exponent of the sum, the sum may be a tie: one unit of the parameter, 1/128 of the step."""
    seen = landing_run(storage)
    grown = (seen.step.p / np.where(seen.before.p == 0, np.inf, seen.before.p)) > 2
    assert grown.sum() > 1000
    missed = np.abs(seen.update.p - seen.step.p)[grown]
    assert 0.9 < np.mean(missed == 0) < 1
    assert (missed <= np.abs(seen.step.p - seen.before.p)[grown] / 128).all()


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


def test_hard_steps_alone_leave_a_trace():
    """A run by `update` keeps its distance from float32 in all other steps; each hard one adds at most 1/128 of its update."""
    seen, full = landing_run("remainder", "update"), landing_run(None, dtype="float32")
    bound = np.cumsum(np.where(seen.benign(), 0, seen.moved() / 128), 0)
    rounding = np.arange(1, STEPS + 1)[:, None, None] * 2.0**-23 * np.abs(full.taken.p).max(0)
    assert (np.abs(seen.taken.master - full.taken.p) <= bound + rounding).all()
    untouched = seen.benign().all(0)
    assert untouched.mean() > 0.2
    np.testing.assert_array_equal(seen.taken.master[:, untouched], full.taken.p[:, untouched])


def test_kahan_keeps_what_rounding_takes():
    """Each step rounds the compensation, below 2^-8 of the parameter and of the update, to 8 bits: 2^-16 of both.

    In a run by `update` each hard step adds at most 1/128 of its update: a compensation of more than a unit of the parameter
    could as well belong to another, that was set to zero.
    """
    full = landing_run(None, dtype="float32").taken.p
    for by in ("step", "update"):
        seen = landing_run("kahan", by)
        hard = np.where(seen.benign() | (by == "step"), 0, seen.moved() / 128)
        bound = np.cumsum((np.abs(seen.step.master) + seen.moved()) * 2.0**-16 + hard, 0)
        assert (np.abs(seen.taken.master - full) <= bound).all()
    near = landing_run("nearest")  # fails it: a negative control
    assert (np.abs(near.taken.p - full)[-1] > bound[-1]).mean() > 0.5
    np.testing.assert_array_equal(near.update.p, near.step.p)
    assert np.mean(near.taken.p[10] != landing_run("kahan").taken.p[10]) > 0.1


def test_stochastic_rounding_is_right_on_average():
    """Each error is noise, within five standard deviations, and so is their mean.

    Rounding a step of size |u| to a grid of distance d adds a variance of at most |u| d, and of d^2/4.
    """
    full = landing_run(None, dtype="float32").taken.p
    for by in ("step", "update"):
        seen = landing_run("stochastic", by)
        gap = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(seen.step.p), np.abs(seen.before.p)))) - 7)
        deviation = np.sqrt(np.sum(np.minimum(seen.moved() * gap, gap**2 / 4), 0))
        scaled = (seen.taken.p - full)[-1] / deviation
        assert np.abs(scaled).max() < 5
        assert np.abs(scaled.mean()) < 5 / np.sqrt(scaled.size)
    nearest = (landing_run("nearest").taken.p - full)[-1] / deviation
    assert np.abs(nearest * np.sign(full[-1])).max() > 1.5 * np.abs(scaled).max()  # steps that nearest rounding never takes


@pytest.mark.parametrize(("storage", "dtype"), [*((s, "bfloat16") for s in LANDED), *((s, "float16") for s in LANDED[:2])])
def test_any_apply_updates_lands(storage, dtype):
    """Other people's `apply_updates`, a plain sum, compiled and not, and inside one program with the update."""
    tx = jadam.with_precision(jadam.sgd(0.125), params=storage)
    rng = np.random.default_rng(5)
    p = {"w": jnp.asarray(1 + rng.uniform(size=(16, 33)), dtype)}
    g = {"w": jnp.asarray(rng.standard_normal((16, 33)), jnp.float32)}
    state = tx.init(p)
    stepped, after = tx.step(g, state, p)
    updates, also = tx.update(g, state, p)
    chex.assert_trees_all_equal(after, also)
    plain = functools.partial(jax.tree.map, operator.add)
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
    words = r"params='remainder' is for bfloat16, and a/w is float16; take 'kahan' or 'stochastic' for it\.$"
    with pytest.raises(TypeError, match=rf"^with_precision\.init: {words}"):
        tx.init({"a": {"w": jnp.ones(3, jnp.float16)}})
    tx.init({"a": {"w": jnp.ones(3, jnp.bfloat16)}})


CHANGES = {
    "zero": lambda p: 0 * p,
    "minus zero": lambda p: -0.0 * p,
    "turned": lambda p: -p,
    "halved": lambda p: 0.5 * p,
    "relu": lambda p: jnp.maximum(p, 0),
    "another": lambda p: jnp.flip(p),
    "tiny": lambda p: p * 1e-30,
    "largest": lambda p: jnp.full_like(p, jnp.finfo(p.dtype).max),
    "least": lambda p: jnp.full_like(p, jnp.finfo(p.dtype).min),
}
"""What others do to parameters between steps: pruning, projections, new heads, older checkpoints."""


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("storage", LANDED)
def test_a_weight_that_others_change_counts_as_it_is(storage, dtype, change):
    """Beside a weight that was set to zero, a remainder made NaN of it, and a compensation a step of the weight before."""
    if storage == "remainder" and dtype == "float16":
        return  # `test_a_remainder_is_for_bfloat16`
    tx = jadam.with_precision(jadam.sgd(1e-3), params=storage)
    params = {"w": jax.random.normal(jax.random.key(0), (64, 64)).astype(dtype)}
    grads = [{"w": jax.random.normal(jax.random.key(i), (64, 64)).astype(dtype)} for i in range(3)]
    state = tx.init(params)
    for g in grads:
        params, state = tx.step(g, state, params)
    beside = {name: tree["w"] for name, tree in state.slots.get(storage, {}).items()}
    assert not beside or any(jnp.any(x != 0) for x in beside.values())
    changed = {"w": CHANGES[change](params["w"]).astype(dtype)}
    stored = wide(changed["w"])
    unit = np.abs(stored) * float(jnp.finfo(dtype).eps) + float(jnp.finfo(dtype).smallest_subnormal)
    assert (np.abs(wide(master(changed["w"], beside)) - stored) <= unit).all()
    standing, _ = tx.step({"w": jnp.zeros((64, 64), dtype)}, state, changed)
    assert (np.abs(wide(standing["w"]) - stored) <= unit).all()


@pytest.mark.parametrize("storage", LANDED)
def test_what_is_not_finite_stays_so(storage):
    """Beside inf, a negative remainder is a number and a positive one a NaN: an error must be seen, as what it is."""
    tx = jadam.with_precision(jadam.sgd(1e-3), params=storage)
    params = {"w": jnp.linspace(-2, 2, 64, dtype=jnp.bfloat16)}
    params, state = tx.step(params, tx.init(params), params)
    for bad in (jnp.inf, -jnp.inf, jnp.nan):
        after, _ = tx.step({"w": jnp.zeros(64, jnp.bfloat16)}, state, {"w": jnp.full(64, bad, jnp.bfloat16)})
        np.testing.assert_array_equal(wide(after["w"]), np.full(64, bad))


def test_small_weights_of_float16_stay():
    """Below 6.1e-5, where float16 has fewer digits, Kahan's weights were zero, and the compensation all there was of them."""
    tx = jadam.with_precision(jadam.sgd(1.0), params="kahan")
    p, state = {"w": jnp.asarray([1e-5, -3e-5, 6e-5, 1e-7], jnp.float16)}, None
    exact, state = wide(p)["w"], tx.init(p)
    for _ in range(20):
        p, state = tx.step({"w": jnp.full(4, 1e-6, jnp.float16)}, state, p)
    exact = exact - 20 * float(jnp.float16(1e-6))
    assert np.abs(wide(p["w"]) - exact).max() <= float(jnp.finfo(jnp.float16).smallest_subnormal)
