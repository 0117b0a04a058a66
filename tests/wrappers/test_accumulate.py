"""Gradient accumulation: one step of the inside in a window, on the mean of what is good in it."""

import re
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from micro_batches import INF, NAN, PARAMS, grads, inner, mean, spoiled, told, without
from support import ELEMENTWISE_RULES, assert_differ, at, compilations, dtypes, eight_devices, run, scanned, stack

import jadam

# One step in a window


@pytest.mark.parametrize("how", ["loop", "cond"])
@pytest.mark.parametrize("every", [2, 3])
def test_it_is_one_step_on_the_mean(every, how):
    given = [grads(n) for n in range(2 * every)]
    expected, exact = run(inner(), PARAMS, [mean(given[:every]), mean(given[every:])])
    tx = jadam.accumulate(inner(), every, how=how)
    for by in ("step", "update"):
        params, state = run(tx, PARAMS, given, by)
        chex.assert_trees_all_close((params, state.slots["adam"]), (expected, exact.slots["adam"]), rtol=2e-6, atol=1e-7)
        assert state.count == exact.count == 2
        assert jadam.hyperparams(state)["learning_rate"] == jadam.hyperparams(exact)["learning_rate"]
    assert_differ(run(inner(), PARAMS, given[:2])[0], expected)


@pytest.mark.parametrize("compiled", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_step_that_waits_adds_to_the_mean_alone(compiled):
    tx = jadam.accumulate(inner(), 3)
    params, before = run(tx, PARAMS, [grads(n) for n in range(3)])
    updates, state = compiled(tx.update)(grads(3), before, params)
    assert not any(x.any() for x in jax.tree.leaves(updates))
    new, stepped = compiled(tx.step)(grads(3), before, params)
    chex.assert_trees_all_equal(new, params)
    chex.assert_trees_all_equal(without(state), without(stepped), without(before))
    chex.assert_trees_all_equal(state.slots["accumulate"]["mean"], grads(3))


STORAGES = {
    "float32": (jnp.float32, {}),
    "bfloat16": (jnp.bfloat16, {"state": "bfloat16", "params": "kahan"}),
    "int8": (jnp.bfloat16, {"state": "int8", "params": "stochastic"}),
    "remainder": (jnp.bfloat16, {"params": "remainder"}),
}


@pytest.mark.parametrize(
    "storage", [name if name == "float32" else pytest.param(name, marks=pytest.mark.slow) for name in STORAGES]
)
def test_a_window_of_one_is_the_identity(optimizer, storage):
    """Bit for bit; in a loop norms and products of matrices may be summed in another order, and the last of 32 bits, which a
    remainder keeps, be rounded in another place.
    """
    dtype, options = STORAGES[storage]
    params = {"w": jnp.linspace(-1.0, 1.0, 128).reshape(32, 4).astype(dtype)}
    tx = optimizer(1e-2)
    tx = jadam.with_precision(tx, min_size=0, **options) if options else tx
    given = [grads(n, params) for n in range(2)]
    found, expected = (run(one, params, given) for one in (jadam.accumulate(tx, 1), tx))
    found = found[0], without(found[1])
    if optimizer.__name__ in ELEMENTWISE_RULES and storage != "remainder":
        chex.assert_trees_all_equal(found, expected)
    else:
        chex.assert_trees_all_close(found, expected, rtol=1e-5, atol=1e-6 if storage != "remainder" else 1)
    assert_differ((expected[0], expected[1].slots), (params, tx.init(params).slots))


RAN = []


class Counted(jadam.Rule):
    def update(self, g, slots, p, h):
        jax.debug.callback(lambda: RAN.append(1))
        return -g, slots


@pytest.mark.parametrize("compiled", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize("how", ["loop", "cond"])
@pytest.mark.usefixtures("lenient")
def test_the_inside_runs_twice_in_eight_micro_steps(how, compiled):
    """Optax's MultiSteps runs it eight times."""
    counts = []
    for tx in (jadam.accumulate(Counted(), 4, how=how), optax.MultiSteps(jadam.chain(Counted()), 4)):
        params, step = {"w": jnp.ones(3)}, compiled(tx.update)
        state = tx.init(params)
        RAN.clear()
        for _ in range(8):
            _, state = step(params, state, params)
        jax.effects_barrier()
        counts.append(len(RAN))
    assert counts == [2, 8]


# What counts, and how much


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("n", [0, 1, 2])
def test_what_is_not_finite_is_dropped_from_its_window(bad, n):
    """One NaN was in the mean for ever."""
    given = [grads(n) for n in range(3)]
    good = given[:n] + given[n + 1 :]
    given[n] = spoiled(given[n], bad)
    tx = jadam.accumulate(inner(), 3)
    params, state = run(tx, PARAMS, given)
    chex.assert_trees_all_close(params, run(inner(), PARAMS, [mean(good)])[0], rtol=2e-6)
    assert state.scalars["accumulate"]["dropped"] == 1
    assert jadam.has_updated(state)


def test_a_window_with_nothing_good_in_it_runs_nothing():
    """Neither do windows of which one micro-batch is bad, by option; the next is as if they had not been."""
    bad = [spoiled(grads(n), NAN) for n in range(2)]
    for option, window in (("drop", bad), ("drop_window", [grads(1), bad[0]]), ("drop_window", [bad[0], grads(1)])):
        tx = jadam.accumulate(inner(), 2, nonfinite=option)
        params, state = run(tx, PARAMS, window)
        chex.assert_trees_all_equal(params, PARAMS)
        chex.assert_trees_all_equal(without(state), without(tx.init(PARAMS)))
        assert not jadam.has_updated(state)
        for n in (2, 3):
            params, state = tx.step(grads(n), state, params)
        chex.assert_trees_all_close(params, run(inner(), PARAMS, [mean([grads(2), grads(3)])])[0], rtol=2e-6)


def test_it_may_be_kept_for_an_inside_that_looks_for_itself():
    tx = jadam.accumulate(jadam.sgd(0.1), 2, nonfinite="keep")
    params, state = run(tx, PARAMS, [grads(0), spoiled(grads(1), NAN)])
    assert np.isnan(params["b"]).tolist() == [False, True]
    params, _ = run(tx, PARAMS, [grads(0)] * 2)  # and is gone with its window
    assert not np.isnan(params["b"]).any()
    assert state.scalars["accumulate"]["dropped"] == 0


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_weights(reduction):
    """Of tokens, where a micro-batch without any is nothing; `value` is reduced alike, and the inside is told the sum."""
    given, weights, values = [grads(n) for n in range(4)], [3.0, 0.0, 1.0, 4.0], [1.0, 7.0, 2.0, 0.5]
    tx = jadam.accumulate(jadam.chain(told(), jadam.sgd(1.0)), 4, reduction=reduction)
    params, state = PARAMS, tx.init(PARAMS)
    for g, weight, value in zip(given, weights, values, strict=True):
        params, state = tx.step(g, state, params, weight=weight, value=value)
    times = 8 if reduction == "sum" else 1
    expected = jax.tree.map(lambda p, g: p - times * g, PARAMS, mean(given, weights))
    chex.assert_trees_all_close(params, expected, rtol=1e-5, atol=1e-6)
    assert state.slots["told"] == {"weight": 8, "value": np.average(values, weights=weights) * times}


def test_a_value_of_some_micro_batches_is_the_mean_of_these():
    """Others do not count as a loss of zero, which a guard inside would take for one."""
    tx = jadam.accumulate(jadam.guard(jadam.sgd(1.0)), 4)
    params, state = PARAMS, tx.init(PARAMS)
    for n in range(4):
        params, state = tx.step(grads(n), state, params, **({"value": 4.0 + n} if n > 1 else {}))
    assert state.scalars["guard"]["value_mean"] == 6.5


def test_a_schedule_that_returns_nan_does_not_stop_the_run():
    tx = jadam.accumulate(jadam.sgd(1.0), lambda count: jnp.where(count == 0, 2.0, jnp.nan))
    assert run(tx, PARAMS, [grads(0)] * 3)[1].count == 2


@pytest.mark.parametrize("weight", [-1.0, NAN, INF])
def test_a_traced_weight_that_cannot_be_is_dropped(weight):
    tx = jadam.accumulate(jadam.sgd(1.0), 2)
    step = jax.jit(lambda g, state, params, weight: tx.step(g, state, params, weight=weight))
    params, state = step(grads(0), tx.init(PARAMS), PARAMS, jnp.float32(weight))
    params, state = step(grads(1), state, params, jnp.float32(2))
    chex.assert_trees_all_close(params, jax.tree.map(jnp.subtract, PARAMS, grads(1)), rtol=1e-6)
    assert state.scalars["accumulate"]["dropped"] == 1


def test_a_loss_that_is_not_finite_drops_its_micro_batch():
    tx = jadam.accumulate(jadam.sgd(1.0), 2)
    params, state = PARAMS, tx.init(PARAMS)
    for n, value in enumerate([1.0, NAN]):
        params, state = tx.step(grads(n), state, params, value=value)
    chex.assert_trees_all_close(params, jax.tree.map(jnp.subtract, PARAMS, grads(0)), rtol=1e-6)


def test_other_keyword_arguments_are_those_of_the_last_micro_batch():
    class ByFactor(jadam.Rule):
        def prepare(self, context):
            return {"factor": context.extra["factor"]}

        def update(self, g, slots, p, h):
            return -h.factor * g, slots

    tx = jadam.accumulate(ByFactor(), 2)
    params, state = PARAMS, tx.init(PARAMS)
    for factor in (5.0, 2.0):
        params, state = tx.step(grads(0), state, params, factor=factor, value=jnp.ones(3))  # no number to take a mean of
    chex.assert_trees_all_close(params, jax.tree.map(lambda p, g: p - 2 * g, PARAMS, grads(0)), rtol=1e-6)


def test_huge_gradients_have_a_mean():
    """A sum of them is inf."""
    huge = {"w": jnp.full(3, 3e38)}
    tx = jadam.accumulate(jadam.sgd(1e-37), 8)
    params, _ = run(tx, {"w": jnp.zeros(3)}, [huge] * 8)
    np.testing.assert_allclose(params["w"], -30, rtol=1e-6)


# Everywhere


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "complex64"])
def test_the_mean_is_float32_whatever_the_parameters(dtype):
    """In bfloat16, a mean of 256 numbers of 1 and one of 2 stands still at 1."""
    params, n = {"w": jnp.zeros(3, dtype)}, 256
    tx = jadam.accumulate(jadam.sgd(1.0), n)
    state = tx.init(params)
    wide = jnp.complex64 if dtype == "complex64" else jnp.float32
    assert state.slots["accumulate"]["mean"]["w"].dtype == wide
    given = {"w": jnp.ones((n, 3), dtype).at[0].add(1)}
    _, state = jax.jit(partial(scanned, tx))(params, given)
    np.testing.assert_allclose(state.slots["accumulate"]["mean"]["w"], 1 + 1 / n, rtol=1e-6)


def test_x64(x64):
    params = {"w": jnp.ones(3, jnp.float64), "z": jnp.ones(2, jnp.complex128)}
    given = [grads(n, params) for n in range(3)]
    tx = jadam.accumulate(jadam.sgd(1.0), 3)
    assert dtypes(tx.init(params).slots["accumulate"]) == {"float64", "complex128"}
    found = run(tx, params, given)[0]
    chex.assert_trees_all_close(found, jax.tree.map(lambda p, *g: p - sum(g) / 3, params, *given), rtol=1e-15)


@pytest.mark.parametrize("how", ["loop", "cond"])
def test_scan_vmap_and_donation(how):
    """Models that are due at different steps, as loops of one do it."""
    tx = jadam.accumulate(inner(), jadam.piecewise_constant_schedule(1, {1: 2}), how=how)
    models = stack([PARAMS, jax.tree.map(lambda p: 2 * p, PARAMS)])
    given = stack([stack([grads(n), spoiled(grads(n + 9), INF if n == 0 else 1.0)]) for n in range(5)])
    step = jax.jit(jax.vmap(tx.step), donate_argnums=(1, 2))
    params, state = jax.tree.map(jnp.copy, models), jax.vmap(tx.init)(models)
    for n in range(5):
        params, state = step(at(given, n), state, params)
    for model in range(2):
        alone, its = jax.jit(partial(scanned, tx))(at(models, model), jax.tree.map(lambda x, m=model: x[:, m], given))
        chex.assert_trees_all_close((at(params, model), at(state, model)), (alone, its), rtol=1e-5, atol=1e-6)
    assert state.count.tolist() == [3, 2]


def test_with_precision_stores_the_mean():
    """Around it all averages, by name the mean alone, and inside it not the mean; each near one step on the mean."""
    params = {"w": jnp.linspace(-1.0, 1.0, 4096).reshape(64, 64)}
    given = [grads(n, params) for n in range(4)]
    expected = jax.tree.map(jnp.subtract, params, mean(given))
    acc = jadam.accumulate(jadam.sgd(1.0, momentum=0.5), 4)
    for tx, dtype, other, allowed in (
        (jadam.with_precision(acc, state="bfloat16"), "bfloat16", "bfloat16", 0.02),
        (jadam.with_precision(acc, state={"mean": "int8"}), "int8", "float32", 0.2),
        (jadam.accumulate(jadam.with_precision(jadam.sgd(1.0, momentum=0.5), "int8"), 4), "float32", "int8", 1e-6),
    ):
        slots = tx.init(params).slots
        assert slots["accumulate"]["mean"]["w"].dtype == dtype
        assert slots["trace"]["trace"]["w"].dtype == other
        assert float(jnp.abs(run(tx, params, given)[0]["w"] - expected["w"]).max()) < allowed


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_on_a_mesh_the_mean_is_placed_as_its_parameter(kind):
    mesh = eight_devices(kind)
    specs = {"w": PartitionSpec("data"), "b": PartitionSpec()}
    params = {name: jax.device_put(PARAMS[name], NamedSharding(mesh, spec)) for name, spec in specs.items()}
    tx = jadam.accumulate(inner(), 2)
    expected, state, step = run(tx, PARAMS, [grads(0), grads(1)])[0], tx.init(params), jax.jit(tx.step)
    placed = {name: jax.device_put(grads(0)[name], params[name].sharding) for name in params}
    for n in (0, 1):
        placed = {name: jax.device_put(grads(n)[name], params[name].sharding) for name in params}
        params, state = step(placed, state, params)
        assert state.slots["accumulate"]["mean"]["w"].sharding.spec[0] == "data"
    chex.assert_trees_all_close(params, expected, rtol=1e-5)
    assert compilations(lambda: step(placed, state, params)) == 0


def test_in_itself_in_a_chain_and_in_a_loss_scale():
    given = [grads(n) for n in range(6)]
    nested = jadam.accumulate(jadam.accumulate(inner(), 2), 3)
    expected = run(inner(), PARAMS, [mean([mean(given[:3]), mean(given[3:])])])[0]
    chex.assert_trees_all_close(run(nested, PARAMS, given)[0], expected, rtol=2e-6)
    beside = jadam.chain(jadam.clip(0.5), jadam.accumulate(jadam.scale_by_adam(), 6), jadam.scale(-0.1))
    cut = [jax.tree.map(lambda g: jnp.clip(g, -0.5, 0.5), g) for g in given]
    params, state = run(beside, PARAMS, given)
    chex.assert_trees_all_close(params, run(jadam.adam(0.1), PARAMS, [mean(cut)])[0], rtol=2e-6)
    assert (state.count, state.scalars["accumulate"]["count"]) == (6, 1)
    scaled = jadam.loss_scale(jadam.accumulate(inner(), 2), init_scale=4.0)
    times = lambda tree, x: jax.tree.map(lambda g: x * g, tree)  # noqa: E731
    params, state = run(scaled, PARAMS, [times(given[0], 4), spoiled(given[1], INF), times(given[2], 2)])
    chex.assert_trees_all_close(params, run(inner(), PARAMS, [mean([given[0], given[2]])])[0], rtol=2e-6)


def test_a_derivative_through_a_window():
    def loss(rate, how):
        tx = jadam.accumulate(jadam.sgd(rate), 2, how=how)
        return jnp.sum(run(tx, PARAMS, [grads(0), grads(1)])[0]["w"] ** 2)

    g = mean([grads(0), grads(1)])["w"]
    np.testing.assert_allclose(jax.grad(loss)(0.1, "cond"), -2 * jnp.sum(g * (PARAMS["w"] - 0.1 * g)), rtol=1e-5)
    np.testing.assert_allclose(jax.jacfwd(loss)(0.1, "loop"), jax.grad(loss)(0.1, "cond"), rtol=1e-5)
    words = 'accumulate: how="loop" has no derivative in reverse, which jax.grad computes; write how="cond", or use jax.jvp.'
    for differentiate in (jax.grad(loss), jax.jit(jax.grad(loss), static_argnums=1)):
        with pytest.raises(ValueError, match=f"^{re.escape(words)}"):
            differentiate(0.1, "loop")
