"""What the hyperparameters and options of a rule may be, as annotations of its fields."""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from jax import Array
from jax.core import Tracer

from jadam._masks import Mask
from jadam._state import COMPLEMENT


@dataclass(frozen=True)
class Range:
    """The numbers that a hyperparameter may take, and the words for them."""

    words: str
    holds: Callable[[float], bool]
    complement: bool = False  # kept in the state as 1 - value, computed from the Python double


@dataclass(frozen=True)
class Option:
    """What a static option may be, and the words for it; None is always allowed where it is the default."""

    words: str
    holds: Callable[[Any], bool]


Count = Annotated[int, Option("an integer >= 1", lambda x: isinstance(x, int | np.integer) and x is not True and bool(x >= 1))]
"""A static number of steps, axes or blocks."""
FixedNonNegative = Annotated[float, Option("a finite number >= 0", lambda x: 0 <= x < math.inf)]
"""A static number that is never negative: for what `init` needs, which sees no hyperparameters."""
FixedPositive = Annotated[float, Option("a finite number > 0", lambda x: 0 < x < math.inf)]
"""A static number above zero."""

_Value = float | Array | Callable[[Array], Any]

Hyper = Annotated[_Value, Range("a finite number", math.isfinite)]
"""A hyperparameter: a number, a scalar array, or a schedule."""
NonNegative = Annotated[_Value, Range("a finite number >= 0", lambda x: 0 <= x < math.inf)]
"""A `Hyper` that is never negative."""
Positive = Annotated[_Value, Range("a finite number > 0", lambda x: 0 < x < math.inf)]
"""A `Hyper` above zero."""
Negative = Annotated[_Value, Range("a finite number < 0", lambda x: -math.inf < x < 0)]
"""A `Hyper` below zero."""
Decay = Annotated[_Value, Range("in [0, 1)", lambda x: 0 <= x < 1, complement=True)]
"""The decay rate of an average. It travels as its complement: float32 holds 1e-5, but not 0.99999."""


@dataclass(frozen=True)
class Driven:
    """An array given as a hyperparameter, as a tracer or a numpy scalar: it is used at every step, whatever the state holds.

    A type of its own, so that a rule with the array 1.0 is not equal to one with the number 1.0.
    """

    value: Any

    def __repr__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True)
class HyperField:
    """A hyperparameter of a rule: its name there, what it may be, and how the state holds it."""

    name: str
    allowed: Range

    @property
    def stored(self) -> str:
        """Its name in the state."""
        return COMPLEMENT + self.name if self.allowed.complement else self.name

    def store(self, value: Any) -> Any:
        """What the state holds for a value."""
        value = value.value if isinstance(value, Driven) else value
        return 1 - value if self.allowed.complement else value

    def check(self, where: str, value: Any) -> Any:
        """The value as a rule keeps it: a float, which the state holds; or what drives the state: a schedule, `Driven`."""
        if isinstance(value, Mask | str | bool | None):
            kind = "a mask" if isinstance(value, Mask) else repr(value)
            raise TypeError(f"{where}: {self.name} must be a number or a schedule, not {kind}.")
        if callable(value) or isinstance(value, Driven):
            return value
        if isinstance(value, Tracer) and value.ndim == 0:
            return Driven(value)
        if np.ndim(value) > 0:
            raise TypeError(
                f"{where}: {self.name} must be a scalar, not of shape {np.shape(value)}; for several values at once, put "
                "`jax.vmap` around `init` and `update`, or use groups."
            )
        try:
            number = float(value)
        except (TypeError, ValueError):
            kind = type(value).__name__
            raise TypeError(f"{where}: {self.name} must be a number or a schedule, not a {kind}.") from None
        if not self.allowed.holds(number):
            raise ValueError(f"{where}: {self.name} must be {self.allowed.words}.")
        return Driven(np.asarray(value)[()]) if isinstance(value, Array) else number


@functools.cache
def hyper_fields(rule: type) -> tuple[HyperField, ...]:
    """The hyperparameters of a rule, in the order of its fields."""
    return tuple(HyperField(name, note) for name, note in _notes(rule) if isinstance(note, Range))


@functools.cache
def options(rule: type) -> tuple[tuple[str, Option], ...]:
    """The static options of a rule that are checked."""
    return tuple((name, note) for name, note in _notes(rule) if isinstance(note, Option))


def _notes(rule: type) -> list[tuple[str, Any]]:
    """What the annotations of a rule's fields say beyond the type; of a `Literal`, its choices."""
    hints = typing.get_type_hints(rule, include_extras=True)
    found = []
    for field in dataclasses.fields(rule):
        hint = hints[field.name]
        for part in (hint, *typing.get_args(hint)):  # `X | None` too
            found += [(field.name, note) for note in getattr(part, "__metadata__", ())]
            if typing.get_origin(part) is typing.Literal:
                choices = typing.get_args(part)
                words = " or ".join(filter(None, [", ".join(map(repr, choices[:-1])), repr(choices[-1])]))
                found.append((field.name, Option(words, choices.__contains__)))
    return found


def public_caller(default: str) -> str:
    """The public function of jadam that the user called, for the first words of an error message."""
    found, frame = default, sys._getframe(1)
    while frame is not None and (
        frame.f_globals.get("__name__", "").startswith("jadam.") or frame.f_code.co_filename == "<string>"
    ):  # "<string>": the `__init__` that @dataclass writes
        code = frame.f_code
        if not code.co_name.startswith(("_", "<")) and code.co_varnames[:1] != ("self",):
            found = code.co_name
        frame = frame.f_back
    return found
