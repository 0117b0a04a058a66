"""Groups of parameters: a transformation for some of them, different ones for different parameters, none for others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._hyper import public_caller
from jadam._masks import Mask, MaskLike, PerLeaf, as_mask
from jadam._rule import Rule, Slots
from jadam._transformation import GradientTransformation, block, chain
from jadam._tree import Leaves, PyTree, quoted


@dataclass(frozen=True, repr=False)
class SetToZero(Rule):
    """Replaces updates by zeros, whatever they were."""

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return jnp.zeros_like(g), slots


set_to_zero = block(SetToZero)


def masked(inner: Any, mask: MaskLike) -> GradientTransformation:
    """Applies a transformation to some parameters; the updates of the others pass untouched, and it keeps no slots for them.

    Args:
        inner: a transformation, or any `(init, update)` pair.
        mask: a tree of bools like the parameters, or a prefix of one; a function of the parameters that gives such a tree;
            `match(...)`, `ndim_at_least(...)`, or a combination of these with `~ | &`.

    Raises:
        TypeError: the mask is a string or a schedule.
    """
    chosen = as_mask(public_caller("masked"), mask)
    return GradientTransformation(
        tuple(replace(part, mask=part.mask & chosen) for part in chain(inner).parts), public_caller("masked")
    )


def _group(tx: Any, mask: Mask, prefix: str = "") -> GradientTransformation:
    parts = []
    for part in masked(tx, mask).parts:
        group = " > ".join(filter(None, [repr(mask), part.group]))
        parts.append(replace(part, group=group, prefix=".".join(filter(None, [prefix, part.prefix]))))
    return GradientTransformation(tuple(parts))


def freeze(mask: MaskLike = True) -> GradientTransformation:
    """Gives zero updates to the parameters of `mask`, and keeps no state for them.

    In a `partition` it is the group of what is not trained. At the end of a chain it stops what came before it, but the
    rules before it keep their slots.
    """
    return masked(set_to_zero(), mask)


def partition(
    transforms: Sequence[tuple[MaskLike, Any]] | Mapping[Any, Any],
    param_labels: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> GradientTransformation:
    """Applies a different transformation to each group of parameters.

    Args:
        transforms: `(mask, transformation)` pairs in order, of which the first that matches a parameter gets it, the last
            mask often being True; or transformations by label.
        param_labels: with labels, a tree of labels like the parameters, or a prefix of one, or a function that gives it.

    Raises:
        ValueError: a parameter that no mask covers, or whose label has no transformation; the message names it.
        TypeError: labels without `param_labels`, or pairs with it.

    Example:
        >>> import jadam
        >>> tx = jadam.partition([
        ...     (jadam.match("embed/**"), jadam.freeze()),
        ...     (jadam.ndim_at_least(2), jadam.adamw(1e-3, weight_decay=0.1)),
        ...     (True, jadam.adam(1e-3)),
        ... ])
    """
    if isinstance(transforms, Mapping):
        if param_labels is None:
            raise TypeError("partition: transformations by label need param_labels, a tree of labels or a function.")
        labels, known = PerLeaf.of(param_labels), tuple(transforms)
        return chain(*(_group(tx, _Labelled(labels, known, own), str(own)) for own, tx in transforms.items()))
    if param_labels is not None:
        raise TypeError("partition: param_labels goes with transformations by label, not with (mask, transformation) pairs.")
    masks = tuple(as_mask("partition", mask) for mask, _ in transforms)
    return chain(*(_group(tx, _FirstMatch(masks, number)) for number, (_, tx) in enumerate(transforms)))


@dataclass(frozen=True)
class _FirstMatch(Mask):
    """The parameters that one of several masks is the first to select."""

    masks: tuple[Mask, ...]
    number: int

    def select(self, leaves: Leaves) -> list[bool]:
        columns = list(zip(*(mask.select(leaves) for mask in self.masks), strict=True))
        for path, column in zip(leaves.paths, columns, strict=True):
            if not any(column):
                raise ValueError(
                    f"partition: no mask covers the parameter at {quoted(path)}; add a last pair (True, transformation)."
                )
        return [column.index(True) == self.number for column in columns]

    def __repr__(self) -> str:
        return repr(self.masks[self.number])


@dataclass(frozen=True)
class _Labelled(Mask):
    """The parameters with one label."""

    labels: PerLeaf
    known: tuple[Hashable, ...]
    label: Hashable

    def select(self, leaves: Leaves) -> list[bool]:
        found = self.labels.read(leaves, "partition: param_labels")
        for path, label in zip(leaves.paths, found, strict=True):
            if label not in self.known:
                raise ValueError(
                    f"partition: the parameter at {quoted(path)} has the label {label!r}, but the transformations "
                    f"are for {', '.join(map(repr, self.known))}."
                )
        return [label == self.label for label in found]

    def __repr__(self) -> str:
        return str(self.label)
