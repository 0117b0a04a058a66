"""What a schedule is, the constant one, and schedules one after another."""

from __future__ import annotations

import copy
import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jadam._tree import of_numbers

ScheduleLike = Callable[[Array], Any]


@dataclass(frozen=True)
class Schedule:
    """A value by the number of updates done: call it with a count, or with an array of counts for a plot.

    Subclass it as a frozen dataclass with `at`. Plain functions of the count are schedules too; these have a `repr`, and
    two that are built alike are equal, so that nothing is compiled twice.

    Raises:
        ValueError: a number of steps is negative, or not an integer.
        TypeError: a value is not a finite number.
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
        count = jnp.asarray(count)
        if isinstance(count, Tracer) or not of_numbers(self):
            return self.at(count)
        # As one program: its dozen small operations would cost as much as the step of a small model. Of a copy, which holds
        # a few numbers: the caller's object is not kept.
        return _program(copy.copy(self))(count)

    @abstractmethod
    def at(self, count: Array) -> Any:
        """The value for an integer array of counts."""


@functools.lru_cache(maxsize=16)
def _program(schedule: Schedule) -> Callable[[Array], Any]:
    return jax.jit(schedule.at)


def fraction(count: Array, begin: int, steps: int) -> Array:
    """How much of the steps after `begin` is done, in [0, 1]; the difference is taken in integers, exact for any count.

    The end is exactly 1: XLA multiplies by the reciprocal, and 1 - 7 * (1/7) is below zero, whose root is NaN.
    """
    if steps == 0:
        return jnp.zeros(jnp.shape(count), jnp.result_type(float))
    done = jnp.maximum(count - begin, 0)
    return jnp.where(done < steps, jnp.minimum(done.astype(jnp.result_type(float)) / steps, 1), 1)


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


class Composed(Schedule):
    """A schedule that is written as others joined."""

    @abstractmethod
    def pieces(self) -> Schedule:
        """The same values as one schedule."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.pieces()  # its checks are this one's

    def at(self, count: Array) -> Array:
        return self.pieces()(count)
