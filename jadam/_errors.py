"""Errors in the caller's words: the place that finds a fault says what is wrong, the door says who was called."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from jadam._arguments import misfit
from jadam._arguments import shown as shown
from jadam._neutral import without_neutral

P = ParamSpec("P")
T = TypeVar("T")


class Misuse(Exception):
    """A wrong argument.

    Attributes:
        words: what is wrong; `{name}` stands for the argument, `{parameter}` for the parameter.
        arguments: those at fault, by the names that they have where the fault was found.
        at: the path of the parameter, which the engine fills in where a rule, which knows of none, finds the fault.
        of: the public function that was called, which the door fills in on the way out.
    """

    def __init__(self, words: str, /, **arguments: Any):
        super().__init__(words)
        self.words, self.arguments, self.at, self.of = words, arguments, "", ""

    def __str__(self) -> str:
        of, words = self.of, self.words
        if self.arguments:
            of += f"({', '.join(f'{name}={shown(value)}' for name, value in self.arguments.items())})"
            words = words.replace("{name}", next(iter(self.arguments)))
        words = words.replace("{parameter}", f"the parameter at {self.at}" if self.at else "a parameter")
        return f"{of}: {words}" if of else words

    def rename(self, given: Mapping[str, Any]) -> None:
        """Calls arguments as the function does that passed them on: `muon(adam_b2=2.0)` hands its value down as `b2`."""

        def name(inner: str, value: Any) -> str:
            alike = [outer for outer, its in given.items() if its is value]  # the very object, passed on as it came
            return inner if inner in given or not alike else max(alike, key=lambda outer: outer.endswith(inner))

        self.arguments = {name(inner, value): value for inner, value in self.arguments.items()}


class BadValue(Misuse, ValueError):
    """A value that cannot be."""


class BadType(Misuse, TypeError):
    """A thing of the wrong kind."""


class locating:
    """Says of errors from inside at which parameter they were found; the innermost knows best."""

    __slots__ = ("path",)

    def __init__(self, path: str):
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: Any, __: Any) -> None:
        if isinstance(error, Misuse):
            error.at = error.at or self.path


class naming:
    """Says of errors from inside that this function was called; the outermost has the last word."""

    __slots__ = ("name",)

    def __init__(self, name: str):
        self.name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: Any, error: Any, __: Any) -> None:
        if isinstance(error, Misuse):
            error.of = self.name


def door(function: Callable[P, T], name: str = "") -> Callable[P, T]:
    """A public function: errors from inside bear its name, and those of its arguments theirs."""
    name = name or function.__name__

    @functools.wraps(function, updated=())
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Misuse as error:
            error.of = name
            if error.arguments:
                bound = inspect.signature(function).bind_partial(*args, **kwargs)
                bound.apply_defaults()
                error.rename(bound.arguments)
            raise
        except TypeError:
            signature = inspect.signature(function)
            fewer = without_neutral(name, signature.parameters, kwargs)
            if len(fewer) < len(kwargs):
                return call(*args, **fewer)
            if refused := _refused(name, signature, args, kwargs):
                raise refused from None
            raise

    return call


def method(function: Callable[P, T]) -> Callable[P, T]:
    """A public method of what has a name, such as `adamw.update`: errors from inside bear both."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except Misuse as error:
            error.of = _name_of(function, args[0])
            raise
        except TypeError:
            signature = inspect.signature(function)
            others = signature.replace(parameters=list(signature.parameters.values())[1:])
            if refused := _refused(_name_of(function, args[0]), others, args[1:], kwargs):
                raise refused from None
            raise

    return call


def _name_of(function: Callable[..., Any], owner: Any) -> str:
    if function.__name__ == "__init__":
        return type(owner).__name__
    return f"{owner.name}.{getattr(owner, '__name__', function.__name__)}"


def _refused(name: str, signature: inspect.Signature, args: Any, kwargs: Any) -> BadType | None:
    """The error of a call that does not fit its signature. Python says what it did not expect, this one what to write."""
    if not (words := misfit(name, signature, args, kwargs)):
        return None
    refused = BadType(words)
    refused.of = name
    return refused
