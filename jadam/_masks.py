"""Masks: which parameters a transformation acts on, as hashable values with `~ | &`."""

from __future__ import annotations

import difflib
import operator
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import numpy as np
from jax.core import Tracer
from jax.tree_util import all_leaves

from jadam._by_leaf import NO_VALUES, ByLeaf, PerLeaf
from jadam._errors import BadType, BadValue, shown
from jadam._tree import Leaves, PyTree, flatten, is_function, quoted


class _AsMask:
    """As an annotation: the field is a mask."""

    def check(self, _: str, value: Any) -> Mask:
        return as_mask(value)


MaskLike = Annotated[Any, _AsMask()]
"""A bool, a tree of bools (or a prefix of one), a function of the parameters that returns such a tree, or a `Mask`.

A function is asked once for each structure of parameters. A mask may depend on structure, paths, shapes and dtypes alone.
"""


class Mask(ByLeaf):
    """A set of parameters. Call it with the parameters for a tree of bools; combine with `~`, `|` and `&`."""

    def by_leaf(self, leaves: Leaves) -> list[bool]:
        return leaves.ask(self, self.select)

    @abstractmethod
    def select(self, leaves: Leaves) -> list[bool]:
        """One bool a leaf, from structure, paths, shapes and dtypes."""

    def __call__(self, params: PyTree) -> PyTree:
        leaves = flatten(params)
        return leaves.treedef.unflatten(self.by_leaf(leaves))

    def __invert__(self) -> Mask:
        return _Not(self)

    def __or__(self, other: MaskLike) -> Mask:
        return _Any((self, as_mask(other)))

    def __and__(self, other: MaskLike) -> Mask:
        other = as_mask(other)
        if EVERYTHING in (self, other):
            return other if self == EVERYTHING else self
        return ~(~self | ~other)

    def __ror__(self, other: MaskLike) -> Mask:
        return as_mask(other) | self

    def __rand__(self, other: MaskLike) -> Mask:
        return as_mask(other) & self

    def __bool__(self) -> bool:
        # Python's `one and other` would be one of them, without a word.
        raise BadType(f"{self!r} has no truth value; combine masks with ~ | & instead of `not`, `or`, `and`.")


@dataclass(frozen=True)
class _Everything(Mask):
    def select(self, leaves: Leaves) -> list[bool]:
        return [True] * len(leaves.values)

    def __repr__(self) -> str:
        return "everything"


EVERYTHING = _Everything()


@dataclass(frozen=True)
class _Not(Mask):
    mask: Mask

    def select(self, leaves: Leaves) -> list[bool]:
        return [not x for x in self.mask.by_leaf(leaves)]

    def __invert__(self) -> Mask:
        return self.mask

    def __repr__(self) -> str:
        if isinstance(self.mask, _Any):  # de Morgan: how `&` is built
            return "(" + " & ".join(repr(~mask) for mask in self.mask.masks) + ")"
        return f"~{self.mask!r}"


@dataclass(frozen=True)
class _Any(Mask):
    masks: tuple[Mask, ...]

    def select(self, leaves: Leaves) -> list[bool]:
        return [any(column) for column in zip(*(mask.by_leaf(leaves) for mask in self.masks), strict=True)]

    def __repr__(self) -> str:
        return "(" + " | ".join(map(repr, self.masks)) + ")"


@dataclass(frozen=True)
class _Given(Mask):
    values: PerLeaf

    def select(self, leaves: Leaves) -> list[bool]:
        return _bools(self.values.by_leaf(leaves), leaves.names)

    def __repr__(self) -> str:
        return repr(self.values)


@dataclass(frozen=True)
class FirstMatch(ByLeaf):
    """The value of the first mask that selects a parameter; another where none does."""

    pairs: tuple[tuple[Mask, Any], ...]
    otherwise: Any

    def by_leaf(self, leaves: Leaves) -> list[Any]:
        columns = [mask.by_leaf(leaves) for mask, _ in self.pairs]
        return [
            next((value for (_, value), column in zip(self.pairs, columns, strict=True) if column[i]), self.otherwise)
            for i in range(len(leaves.values))
        ]

    def __repr__(self) -> str:
        return f"[{', '.join(f'({mask!r}, {value!r})' for mask, value in self.pairs)}]"


def as_mask(mask: MaskLike) -> Mask:
    """The user's mask as a `Mask`.

    Raises:
        TypeError: for a string, a schedule, a tree of something else than bools.
    """
    if isinstance(mask, Mask):
        return mask
    if mask is None:
        return EVERYTHING
    # `adamw(1e-3, schedule)` would otherwise call the schedule with the parameters.
    if is_function(mask) and not getattr(type(mask), "is_schedule", False):
        return _Given(PerLeaf(mask, "the mask"))
    patterns = list(mask) if isinstance(mask, list | tuple) else [mask]
    if patterns and all(isinstance(pattern, str) for pattern in patterns):
        patterns = [pattern if re.search(r"[/*?]", pattern) else f"**/{pattern}" for pattern in patterns]
        raise BadType(f"{shown(mask)} is not a mask; write jadam.{_Match(tuple(patterns))} to select parameters by path.")
    leaves = flatten(mask)
    if not all_leaves((mask,)):
        return _Given(PerLeaf((tuple(_bools(leaves.values, leaves.names)), leaves.treedef), "the mask"))
    if (everywhere := _as_bool(mask)) is None:
        raise BadType(f"{shown(mask)} is not a mask; give a tree of bools or a function of the parameters.")
    return EVERYTHING if everywhere else ~EVERYTHING


def _as_bool(value: Any) -> bool | None:
    """The bool that a value is, of Python, numpy or JAX; None for all else."""
    scalar = isinstance(value, bool | np.bool_ | np.ndarray | jax.Array) and not isinstance(value, Tracer)
    return (
        bool(value) if scalar and np.shape(value) == () and np.issubdtype(getattr(value, "dtype", np.bool_), np.bool_) else None
    )


def _bools(values: Sequence[Any], names: Sequence[str]) -> list[bool]:
    bools = []
    for value, name in zip(values, names, strict=True):
        if isinstance(value, Tracer):
            raise BadValue(f"the mask is traced at {quoted(name)}; {NO_VALUES}")
        if (found := _as_bool(value)) is None:
            raise BadType(f"the mask has {shown(value)} at {quoted(name)}; a mask is made of bools.")
        bools.append(found)
    return bools


def _glob(pattern: str) -> re.Pattern[str]:
    """`*` and `?` stay within a segment, `**` spans any number of segments, including none."""
    out = ""
    for token in re.split(r"(\*\*/|/\*\*$|\*\*|\*|\?)", pattern):
        wild = {"**/": "(?:.+/)?", "/**": "(?:/.+)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        out += wild.get(token, re.escape(token))
    return re.compile(out, re.DOTALL)


@dataclass(frozen=True)
class _Match(Mask):
    patterns: tuple[str, ...]

    def select(self, leaves: Leaves) -> list[bool]:
        found = [_matching(pattern, leaves.names) for pattern in self.patterns]
        for pattern, column in zip(self.patterns, found, strict=True):
            if not any(column):
                raise BadValue(f"match({pattern!r}) matches no parameter; {_instead(pattern, leaves.names)}")
        return [any(column) for column in zip(*found, strict=True)]

    def __repr__(self) -> str:
        return f"match({', '.join(map(repr, self.patterns))})"


def _matching(pattern: str, names: Sequence[str]) -> list[bool]:
    glob = _glob(pattern)
    return [bool(glob.fullmatch(name)) for name in names]


def _instead(pattern: str, names: Sequence[str]) -> str:
    wider = (f"**/{pattern}", f"{pattern}/**", f"**/{pattern}/**")
    if works := [repr(other) for other in wider if any(_matching(other, names))]:
        return f"{works[0]} does."
    near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
    return f"there are {', '.join(map(repr, near))}, ..." if near else "there are none."


def _check_pattern(pattern: Any) -> None:
    if not isinstance(pattern, str):
        several = isinstance(pattern, list | tuple) and pattern and all(isinstance(one, str) for one in pattern)
        advice = f"write {_Match(tuple(pattern))}" if several else "a pattern is a string, such as '**/bias'"
        raise BadType(f"match({shown(pattern)}): {advice}.")


def match(*patterns: str) -> Mask:
    """Selects parameters by path: `match("**/bias", "**/norm/**")`.

    A path is the parameter's keys joined by `/`, as `describe` prints it: `encoder/layers/0/bias`. A key that has a slash in
    it reads like several; parameters whose paths are written alike are selected together.

    Args:
        *patterns: globs over whole paths. `*` and `?` stay within one key, `**` spans any number of keys, including none.

    Raises:
        ValueError: no pattern is given, or, when parameters are seen, one of them matches nothing.
        TypeError: a pattern is not a string.
    """
    if not patterns:
        raise BadValue("match(): give at least one pattern, such as '**/bias'.")
    for pattern in patterns:
        _check_pattern(pattern)
    return _Match(patterns)


@dataclass(frozen=True)
class _NdimAtLeast(Mask):
    ndim: int

    def select(self, leaves: Leaves) -> list[bool]:
        return [np.ndim(value) >= self.ndim for value in leaves.values]

    def __repr__(self) -> str:
        return f"ndim_at_least({self.ndim})"


def ndim_at_least(ndim: int) -> Mask:
    """Selects parameters with at least `ndim` axes; `ndim_at_least(2)` excludes biases, scales and other vectors.

    Raises:
        ValueError: `ndim` is not an integer >= 0.
    """
    if isinstance(ndim, bool) or not hasattr(ndim, "__index__") or ndim < 0:
        raise BadValue(f"ndim_at_least({shown(ndim)}): ndim must be an integer >= 0.")
    return _NdimAtLeast(operator.index(ndim))
