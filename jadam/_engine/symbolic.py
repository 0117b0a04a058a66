"""Symbolic shapes, of `jax.export`. Most rules and formats do not ask how long an axis is; those that do say so here."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.core

from jadam._errors import BadValue

P = ParamSpec("P")
T = TypeVar("T")

_NAME = "InconclusiveDimensionOperation"
_Inconclusive: Any = getattr(jax.errors, _NAME, None) or getattr(jax.core, _NAME)
"""Where JAX has it: the second in older versions."""


def asking_no_symbols(function: Callable[P, T]) -> Callable[P, T]:
    """The same function, which says what it needs to know of a symbolic shape."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except _Inconclusive as error:
            asked = re.match(r"Symbolic dimension comparison (.*) is inconclusive", str(error))
            raise BadValue(
                f"what is done depends on whether {asked[1] if asked else 'a symbolic size fits'}, which a symbolic shape "
                "leaves open; export for known sizes, for multiples (32*d), or with constraints of jax.export.symbolic_shape."
            ) from None

    return call
