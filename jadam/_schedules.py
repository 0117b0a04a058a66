"""Schedules: values that change with the number of updates done. Hashable, comparable, and printed as they are written."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

ScheduleLike = Callable[[Array], Any]


@dataclass(frozen=True)
class Schedule:
    """A value by the number of updates done: call it with a count, or with an array of counts for a plot.

    Subclass it as a frozen dataclass with `at`. Plain functions of the count are schedules too; these have a `repr`, and
    two that are built alike are equal, so that nothing is compiled twice.

    Raises:
        ValueError: a number of steps is negative, or no integer.
        TypeError: a value is no finite number.
    """

    is_schedule: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("steps") or field.name == "transition_begin":
                self._require(isinstance(value, int | np.integer), field.name, "must be an integer")
                self._require(value >= 0, field.name, "must be >= 0")
            elif field.type in (float, "float", "float | None") and value is not None:
                try:
                    object.__setattr__(self, field.name, float(value))
                except (TypeError, jax.errors.ConcretizationTypeError):
                    raise TypeError(
                        f"{type(self).__name__}({field.name}={value!r}): {field.name} must be a number; for a "
                        "traced one write the schedule as a function of the count."
                    ) from None
                self._require(math.isfinite(getattr(self, field.name)), field.name, "must be finite")

    def _require(self, holds: bool, name: str, words: str) -> None:
        if not holds:
            raise ValueError(f"{type(self).__name__}({name}={getattr(self, name)!r}): {name} {words}.")

    def __call__(self, count: Any) -> Any:
        """The value after `count` updates, float32 (float64 under x64), of the shape of `count`."""
        return self.at(jnp.asarray(count))

    @abstractmethod
    def at(self, count: Array) -> Any:
        """The value for an integer array of counts."""


def _fraction(count: Array, begin: int, steps: int) -> Array:
    """How much of the steps after `begin` is done, in [0, 1]. The difference is taken in integers: exact for any count."""
    done = jnp.clip(count - begin, 0, steps)
    return done.astype(jnp.result_type(float)) / max(steps, 1)


@dataclass(frozen=True)
class constant_schedule(Schedule):
    """The same `value` at every step."""

    value: float

    def __call__(self, count: Any) -> Any:
        # A Python number for one count: a constant b2 = 0.99999 keeps its 1 - b2, which float32 would round by 1e-3.
        return self.value if jnp.ndim(count) == 0 else super().__call__(count)

    def at(self, count: Array) -> Array:
        return jnp.full(count.shape, self.value, jnp.result_type(float))


@dataclass(frozen=True)
class polynomial_schedule(Schedule):
    """From `init_value` to `end_value` in `transition_steps`: `(init - end) (1 - progress)^power + end`.

    Args:
        init_value: the value until `transition_begin`.
        end_value: the value from `transition_begin + transition_steps` on.
        power: of the remaining part, > 0; 1 is a straight line.
        transition_steps: length in steps, >= 0; 0 stays at `init_value`.
        transition_begin: the first step of the transition, >= 0.
    """

    init_value: float
    end_value: float
    power: float
    transition_steps: int
    transition_begin: int = 0

    def at(self, count: Array) -> Array:
        remaining = 1 - _fraction(count, self.transition_begin, self.transition_steps)
        return (self.init_value - self.end_value) * remaining**self.power + self.end_value


def linear_schedule(
    init_value: float, end_value: float, transition_steps: int, transition_begin: int = 0
) -> polynomial_schedule:
    """A straight line from `init_value` to `end_value` in `transition_steps`: a `polynomial_schedule` of power 1."""
    return polynomial_schedule(init_value, end_value, 1.0, transition_steps, transition_begin)


@dataclass(frozen=True)
class cosine_decay_schedule(Schedule):
    """Half a cosine from `init_value` to `alpha * init_value`: `init ((1 - alpha) (0.5 (1 + cos(pi t/T)))^exponent + alpha)`.

    Args:
        init_value: the value at step 0.
        decay_steps: length `T` in steps, > 0; the value stays after it.
        alpha: the last value as a fraction of `init_value`.
        exponent: of the cosine.

    Reference:
        Loshchilov & Hutter 2017, SGDR, equation 5, arXiv:1608.03983.
    """

    init_value: float
    decay_steps: int
    alpha: float = 0.0
    exponent: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.decay_steps > 0, "decay_steps", "must be > 0")

    def at(self, count: Array) -> Array:
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * _fraction(count, 0, self.decay_steps)))
        return self.init_value * ((1 - self.alpha) * cosine**self.exponent + self.alpha)


@dataclass(frozen=True)
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

    init_value: float
    transition_steps: int
    decay_rate: float
    transition_begin: int = 0
    staircase: bool = False
    end_value: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.transition_steps > 0, "transition_steps", "must be > 0")
        self._require(self.decay_rate > 0, "decay_rate", "must be > 0")

    def at(self, count: Array) -> Array:
        done = jnp.maximum(count - self.transition_begin, 0)
        if self.staircase:
            done = done // self.transition_steps * self.transition_steps
        value = self.init_value * self.decay_rate ** (done.astype(jnp.result_type(float)) / self.transition_steps)
        if self.end_value is None:
            return value
        return jnp.maximum(value, self.end_value) if self.decay_rate < 1 else jnp.minimum(value, self.end_value)


@dataclass(frozen=True)
class join_schedules(Schedule):
    """One schedule after another, each called with the steps since its own beginning.

    Args:
        schedules: one more than there are boundaries.
        boundaries: the first step of each schedule after the first, increasing.

    Raises:
        ValueError: their numbers do not fit, or the boundaries do not increase.
    """

    schedules: Sequence[ScheduleLike]
    boundaries: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedules", tuple(self.schedules))
        object.__setattr__(self, "boundaries", tuple(self.boundaries))
        fits = len(self.schedules) == len(self.boundaries) + 1
        self._require(fits, "boundaries", f"must be one fewer than the {len(self.schedules)} schedules")
        rising = all(0 <= a <= b for a, b in zip((0, *self.boundaries), self.boundaries, strict=False))
        self._require(rising, "boundaries", "must be >= 0 and increase")

    def at(self, count: Array) -> Array:
        value = jnp.asarray(self.schedules[0](count))
        for schedule, begin in zip(self.schedules[1:], self.boundaries, strict=True):
            value = jnp.where(count < begin, value, schedule(count - begin))
        return value


@dataclass(frozen=True)
class piecewise_constant_schedule(Schedule):
    """`init_value`, multiplied by a scale at each boundary.

    Args:
        init_value: the value before the first boundary.
        boundaries_and_scales: `{step: factor}`; from that step on the value is multiplied by the factor (>= 0).

    Raises:
        ValueError: a boundary or a scale is negative.
    """

    init_value: float
    boundaries_and_scales: Mapping[int, float] | tuple[tuple[int, float], ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        pairs = tuple(sorted(dict(self.boundaries_and_scales).items()))
        object.__setattr__(self, "boundaries_and_scales", pairs)
        fine = all(boundary >= 0 and scale >= 0 for boundary, scale in pairs)
        self._require(fine, "boundaries_and_scales", "must have steps >= 0 and factors >= 0")

    def at(self, count: Array) -> Array:
        value = jnp.full(jnp.shape(count), self.init_value, jnp.result_type(float))
        for boundary, scale in dict(self.boundaries_and_scales).items():
            value = jnp.where(count < boundary, value, value * scale)
        return value


class _Composed(Schedule):
    """A schedule that is written as others joined."""

    @abstractmethod
    def pieces(self) -> Schedule:
        """The same values as one schedule."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pieces()  # its checks are this one's

    def at(self, count: Array) -> Array:
        return self.pieces()(count)


def _after_warmup(init_value: float, peak_value: float, warmup_steps: int, then: ScheduleLike) -> Schedule:
    return join_schedules([linear_schedule(init_value, peak_value, warmup_steps), then], [warmup_steps])


@dataclass(frozen=True)
class warmup_constant_schedule(_Composed):
    """A line from `init_value` to `peak_value` in `warmup_steps`, then `peak_value`."""

    init_value: float
    peak_value: float
    warmup_steps: int

    def pieces(self) -> Schedule:
        return _after_warmup(self.init_value, self.peak_value, self.warmup_steps, constant_schedule(self.peak_value))


class _Warmup(_Composed):
    """A warm-up inside a run of `decay_steps`."""

    warmup_steps: int
    decay_steps: int

    def __post_init__(self) -> None:
        shorter = self.warmup_steps < self.decay_steps
        self._require(shorter, "decay_steps", f"is the whole run and must be longer than warmup_steps={self.warmup_steps}")
        super().__post_init__()


@dataclass(frozen=True)
class warmup_cosine_decay_schedule(_Warmup):
    """A line from `init_value` to `peak_value` in `warmup_steps`, then half a cosine to `end_value` at `decay_steps`.

    Args:
        init_value: the value at step 0.
        peak_value: the value after the warm-up; not 0.
        warmup_steps: length of the warm-up, >= 0.
        decay_steps: length of the whole run, the warm-up included; longer than `warmup_steps`.
        end_value: the value from `decay_steps` on.
        exponent: of the cosine.
    """

    init_value: float
    peak_value: float
    warmup_steps: int
    decay_steps: int
    end_value: float = 0.0
    exponent: float = 1.0

    def pieces(self) -> Schedule:
        alpha = self.end_value / self.peak_value if self.peak_value else 0.0
        decay = cosine_decay_schedule(self.peak_value, self.decay_steps - self.warmup_steps, alpha, self.exponent)
        return _after_warmup(self.init_value, self.peak_value, self.warmup_steps, decay)


@dataclass(frozen=True)
class warmup_linear_decay_schedule(_Warmup):
    """A line from `init_value` to `peak_value` in `warmup_steps`, then a line to `end_value` at `decay_steps`.

    Args:
        init_value: the value at step 0.
        peak_value: the value after the warm-up.
        warmup_steps: length of the warm-up, >= 0.
        decay_steps: length of the whole run, the warm-up included; longer than `warmup_steps`.
        end_value: the value from `decay_steps` on.
    """

    init_value: float
    peak_value: float
    warmup_steps: int
    decay_steps: int
    end_value: float = 0.0

    def pieces(self) -> Schedule:
        decay = linear_schedule(self.peak_value, self.end_value, self.decay_steps - self.warmup_steps)
        return _after_warmup(self.init_value, self.peak_value, self.warmup_steps, decay)


@dataclass(frozen=True)
class warmup_exponential_decay_schedule(_Composed):
    """A line from `init_value` to `peak_value` in `warmup_steps`, then `exponential_decay` (which see)."""

    init_value: float
    peak_value: float
    warmup_steps: int
    transition_steps: int
    decay_rate: float
    transition_begin: int = 0
    staircase: bool = False
    end_value: float | None = None

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


@dataclass(frozen=True)
class inverse_sqrt_schedule(Schedule):
    """A line from `init_value` to `peak_value` in `warmup_steps`, then `peak_value * sqrt(warmup_steps / count)`.

    Args:
        peak_value: the value after the warm-up.
        warmup_steps: length of the warm-up, > 0.
        init_value: the value at step 0.

    Reference:
        Vaswani et al. 2017, Attention Is All You Need, section 5.3, arXiv:1706.03762.
    """

    peak_value: float
    warmup_steps: int
    init_value: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._require(self.warmup_steps > 0, "warmup_steps", "must be > 0")

    def at(self, count: Array) -> Array:
        line = linear_schedule(self.init_value, self.peak_value, self.warmup_steps)(count)
        late = jnp.maximum(count, self.warmup_steps).astype(jnp.result_type(float))
        return jnp.where(count < self.warmup_steps, line, self.peak_value * jnp.sqrt(self.warmup_steps / late))


@dataclass(frozen=True)
class warmup_stable_decay_schedule(_Composed):
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

    init_value: float
    peak_value: float
    warmup_steps: int
    stable_steps: int
    decay_steps: int
    end_value: float = 0.0
    decay_shape: str = "linear"

    def __post_init__(self) -> None:
        known = self.decay_shape in ("linear", "cosine", "1-sqrt")
        self._require(known, "decay_shape", "must be 'linear', 'cosine' or '1-sqrt'")
        super().__post_init__()

    def pieces(self) -> Schedule:
        tail = _Tail(self.peak_value, self.end_value, self.decay_steps, self.decay_shape)
        stable = join_schedules([constant_schedule(self.peak_value), tail], [self.stable_steps])
        return _after_warmup(self.init_value, self.peak_value, self.warmup_steps, stable)


@dataclass(frozen=True)
class _Tail(Schedule):
    """From `init_value` to `end_value` in `decay_steps`, in one of three shapes; at the end at once if there are no steps."""

    init_value: float
    end_value: float
    decay_steps: int
    shape: str

    def at(self, count: Array) -> Array:
        done = _fraction(count, 0, self.decay_steps) if self.decay_steps else jnp.ones(jnp.shape(count))
        part = {"linear": lambda x: x, "cosine": lambda x: 0.5 * (1 - jnp.cos(jnp.pi * x)), "1-sqrt": jnp.sqrt}
        return self.init_value + (self.end_value - self.init_value) * part[self.shape](done)


def sgdr_schedule(cosine_kwargs: Sequence[Mapping[str, Any]]) -> Schedule:
    """Warm restarts: `warmup_cosine_decay_schedule`s one after another, each `decay_steps` long.

    Args:
        cosine_kwargs: the arguments of each cycle.

    Reference:
        Loshchilov & Hutter 2017, SGDR, arXiv:1608.03983.
    """
    cycles = [warmup_cosine_decay_schedule(**kwargs) for kwargs in cosine_kwargs]
    ends = np.cumsum([cycle.decay_steps for cycle in cycles])[:-1]
    return join_schedules(cycles, [int(end) for end in ends])


class _OneCycle(_Composed):
    transition_steps: int
    pct_start: float

    def __post_init__(self) -> None:
        self._require(0 < self.pct_start < 1, "pct_start", "must be in (0, 1)")
        super().__post_init__()
        self._require(self.transition_steps > 0, "transition_steps", "must be > 0")


@dataclass(frozen=True)
class linear_onecycle_schedule(_OneCycle):
    """Lines from `peak_value / div_factor` up to the peak, down again, and on to a `final_div_factor`-th of the start.

    Args:
        transition_steps: length of the cycle, > 0.
        peak_value: the highest value.
        pct_start: the fraction of the cycle that rises, in (0, 1).
        pct_final: where the second descent begins, a fraction in (pct_start, 1].
        div_factor: peak / first value.
        final_div_factor: first / last value.

    Reference:
        Smith & Topin 2018, arXiv:1708.07120.
    """

    transition_steps: int
    peak_value: float
    pct_start: float = 0.3
    pct_final: float = 0.85
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def pieces(self) -> Schedule:
        self._require(self.pct_start < self.pct_final <= 1, "pct_final", "must be in (pct_start, 1]")
        first = self.peak_value / self.div_factor
        ends = [int(part * self.transition_steps) for part in (self.pct_start, self.pct_final, 1.0)]
        values = [first, self.peak_value, first, first / self.final_div_factor]
        starts = [0, *ends[:-1]]
        lines = [
            linear_schedule(a, b, end - start)
            for a, b, start, end in zip(values, values[1:], starts, ends, strict=False)
        ]
        return join_schedules(lines, ends[:-1])


@dataclass(frozen=True)
class cosine_onecycle_schedule(_OneCycle):
    """Half a cosine from `peak_value / div_factor` up to the peak, and another down to `peak / (div * final_div)`.

    Args:
        transition_steps: length of the cycle, > 0.
        peak_value: the highest value.
        pct_start: the fraction of the cycle that rises, in (0, 1).
        div_factor: peak / first value.
        final_div_factor: first / last value.

    Reference:
        Smith & Topin 2018, arXiv:1708.07120.
    """

    transition_steps: int
    peak_value: float
    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def pieces(self) -> Schedule:
        first, top = self.peak_value / self.div_factor, int(self.pct_start * self.transition_steps)
        rise = _Tail(first, self.peak_value, top, "cosine")
        fall = _Tail(self.peak_value, first / self.final_div_factor, self.transition_steps - top, "cosine")
        return join_schedules([rise, fall], [top])
