"""What the hyperparameters and options of a rule may be, as annotations of its fields."""

from __future__ import annotations

import dataclasses
import inspect
import math
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from jax import Array
from jax.core import Tracer

from jadam._errors import BadType, BadValue
from jadam._masks import Mask
from jadam._state import COMPLEMENT


@dataclass(frozen=True)
class Range:
    """The numbers that a hyperparameter may take, and the words for them."""

    words: str
    holds: Callable[[float], bool]
    complement: bool = False  # kept in the state as 1 - value, computed from the Python double

    def check(self, name: str, value: Any) -> Any:
        """The value as a rule keeps it: a float, which the state stores; or what drives the state: a schedule, `Driven`."""
        if type(value) is float and self.holds(value):
            return value
        if isinstance(value, Mask | str | bool | None):
            kind = "a mask" if isinstance(value, Mask) else repr(value)
            raise BadType(f"{{name}} must be a number or a schedule, not {kind}.", **{name: value})
        if callable(value) or isinstance(value, Driven):
            return value
        if isinstance(value, Tracer) and value.ndim == 0:
            return Driven(value)
        if np.ndim(value) > 0:
            raise BadType(
                f"{{name}} must be a scalar, not of shape {np.shape(value)}; for several values at once, put "
                "`jax.vmap` around `init` and `update`, or use groups.",
                **{name: value},
            )
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise BadType(f"{{name}} must be a number or a schedule, not a {type(value).__name__}.", **{name: value}) from None
        if not self.holds(number):
            raise BadValue(f"{{name}} must be {self.words}.", **{name: value})
        return Driven(np.asarray(value)[()]) if isinstance(value, Array) else number


@dataclass(frozen=True)
class Option:
    """What a static option may be, and the words for it; None is always allowed where it is the default."""

    words: str
    holds: Callable[[Any], bool]

    def check(self, name: str, value: Any) -> Any:
        try:
            allowed = value is None or self.holds(value)
        except TypeError:
            allowed = False
        if not allowed:
            raise BadValue(f"{{name}} must be {self.words}.", **{name: value})
        return value


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


@dataclass(frozen=True, eq=False)
class Driven:
    """An array given as a hyperparameter, as a tracer or a numpy scalar: it is used at every step, whatever the state says.

    A type of its own, so that a rule with the array 1.0 is not equal to one with the number 1.0.
    """

    value: Any

    def _identity(self) -> Any:
        return id(self.value) if isinstance(self.value, Tracer) else self.value  # a tracer has no value to compare

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Driven) and bool(self._identity() == other._identity())

    def __hash__(self) -> int:
        return hash(self._identity())

    def __repr__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True)
class HyperField:
    """A hyperparameter of a rule: its name there, what it may be, and how the state stores it."""

    name: str
    allowed: Range

    @property
    def stored(self) -> str:
        """Its name in the state."""
        return COMPLEMENT + self.name if self.allowed.complement else self.name

    def store(self, value: Any) -> Any:
        """What the state stores for a value."""
        value = value.value if isinstance(value, Driven) else value
        return 1 - value if self.allowed.complement else value


@dataclass(frozen=True)
class Declared:
    """What the fields of a rule or wrapper declare.

    Attributes:
        hypers: its hyperparameters, in the order of its fields.
        checks: by field, what makes a value one that may be kept.
    """

    hypers: tuple[HyperField, ...]
    checks: tuple[tuple[str, Callable[[str, Any], Any]], ...]

    @classmethod
    def by(cls, owner: type) -> Declared:
        """Read off the annotations, once for each class, which then keeps it."""
        if "_declared" not in vars(owner):
            _check_is_dataclass(owner)
            notes = list(_notes(owner))
            hypers = tuple(HyperField(name, note) for name, note in notes if isinstance(note, Range))
            if taken := [hyper.name for hyper in hypers if hyper.name.startswith(COMPLEMENT)]:
                raise BadValue(f"{owner.__name__}: {taken[0]} is how the state calls a Decay; call it otherwise.")
            owner._declared = cls(hypers, tuple((name, note.check) for name, note in notes))  # pyright: ignore
        return vars(owner)["_declared"]


def _check_is_dataclass(owner: type) -> None:
    """A subclass that is not decorated would ignore its fields without an error."""
    lost = [
        name
        for name, hint in inspect.get_annotations(owner).items()
        if "ClassVar" not in str(hint) and "__dataclass_fields__" not in vars(owner)
    ]
    if lost:
        raise BadType(f"write @dataclass(frozen=True) above class {owner.__name__}: without it, {lost[0]} is not a field.")


def _notes(owner: type) -> typing.Iterator[tuple[str, Any]]:
    """What the annotations of fields say beyond the type; of a `Literal`, its choices."""
    hints = typing.get_type_hints(owner, include_extras=True)
    for field in dataclasses.fields(owner):
        hint = hints[field.name]
        for part in (hint, *typing.get_args(hint)):  # `X | None` too
            yield from ((field.name, note) for note in getattr(part, "__metadata__", ()) if hasattr(note, "check"))
            if typing.get_origin(part) is typing.Literal:
                choices = typing.get_args(part)
                words = " or ".join(filter(None, [", ".join(map(repr, choices[:-1])), repr(choices[-1])]))
                yield field.name, Option(words, choices.__contains__)
