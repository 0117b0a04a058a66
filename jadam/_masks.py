"""Masks: which parameters a transformation acts on, as hashable values with `~ | &`."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jadam._tree import Leaves, PyTree, flatten, quoted, slashed

MaskLike = Any
"""A bool, a tree of bools (or a prefix of one), a function of the parameters that gives such a tree, or a `Mask`."""


class Mask:
    """A set of parameters. Call it with the parameters for a tree of bools; combine with `~`, `|` and `&`."""

    def select(self, leaves: Leaves) -> list[bool]:
        """One bool a leaf, in the order of `leaves`."""
        raise TypeError(f"{type(self).__name__} must define `select`.")

    def __call__(self, params: PyTree) -> PyTree:
        leaves = flatten(params)
        return leaves.treedef.unflatten(self.select(leaves))

    def __invert__(self) -> Mask:
        return _Not(self)

    def __or__(self, other: MaskLike) -> Mask:
        return _Any((self, as_mask("mask", other)))

    def __and__(self, other: MaskLike) -> Mask:
        other = as_mask("mask", other)
        if EVERYTHING in (self, other):
            return other if self == EVERYTHING else self
        return ~(~self | ~other)


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
        return [not x for x in self.mask.select(leaves)]

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
        return [any(column) for column in zip(*(mask.select(leaves) for mask in self.masks), strict=True)]

    def __repr__(self) -> str:
        return "(" + " | ".join(map(repr, self.masks)) + ")"


@dataclass(frozen=True)
class PerLeaf:
    """A tree of static values, or a function of the parameters that gives one, read leaf by leaf; hashable."""

    tree: tuple[tuple[Any, ...], Any] | Callable[[PyTree], PyTree]
    is_leaf: Callable[[Any], bool] | None = None

    @classmethod
    def of(cls, tree: PyTree, is_leaf: Callable[[Any], bool] | None = None) -> PerLeaf:
        if callable(tree):
            return cls(tree, is_leaf)
        values, treedef = jax.tree.flatten(tree, is_leaf)
        return cls((tuple(values), treedef), is_leaf)

    def read(self, leaves: Leaves, what: str) -> list[Any]:
        """The value for each leaf; the tree may be a prefix of the parameters'."""
        if callable(self.tree):
            tree = self.tree(leaves.treedef.unflatten(leaves.values))
        else:
            tree = self.tree[1].unflatten(self.tree[0])
        params = leaves.treedef.unflatten(range(len(leaves.values)))
        values: list[Any] = []
        try:
            spread = lambda value, below: values.extend([value] * len(jax.tree.leaves(below)))  # noqa: E731
            jax.tree.map(spread, tree, params, is_leaf=self.is_leaf)
        except ValueError as error:
            raise ValueError(f"{what} does not fit the parameters: {error}") from None
        if len(values) != len(leaves.values):
            raise ValueError(f"{what} has values for {len(values)} of the {len(leaves.values)} parameters.")
        return values

    def __repr__(self) -> str:
        return getattr(self.tree, "__name__", "tree") if callable(self.tree) else repr(self.tree[1].unflatten(self.tree[0]))


@dataclass(frozen=True)
class _Given(Mask):
    values: PerLeaf

    def select(self, leaves: Leaves) -> list[bool]:
        found = self.values.read(leaves, "the mask")
        for path, value in zip(leaves.paths, found, strict=True):
            if not isinstance(value, bool | np.bool_):
                raise TypeError(f"the mask has {value!r} at {quoted(path)}; a mask is made of Python bools.")
        return [bool(value) for value in found]

    def __repr__(self) -> str:
        return repr(self.values)


def as_mask(where: str, mask: MaskLike) -> Mask:
    """The user's mask as a `Mask`.

    Raises:
        TypeError: for a string, which is no mask, and for a schedule.
    """
    if isinstance(mask, Mask):
        return mask
    if mask is None or mask is True:
        return EVERYTHING
    if mask is False:
        return ~EVERYTHING
    if isinstance(mask, str):
        raise TypeError(f"{where}: {mask!r} is no mask; write jadam.match({mask!r}) to select parameters by path.")
    if isinstance(mask, int | float) or getattr(type(mask), "is_schedule", False):
        raise TypeError(f"{where}: {mask!r} is no mask; give a tree of bools or a function of the parameters.")
    return _Given(PerLeaf.of(mask))


@functools.cache
def _glob(pattern: str) -> re.Pattern[str]:
    """`*` and `?` stay within a segment, `**` spans any number of segments, also none."""
    out = ""
    for token in re.split(r"(\*\*/|/\*\*$|\*\*|\*|\?)", pattern):
        wild = {"**/": "(?:.+/)?", "/**": "(?:/.+)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        out += wild.get(token, re.escape(token))
    return re.compile(out)


@dataclass(frozen=True)
class _Match(Mask):
    patterns: tuple[str, ...]

    def select(self, leaves: Leaves) -> list[bool]:
        paths = [slashed(path) for path in leaves.paths]
        for pattern in self.patterns:
            if not any(_glob(pattern).fullmatch(path) for path in paths):
                near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.3) or paths[:3]
                raise ValueError(f"match({pattern!r}) matches no parameter; there are {', '.join(map(repr, near))}, ...")
        return [any(_glob(pattern).fullmatch(path) for pattern in self.patterns) for path in paths]

    def __repr__(self) -> str:
        return f"match({', '.join(map(repr, self.patterns))})"


def match(*patterns: str) -> Mask:
    """Selects parameters by path: `match("**/bias", "**/norm/**")`.

    A path is the parameter's keys joined by `/`, as `describe` prints it: `encoder/layers/0/bias`.

    Args:
        *patterns: globs over whole paths. `*` and `?` stay within one key, `**` spans any number of keys, also none.

    Raises:
        ValueError: no pattern is given, or, when parameters are seen, one of them matches nothing.
        TypeError: a pattern is no string.
    """
    if not patterns:
        raise ValueError("match(): give at least one pattern, such as '**/bias'.")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise TypeError(f"match({pattern!r}): a pattern is a string, such as '**/bias'.")
    return _Match(patterns)


@dataclass(frozen=True)
class _NdimAtLeast(Mask):
    ndim: int

    def select(self, leaves: Leaves) -> list[bool]:
        return [np.ndim(value) >= self.ndim for value in leaves.values]

    def __repr__(self) -> str:
        return f"ndim_at_least({self.ndim})"


def ndim_at_least(ndim: int) -> Mask:
    """Selects parameters with at least `ndim` axes; `ndim_at_least(2)` leaves out biases, scales and other vectors.

    Raises:
        ValueError: `ndim` is no integer >= 0.
    """
    if not isinstance(ndim, int) or ndim < 0:
        raise ValueError(f"ndim_at_least({ndim!r}): ndim must be an integer >= 0.")
    return _NdimAtLeast(ndim)
