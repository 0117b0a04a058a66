"""Schedules as the engine asks them: any Python, any object, and what it says is a number in range."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jadam

PARAMS = {"w": jnp.ones(3)}


@dataclasses.dataclass
class Warmup:
    """Mutable, so that it has no hash."""

    peak: float = 0.5

    def __call__(self, count):
        return self.peak * jnp.minimum(1.0, (count + 1) / 10)


@dataclasses.dataclass(frozen=True)
class Table:
    """An array has no hash either."""

    values: np.ndarray

    def __call__(self, count):
        return jnp.asarray(self.values)[count]


class Module(eqx.Module):
    peak: jax.Array

    def __call__(self, count):
        return self.peak * (count + 1) / 10


SCHEDULES = {
    "mutable": Warmup(),
    "table": Table(np.linspace(0.05, 0.5, 10, dtype=np.float32)),
    "module": Module(jnp.float32(0.5)),
    "partial": functools.partial(Warmup.__call__, Warmup()),
    "partial of JAX": jax.tree_util.Partial(lambda peak, count: peak * (count + 1) / 10, jnp.float32(0.5)),
    "method": Warmup().__call__,
}


def first_step(tx, update=None):
    return float((update or tx.update)(PARAMS, tx.init(PARAMS), PARAMS)[0]["w"][0])


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_needs_no_hash(name):
    for schedule in (SCHEDULES[name], jadam.join_schedules([SCHEDULES[name], SCHEDULES[name]], [5])):
        tx = jadam.masked(jadam.sgd(schedule), True)
        assert first_step(tx) == pytest.approx(-0.05)
        assert first_step(tx, jax.jit(tx.update)) == pytest.approx(-0.05)
        assert first_step(tx, jax.jit(lambda g, s, p, tx=tx: tx.update(g, s, p))) == pytest.approx(-0.05)
        # As a static argument, where flax's TrainState has it.
        stepped = jax.jit(lambda tx, g, s: tx.update(g, s, PARAMS)[0], static_argnums=0)(tx, PARAMS, tx.init(PARAMS))
        assert stepped["w"][0] == pytest.approx(-0.05)
        assert tx == tx
        assert tx != jadam.masked(jadam.sgd(0.05), True)


@pytest.mark.usefixtures("lenient")
def test_mutable_schedules_share_no_program():
    """Two that are equal today need not be tomorrow: `jax.jit` would find the program of the other."""
    one, two = Warmup(0.5), Warmup(1.0)
    updates = [jax.jit(jadam.sgd(schedule).update) for schedule in (one, two)]
    assert first_step(jadam.sgd(one), updates[0]) == pytest.approx(-0.05)
    one.peak = 1.0
    assert one == two
    assert jadam.sgd(one) != jadam.sgd(two)
    assert first_step(jadam.sgd(two), updates[1]) == pytest.approx(-0.1)
    assert first_step(jadam.sgd(one)) == pytest.approx(-0.1)  # outside jit it is asked at each step
    one.peak = 0.2
    assert first_step(jadam.sgd(one)) == pytest.approx(-0.02)


def test_different_tables_can_be_compared():
    """The truth value of an array is ambiguous."""
    one, two = (jadam.sgd(Table(np.full(3, rate, np.float32))) for rate in (0.1, 0.2))
    assert one != two
    assert len({one, two}) == 2


@pytest.mark.parametrize("value", [1, np.int32(1), jnp.int32(1), 1.0, np.float64(1), jnp.bfloat16(1), np.array(1.0)])
def test_a_schedule_returns_a_number_of_any_kind(value):
    tx = jadam.sgd(lambda count: value)
    state = tx.init(PARAMS)
    _, after = tx.update(PARAMS, state, PARAMS)
    assert first_step(tx) == first_step(tx, jax.jit(tx.update)) == -1.0
    assert after.hyperparams["learning_rate"].dtype == state.hyperparams["learning_rate"].dtype == jnp.float32


def test_a_value_that_goes_out_of_range_later():
    for value in (np.inf, np.nan, np.float32(-np.inf), None, [0.1], "a", 1e39):
        tx = jadam.sgd(lambda count, value=value: 0.1 if count < 1 else value)
        _, state = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
        with pytest.raises((ValueError, TypeError), match=r"^sgd\.update.*learning_rate"):
            tx.update(PARAMS, state, PARAMS)


@pytest.mark.usefixtures("lenient")
def test_schedules_may_close_over_tracers():
    def moved(rate):
        tx = jadam.sgd(lambda count: rate / (1 + count))
        return tx.update(PARAMS, tx.init(PARAMS), PARAMS)[0]["w"].sum()

    assert jax.jit(moved)(0.5) == -1.5
    assert jax.grad(moved)(0.5) == -3.0


def test_what_is_called_peak_value_need_not_be_one():
    """`init` compared it with numbers where parameters have 16 bits."""

    class Peaked:
        peak_value = "high"

        def __call__(self, count):
            return 0.5

    tx = jadam.sgd(Peaked())
    assert tx.init({"w": jnp.ones(3, jnp.bfloat16)}).count == 0
