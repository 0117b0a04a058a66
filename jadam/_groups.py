"""Groups of parameters: a transformation for some of them, different ones for different parameters, none for others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jadam._chain import TransformationLike, block, builder, recipe_of
from jadam._errors import BadType, BadValue
from jadam._frozen import SetToZero
from jadam._masks import EVERYTHING, Mask, MaskLike, PerLeaf, as_mask
from jadam._recipe import Groups, Recipe, Scope, masked_by
from jadam._transformation import GradientTransformation
from jadam._tree import Leaves, PyTree, quoted

set_to_zero = block(SetToZero)


@builder
def masked(inner: TransformationLike, mask: MaskLike) -> GradientTransformation:
    """Applies a transformation to some parameters; the updates of the others pass untouched, and it keeps no slots for them.

    Args:
        inner: a transformation, or any `(init, update)` pair.
        mask: a tree of bools like the parameters, or a prefix of one; a function of the parameters that returns such a tree;
            `match(...)`, `ndim_at_least(...)`, or a combination of these with `~ | &`.

    Raises:
        TypeError: the mask is a string or a schedule.
    """
    chosen, recipe = as_mask(mask), recipe_of("inner", inner)
    return GradientTransformation.of(recipe if chosen == EVERYTHING else recipe.within(masked_by(chosen)))


@builder
def freeze(mask: MaskLike = True) -> GradientTransformation:
    """Replaces the updates of the parameters in `mask` by zeros, in a `partition` or at the end of a chain.

    What is frozen takes no part in anything: the state keeps nothing for it, norms and checks for NaN do not see its
    gradient, which may be anything, None too.
    """
    return masked(set_to_zero(), mask)


@builder
def partition(
    transforms: Sequence[tuple[MaskLike, Any]] | Mapping[Any, Any],
    param_labels: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> GradientTransformation:
    """Applies a different transformation to each group of parameters.

    Args:
        transforms: `(mask, transformation)` pairs in order, of which the first that matches a parameter gets it, the last
            mask often being True; or transformations by label.
        param_labels: with labels, a tree of labels like the parameters, or a prefix of one, or a function that returns it.

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
            raise BadType("transformations by label need param_labels, a tree of labels or a function.")
        groups = ByLabel(tuple(map(str, transforms)), tuple(transforms), PerLeaf.of(param_labels, "param_labels"))
        recipes = [_group(groups, n, tx, str(label)) for n, (label, tx) in enumerate(transforms.items())]
    else:
        if param_labels is not None:
            raise BadType("param_labels goes with transformations by label, not with (mask, transformation) pairs.")
        masks = tuple(as_mask(mask) for mask, _ in transforms)
        groups = FirstMatch(tuple(map(repr, masks)), masks)
        recipes = [_group(groups, n, tx) for n, (_, tx) in enumerate(transforms)]
    return GradientTransformation.of(sum(recipes, Recipe()))


def _group(groups: Groups, number: int, tx: Any, label: str = "") -> Recipe:
    scope = Scope(groups, _InGroup(groups, number), number=number, label=label, group=groups.names[number])
    return recipe_of(f"the transformation for {groups.names[number]}", tx).within(scope)


@dataclass(frozen=True)
class FirstMatch(Groups):
    """Each parameter belongs to the first mask that selects it."""

    masks: tuple[Mask, ...]

    def divide(self, leaves: Leaves) -> list[int]:
        columns = list(zip(*(mask.by_leaf(leaves) for mask in self.masks), strict=True))
        for path, column in zip(leaves.paths, columns, strict=True):
            if not any(column):
                raise BadValue(f"no mask covers the parameter at {quoted(path)}; add a last pair (True, transformation).")
        return [column.index(True) for column in columns]

    def show(self, transforms: list[str]) -> str:
        masks = ("True" if mask == EVERYTHING else repr(mask) for mask in self.masks)
        return f"partition([{', '.join(f'({mask}, {tx})' for mask, tx in zip(masks, transforms, strict=True))}])"


@dataclass(frozen=True)
class ByLabel(Groups):
    """Each parameter has a label."""

    known: tuple[Hashable, ...]
    labels: PerLeaf

    def divide(self, leaves: Leaves) -> list[int]:
        found, numbers = self.labels.by_leaf(leaves), {label: number for number, label in enumerate(self.known)}
        for path, label in zip(leaves.paths, found, strict=True):
            if label not in numbers:
                raise BadValue(
                    f"the parameter at {quoted(path)} has the label {label!r}, but the transformations "
                    f"are for {', '.join(map(repr, self.known))}."
                )
        return [numbers[label] for label in found]

    def show(self, transforms: list[str]) -> str:
        pairs = ", ".join(f"{label!r}: {tx}" for label, tx in zip(self.known, transforms, strict=True))
        return f"partition({{{pairs}}}, {self.labels!r})"


@dataclass(frozen=True)
class _InGroup(Mask):
    groups: Groups
    number: int

    def select(self, leaves: Leaves) -> list[bool]:
        return [number == self.number for number in leaves.ask(self.groups, self.groups.divide)]

    def __repr__(self) -> str:
        return self.groups.names[self.number]
