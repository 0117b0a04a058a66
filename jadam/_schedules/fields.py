"""What the fields of a schedule may be, what it may be called with, and what it may return."""

from __future__ import annotations

import math
import sys
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from numbers import Rational
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jadam._annotations import Note, read
from jadam._errors import BadType, BadValue, shown


@dataclass(frozen=True)
class Number:
    """As an annotation: a number in a range, which is kept as one of Python's; a traced one as it is, unless it counts steps.

    Attributes:
        words: for the range.
        holds: whether a number is in it.
        steps: whether it is a number of steps, which JAX must know before it traces.
        whole: whether it must be an integer; `1e4` is one too.
    """

    words: str = "a finite number"
    holds: Callable[[float], bool] = math.isfinite
    steps: bool = False
    whole: bool = False

    def check(self, name: str, value: Any) -> Any:
        if isinstance(value, Tracer):
            if not self.steps and not not_a_number(value):
                return jnp.asarray(value, jnp.result_type(float))
            words = "{name} must be a number; for a traced one write the schedule as a function of the count."
            raise BadType(words, **{name: value})
        try:
            if not_a_number(value):
                raise TypeError
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise BadType(f"{{name}} must be {self.words}.", **{name: value}) from None
        if not self.holds(number) or (self.whole and not number.is_integer()):
            raise BadValue(f"{{name}} must be {self.words}.", **{name: value})
        return int(number) if self.steps and number.is_integer() else number


FINITE, POSITIVE = Number(), Number("a finite number > 0", lambda x: 0 < x < math.inf)
NOT_NEGATIVE = Number("a finite number >= 0", lambda x: 0 <= x < math.inf)
STEPS = Number("an integer in [0, 2**31)", lambda x: 0 <= x < 2**31, steps=True, whole=True)

Value = Annotated[float, FINITE]
Positive = Annotated[float, POSITIVE]
Steps = Annotated[int, STEPS]
"""A number of steps; the count of a state is an int32."""
SomeSteps = Annotated[int, Number("an integer in [1, 2**31)", lambda x: 1 <= x < 2**31, steps=True, whole=True)]
Length = Annotated[float, Number("a number in [0, 2**31)", lambda x: 0 <= x < 2**31, steps=True)]
"""A length in steps, which may end between two of them: a tenth of a run."""
SomeLength = Annotated[float, Number("a number in (0, 2**31)", lambda x: 0 < x < 2**31, steps=True)]


def notes(schedule: Any) -> Iterator[tuple[str, Note]]:
    """What the annotations of a schedule say of its fields. One of the user's need not say anything."""
    try:
        hints = typing.get_type_hints(type(schedule), include_extras=True)
    except NameError:  # a type that is imported for type checkers alone
        hints = {}
    for field in fields(schedule):
        note, optional = (FINITE, False) if hints.get(field.name) is float else read(hints.get(field.name))
        if note is not None and not (optional and getattr(schedule, field.name) is None):
            yield field.name, note


def not_a_number(value: Any, shape: tuple[int, ...] = ()) -> str:
    """In words, what a value is that is not a number, or an array of numbers of a shape; empty for one that is."""
    if isinstance(value, np.ndarray | np.generic | Array):
        if not (jnp.issubdtype(value.dtype, np.floating) or jnp.issubdtype(value.dtype, np.integer)):
            return f"an array of dtype {value.dtype}"
        return "" if value.shape in ((), shape) else f"an array of shape {value.shape}"
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        return shown(value)
    # Of other kinds, such as decimals, the float is inf.
    too_large = isinstance(value, Rational) and abs(typing.cast(Any, value)) > sys.float_info.max
    return f"{shown(value)}, which no float can represent" if too_large else ""


def counts(count: Any) -> Array:
    """What a schedule is called with, as an array that is wide enough to calculate with."""
    numbers = count if isinstance(count, Array) else np.asarray(count)
    if words := not_a_number(numbers, numbers.shape):
        words = shown(count) if numbers.dtype == object or numbers.dtype.kind in "US" else words
        raise BadType(f"a schedule is called with the number of updates done, not with {words}.")
    # Of an array on a device it is not asked: that would wait for the step that makes it.
    if isinstance(numbers, np.ndarray) and not ((numbers >= 0) & (numbers < 2**31)).all():
        raise BadValue(f"a schedule is called with the number of updates done, in [0, 2**31), not with {shown(count)}.")
    narrow = jnp.issubdtype(numbers.dtype, np.integer) and numbers.dtype not in (jnp.int32, jnp.int64)
    return jnp.asarray(numbers, jnp.int32 if narrow else None)
