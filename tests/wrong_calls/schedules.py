"""Of schedules."""

import math

import jax
import jax.numpy as jnp
import numpy as np

import jadam
from wrong_calls import HUGE, NO_FLOAT, ONES, PARAMS

LINE, ONE = jadam.polynomial_schedule(1.0, 0.0, 1.0, 10), jadam.constant_schedule(1.0)


def driven(value, **others):
    """A state of an optimizer whose schedule returns `value`."""
    return jadam.sgd(lambda count: value, **others).init(PARAMS)


def traced_count(schedule):
    return jax.jit(lambda grads: jadam.sgd(schedule).update(grads, jadam.sgd(1.0).init(PARAMS), PARAMS))(PARAMS)


CALLS = {
    # their values
    "linear_schedule(init_value='a'): init_value must be a finite number.": lambda: jadam.linear_schedule("a", 0.0, 10),
    "linear_schedule(init_value=None): init_value must be a finite number.": lambda: jadam.linear_schedule(None, 0.0, 10),
    "linear_schedule(end_value=True): end_value must be a finite number.": lambda: jadam.linear_schedule(1.0, True, 10),
    "linear_schedule(end_value=1j): end_value must be a finite number.": lambda: jadam.linear_schedule(1.0, 1j, 10),
    "linear_schedule(end_value=Array([1., 1., 1.], dtype=float32)): end_value must be a finite number.": lambda: (
        jadam.linear_schedule(1.0, ONES, 10)
    ),
    "linear_schedule(init_value=nan): init_value must be a finite number.": lambda: jadam.linear_schedule(math.nan, 0.0, 10),
    "linear_schedule(end_value=inf): end_value must be a finite number.": lambda: jadam.linear_schedule(1.0, math.inf, 10),
    "linear_schedule(init_value=Array([1.], dtype=float32)): init_value must be a finite number.": lambda: (
        jadam.linear_schedule(jnp.ones(1), 0.0, 10)
    ),
    "polynomial_schedule(init_value='a'): init_value must be a finite number.": lambda: jadam.polynomial_schedule(
        "a", 0.0, 1.0, 10
    ),
    "polynomial_schedule(power=0): power must be a finite number > 0.": lambda: jadam.polynomial_schedule(1.0, 0.0, 0, 10),
    "polynomial_schedule(power=-1.0): power must be a finite number > 0.": lambda: jadam.polynomial_schedule(
        1.0, 0.0, -1.0, 10
    ),
    "cosine_decay_schedule(init_value=nan): init_value must be a finite number.": lambda: jadam.cosine_decay_schedule(
        math.nan, 10
    ),
    "cosine_decay_schedule(alpha=None): alpha must be a finite number.": lambda: jadam.cosine_decay_schedule(
        1.0, 10, alpha=None
    ),
    "cosine_decay_schedule(exponent=0): exponent must be a finite number > 0.": lambda: jadam.cosine_decay_schedule(
        1.0, 10, exponent=0
    ),
    "exponential_decay(decay_rate=-0.9): decay_rate must be a finite number > 0.": lambda: jadam.exponential_decay(
        1.0, 10, -0.9
    ),
    "exponential_decay(staircase='no'): staircase must be True or False.": lambda: jadam.exponential_decay(
        1.0, 10, 0.9, staircase="no"
    ),
    "exponential_decay(end_value='a'): end_value must be a finite number.": lambda: jadam.exponential_decay(
        1.0, 10, 0.9, end_value="a"
    ),
    "constant_schedule(value='a'): value must be a finite number.": lambda: jadam.constant_schedule("a"),
    "constant_schedule(value=[1.0]): value must be a finite number.": lambda: jadam.constant_schedule([1.0]),
    "warmup_constant_schedule(init_value=None): init_value must be a finite number.": lambda: jadam.warmup_constant_schedule(
        None, 1.0, 5
    ),
    "warmup_cosine_decay_schedule(peak_value=None): peak_value must be a finite number.": lambda: (
        jadam.warmup_cosine_decay_schedule(0.0, None, 2, 10)
    ),
    "warmup_linear_decay_schedule(end_value='a'): end_value must be a finite number.": lambda: (
        jadam.warmup_linear_decay_schedule(0.0, 1.0, 2, 10, end_value="a")
    ),
    "warmup_exponential_decay_schedule(decay_rate=None): decay_rate must be a finite number > 0.": lambda: (
        jadam.warmup_exponential_decay_schedule(0.0, 1.0, 2, 5, None)
    ),
    ("warmup_stable_decay_schedule(decay_shape='x'): decay_shape must be 'linear', 'cosine' or '1-sqrt'."): lambda: (
        jadam.warmup_stable_decay_schedule(0.0, 1.0, 1, 1, 1, decay_shape="x")
    ),
    "inverse_sqrt_schedule(peak_value=None): peak_value must be a finite number.": lambda: jadam.inverse_sqrt_schedule(None, 5),
    "linear_onecycle_schedule(pct_start=1.2): pct_start must be in (0, 1).": lambda: jadam.linear_onecycle_schedule(
        10, 1.0, pct_start=1.2
    ),
    "linear_onecycle_schedule(pct_final=0.4): pct_final must be in (pct_start, 1].": lambda: jadam.linear_onecycle_schedule(
        10, 1.0, 0.5, 0.4
    ),
    "linear_onecycle_schedule(div_factor=0): div_factor must be a finite number > 0.": lambda: jadam.linear_onecycle_schedule(
        10, 1.0, div_factor=0
    ),
    "cosine_onecycle_schedule(pct_start='a'): pct_start must be a finite number.": lambda: jadam.cosine_onecycle_schedule(
        10, 1.0, pct_start="a"
    ),
    "cosine_onecycle_schedule(final_div_factor=-1): final_div_factor must be a finite number > 0.": lambda: (
        jadam.cosine_onecycle_schedule(10, 1.0, final_div_factor=-1)
    ),
    # their steps
    "linear_schedule(transition_steps=-1): transition_steps must be a number in [0, 2**31).": lambda: jadam.linear_schedule(
        0.0, 1.0, -1
    ),
    "linear_schedule(transition_steps=nan): transition_steps must be a number in [0, 2**31).": lambda: jadam.linear_schedule(
        0.0, 1.0, float("nan")
    ),
    "linear_schedule(transition_steps=None): transition_steps must be a number in [0, 2**31).": lambda: jadam.linear_schedule(
        0.0, 1.0, None
    ),
    "linear_schedule(transition_steps=True): transition_steps must be a number in [0, 2**31).": lambda: jadam.linear_schedule(
        0.0, 1.0, True
    ),
    "linear_schedule(transition_steps=2147483648): transition_steps must be a number in [0, 2**31).": lambda: (
        jadam.linear_schedule(0.0, 1.0, 2**31)
    ),
    "linear_schedule(transition_begin=-3): transition_begin must be an integer in [0, 2**31).": lambda: jadam.linear_schedule(
        0.0, 1.0, 10, -3
    ),
    "polynomial_schedule(transition_steps='10'): transition_steps must be a number in [0, 2**31).": lambda: (
        jadam.polynomial_schedule(0.0, 1.0, 1.0, "10")
    ),
    "cosine_decay_schedule(decay_steps=0): decay_steps must be a number in (0, 2**31).": lambda: jadam.cosine_decay_schedule(
        1.0, 0
    ),
    "exponential_decay(transition_steps=0): transition_steps must be a number in (0, 2**31).": lambda: jadam.exponential_decay(
        1.0, 0, 0.9
    ),
    "inverse_sqrt_schedule(warmup_steps=0): warmup_steps must be an integer in [1, 2**31).": lambda: (
        jadam.inverse_sqrt_schedule(1.0, 0)
    ),
    "warmup_constant_schedule(warmup_steps=2.5): warmup_steps must be an integer in [0, 2**31).": lambda: (
        jadam.warmup_constant_schedule(0.0, 1.0, 2.5)
    ),
    (
        "warmup_cosine_decay_schedule(decay_steps=10): decay_steps is the whole run and must be longer than warmup_steps=10."
    ): lambda: jadam.warmup_cosine_decay_schedule(0.0, 1.0, 10, 10),
    "warmup_cosine_decay_schedule(warmup_steps=-1): warmup_steps must be an integer in [0, 2**31).": lambda: (
        jadam.warmup_cosine_decay_schedule(0.0, 1.0, -1, 10)
    ),
    (
        "warmup_linear_decay_schedule(decay_steps=10): decay_steps is the whole run and must be longer than warmup_steps=20."
    ): lambda: jadam.warmup_linear_decay_schedule(0.0, 1.0, 20, 10),
    ("warmup_exponential_decay_schedule(transition_steps=0): transition_steps must be an integer in [1, 2**31)."): lambda: (
        jadam.warmup_exponential_decay_schedule(0.0, 1.0, 2, 0, 0.9)
    ),
    "warmup_stable_decay_schedule(stable_steps=-1): stable_steps must be an integer in [0, 2**31).": lambda: (
        jadam.warmup_stable_decay_schedule(0.0, 1.0, 1, -1, 1)
    ),
    "linear_onecycle_schedule(transition_steps=0): transition_steps must be an integer in [1, 2**31).": lambda: (
        jadam.linear_onecycle_schedule(0, 1.0)
    ),
    "cosine_onecycle_schedule(transition_steps=0): transition_steps must be an integer in [1, 2**31).": lambda: (
        jadam.cosine_onecycle_schedule(0, 1.0)
    ),
    (
        "piecewise_constant_schedule(boundaries_and_scales=[3, 5]): boundaries_and_scales must be {step: "
        "factor}, with integers in [0, 2**31) and numbers >= 0."
    ): lambda: jadam.piecewise_constant_schedule(1.0, [3, 5]),
    (
        "piecewise_constant_schedule(boundaries_and_scales={-1: 0.1}): boundaries_and_scales must be {step: "
        "factor}, with integers in [0, 2**31) and numbers >= 0."
    ): lambda: jadam.piecewise_constant_schedule(1.0, {-1: 0.1}),
    (
        "piecewise_constant_schedule(boundaries_and_scales={3: -0.1}): boundaries_and_scales must be {step: "
        "factor}, with integers in [0, 2**31) and numbers >= 0."
    ): lambda: jadam.piecewise_constant_schedule(1.0, {3: -0.1}),
    (
        "piecewise_constant_schedule(boundaries_and_scales=5): boundaries_and_scales must be {step: factor}, "
        "with integers in [0, 2**31) and numbers >= 0."
    ): lambda: jadam.piecewise_constant_schedule(1.0, 5),
    "join_schedules: schedules[0] is 1.0, not a schedule; write constant_schedule(...) for a number.": lambda: (
        jadam.join_schedules([1.0, 2.0], [5])
    ),
    "join_schedules(schedules=None): schedules must be a sequence.": lambda: jadam.join_schedules(None, [5]),
    "join_schedules(boundaries=(3,)): boundaries must be one fewer than the 3 schedules.": lambda: jadam.join_schedules(
        [ONE, ONE, ONE], [3]
    ),
    "join_schedules(boundaries=None): boundaries must be a sequence.": lambda: jadam.join_schedules([ONE, ONE], None),
    "join_schedules(boundaries=('a',)): boundaries must be integers in [0, 2**31).": lambda: jadam.join_schedules(
        [ONE, ONE], ["a"]
    ),
    "join_schedules(boundaries=(-5,)): boundaries must be integers in [0, 2**31).": lambda: jadam.join_schedules(
        [ONE, ONE], [-5]
    ),
    "join_schedules(boundaries=(5, 3)): boundaries must increase.": lambda: jadam.join_schedules([ONE] * 3, [5, 3]),
    "sgdr_schedule(cosine_kwargs=None): cosine_kwargs must be a list of dicts, one for each cycle.": lambda: (
        jadam.sgdr_schedule(None)
    ),
    "sgdr_schedule(cosine_kwargs=[]): cosine_kwargs must be a list of dicts, one for each cycle.": lambda: jadam.sgdr_schedule(
        []
    ),
    "sgdr_schedule(cosine_kwargs=[1]): cosine_kwargs must be a list of dicts, one for each cycle.": lambda: jadam.sgdr_schedule(
        [1]
    ),
    (
        "sgdr_schedule: there is no nope; it accepts init_value, peak_value, warmup_steps, decay_steps, end_value, exponent."
    ): lambda: jadam.sgdr_schedule([{"nope": 1}]),
    "sgdr_schedule(peak_value='a'): peak_value must be a finite number.": lambda: jadam.sgdr_schedule(
        [{"init_value": 0.0, "peak_value": "a", "warmup_steps": 1, "decay_steps": 9}]
    ),
    # their arguments
    (
        "linear_schedule: end_value, transition_steps must be given; it accepts init_value, end_value, "
        "transition_steps, transition_begin."
    ): lambda: jadam.linear_schedule(1.0),
    ("linear_schedule: there is no peak; it accepts init_value, end_value, transition_steps, transition_begin."): lambda: (
        jadam.linear_schedule(1.0, 0.0, 10, peak=3)
    ),
    (
        "polynomial_schedule: end_value, power, transition_steps must be given; it accepts init_value, "
        "end_value, power, transition_steps, transition_begin."
    ): lambda: jadam.polynomial_schedule(1.0),
    "cosine_decay_schedule: there is no last; it accepts init_value, decay_steps, alpha, exponent.": lambda: (
        jadam.cosine_decay_schedule(1.0, 10, last=0.1)
    ),
    "constant_schedule: value must be given; it accepts value.": lambda: jadam.constant_schedule(),
    "warmup_constant_schedule: too many arguments; it accepts init_value, peak_value, warmup_steps.": lambda: (
        jadam.warmup_constant_schedule(0.0, 1.0, 5, 6)
    ),
    # what they are called with
    "polynomial_schedule: a schedule is called with the number of updates done, not with None.": lambda: LINE(None),
    "polynomial_schedule: a schedule is called with the number of updates done, not with 'b'.": lambda: LINE("b"),
    (
        "polynomial_schedule: a schedule is called with the number of updates done, in [0, 2**31), not with 1099511627776."
    ): lambda: LINE(2**40),
    ("polynomial_schedule: a schedule is called with the number of updates done, in [0, 2**31), not with -1."): lambda: LINE(
        -1
    ),
    ("polynomial_schedule: a schedule is called with the number of updates done, not with an array of dtype bool."): lambda: (
        LINE(True)
    ),
    (
        "polynomial_schedule: a schedule is called with the number of updates done, in [0, 2**31), not with array([ 0, -2])."
    ): lambda: LINE(np.array([0, -2])),
    "constant_schedule: a schedule is called with the number of updates done, not with None.": lambda: ONE(None),
    # what they return
    "sgd.init: the schedule of learning_rate returned None; it must return a number.": lambda: driven(None),
    "sgd.init: the schedule of learning_rate returned 'a'; it must return a number.": lambda: driven("a"),
    "sgd.init: the schedule of learning_rate returned [1.0]; it must return a number.": lambda: driven([1.0]),
    "sgd.init: the schedule of learning_rate returned True; it must return a number.": lambda: driven(True),
    "sgd.init: the schedule of learning_rate returned 1j; it must return a number.": lambda: driven(1j),
    f"sgd.init: the schedule of learning_rate returned {NO_FLOAT}; it must return a number.": lambda: driven(HUGE),
    "sgd.init: the schedule of learning_rate returned <int>, which no float can represent; it must return a number.": lambda: (
        driven(10**5000)  # which Python refuses to write as digits
    ),
    "sgd.init: the schedule of learning_rate returned an array of shape (3,); it must return a number.": lambda: driven(ONES),
    "sgd.init: the schedule of learning_rate returned an array of shape (1,); it must return a number.": lambda: driven(
        np.ones(1)
    ),
    "sgd.init: the schedule of learning_rate returned nan; it must be a finite number.": lambda: driven(math.nan),
    "sgd.init: the schedule of learning_rate returned inf; it must be a finite number.": lambda: driven(jnp.float32(jnp.inf)),
    (
        "sgd.init(learning_rate=1e+39): learning_rate must be between 1.2e-38 and 3.4e+38 in magnitude; in "
        "float32, in which it is kept, it is inf."
    ): lambda: driven(1e39),
    "adam.init: the schedule of adam.b2 returned 1.5; it must be in [0, 1).": lambda: jadam.adam(
        1e-3, b2=lambda count: 1.5
    ).init(PARAMS),
    "partition.init: the schedule of all.add_decayed_weights.weight_decay returned -3; it must be a finite number "
    ">= 0.": lambda: jadam.partition([(True, jadam.adamw(1.0, weight_decay=lambda count: -3), "all")]).init(PARAMS),
    "sgd.init: schedules[0] returned None; it must return a number.": lambda: jadam.sgd(
        jadam.join_schedules([lambda count: None, ONE], [5])
    ).init(PARAMS),
    (
        "sgd.update: the schedule of learning_rate reads the count as a number, and under jit it is traced; "
        "write it with jnp (jnp.where for if)."
    ): lambda: traced_count(lambda count: 0.1 if count < 1 else 0.2),
}
