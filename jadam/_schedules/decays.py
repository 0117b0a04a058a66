"""From one value to another: lines, powers, cosines, exponentials, stairs."""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp
from jax import Array

from jadam._errors import BadType, Misuse, door
from jadam._schedules.fields import NOT_NEGATIVE, STEPS, Length, Positive, SomeLength, Steps, Value
from jadam._schedules.schedule import Schedule, fraction, schedule


@schedule
class polynomial_schedule(Schedule):
    """From `init_value` to `end_value` in `transition_steps`: `(init - end) (1 - progress)^power + end`.

    Args:
        init_value: the value until `transition_begin`.
        end_value: the value from `transition_begin + transition_steps` on.
        power: of the remaining part, > 0; 1 is a straight line.
        transition_steps: length in steps, >= 0; 0 stays at `init_value`.
        transition_begin: the first step of the transition, >= 0.
    """

    init_value: Value
    end_value: Value
    power: Positive
    transition_steps: Length
    transition_begin: Steps = 0

    def at(self, count: Array) -> Array:
        remaining = 1 - fraction(count, self.transition_begin, self.transition_steps)
        return (self.init_value - self.end_value) * remaining**self.power + self.end_value


@door
def linear_schedule(
    init_value: float, end_value: float, transition_steps: float, transition_begin: int = 0
) -> polynomial_schedule:
    """A straight line from `init_value` to `end_value` in `transition_steps`: a `polynomial_schedule` of power 1."""
    return polynomial_schedule(init_value, end_value, 1.0, transition_steps, transition_begin)


@schedule
class cosine_decay_schedule(Schedule):
    """Half a cosine from `init_value` to `alpha * init_value`: `init ((1 - alpha) (0.5 (1 + cos(pi t/T)))^exponent + alpha)`.

    Args:
        init_value: the value at step 0.
        decay_steps: length `T` in steps, > 0; the value stays after it.
        alpha: the last value as a fraction of `init_value`.
        exponent: of the cosine, > 0.

    Reference:
        Loshchilov & Hutter 2017, SGDR, equation 5, arXiv:1608.03983.
    """

    init_value: Value
    decay_steps: SomeLength
    alpha: Value = 0.0
    exponent: Positive = 1.0

    def at(self, count: Array) -> Array:
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * fraction(count, 0, self.decay_steps)))
        return self.init_value * ((1 - self.alpha) * cosine**self.exponent + self.alpha)


@schedule
class exponential_decay(Schedule):
    """`init_value * decay_rate ^ ((count - transition_begin) / transition_steps)`.

    Args:
        init_value: the value until `transition_begin`.
        transition_steps: steps in which the value is multiplied by `decay_rate` once, > 0.
        decay_rate: the factor, > 0.
        transition_begin: the first step of the decay, >= 0.
        staircase: whether the value falls only once every `transition_steps`.
        end_value: a bound that the value does not pass: from above if `decay_rate` < 1, else from below.
    """

    init_value: Value
    transition_steps: SomeLength
    decay_rate: Positive
    transition_begin: Steps = 0
    staircase: bool = False
    end_value: Value | None = None

    def at(self, count: Array) -> Array:
        done = jnp.maximum(count - self.transition_begin, 0)
        if self.staircase and isinstance(self.transition_steps, int):
            done = done // self.transition_steps * self.transition_steps  # exact in integers
        power = done.astype(jnp.result_type(float)) / self.transition_steps
        value = self.init_value * self.decay_rate ** (jnp.floor(power) if self.staircase else power)
        if self.end_value is None:
            return value
        return jnp.where(self.decay_rate < 1, jnp.maximum(value, self.end_value), jnp.minimum(value, self.end_value))


@schedule
class piecewise_constant_schedule(Schedule):
    """`init_value`, multiplied by a scale at each boundary.

    Args:
        init_value: the value before the first boundary.
        boundaries_and_scales: `{step: factor}`; from that step on the value is multiplied by the factor (>= 0). None is none.

    Raises:
        ValueError: a boundary or a scale is negative.
    """

    init_value: Value
    boundaries_and_scales: Mapping[int, float] | tuple[tuple[int, float], ...] | None = None

    def _check(self) -> None:
        given = self.boundaries_and_scales
        try:
            pairs = [(STEPS.check("step", step), NOT_NEGATIVE.check("factor", by)) for step, by in dict(given or ()).items()]
        except (Misuse, TypeError, ValueError):
            words = "{name} must be {step: factor}, with integers in [0, 2**31) and numbers >= 0."
            raise BadType(words, boundaries_and_scales=given) from None
        object.__setattr__(self, "boundaries_and_scales", tuple(sorted(pairs)))

    def at(self, count: Array) -> Array:
        value = jnp.full(jnp.shape(count), self.init_value, jnp.result_type(float))
        for boundary, scale in dict(self.boundaries_and_scales or ()).items():
            value = jnp.where(count < boundary, value, value * scale)
        return value


@schedule
class Tail(Schedule):
    """From `init_value` to `end_value` in `decay_steps`, in one of three shapes; at the end at once if there are no steps."""

    init_value: Value
    end_value: Value
    decay_steps: Steps
    shape: str

    def at(self, count: Array) -> Array:
        done = fraction(count, 0, self.decay_steps) if self.decay_steps else jnp.ones(jnp.shape(count))
        part = {"linear": lambda x: x, "cosine": lambda x: 0.5 * (1 - jnp.cos(jnp.pi * x)), "1-sqrt": jnp.sqrt}
        return self.init_value + (self.end_value - self.init_value) * part[self.shape](done)
