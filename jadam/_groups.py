"""Groups of parameters: a transformation for some of them, different ones for different parameters, none for others."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax.core import Tracer

from jadam._by_leaf import NO_VALUES, PerLeaf
from jadam._chain import TransformationLike, block, builder, recipe_of
from jadam._errors import BadType, BadValue, shown
from jadam._frozen import SetToZero
from jadam._masks import EVERYTHING, Mask, MaskLike, as_mask
from jadam._recipe import Recipe
from jadam._scope import Groups, Scope, masked_by
from jadam._transformation import GradientTransformation
from jadam._tree import Leaves, PyTree, flatten, quoted

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


Group = tuple[MaskLike, Any] | tuple[MaskLike, Any, str]


@builder
def partition(
    transforms: Iterable[Group] | Mapping[Any, Any],
    param_labels: PyTree | Callable[[PyTree], PyTree] | None = None,
) -> GradientTransformation:
    """Applies a different transformation to each group of parameters.

    A group's name stands before the names of what is in it, in the state, in `hyperparams` and in `set_hyperparams`:
    `body.learning_rate`. Each group counts its own steps, `state.scalars["body"]["count"]`: one that `migrate` adds to a run
    has the schedule and the bias correction of its first step.

    Args:
        transforms: groups in order, of which the first whose mask matches a parameter gets it, the last mask often being
            True: `(mask, transformation, name)`, or `(mask, transformation)`, whose name is its number: `0.learning_rate`. Or
            transformations by label, which is the name.
        param_labels: with labels, a tree of labels like the parameters, or a prefix of one, or a function that returns it.
            A function is asked once for each structure of parameters, as a mask is.

    Raises:
        ValueError: there are no groups, or two of one name; a parameter that no mask covers, or whose label has no
            transformation.
        TypeError: a group is written otherwise; labels without `param_labels`, or pairs with it.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx = jadam.partition([
        ...     (jadam.match("embed/**"), jadam.freeze()),
        ...     (jadam.ndim_at_least(2), jadam.adamw(1e-3, weight_decay=0.1), "matrices"),
        ...     (True, jadam.adam(1e-3), "rest"),
        ... ])
        >>> state = tx.init({"embed": jnp.ones((4, 2)), "kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)})
        >>> [name for name in jadam.hyperparams(state) if "rate" in name]
        ['matrices.learning_rate', 'rest.learning_rate']
    """
    if isinstance(transforms, Mapping):
        if param_labels is None:
            raise BadType("transformations by label need param_labels, a tree of labels or a function.")
        names, inside = tuple(map(str, transforms)), list(transforms.values())
        _check_names(names)
        groups, described = ByLabel(names, tuple(transforms), _labels(param_labels)), [""] * len(names)
        groups.check()
    else:
        if param_labels is not None:
            raise BadType("param_labels goes with transformations by label, not with (mask, transformation) pairs.")
        written = [_written(number, group) for number, group in enumerate(_listed(transforms))]
        inside, names = [tx for _, tx, _ in written], tuple(name for _, _, name in written)
        _check_names(names)
        groups = FirstMatch(names, tuple(mask for mask, _, _ in written))
        described = ["everything else" if mask == EVERYTHING else shown(mask) for mask, _, _ in written]
    scopes = [Scope(groups, _InGroup(groups, n), number=n, label=names[n], group=described[n]) for n in range(len(names))]
    parts = zip(names, inside, scopes, strict=True)
    recipes = [recipe_of(f"the transformation of group {name!r}", tx).within(scope) for name, tx, scope in parts]
    return GradientTransformation.of(sum(recipes, Recipe()))


def _listed(transforms: Any) -> list[Any]:
    try:
        if not isinstance(transforms, GradientTransformation | str):
            return list(transforms)
    except TypeError:  # not iterable
        pass
    raise BadType(f"{shown(transforms)} is not a list of groups; write [(mask, transformation), ...].")


def _written(number: int, group: Any) -> tuple[Mask, Any, Any]:
    if type(group) not in (tuple, list) or len(group) not in (2, 3):  # a pair of optax's is a tuple too, of its own type
        raise BadType(f"group {number} is {shown(group)}; write (mask, transformation) or (mask, transformation, name).")
    mask, tx, *name = group
    if isinstance(mask, GradientTransformation):
        raise BadType(f"group {number} begins with {shown(mask)}; the mask comes first: (mask, transformation).")
    return as_mask(mask), tx, *(name or [str(number)])


def _check_names(names: Sequence[Any]) -> None:
    if not names:
        raise BadValue("there are no groups; give at least one.")
    for name in names:
        if not isinstance(name, str) or not name:
            raise BadType(f"{shown(name)} is not a name for a group; give a string.")
        if names.count(name) > 1:
            raise BadValue(f"two groups are called {name!r}; give each a name of its own.")


def _labels(param_labels: Any) -> PerLeaf:
    if isinstance(param_labels, str):
        raise BadType(f"param_labels is {param_labels!r}; give a tree of labels, or a function of the parameters.")
    return PerLeaf.of(param_labels, "param_labels")


@dataclass(frozen=True)
class FirstMatch(Groups):
    """Each parameter belongs to the first mask that selects it."""

    masks: tuple[Mask, ...]

    def divide(self, leaves: Leaves) -> list[int]:
        columns = list(zip(*(mask.by_leaf(leaves) for mask in self.masks), strict=True))
        for name, column in zip(leaves.names, columns, strict=True):
            if not any(column):
                raise BadValue(f"no mask covers the parameter at {quoted(name)}; add a last pair (True, transformation).")
        return [column.index(True) for column in columns]

    def show(self, transforms: list[str]) -> str:
        groups = []
        for number, (mask, tx, name) in enumerate(zip(self.masks, transforms, self.names, strict=True)):
            named = "" if name == str(number) else f", {name!r}"
            groups.append(f"({True if mask == EVERYTHING else mask}, {tx}{named})")
        return f"partition([{', '.join(groups)}])"


@dataclass(frozen=True)
class ByLabel(Groups):
    """Each parameter has a label."""

    known: tuple[Hashable, ...]
    labels: PerLeaf

    def check(self) -> None:
        """Labels that are given as a tree are known before there are parameters."""
        if not callable(self.labels.tree):
            leaves = flatten(self.labels.tree[1].unflatten(self.labels.tree[0]))
            self._numbers(leaves.values, leaves)

    def divide(self, leaves: Leaves) -> list[int]:
        return self._numbers(self.labels.by_leaf(leaves), leaves)

    def _numbers(self, labels: Sequence[Any], leaves: Leaves) -> list[int]:
        numbers = {label: number for number, label in enumerate(self.known)}
        for name, label in zip(leaves.names, labels, strict=True):
            try:
                numbers[label]
            except (KeyError, TypeError):  # an array has no hash
                if isinstance(label, Tracer):
                    raise BadValue(f"param_labels is traced at {quoted(name)}; {NO_VALUES}") from None
                known = ", ".join(map(repr, self.known))
                words = f"the label at {quoted(name)} is {shown(label)}, but the transformations are for {known}."
                raise BadValue(words) from None
        return [numbers[label] for label in labels]

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
