"""Hyperparameters, and what a rule declares: annotations of its fields say what they may be."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jadam._annotations import Note, Option, as_float, check_in_dtype, hints_of, is_integer, of_field, uncalled
from jadam._errors import BadType, BadValue
from jadam._masks import Mask
from jadam._state import COMPLEMENT

SEVERAL = "for several values at once, put `jax.vmap` around `init` and `update`, or use groups"


@dataclass(frozen=True)
class Range:
    """The numbers that a hyperparameter may take, and the words for them."""

    words: str
    holds: Callable[[float], bool]
    complement: bool = False  # kept in the state as 1 - value, computed from the Python double

    def check(self, name: str, value: Any) -> Any:
        """The value as a rule keeps it: a float, which the state stores; or what drives the state: a schedule, `Driven`."""
        if isinstance(value, Driven) or (callable(value) and not isinstance(value, Mask) and not uncalled(value)):
            return value
        if words := _no_scalar(value):
            raise BadType(f"{{name}} must be {words}.", **{name: value})
        if isinstance(value, Tracer):
            return Driven(value)
        number = as_float(name, value)
        if not self.holds(number):
            raise BadValue(f"{{name}} must be {self.words}.", **{name: value})
        check_in_dtype(name, value, self.store(number))
        return Driven(np.asarray(value)[()]) if isinstance(value, Array) else number

    def store(self, value: Any) -> Any:
        """What the state stores for a number."""
        return 1 - value if self.complement else value


def _no_scalar(value: Any) -> str:
    """What something must be that is neither a number nor a schedule; nothing for a number, a scalar array or a tracer."""
    if type(value) in (float, int):  # nearly always: what follows takes a third of the time of building `adamw`
        return ""
    if isinstance(value, np.generic | np.ndarray | Array):
        if not (jnp.issubdtype(value.dtype, np.floating) or jnp.issubdtype(value.dtype, np.integer)):
            return f"a number or a schedule, not of dtype {value.dtype}"
        return f"a scalar, not of shape {value.shape}; {SEVERAL}" if value.shape else ""
    if isinstance(value, str | bytes | bool | None):
        return f"a number or a schedule, not {value!r}"
    if words := uncalled(value):
        return f"a number or a schedule, not {words}"
    if type(value) in (list, tuple):
        return f"a number or a schedule, not a {type(value).__name__}; {SEVERAL}"
    kind = "mask" if isinstance(value, Mask) else type(value).__name__
    return "" if hasattr(value, "__float__") or hasattr(value, "__index__") else f"a number or a schedule, not a {kind}"


Count = Annotated[int, Option("an integer in [1, 2**31)", lambda x: is_integer(x) and 1 <= x < 2**31)]
"""A static number of steps, axes or blocks."""
Steps = Annotated[int, Option("an integer in [0, 2**31)", lambda x: is_integer(x) and 0 <= x < 2**31)]
"""The same, of which there may be none."""
FixedNonNegative = Annotated[float, Option.of_number("a finite number >= 0", lambda x: 0 <= x < math.inf)]
"""A static number that is never negative: for what `init` needs, which sees no hyperparameters."""
FixedPositive = Annotated[float, Option.of_number("a finite number > 0", lambda x: 0 < x < math.inf)]
"""A static number above zero."""
BelowOne = Annotated[float, Option.of_number("in (0, 1)", lambda x: 0 < x < 1)]
"""A static factor that makes less."""

_Value = float | Array | Callable[[Array], Any]

Hyper = Annotated[_Value, Range("a finite number", math.isfinite)]
"""A hyperparameter: a number, a scalar array, or a schedule."""
NonNegative = Annotated[_Value, Range("a finite number >= 0", lambda x: 0 <= x < math.inf)]
"""A `Hyper` that is never negative."""
Positive = Annotated[_Value, Range("a finite number > 0", lambda x: 0 < x < math.inf)]
"""A `Hyper` above zero."""
Bound = Annotated[_Value, Range("a number > 0", lambda x: x > 0)]
"""A `Hyper` above zero; inf bounds nothing."""
Negative = Annotated[_Value, Range("a finite number < 0", lambda x: -math.inf < x < 0)]
"""A `Hyper` below zero."""
Share = Annotated[_Value, Range("in [0, 1]", lambda x: 0 <= x <= 1)]
"""A `Hyper` from nothing to all."""
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
        return self.allowed.store(value.value if isinstance(value, Driven) else value)


@dataclass(frozen=True)
class Declared:
    """What the fields of a rule or wrapper declare.

    Attributes:
        hypers: its hyperparameters, in the order of its fields.
        notes: by field, what makes a value one that may be kept.
    """

    hypers: tuple[HyperField, ...]
    notes: tuple[tuple[str, Note], ...]

    @classmethod
    def by(cls, owner: type) -> Declared:
        """Read off the annotations, once for each class, which then keeps it."""
        if "_declared" not in vars(owner):
            _check_is_dataclass(owner)
            _check_names(owner)
            hints = hints_of(owner)
            notes = [(field.name, of_field(hints[field.name], field)) for field in dataclasses.fields(owner)]
            hypers = tuple(HyperField(name, note) for name, note in notes if isinstance(note, Range))
            owner._declared = cls(hypers, tuple(notes))  # pyright: ignore
        return vars(owner)["_declared"]

    def check_dtype(self, values: Mapping[str, Any], dtype: Any) -> None:
        """Whether arrays of a dtype hold these values, where that was not known when they were given."""
        for name, note in self.notes:
            value = values[name].value if isinstance(values[name], Driven) else values[name]
            if isinstance(note, Range) and not (callable(value) or isinstance(value, Tracer)):
                check_in_dtype(name, value, note.store(value), dtype)
            elif isinstance(note, Option) and note.number and not isinstance(value, Tracer | None):
                check_in_dtype(name, value, dtype=dtype)


def options(owner: type) -> Iterator[tuple[str, Option]]:
    """The static options of a rule or wrapper, by field."""
    return ((name, note) for name, note in Declared.by(owner).notes if isinstance(note, Option))


def _check_names(owner: type) -> None:
    """A field would take the place of a method or property of the same name."""
    for field in dataclasses.fields(owner):
        if any(field.name in vars(base) and field.name not in inspect.get_annotations(base) for base in owner.__mro__[1:]):
            raise BadValue(f"{owner.__name__}.{field.name} is what every rule has; call the field otherwise.")
        if field.name.startswith(COMPLEMENT):
            raise BadValue(f"{owner.__name__}.{field.name}: this is how the state calls a Decay; call the field otherwise.")


def _check_is_dataclass(owner: type) -> None:
    """A subclass that is not decorated would ignore its fields without an error."""
    lost = [
        name
        for name, hint in inspect.get_annotations(owner).items()
        if "ClassVar" not in str(hint) and "__dataclass_fields__" not in vars(owner)
    ]
    if lost:
        raise BadType(f"write @dataclass(frozen=True) above class {owner.__name__}: without it, {lost[0]} is not a field.")
