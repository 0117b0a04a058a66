"""Steps that are skipped: what is not finite, spikes, and that nothing else is touched."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import EverySecond, at, is_finite, run, stack

import jadam

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "b": jnp.ones(3), "half": jnp.ones(4, jnp.bfloat16)}
RNG = np.random.default_rng(0)


def grads(size=1.0, seed=None):
    rng = RNG if seed is None else np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray(size * rng.standard_normal(p.shape), p.dtype), PARAMS)


def spoiled(kind, like):
    bad = {"NaN": jnp.nan, "inf": jnp.inf, "-inf": -jnp.inf}[kind]
    return like | {"b": like["b"].at[1].set(bad)}


def inner():
    return jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(jadam.linear_schedule(0.1, 0.0, 100)))


def inside(state):
    """The state without what the guard keeps."""
    strip = lambda kept: {key: own for key, own in kept.items() if not key.startswith("guard")}  # noqa: E731
    return state._replace(hyperparams=strip(state.hyperparams), scalars=strip(state.scalars), given=strip(state.given))


def kept(state, name):
    return float(state.scalars["guard"][name])


# Nothing happens to a run that is well


@pytest.mark.slow
@pytest.mark.parametrize(
    "storage",
    [
        pytest.param({}, id="float32"),
        pytest.param({"state": "int8", "params": "kahan", "min_size": 0}, id="8 bits", marks=pytest.mark.slow),
    ],
)
def test_on_clean_data_it_is_the_identity(optimizer, storage):
    """Parameters and state to the bit, and so with a monitor on top."""
    tx = jadam.with_precision(optimizer(0.01), **storage)
    both = jadam.monitor(jadam.guard(tx))
    some = [grads(seed=seed) for seed in range(3)]
    expected, plain = run(tx, PARAMS, some)
    found, state = run(both, PARAMS, some)
    chex.assert_trees_all_equal(found, expected)
    chex.assert_trees_all_equal(state.slots, plain.slots)
    assert {key: state.scalars[key] for key in plain.scalars} == plain.scalars
    assert state.count == plain.count == 3
    assert kept(state, "skipped") == 0


@pytest.mark.parametrize("by", ["step", "update"])
def test_an_accepted_step_after_a_skip_is_the_step_without_it(by):
    clean = [grads(seed=1), grads(seed=2)]
    found, state = run(jadam.guard(inner()), PARAMS, [clean[0], spoiled("NaN", clean[1]), clean[1]], by)
    expected, plain = run(inner(), PARAMS, clean, by)
    chex.assert_trees_all_equal(found, expected)
    chex.assert_trees_all_equal(inside(state), plain)  # the schedule waited too


# Faults


@pytest.mark.parametrize("kind", ["NaN", "inf", "-inf"])
@pytest.mark.parametrize("compiled", [True, False], ids=["jit", "eager"])
@pytest.mark.parametrize("make", [inner, lambda: optax.adam(0.1), lambda: jadam.with_precision(inner(), "int8", min_size=0)])
@pytest.mark.usefixtures("lenient")
def test_what_is_not_finite_leaves_everything_to_the_bit(kind, compiled, make):
    tx = jadam.guard(make())
    step, update = (jax.jit(tx.step), jax.jit(tx.update)) if compiled else (tx.step, tx.update)
    params, state = step(grads(), tx.init(PARAMS), PARAMS)
    still, after = step(spoiled(kind, grads()), state, params)
    updates, updated = update(spoiled(kind, grads()), state, params)
    chex.assert_trees_all_equal(still, params)
    assert not any(u.any() for u in jax.tree.leaves(updates))
    for skipped in (after, updated):
        chex.assert_trees_all_equal(inside(skipped), inside(state))
        assert (kept(skipped, "skipped"), kept(skipped, "skipped_in_a_row")) == (1, 1)
        assert kept(skipped, "norm_mean") == kept(state, "norm_mean")
    _, good = step(grads(), after, params)
    assert (kept(good, "skipped"), kept(good, "skipped_in_a_row"), good.count) == (1, 0, 2)


def test_without_it_one_nan_is_the_end():
    params, state = run(inner(), PARAMS, [grads(), spoiled("NaN", grads()), grads()])
    assert not any(is_finite(x) for x in jax.tree.leaves(params))
    assert not is_finite(state.slots)


def after_clean_steps(tx, steps=40, value=None):
    extra = {} if value is None else {"value": value}
    params, state = PARAMS, tx.init(PARAMS)
    for seed in range(steps):
        params, state = tx.step(grads(seed=seed), state, params, **extra)
    return params, state


@pytest.mark.parametrize("size", [30.0, 1e10, 1e20, 1e37])
def test_a_spike_of_the_norm_is_skipped(size):
    tx = jadam.guard(inner(), warmup_steps=20)
    params, state = after_clean_steps(tx)
    assert kept(state, "skipped") == 0
    spike = {name: jnp.full_like(p, size) for name, p in PARAMS.items()}
    still, after = tx.step(spike, state, params)
    chex.assert_trees_all_equal(still, params)
    chex.assert_trees_all_equal(inside(after), inside(state))
    assert 1 < kept(after, "norm_mean") / kept(state, "norm_mean") < 1.1  # the spike does not count as what it is
    again, twice = tx.step(spike, after, params)
    chex.assert_trees_all_equal(again, params)
    assert kept(twice, "skipped_in_a_row") == 2


def test_a_spike_of_the_loss_is_skipped_and_only_where_it_is_passed_on():
    tx = jadam.guard(inner(), warmup_steps=20)
    params, state = after_clean_steps(tx, value=jnp.float32(2.0))
    for value, skipped in ((2.001, 0), (1.0, 0), (2.1, 1), (jnp.nan, 1), (jnp.inf, 1), (-jnp.inf, 1)):
        _, after = tx.step(grads(), state, params, value=jnp.float32(value))
        assert kept(after, "skipped") == skipped, value
    _, after = tx.step(grads(), state, params)
    assert kept(after, "skipped") == 0
    assert kept(after, "value_seen") == kept(state, "value_seen") == 40
    with pytest.raises(ValueError, match=r"guard.step: value must be the loss, a real scalar, not an array of shape \(2,\)"):
        tx.step(grads(), state, params, value=jnp.ones(2))


def test_the_mean_and_the_variance_are_those_of_the_window():
    """Of all numbers until they fill it, and after that exponential."""
    tx, params = jadam.guard(jadam.sgd(0.1), window=5, sigma_factor=jnp.inf), jnp.ones(1)
    state, mean, var = tx.init(params), 0.0, 0.0
    norms = RNG.uniform(1, 3, 12).astype(np.float32)
    for n, norm in enumerate(norms):
        _, state = tx.update(jnp.asarray([norm]), state, params)
        weight = 1 / min(n + 1, 5)
        apart = float(norm) - mean
        mean, var = mean + weight * apart, (1 - weight) * (var + weight * apart**2)
        if n == 4:
            np.testing.assert_allclose([mean, var], [norms[:5].mean(), norms[:5].var()], rtol=1e-5)
    np.testing.assert_allclose([kept(state, "norm_mean"), kept(state, "norm_var")], [mean, var], rtol=1e-5)


def scan_norms(tx, norms):
    """For each norm of a gradient of one number, whether the step was taken."""
    params = jnp.ones(1)

    def step(state, norm):
        updates, state = tx.update(norm[None], state, params)
        return state, updates[0] != 0

    state, taken = jax.jit(partial(jax.lax.scan, step))(tx.init(params), jnp.asarray(norms, jnp.float32))
    return state, np.asarray(taken)


def test_a_level_that_has_risen_for_good_is_accepted():
    """It waited for ever, as long as skipped norms did not count at all."""
    noise = np.exp(0.1 * RNG.standard_normal(400))
    noise[200:] *= 10
    _, taken = scan_norms(jadam.guard(jadam.sgd(0.1)), noise)
    assert taken[:200].all()
    assert not taken[200:205].any()
    assert taken[250:].all()


@pytest.mark.parametrize("norms", [[0.0] * 1000 + [1.0] * 50, [1.0] * 1000, [1.0 + 1e-7 * (n % 3) for n in range(300)]])
def test_equal_norms_and_zeros_for_a_thousand_steps(norms):
    _, taken = scan_norms(jadam.guard(jadam.sgd(0.1)), norms)
    assert (~taken[np.asarray(norms) > 0]).sum() <= 8


def test_float16_that_overflows():
    """Gradients of 2^16 are inf there."""
    params = {"w": jnp.full(3, 300.0, jnp.float16)}
    g = jax.grad(lambda p: jnp.sum(p["w"] * p["w"] * jnp.float16(200)))(params)
    tx = jadam.guard(jadam.adam(0.1))
    still, state = tx.step(g, tx.init(params), params)
    assert not is_finite(g)
    chex.assert_trees_all_equal(still, params)
    assert kept(state, "skipped") == 1


# What follows from skips


def test_it_has_diverged_after_so_many_skips_in_a_row():
    tx = jadam.guard(jadam.sgd(0.1), max_consecutive_skips=3)
    state, seen = tx.init(PARAMS), []
    for bad in (True, True, False, True, True, True, True, False):
        g = spoiled("NaN", grads()) if bad else grads()
        _, state = tx.update(g, state, PARAMS)
        seen.append(bool(jadam.has_diverged(state)))
    assert seen == [False] * 5 + [True, True, False]
    assert kept(state, "skipped") == 6
    assert jax.jit(jadam.has_diverged)({"opt": optax.chain(tx).init(PARAMS)}) == False  # noqa: E712 (an array)
    with pytest.raises(ValueError, match="has_diverged: the state is of no guard"):
        jadam.has_diverged(jadam.sgd(0.1).init(PARAMS))


@pytest.mark.parametrize("by", ["step", "update"])
def test_the_rate_backs_off_and_recovers(by):
    """The updates are those at the lower rate, decoupled decay too; what is shown and scheduled is the rate as given."""
    tx = jadam.guard(jadam.adamw(0.1, weight_decay=0.1), backoff_factor=0.25, recovery_steps=2)
    some = [grads(seed=seed) for seed in range(5)]
    bad = spoiled("NaN", some[0])
    found, state = run(tx, PARAMS, [some[0], bad, *some[1:]], by)
    plain = jadam.adamw(lambda count: 0.1 * jnp.asarray([1, 0.25, 0.5, 1, 1])[count], weight_decay=0.1)
    expected, _ = run(plain, PARAMS, some, by)
    chex.assert_trees_all_close(found, expected, rtol=1e-5)
    assert jadam.hyperparams(state)["learning_rate"] == np.float32(0.1)
    assert kept(state, "rate_factor") == 1
    other, _ = run(jadam.adamw(0.1, weight_decay=0.1), PARAMS, some, by)
    assert np.abs(np.asarray(other["w"] - found["w"])).max() > 0.01
    tx = jadam.guard(jadam.scale_by_adam(), backoff_factor=0.5)
    with pytest.raises(ValueError, match=r"guard lowers the learning rate, and there is none inside it"):
        tx.update(grads(), tx.init(PARAMS), PARAMS)


def test_the_rate_falls_no_further_than_by_max_consecutive_skips():
    tx = jadam.guard(jadam.sgd(0.1), backoff_factor=0.5, max_consecutive_skips=3, recovery_steps=1)
    state, factors = tx.init(PARAMS), []
    for bad in [True] * 5 + [False] * 4:
        _, state = tx.update(spoiled("NaN", grads()) if bad else grads(), state, PARAMS)
        factors.append(kept(state, "rate_factor"))
    np.testing.assert_allclose(factors, [0.5, 0.25, 0.125, 0.125, 0.125, 0.25, 0.5, 1, 1], rtol=1e-6)


# In company


def test_in_a_group_it_watches_the_group():
    tx = jadam.partition({"b": jadam.guard(jadam.sgd(0.1)), "rest": jadam.sgd(0.1)}, {"w": "rest", "b": "b", "half": "rest"})
    updates, state = tx.update(spoiled("NaN", grads()), tx.init(PARAMS), PARAMS)
    assert not updates["b"].any()
    assert updates["w"].all()
    assert state.scalars["b.guard"]["skipped"] == 1
    assert state.count == 1


def test_inside_a_loss_scale_an_overflow_is_not_its_business():
    """The scale falls, and the guard does not count it; around a loss scale it would keep the scale from falling."""
    tx = jadam.loss_scale(jadam.guard(inner()))
    params, state = tx.step(spoiled("inf", grads()), tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_equal(params, PARAMS)
    assert state.scalars["guard"]["skipped"] == 0
    assert jadam.current_loss_scale(state) == 2.0**14
    around = jadam.guard(jadam.loss_scale(inner()))
    with pytest.raises(ValueError, match="loss_scale skips whole steps; put it around all else"):
        around.update(grads(), around.init(PARAMS), PARAMS)


@pytest.mark.parametrize("make", [lambda tx: jadam.guard(jadam.wrap(EverySecond("loop"), tx)),
                                  lambda tx: jadam.wrap(EverySecond("loop"), jadam.guard(tx))])  # fmt: skip
def test_around_and_inside_what_accumulates(make):
    clean = [grads(seed=seed) for seed in range(4)]
    expected, _ = run(jadam.wrap(EverySecond("loop"), inner()), PARAMS, clean)
    found, _ = run(make(inner()), PARAMS, clean)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    poisoned, state = run(make(inner()), PARAMS, [spoiled("NaN", clean[0]), *clean[1:], *clean[:1]])
    assert is_finite(poisoned)
    assert kept(state, "skipped") == 1


def test_two_guards_and_neighbours():
    tx = jadam.chain(jadam.guard(jadam.guard(jadam.scale_by_adam())), jadam.scale_by_learning_rate(0.1))
    updates, state = tx.update(spoiled("NaN", grads()), tx.init(PARAMS), PARAMS)
    assert not any(u.any() for u in jax.tree.leaves(updates))
    assert state.count == 1
    assert state.scalars["guard"]["count"] == 0


def test_scan_vmap_and_one_trace():
    tx = jadam.guard(jadam.adam(0.1))
    some = stack([grads(), spoiled("NaN", grads()), grads()])

    @chex.assert_max_traces(1)
    def step(carry, g):
        return tx.step(g, carry[1], carry[0]), None

    start = jax.tree.map(lambda x: jnp.stack([x, x]), (PARAMS, tx.init(PARAMS)))
    pairs = jax.tree.map(lambda x: jnp.stack([x, x[jnp.asarray([0, 2, 2])]], 1), some)
    scan = jax.jit(jax.vmap(lambda start, g: jax.lax.scan(step, start, g)[0], in_axes=(0, 1)))
    params, state = scan(start, pairs)
    assert state.count.tolist() == [2, 3]
    alone, _ = run(tx, PARAMS, [at(some, n) for n in range(3)])
    chex.assert_trees_all_close(at(params, 0), alone, rtol=1e-6)
    assert jadam.has_diverged(state).tolist() == [False, False]


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"sigma_factor": 0.0}, r"guard\(sigma_factor=0.0\): sigma_factor must be a number > 0"),
        ({"window": 0}, r"window must be an integer in \[1, 2\*\*31\)"),
        ({"warmup_steps": 1.5}, r"warmup_steps must be an integer"),
        ({"max_consecutive_skips": 0}, r"max_consecutive_skips must be an integer"),
        ({"backoff_factor": 0.0}, r"backoff_factor must be in \(0, 1\]"),
        ({"backoff_factor": 1.5}, r"backoff_factor must be in \(0, 1\]"),
        ({"recovery_steps": 0}, r"recovery_steps must be an integer"),
    ],
)
def test_options_out_of_range(option, words):
    with pytest.raises(ValueError, match=words):
        jadam.guard(jadam.sgd(0.1), **option)


def test_levels_have_derivatives():
    """The root of a variance of 0 has none; they were NaN."""
    tx = jadam.guard(jadam.sgd(0.1))

    def level(params):
        state = tx.init(params)
        for _ in range(3):
            params, state = tx.step(params, state, params)
        return jadam.metrics(state)["guard.norm_mean"]

    # Of gradients that are the parameters: 1, 0.9 and 0.81.
    np.testing.assert_allclose(jax.grad(level)(jnp.array([0.6, 0.8])), 2.71 / 3 * np.array([0.6, 0.8]), rtol=1e-5)
