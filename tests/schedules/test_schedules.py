"""Schedules: optax's values under optax's names, formulas for those that optax lacks, and errors for bad arguments."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import NAMESPACE

import jadam

COUNTS = jnp.arange(0, 260)

CYCLES = [
    {"init_value": 0.0, "peak_value": 1.0, "decay_steps": 80, "warmup_steps": 8},
    {"init_value": 0.1, "peak_value": 0.5, "decay_steps": 90, "warmup_steps": 0, "end_value": 0.1},
]
SAME_AS_OPTAX = {
    "constant_schedule": [(0.3,)],
    "linear_schedule": [(0.0, 1.0, 100), (1.0, 0.2, 50, 20)],
    "polynomial_schedule": [(1.0, 0.1, 2.0, 100), (0.0, 3.0, 0.5, 80, 10), (1.0, 0.0, 1.0, 0)],
    "cosine_decay_schedule": [(1.0, 100), (0.3, 200, 0.1, 2.0)],
    "exponential_decay": [
        (1.0, 10, 0.9),
        (1.0, 20, 0.5, 30, True),
        (1.0, 10, 0.9, 0, False, 0.4),
        (1.0, 50, 2.0, 5, False, 3.0),
    ],
    "piecewise_constant_schedule": [(1.0, {50: 0.1, 20: 0.5}), (0.2,)],
    "warmup_constant_schedule": [(0.0, 1.0, 40)],
    "warmup_cosine_decay_schedule": [(0.0, 1.0, 20, 200), (0.1, 0.5, 0, 100, 0.05, 2.0)],
    "warmup_exponential_decay_schedule": [(0.0, 1.0, 20, 50, 0.5), (0.1, 1.0, 10, 20, 0.8, 30, True, 0.3)],
    "sgdr_schedule": [(CYCLES,)],
    "linear_onecycle_schedule": [(200, 1.0), (100, 0.3, 0.2, 0.7, 10.0, 100.0)],
    "cosine_onecycle_schedule": [(200, 1.0), (100, 0.3, 0.2, 10.0, 100.0)],
}


@pytest.mark.parametrize(("name", "args"), [(name, args) for name, cases in SAME_AS_OPTAX.items() for args in cases])
@pytest.mark.usefixtures("lenient")
def test_equals_optax(name, args):
    ours, theirs = getattr(jadam, name)(*args), getattr(optax, name)(*args)
    expected = np.array([float(theirs(count)) for count in range(len(COUNTS))])
    np.testing.assert_allclose(ours(COUNTS), expected, rtol=2e-6, atol=1e-7)
    some = [0, 20, 21, 100, 259]
    np.testing.assert_allclose([ours(count) for count in some], expected[some], rtol=2e-6, atol=1e-7)


@pytest.mark.usefixtures("lenient")
def test_join_equals_optax():
    pieces = [optax.linear_schedule(0.0, 1.0, 50), lambda count: 0.5 - 0.001 * count, optax.constant_schedule(0.1)]
    ours, theirs = jadam.join_schedules(pieces, [50, 90]), optax.join_schedules(pieces, [50, 90])
    np.testing.assert_allclose(ours(COUNTS), [float(theirs(count)) for count in range(len(COUNTS))], rtol=1e-6)


def test_warmup_of_no_steps_starts_at_the_peak():
    """optax.warmup_constant_schedule(0, 1, 0) stays at 0 for ever."""
    assert jadam.warmup_constant_schedule(0.0, 1.0, 0)(0) == 1.0
    assert jadam.warmup_linear_decay_schedule(0.0, 1.0, 0, 10)(0) == 1.0


@pytest.mark.parametrize("steps", [3, 7, 10, 41, 1000])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_end_is_exact_under_jit(steps, power):
    """One ulp below zero, to the power of a half, was NaN, and a line ended below zero."""
    values = jax.jit(jadam.polynomial_schedule(0.01, 0.0, power, steps))(jnp.arange(steps + 3))
    assert (values[:steps] > 0).all()
    assert (values[steps:] == 0).all()


def test_warmup_linear_decay_and_inverse_sqrt():
    linear = jadam.warmup_linear_decay_schedule(0.1, 1.0, 10, 110, end_value=0.5)
    root = jadam.inverse_sqrt_schedule(2.0, 100, init_value=1.0)
    np.testing.assert_allclose(linear(jnp.array([0, 5, 10, 60, 110, 1000])), [0.1, 0.55, 1.0, 0.75, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(root(np.array([0, 50, 100, 400, 10_000])), [1.0, 1.5, 2.0, 1.0, 0.2], rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "tail"),
    [("linear", lambda x: x), ("cosine", lambda x: (1 - math.cos(math.pi * x)) / 2), ("1-sqrt", lambda x: math.sqrt(x))],
)
def test_warmup_stable_decay(shape, tail):
    schedule = jadam.warmup_stable_decay_schedule(0.0, 2.0, 10, 50, 40, end_value=0.5, decay_shape=shape)
    np.testing.assert_allclose(schedule(jnp.array([0, 5, 10, 35, 60])), [0.0, 1.0, 2.0, 2.0, 2.0], rtol=1e-6)
    counts = range(60, 101)
    np.testing.assert_allclose(schedule(jnp.array(counts)), [2.0 - 1.5 * tail((c - 60) / 40) for c in counts], rtol=1e-6)
    assert schedule(5000) == 0.5


def all_schedules():
    return [getattr(jadam, name)(*args) for name, cases in SAME_AS_OPTAX.items() for args in cases] + [
        jadam.inverse_sqrt_schedule(1.0, 10),
        jadam.warmup_linear_decay_schedule(0.0, 1.0, 10, 20),
        jadam.warmup_stable_decay_schedule(0.0, 1.0, 10, 20, 30),
    ]


@pytest.mark.parametrize("number", range(len(all_schedules())))
def test_values_that_are_printed_as_written_and_finite_far_out(number):
    schedule, two = all_schedules()[number], all_schedules()[number]
    assert schedule == two
    assert hash(schedule) == hash(two)
    assert schedule != jadam.constant_schedule(123.0)
    assert eval(repr(schedule), {**NAMESPACE}) == schedule  # the repr is the call
    far = jnp.array([0, 1, 2**24 + 1, 2**31 - 1])
    values = schedule(far)
    assert values.dtype == jnp.float32
    assert jnp.isfinite(values).all()
    assert float(schedule(far[-1])) == pytest.approx(float(values[-1]))


@pytest.mark.usefixtures("x64")
def test_float64_under_x64():
    """An integer divided by an integer is float32 in JAX even under x64."""
    value = jadam.warmup_linear_decay_schedule(0.0, 1.0, 3, 10)(jnp.int32(1))
    assert value.dtype == jnp.float64
    assert float(value) == pytest.approx(1 / 3, rel=1e-15)


def test_a_traced_number_of_steps_is_refused_in_words():
    with pytest.raises(TypeError, match="decay_steps must be a number; for a traced one write the schedule as a function"):
        jax.jit(lambda x: jadam.cosine_decay_schedule(1.0, x)(0))(10.0)


TRACED = {
    "linear": lambda lib, x: lib.linear_schedule(x, 0.0, 10),
    "polynomial": lambda lib, x: lib.polynomial_schedule(x, 0.0, x, 10),
    "cosine": lambda lib, x: lib.cosine_decay_schedule(x, 10, 0.1),
    "exponential": lambda lib, x: lib.exponential_decay(x, 3, 0.9, end_value=0.05),
    "rate": lambda lib, x: lib.exponential_decay(0.1, 3, x, end_value=0.05),
    "steps": lambda lib, x: lib.piecewise_constant_schedule(x, {3: 0.5}),
    "constant": lambda lib, x: lib.constant_schedule(x),
    "warmup": lambda lib, x: lib.warmup_constant_schedule(0.0, x, 3),
    "warmup_cosine": lambda lib, x: lib.warmup_cosine_decay_schedule(0.0, x, 3, 10, 0.01),
    "onecycle": lambda lib, x: lib.linear_onecycle_schedule(10, x),
    "cosine_onecycle": lambda lib, x: lib.cosine_onecycle_schedule(10, x),
    "tenth of a run": lambda lib, x: lib.linear_schedule(x, 0.0, 48.5),
    "tenth of a run, in stairs": lambda lib, x: lib.exponential_decay(x, 3.5, 0.9, staircase=True),
    "tenth of a run, cosine": lambda lib, x: lib.cosine_decay_schedule(x, 7.5),
    "boundary past the last": lambda lib, x: lib.join_schedules([lib.linear_schedule(0.0, x, 5), lambda _: x], [5, 40]),
}
SOME = (0, 3, 4, 7, 8, 9, 20, 48, 49, 60)


@pytest.mark.parametrize("name", TRACED)
def test_a_traced_value(name):
    """A sweep over learning rates inside `vmap` was refused; so was the tenth of a run that is no whole number of steps."""
    make = TRACED[name]
    traced = jax.jit(lambda x: jnp.stack([jnp.asarray(make(jadam, x)(count), jnp.float32) for count in SOME]))(0.1)
    ours = [float(make(jadam, 0.1)(count)) for count in SOME]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        theirs = [float(make(optax, 0.1)(count)) for count in SOME]
    np.testing.assert_allclose(traced, ours, rtol=1e-6, atol=2e-8)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-8)
    assert len(set(ours)) > 1 or name == "constant"


def test_a_sweep_over_learning_rates_in_a_schedule():
    params = jnp.asarray([1.0, -2.0])

    def moved(rate):
        tx = jadam.adam(jadam.linear_schedule(rate, 0.0, 10))
        updates, state = jax.jit(tx.update)(params, tx.init(params), params)
        other = jadam.adam(jadam.linear_schedule(2 * rate, 0.0, 10))  # another program of one hash, in the same trace
        return updates, jax.jit(other.update)(params, state, params)[0]

    first, second = jax.jit(jax.vmap(moved))(jnp.asarray([0.1, 0.2]))
    np.testing.assert_allclose(first, [[-0.1, 0.1], [-0.2, 0.2]], rtol=1e-5)
    np.testing.assert_allclose(second, 0.9 * 2 * first, rtol=1e-5)


def test_a_schedule_of_your_own():
    @dataclasses.dataclass(frozen=True)
    class every_other(jadam.Schedule):
        high: float

        def at(self, count):
            return jnp.where(count % 2 == 0, self.high, 0.0)

    tx, params = jadam.sgd(every_other(0.5)), jnp.ones(2)
    state = tx.init(params)
    for expected in (0.5, 0.5, 0.0):
        assert jadam.hyperparams(state)["learning_rate"] == expected
        params, state = tx.step(jnp.ones(2), state, params)


def test_numbers_of_any_kind_are_pythons_own():
    """Steps are often written 1e4."""
    written = jadam.warmup_cosine_decay_schedule(np.float32(0), jnp.float32(0.5), 1e1, np.int64(20))
    assert written == jadam.warmup_cosine_decay_schedule(0.0, 0.5, 10, 20)
    assert hash(written) == hash(jadam.warmup_cosine_decay_schedule(0.0, 0.5, 10, 20))
    assert jadam.piecewise_constant_schedule(1.0, {1e1: 1}) == jadam.piecewise_constant_schedule(1.0, ((10, 1.0),))
    assert jadam.piecewise_constant_schedule(1.0, None) == jadam.piecewise_constant_schedule(1.0)
    assert jadam.join_schedules([jadam.constant_schedule(1.0)] * 2, np.array([3])).boundaries == (3,)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "int32"])
def test_counts_of_few_bits_do_not_wrap(dtype):
    """In uint8, one step before the beginning was step 255."""
    for array in (np.arange(3, dtype=dtype), jnp.arange(3, dtype=dtype)):
        np.testing.assert_array_equal(jadam.linear_schedule(1.0, 0.0, 1000, 2)(array), np.ones(3))


def test_joined_schedules_meet_no_count_before_their_beginning():
    """`table[-3]` is an element too."""
    seen = []
    joined = jadam.join_schedules([lambda n: 0.5, lambda n: seen.append(int(n)) or 0.1], [5])
    assert [float(joined(n)) for n in (0, 4, 5, 7)] == pytest.approx([0.5, 0.5, 0.1, 0.1])
    assert seen == [0, 0, 0, 2]


def test_at_of_the_users_own_is_any_python():
    """It ran as one compiled program, with what it had read in its first call."""
    table = [1.0, 0.5]

    @dataclasses.dataclass(frozen=True)
    class Looked(jadam.Schedule):
        scale: float

        def at(self, count):
            return self.scale * table[min(int(count), 1)]

    schedule = Looked(np.float32(2))
    assert type(schedule.scale) is float
    for of in (schedule, jadam.join_schedules([schedule, schedule], [9])):
        assert of(jnp.int32(1)) == 2 * table[1]
        table[1] /= 2
        assert of(jnp.int32(1)) == 2 * table[1]


def test_a_schedule_of_the_users_own_need_not_say_of_what_type_a_field_is():
    @dataclasses.dataclass(frozen=True)
    class Odd(jadam.Schedule):
        table: "OnlyForTypeCheckers"  # noqa: F821  # pyright: ignore
        note: object = None

        def at(self, count):
            return self.table[count]

    assert Odd(np.array([3.0]))(0) == 3.0
