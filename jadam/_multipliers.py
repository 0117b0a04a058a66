"""Multipliers by parameter: of learning rates that differ by layer or by width."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from jax import Array

from jadam._annotations import is_number
from jadam._by_leaf import ByLeaf, PerLeaf
from jadam._chain import block
from jadam._errors import BadType, shown
from jadam._masks import FirstMatch, Mask, MaskLike, as_mask
from jadam._rule import Rule, Slots
from jadam._tree import Leaves, PyTree, is_function, quoted


def _checked(value: Any, where: str) -> float:
    if not is_number(value) or not math.isfinite(value):
        words = "a schedule goes into masked(scale_by_schedule(...), mask)" if callable(value) else "give a finite number"
        raise BadType(f"the factor {where} is {shown(value)}; {words}.")
    return float(value)


@dataclass(frozen=True)
class _Computed(ByLeaf):
    """The factors that a function of the parameters returns."""

    values: PerLeaf

    def by_leaf(self, leaves: Leaves) -> list[float]:
        pairs = zip(self.values.by_leaf(leaves), leaves.names, strict=True)
        return [_checked(value, f"at {quoted(name)}") for value, name in pairs]

    def __repr__(self) -> str:
        return repr(self.values)


class _Factors:
    """As an annotation: pairs of masks and numbers, or a function of the parameters."""

    def check(self, _: str, value: Any) -> ByLeaf:
        if isinstance(value, ByLeaf) and not isinstance(value, Mask):
            return value
        if is_function(value) and not getattr(type(value), "is_schedule", False) and not isinstance(value, Mask):
            return _Computed(PerLeaf.of(value, "the tree of factors"))
        if not isinstance(value, list | tuple) or not all(type(pair) in (tuple, list) and len(pair) == 2 for pair in value):
            raise BadType(
                f"{shown(value)} is not a list of factors; write [(mask, number), ...], or a function of the parameters."
            )
        return FirstMatch(tuple((as_mask(mask), _checked(factor, f"of {shown(mask)}")) for mask, factor in value), 1.0)


@dataclass(frozen=True)
class ScaleByPath(Rule):
    """Multiplies the update of each parameter by a number of its own: `u = factor g`.

    After the learning rate it is a multiplier of that, and of decoupled weight decay with it; before `add_decayed_weights` it
    leaves the decay as it is. Before `scale_by_adam` it has no effect, since Adam divides it out. `describe` shows the factors.

    Args:
        factors: pairs of a mask and a number, such as `(match("embed/**"), 0.1)`. The first whose mask selects a parameter
            counts; what no mask selects keeps its update, as if the last pair was `(True, 1.0)`. Or a function of the
            parameters that returns a tree of numbers, or a prefix of one; it may depend on paths and shapes. The numbers are
            static: for one that changes over time, write `masked(scale_by_schedule(...), mask)`.

    Raises:
        TypeError: a factor is not a finite number.

    Reference:
        Factors that fall with the depth: Howard & Ruder 2018, arXiv:1801.06146; with the width: Yang et al. 2022, table 8,
        arXiv:2203.03466.

    Example:
        >>> import jadam
        >>> slower = jadam.scale_by_path([(jadam.match("embed/**"), 0.1), (jadam.match("layers/0/**"), 0.5)])
        >>> tx = jadam.chain(jadam.adamw(1e-3), slower)
    """

    factors: Annotated[Iterable[tuple[MaskLike, float]] | Callable[[PyTree], PyTree], _Factors()]
    keeps_zeros: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        factor: Any = self.factors  # of the leaf
        return g if factor == 1.0 else factor * g, slots

    @property
    def summary(self) -> str:
        return f"{self.key} x{self.factors:g}"


scale_by_path = block(ScaleByPath)
