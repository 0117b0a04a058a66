"""Which parameters are matrices, and along which axes: one option of all optimizers that treat them as such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np

from jadam._axes import Axes, checked_axes, fitting
from jadam._by_leaf import ByLeaf
from jadam._errors import BadType, door, shown
from jadam._masks import EVERYTHING, Mask, as_mask
from jadam._tree import Leaves


@door
def axes(inputs: int | Sequence[int], outputs: int | Sequence[int], stacked: int | Sequence[int] = (), split: int = 1) -> Axes:
    """Says which axes of a parameter are the inputs and the outputs of a matrix; for the `matrices` of an optimizer.

    Every axis of the parameter is named once. Negative axes count from the last.

    Args:
        inputs: the axes that the layer sums over: 0 of a kernel (in, out), 0 and 1 of (heads, size, out).
        outputs: the others: 1 of a kernel (in, out), 1 and 2 of (in, heads, size).
        stacked: axes along which each index is a matrix of its own: layers under `scan`, experts.
        split: how many matrices stand side by side along the first of the outputs, >= 1; 3 for a fused (in, 3 out) of queries,
            keys and values.

    Raises:
        ValueError: an axis is named twice; there are no inputs, or no outputs; `split` is below 1.
        TypeError: an axis is not an integer.

    Example:
        >>> import jadam
        >>> jadam.axes(inputs=0, outputs=(1, 2))
        axes(inputs=(0,), outputs=(1, 2))
    """
    return checked_axes(inputs, outputs, stacked, split)


Told = Literal["all", "weights", "hidden", "sure"]


@dataclass(frozen=True)
class Matrices(ByLeaf):
    """The axes of each parameter that is a matrix, and None of each other.

    Attributes:
        groups: masks with axes, of which the first that selects a parameter says what it is. In place of axes stands of which
            parameters the tree tells them: "all" that have some, or those of which `Found` says so.
    """

    groups: tuple[tuple[Mask, Axes | Told], ...]

    def by_leaf(self, leaves: Leaves) -> list[Axes | None]:
        return leaves.ask(self, self._found)

    def _found(self, leaves: Leaves) -> list[Axes | None]:
        from jadam._layouts import layouts  # few ask it, and its patterns take long to compile

        columns, chosen = [mask.by_leaf(leaves) for mask, _ in self.groups], []
        told = leaves.ask(layouts, layouts) if any(not isinstance(own, Axes) for _, own in self.groups) else []
        for i, value in enumerate(leaves.values):
            own = next((own for (_, own), column in zip(self.groups, columns, strict=True) if column[i]), None)
            if isinstance(own, Axes):
                chosen.append(fitting(own, leaves.names[i], np.shape(value)))
            else:
                chosen.append(told[i].axes if own == "all" or (own is not None and getattr(told[i], own)) else None)
        return chosen

    @property
    def mask(self) -> Mask:
        """Those that are said, or known, to be matrices."""
        return _AreMatrices(self)

    def __repr__(self) -> str:
        mask, own = self.groups[0]
        if not isinstance(own, Axes) and len(self.groups) == 1:
            return "None" if own != "all" else _shown(mask)
        return "[" + ", ".join(f"({_shown(mask)}, {own if isinstance(own, Axes) else True})" for mask, own in self.groups) + "]"


def _shown(mask: Mask) -> str:
    return "True" if mask == EVERYTHING else repr(mask)


@dataclass(frozen=True)
class _AreMatrices(Mask):
    matrices: Matrices

    def select(self, leaves: Leaves) -> list[bool]:
        found = self.matrices.by_leaf(leaves)
        asked = [mask.by_leaf(leaves) for mask, own in self.matrices.groups if own == "all"]
        return [own is not None or any(column[i] for column in asked) for i, own in enumerate(found)]

    def __repr__(self) -> str:
        return "matrices" if len(self.matrices.groups) == 1 else f"matrices of {self.matrices!r}"


@dataclass(frozen=True)
class _AsMatrices:
    """As an annotation: the field says which parameters are matrices, of None those that `told` says."""

    told: Told

    def check(self, _: str, value: Any) -> Matrices:
        return as_matrices(value, self.told)


MatricesLike = Annotated[Any, _AsMatrices("hidden")]
"""None for what the tree tells; a mask of what is treated as matrices, along the axes that the tree tells; or a list of pairs
`(mask, axes(...))`, of which the first that selects a parameter says what it is, and the others are not matrices."""
WeightsLike = Annotated[Any, _AsMatrices("weights")]
"""The same, where embeddings and heads are treated as other matrices are."""
ExplicitLike = Annotated[Any, _AsMatrices("all")]
"""The same, where None stands for none."""
SureLike = Annotated[Any, _AsMatrices("sure")]
"""The same, where besides the tree must tell the axes of what has more than two."""


ALL = Matrices(((EVERYTHING, "all"),))
WEIGHTS = Matrices(((EVERYTHING, "weights"),))
SURE = Matrices(((EVERYTHING, "sure"),))
NONE = Matrices(((~EVERYTHING, "all"),))


def as_matrices(value: MatricesLike, told: Told = "hidden") -> Matrices:
    """What the user said of matrices.

    Raises:
        TypeError: it is neither None nor a mask nor a list of pairs.
    """
    if value is None:
        return NONE if told == "all" else Matrices(((EVERYTHING, told),))
    if isinstance(value, Matrices):
        return value
    if isinstance(value, Axes):
        raise BadType(f"matrices={value!r}: say of which parameters these are the axes: [(True, {value!r})].")
    if not (isinstance(value, list | tuple) and any(map(_is_pair, value))):
        return Matrices(((as_mask(value), "all"),))
    groups = []
    for number, pair in enumerate(value):
        if not (isinstance(pair, list | tuple) and len(pair) == 2 and (isinstance(pair[1], Axes) or pair[1] is True)):
            raise BadType(f"pair {number} of matrices is {shown(pair)}; write (mask, axes(inputs=..., outputs=...)).")
        groups.append((as_mask(pair[0]), told if pair[1] is True else pair[1]))
    return Matrices(tuple(groups))


def _is_pair(one: Any) -> bool:
    return isinstance(one, list | tuple) and any(isinstance(value, Axes | Mask) for value in one)
