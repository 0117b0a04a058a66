"""What a schedule is, the constant one, and schedules one after another."""

from __future__ import annotations

import copy
import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jadam._errors import BadType, BadValue, Misuse, method, naming, shown
from jadam._schedules.fields import STEPS, Value, counts, not_a_number, notes
from jadam._tree import of_numbers

ScheduleLike = Callable[[Array], Any]
T = TypeVar("T")


@dataclass(frozen=True)
class Schedule:
    """A value by the number of updates done: call it with a count, or with an array of counts for a plot.

    Subclass it as a frozen dataclass with `at`. Plain functions of the count, and any objects that can be called with it,
    are schedules too; these have a `repr`, and two that are built alike are equal, so that nothing is compiled twice.

    Raises:
        ValueError: a number of steps is negative, or not an integer.
        TypeError: a value is not a finite number.
    """

    is_schedule: ClassVar[bool] = True

    def __post_init__(self) -> None:
        with naming(type(self).__name__):
            for name, note in notes(self):
                object.__setattr__(self, name, note.check(name, getattr(self, name)))
            self._check()

    def _check(self) -> None:
        """What fields must be together."""

    def _require(self, holds: bool, name: str, words: str) -> None:
        if not holds:
            raise BadValue(f"{{name}} {words}.", **{name: getattr(self, name)})

    def __call__(self, count: Any) -> Any:
        """The value after `count` updates, float32 (float64 under x64), of the shape of `count`."""
        with naming(type(self).__name__):
            array = counts(count)
        if isinstance(array, Tracer) or not of_numbers(self):
            return self.at(array)
        # As one program: its dozen small operations would cost as much as the step of a small model. Of a copy, which holds
        # a few numbers: the caller's object is not kept.
        return _program(copy.copy(self))(array)

    @abstractmethod
    def at(self, count: Array) -> Any:
        """The value for an integer array of counts."""


@dataclass_transform(frozen_default=True)
def schedule(cls: type[T]) -> type[T]:
    """A schedule of jadam: a frozen dataclass, whose arguments are answered in words where Python's do not say enough."""
    made = dataclass(frozen=True)(cls)
    made.__init__ = method(made.__init__)
    return made


@functools.lru_cache(maxsize=16)
def _program(schedule: Schedule) -> Callable[[Array], Any]:
    return jax.jit(schedule.at)


def fraction(count: Array, begin: int, steps: float) -> Array:
    """How much of the steps after `begin` is done, in [0, 1]; the difference is taken in integers, exact for any count.

    The end is exactly 1: XLA multiplies by the reciprocal, and 1 - 7 * (1/7) is below zero, whose root is NaN.
    """
    if steps == 0:
        return jnp.zeros(jnp.shape(count), jnp.result_type(float))
    done = jnp.maximum(count - begin, 0)
    part = jnp.minimum(done.astype(jnp.result_type(float)) / steps, 1)
    return jnp.where(done < math.ceil(steps), part, 1)


@schedule
class constant_schedule(Schedule):
    """The same `value` at every step."""

    value: Value

    def __call__(self, count: Any) -> Any:
        with naming(type(self).__name__):
            array = counts(count)
        # A Python number for one count: a constant b2 = 0.99999 keeps its 1 - b2, which float32 would round by 1e-3.
        return self.at(array) if array.shape else self.value

    def at(self, count: Array) -> Array:
        return jnp.full(count.shape, self.value, jnp.result_type(float))


@schedule
class join_schedules(Schedule):
    """One schedule after another, each called with the steps since its own beginning, which are never negative.

    Args:
        schedules: one more than there are boundaries.
        boundaries: the first step of each schedule after the first, increasing; further ones, such as the end of the run,
            change nothing.

    Raises:
        ValueError: their numbers do not fit, or the boundaries do not increase.
        TypeError: one is not a schedule, or, when it is called, does not return a number.
    """

    schedules: Sequence[ScheduleLike]
    boundaries: Sequence[int]

    def _check(self) -> None:
        for name in ("schedules", "boundaries"):
            if isinstance(given := getattr(self, name), str) or not isinstance(given, Iterable):
                raise BadType("{name} must be a sequence.", **{name: given})
            object.__setattr__(self, name, tuple(given))
        for number, inner in enumerate(self.schedules):
            if not callable(inner):
                raise BadType(
                    f"schedules[{number}] is {shown(inner)}, not a schedule; write constant_schedule(...) for a number."
                )
        begins = max(len(self.schedules) - 1, 0)
        fits = bool(self.schedules) and len(self.boundaries) >= begins
        self._require(fits, "boundaries", f"must be one fewer than the {len(self.schedules)} schedules")
        try:
            ends = tuple(int(STEPS.check("boundaries", end)) for end in self.boundaries)
        except Misuse:
            raise BadType("{name} must be integers in [0, 2**31).", boundaries=self.boundaries) from None
        self._require(list(ends) == sorted(ends), "boundaries", "must increase")
        object.__setattr__(self, "boundaries", ends[:begins])

    def at(self, count: Array) -> Array:
        value = self._part(0, count)
        for number, begin in enumerate(self.boundaries, 1):
            value = jnp.where(count < begin, value, self._part(number, jnp.maximum(count - begin, 0)))
        return value

    def _part(self, number: int, count: Array) -> Array:
        value = self.schedules[number](count)
        if words := not_a_number(value, count.shape):
            raise BadType(f"schedules[{number}] returned {words}; it must return a number.")
        return jnp.asarray(value, jnp.result_type(float))


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
