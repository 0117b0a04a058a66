"""Masks: which parameters a transformation acts on, as hashable values with `~ | &`."""

from __future__ import annotations

import difflib
import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, cast

import jax
import numpy as np

from jadam._errors import BadType, BadValue
from jadam._tree import Leaves, PyTree, flatten, quoted, slashed


class _AsMask:
    """As an annotation: the field is a mask."""

    def check(self, _: str, value: Any) -> Mask:
        return as_mask(value)


MaskLike = Annotated[Any, _AsMask()]
"""A bool, a tree of bools (or a prefix of one), a function of the parameters that returns such a tree, or a `Mask`."""


class ByLeaf(ABC):
    """What has a value for each parameter: a mask, or an option that is given leaf by leaf."""

    @abstractmethod
    def by_leaf(self, leaves: Leaves) -> list[Any]:
        """One value a leaf, in the order of `leaves`."""


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
class PerLeaf(ByLeaf):
    """A tree of static values (or a prefix of one), or a function of the parameters that returns it; hashable.

    Attributes:
        tree: the function, or values and structure.
        what: it is, for error messages.
        is_leaf: what counts as a value, as in `jax.tree.flatten`.
    """

    tree: tuple[tuple[Any, ...], Any] | Callable[[PyTree], PyTree]
    what: str
    is_leaf: Callable[[Any], bool] | None = None

    @classmethod
    def of(cls, tree: PyTree, what: str, is_leaf: Callable[[Any], bool] | None = None) -> PerLeaf:
        if callable(tree):
            return cls(tree, what, is_leaf)
        values, treedef = jax.tree.flatten(tree, is_leaf)
        return cls((tuple(values), treedef), what, is_leaf)

    def by_leaf(self, leaves: Leaves) -> list[Any]:
        return leaves.ask(self, self._spread)

    def _spread(self, leaves: Leaves) -> list[Any]:
        tree = self._called(leaves) if callable(self.tree) else self.tree[1].unflatten(self.tree[0])
        values: list[Any] = []

        def spread(value: Any, below: PyTree) -> None:
            values.extend([value] * len(jax.tree.leaves(below)))

        try:
            jax.tree.map(spread, tree, leaves.treedef.unflatten(range(len(leaves.values))), is_leaf=self.is_leaf)
        except ValueError as error:
            raise BadValue(f"{self.what} does not fit the parameters: {error}") from None
        if len(values) != len(leaves.values):
            raise BadValue(f"{self.what} has values for {len(values)} of the {len(leaves.values)} parameters.")
        return values

    def _called(self, leaves: Leaves) -> PyTree:
        """What the function returns of abstract parameters: it is asked once for all parameters of one structure."""
        returned, function = [], cast(Callable[[PyTree], PyTree], self.tree)
        try:
            jax.eval_shape(lambda values: returned.append(function(leaves.treedef.unflatten(values))), leaves.values)
        except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError):
            raise BadValue(
                f"{self.what} reads the values of the parameters; it may depend on their structure, paths, shapes and dtypes. "
                "For one that depends on values, compute a tree of bools first, and pass that."
            ) from None
        return returned[0]

    def __repr__(self) -> str:
        return getattr(self.tree, "__name__", "tree") if callable(self.tree) else repr(self.tree[1].unflatten(self.tree[0]))


@dataclass(frozen=True)
class GivenByLeaf:
    """As an annotation: the field may be given leaf by leaf; None stays None."""

    is_leaf: Callable[[Any], bool] | None = None

    def check(self, name: str, value: Any) -> Any:
        return value if value is None or isinstance(value, PerLeaf) else PerLeaf.of(value, name, self.is_leaf)


@dataclass(frozen=True)
class _Given(Mask):
    values: PerLeaf

    def select(self, leaves: Leaves) -> list[bool]:
        found = self.values.by_leaf(leaves)
        for path, value in zip(leaves.paths, found, strict=True):
            if not isinstance(value, bool | np.bool_):
                raise BadType(f"the mask has {value!r} at {quoted(path)}; a mask is made of Python bools.")
        return [bool(value) for value in found]

    def __repr__(self) -> str:
        return repr(self.values)


def as_mask(mask: MaskLike) -> Mask:
    """The user's mask as a `Mask`.

    Raises:
        TypeError: for a string, which is not a mask, and for a schedule.
    """
    if isinstance(mask, Mask):
        return mask
    if mask is None or mask is True:
        return EVERYTHING
    if mask is False:
        return ~EVERYTHING
    if isinstance(mask, str):
        raise BadType(f"{mask!r} is not a mask; write jadam.match({mask!r}) to select parameters by path.")
    # `adamw(1e-3, schedule)` would otherwise call the schedule with the parameters.
    if isinstance(mask, int | float) or getattr(type(mask), "is_schedule", False):
        raise BadType(f"{mask!r} is not a mask; give a tree of bools or a function of the parameters.")
    return _Given(PerLeaf.of(mask, "the mask"))


@functools.cache
def _glob(pattern: str) -> re.Pattern[str]:
    """`*` and `?` stay within a segment, `**` spans any number of segments, including none."""
    out = ""
    for token in re.split(r"(\*\*/|/\*\*$|\*\*|\*|\?)", pattern):
        wild = {"**/": "(?:.+/)?", "/**": "(?:/.+)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        out += wild.get(token, re.escape(token))
    return re.compile(out)


@dataclass(frozen=True)
class _Match(Mask):
    patterns: tuple[str, ...]

    def select(self, leaves: Leaves) -> list[bool]:
        # The paths are written once for all patterns: a partition has one for each layer.
        paths = leaves.ask(slashed, lambda leaves: [slashed(path) for path in leaves.paths])
        found = [[bool(_glob(pattern).fullmatch(path)) for path in paths] for pattern in self.patterns]
        for pattern, column in zip(self.patterns, found, strict=True):
            if not any(column):
                near = difflib.get_close_matches(pattern, paths, n=3, cutoff=0.3) or paths[:3]
                raise BadValue(f"match({pattern!r}) matches no parameter; there are {', '.join(map(repr, near))}, ...")
        return [any(column) for column in zip(*found, strict=True)]

    def __repr__(self) -> str:
        return f"match({', '.join(map(repr, self.patterns))})"


def match(*patterns: str) -> Mask:
    """Selects parameters by path: `match("**/bias", "**/norm/**")`.

    A path is the parameter's keys joined by `/`, as `describe` prints it: `encoder/layers/0/bias`.

    Args:
        *patterns: globs over whole paths. `*` and `?` stay within one key, `**` spans any number of keys, including none.

    Raises:
        ValueError: no pattern is given, or, when parameters are seen, one of them matches nothing.
        TypeError: a pattern is not a string.
    """
    if not patterns:
        raise BadValue("match(): give at least one pattern, such as '**/bias'.")
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise BadType(f"match({pattern!r}): a pattern is a string, such as '**/bias'.")
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
    if not isinstance(ndim, int) or ndim < 0:
        raise BadValue(f"ndim_at_least({ndim!r}): ndim must be an integer >= 0.")
    return _NdimAtLeast(ndim)
