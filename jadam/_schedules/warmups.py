"""A rise to a peak, and then something else."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jadam._schedules.decays import Tail, cosine_decay_schedule, exponential_decay, linear_schedule
from jadam._schedules.fields import Positive, SomeSteps, Steps, Value
from jadam._schedules.schedule import Composed, Schedule, ScheduleLike, constant_schedule, join_schedules, schedule


def _after_warmup(init_value: float, peak_value: float, warmup_steps: int, then: ScheduleLike) -> Schedule:
    return join_schedules([linear_schedule(init_value, peak_value, warmup_steps), then], [warmup_steps])


def _share(end_value: Any, peak_value: Any) -> Any:
    """The end as a share of the peak, 0 of none."""
    if not isinstance(peak_value, Tracer):
        return end_value / peak_value if peak_value else 0.0
    return jnp.where(peak_value == 0, 0.0, end_value / jnp.where(peak_value == 0, 1.0, peak_value))


@schedule
class warmup_constant_schedule(Composed):
    """A line from `init_value` to `peak_value` in `warmup_steps`, then `peak_value`."""

    init_value: Value
    peak_value: Value
    warmup_steps: Steps

    def pieces(self) -> Schedule:
        return _after_warmup(self.init_value, self.peak_value, self.warmup_steps, constant_schedule(self.peak_value))


class _Warmup(Composed):
    """A warm-up inside a run of `decay_steps`."""

    warmup_steps: Steps
    decay_steps: Steps

    def _check(self) -> None:
        shorter = self.warmup_steps < self.decay_steps
        self._require(shorter, "decay_steps", f"is the whole run and must be longer than warmup_steps={self.warmup_steps}")


@schedule
class warmup_cosine_decay_schedule(_Warmup):
    """A line from `init_value` to `peak_value` in `warmup_steps`, then half a cosine to `end_value` at `decay_steps`.

    Args:
        init_value: the value at step 0.
        peak_value: the value after the warm-up; not 0.
        warmup_steps: length of the warm-up, >= 0.
        decay_steps: length of the whole run, the warm-up included; longer than `warmup_steps`.
        end_value: the value from `decay_steps` on.
        exponent: of the cosine, > 0.
    """

    init_value: Value
    peak_value: Value
    warmup_steps: Steps
    decay_steps: Steps
    end_value: Value = 0.0
    exponent: Positive = 1.0

    def pieces(self) -> Schedule:
        alpha = _share(self.end_value, self.peak_value)
        decay = cosine_decay_schedule(self.peak_value, self.decay_steps - self.warmup_steps, alpha, self.exponent)
        return _after_warmup(self.init_value, self.peak_value, self.warmup_steps, decay)


@schedule
class warmup_linear_decay_schedule(_Warmup):
    """A line from `init_value` to `peak_value` in `warmup_steps`, then a line to `end_value` at `decay_steps`.

    Args:
        init_value: the value at step 0.
        peak_value: the value after the warm-up.
        warmup_steps: length of the warm-up, >= 0.
        decay_steps: length of the whole run, the warm-up included; longer than `warmup_steps`.
        end_value: the value from `decay_steps` on.
    """

    init_value: Value
    peak_value: Value
    warmup_steps: Steps
    decay_steps: Steps
    end_value: Value = 0.0

    def pieces(self) -> Schedule:
        decay = linear_schedule(self.peak_value, self.end_value, self.decay_steps - self.warmup_steps)
        return _after_warmup(self.init_value, self.peak_value, self.warmup_steps, decay)


@schedule
class warmup_exponential_decay_schedule(Composed):
    """A line from `init_value` to `peak_value` in `warmup_steps`, then `exponential_decay` (which see)."""

    init_value: Value
    peak_value: Value
    warmup_steps: Steps
    transition_steps: SomeSteps
    decay_rate: Positive
    transition_begin: Steps = 0
    staircase: bool = False
    end_value: Value | None = None

    def pieces(self) -> Schedule:
        decay = exponential_decay(
            self.peak_value,
            self.transition_steps,
            self.decay_rate,
            self.transition_begin,
            self.staircase,
            self.end_value,
        )
        return _after_warmup(self.init_value, self.peak_value, self.warmup_steps, decay)


@schedule
class inverse_sqrt_schedule(Schedule):
    """A line from `init_value` to `peak_value` in `warmup_steps`, then `peak_value * sqrt(warmup_steps / count)`.

    Args:
        peak_value: the value after the warm-up.
        warmup_steps: length of the warm-up, > 0.
        init_value: the value at step 0.

    Reference:
        Vaswani et al. 2017, Attention Is All You Need, section 5.3, arXiv:1706.03762.
    """

    peak_value: Value
    warmup_steps: SomeSteps
    init_value: Value = 0.0

    def at(self, count: Array) -> Array:
        line = linear_schedule(self.init_value, self.peak_value, self.warmup_steps)(count)
        late = jnp.maximum(count, self.warmup_steps).astype(jnp.result_type(float))
        return jnp.where(count < self.warmup_steps, line, self.peak_value * jnp.sqrt(self.warmup_steps / late))


@schedule
class warmup_stable_decay_schedule(Composed):
    """Warm-up, a plateau at `peak_value`, then a decay to `end_value` (also known as WSD or trapezoidal).

    Args:
        init_value: the value at step 0.
        peak_value: the value of the plateau.
        warmup_steps: length of the warm-up, >= 0.
        stable_steps: length of the plateau, >= 0.
        decay_steps: length of the decay, >= 0; the run is the sum of the three.
        end_value: the value after the run.
        decay_shape: "linear", "cosine" or "1-sqrt".

    Raises:
        ValueError: an unknown `decay_shape`.

    Reference:
        Hu et al. 2024, MiniCPM, arXiv:2404.06395; the 1-sqrt tail: Hägele et al. 2024, arXiv:2405.18392.
    """

    init_value: Value
    peak_value: Value
    warmup_steps: Steps
    stable_steps: Steps
    decay_steps: Steps
    end_value: Value = 0.0
    decay_shape: Literal["linear", "cosine", "1-sqrt"] = "linear"

    def pieces(self) -> Schedule:
        tail = Tail(self.peak_value, self.end_value, self.decay_steps, self.decay_shape)
        stable = join_schedules([constant_schedule(self.peak_value), tail], [self.stable_steps])
        return _after_warmup(self.init_value, self.peak_value, self.warmup_steps, stable)
