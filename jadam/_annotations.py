"""What an annotation says that a field of a rule, or an argument of a public function, may be."""

from __future__ import annotations

import functools
import inspect
import math
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, replace
from numbers import Real
from types import NoneType, UnionType
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jadam._errors import BadType, BadValue


class Note(Protocol):
    """In an annotation: what checks a value, by the name that it has."""

    def check(self, name: str, value: Any, /) -> Any:
        """The value as it is kept.

        Raises:
            ValueError, TypeError: it cannot be that.
        """


@dataclass(frozen=True)
class Option:
    """What a static option may be, and the words for it.

    Attributes:
        words: "must be ..."
        holds: whether a value is that.
        optional: whether None is allowed too.
        number: whether it is a number that meets arrays, which must be one of their dtype.
    """

    words: str
    holds: Callable[[Any], bool]
    optional: bool = False
    number: bool = False

    @classmethod
    def of_number(cls, words: str, holds: Callable[[Any], bool]) -> Option:
        """A static number in a range."""
        return cls(words, lambda x: is_number(x) and holds(x), number=True)

    def check(self, name: str, value: Any) -> Any:
        """The value, if it is allowed."""
        if value is None and self.optional:
            return value
        if self.number and isinstance(value, Array) and value.shape == () and _is_real(value.dtype):
            if isinstance(value, Tracer):  # of `optax.inject_hyperparams`, which makes an array of every number
                return value
            value = value.item()
        try:
            allowed = bool(self.holds(value))
        except (TypeError, ValueError):  # of comparisons: it is not even a number
            allowed = False
        if not allowed:
            raise BadValue(f"{{name}} must be {self.words}.", **{name: value})
        if not self.number:
            return value
        number = as_float(name, value)
        check_in_dtype(name, value, number)
        return value if type(value) is int and abs(value) < 2**31 else number  # JAX takes integers to be int32


@dataclass(frozen=True)
class _Either:
    """What a note allows, such as a number, or the string of an option."""

    options: tuple[Option, ...]
    other: Note

    def check(self, name: str, value: Any) -> Any:
        if not isinstance(value, str):
            return self.other.check(name, value)
        return Option(" or ".join(["a number or a schedule", *(o.words for o in self.options)]), self._names).check(name, value)

    def _names(self, value: str) -> bool:
        return any(option.holds(value) for option in self.options)


def _is_real(dtype: Any) -> bool:
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def uncalled(value: Any) -> str:
    """In words, what should have been called: a class, or a function of jadam's; nothing for something else."""
    own = inspect.isroutine(value) and str(getattr(value, "__module__", "")).startswith("jadam.")
    return f"the {'function' if own else 'class'} {value.__name__}; call it" if own or isinstance(value, type) else ""


def as_float(name: str, value: Any) -> float:
    """A number, of Python's or another library's, as a double."""
    try:
        return float(value)
    except OverflowError:  # an integer that no dtype has
        check_in_dtype(name, value, math.inf)
        raise
    except (TypeError, ValueError, RuntimeError):  # an array of another library
        raise BadType(f"{{name}} must be a number or a schedule, not a {type(value).__name__}.", **{name: value}) from None


def check_in_dtype(name: str, value: Any, number: Any = None, dtype: Any = None) -> None:
    """Whether an array can hold a number: float32 makes 1e39 to inf and 1e-50 to 0, which no range allows for.

    Numbers below the least normal one count as 0: XLA makes them that, on CPU and TPU.

    Args:
        name: of the argument.
        value: as it was given.
        number: as it would be kept, if that is another.
        dtype: in which it is kept; by default the widest that there may be, until parameters are seen.
    """
    number = value if number is None else number
    if number == 0 or 1e-37 < abs(number) < 1e38:
        return  # as nearly always: in any dtype that there is
    if abs(number) == math.inf and value == number:
        return  # given as inf, which is a number of any dtype where a range allows for it
    limits = jnp.finfo(dtype or jnp.result_type(float))
    least, largest = float(limits.tiny), float(limits.max)
    if not least <= abs(number) <= largest:
        raise BadValue(
            f"{{name}} must be between {least:.2g} and {largest:.2g} in magnitude; in {limits.dtype}, in which it is kept, "
            f"it is {'inf' if abs(number) > 1 else 0}.",
            **{name: value},
        )


HASHABLE = Option("hashable, such as a tuple in place of a list or an array", lambda x: isinstance(hash(x), int))
"""What no other annotation restricts: an option is part of what programs are cached by."""


def _are_names(names: Any) -> bool:
    return all(isinstance(name, str) for name in names) if isinstance(names, tuple) else isinstance(names, str)


_NAMES = Option("the name of an axis of the mesh, or a tuple of names", _are_names)
AxisName = typing.Annotated[str | tuple[str, ...], _NAMES] | None
"""Of a mesh inside `jax.shard_map`."""
ANYTHING = Option("anything", lambda x: True)
"""What a field may be that takes no part in comparisons."""

_TYPES: dict[Any, Option] = {
    bool: Option("True or False", lambda x: isinstance(x, bool | np.bool_)),
    int: Option("an integer", is_integer),
    float: Option("a number", is_number),
    str: Option("a string", lambda x: isinstance(x, str)),
}


def read(hint: Any) -> tuple[Note | None, bool]:
    """What an annotation says beyond a type that nothing here knows, and whether None is allowed."""
    choices = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, UnionType) else (hint,)
    notes = [_of_one(choice) for choice in choices if choice is not NoneType]
    if len(notes) > 1 and all(isinstance(note, Option) for note in notes):
        options = typing.cast(list[Option], notes)
        return Option(" or ".join(o.words for o in options), lambda x: any(o.holds(x) for o in options)), NoneType in choices
    other = next((note for note in notes if not isinstance(note, Option) or len(notes) == 1), None)
    named = [note for note in notes if isinstance(note, Option) and note is not other]
    return _Either(tuple(named), other) if named and other is not None else other, NoneType in choices


def _of_one(hint: Any) -> Note | None:
    noted = [note for note in getattr(hint, "__metadata__", ()) if hasattr(note, "check")]
    if noted or typing.get_origin(hint) is not typing.Literal:
        return noted[0] if noted else _TYPES.get(hint)
    choices = typing.get_args(hint)
    words = " or ".join(filter(None, [", ".join(map(repr, choices[:-1])), repr(choices[-1])]))
    return Option(words, lambda x: any(isinstance(x, type(choice)) and x == choice for choice in choices))


def hints_of(owner: Any) -> dict[str, Any]:
    """The annotations of a class or function, evaluated."""
    try:
        return typing.get_type_hints(owner, include_extras=True)
    except NameError as error:
        raise BadType(f"an annotation of {owner.__name__} cannot be read when the program runs: {error}.") from None


@functools.cache
def _arguments(function: Callable[..., Any]) -> tuple[list[str], dict[str, tuple[Note | None, bool]]]:
    """The arguments that may be given by position, and what annotations say of all."""
    parameters = inspect.signature(function).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    return positional, {name: read(hint) for name, hint in hints_of(function).items() if name != "return"}


def check_arguments(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Checks the arguments of a call against the annotations of the function."""
    positional, notes = _arguments(function)
    for name, value in (*zip(positional, args, strict=False), *kwargs.items()):
        note, optional = notes.get(name, (None, False))
        if note is not None and not (optional and value is None):
            note.check(name, value)


def of_field(hint: Any, field: Field[Any]) -> Note:
    """What a field of a rule may be; of a static option also None, where that is the default."""
    note, optional = read(hint)
    note = note or (HASHABLE if field.compare else ANYTHING)
    return replace(note, optional=optional or field.default is None) if isinstance(note, Option) else note
