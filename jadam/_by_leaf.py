"""What has a value for each parameter: a mask, labels, or an option that is given leaf by leaf."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from jadam._errors import BadValue
from jadam._tree import Leaves, PyTree, is_function, misfit


class ByLeaf(ABC):
    """What has a value for each parameter."""

    @abstractmethod
    def by_leaf(self, leaves: Leaves) -> list[Any]:
        """One value a leaf, in the order of `leaves`."""


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
        if is_function(tree):
            return cls(tree, what, is_leaf)
        values, treedef = jax.tree.flatten(tree, is_leaf)
        return cls((tuple(values), treedef), what, is_leaf)

    def by_leaf(self, leaves: Leaves) -> list[Any]:
        return leaves.ask(self, self._spread)

    def _spread(self, leaves: Leaves) -> list[Any]:
        tree = self._called(leaves) if callable(self.tree) else self.tree[1].unflatten(self.tree[0])
        params = leaves.treedef.unflatten(range(len(leaves.values)))
        values: list[Any] = []

        def spread(value: Any, below: PyTree) -> None:
            values.extend([value] * len(jax.tree.leaves(below)))

        try:
            jax.tree.map(spread, tree, params, is_leaf=self.is_leaf)
        except (ValueError, TypeError):
            raise BadValue(f"{self.what} does not fit the parameters: {misfit(tree, params, self.is_leaf)}.") from None
        return values

    def _called(self, leaves: Leaves) -> PyTree:
        """What the function returns of abstract parameters: it is asked once for all parameters of one structure."""
        returned, function = [], cast(Callable[[PyTree], PyTree], self.tree)
        try:
            jax.eval_shape(lambda values: returned.append(function(leaves.treedef.unflatten(values))), leaves.values)
        except jax.errors.JAXTypeError:
            known = all(isinstance(x, Array | np.ndarray) and not isinstance(x, Tracer) for x in leaves.values)
            if leaves.readers is None or not known:
                raise BadValue(f"{self.what} reads the values of the parameters; {NO_VALUES}") from None
            leaves.readers.append(self)
            return function(leaves.treedef.unflatten(leaves.values))
        return returned[0]

    def __repr__(self) -> str:
        return getattr(self.tree, "__name__", "tree") if callable(self.tree) else repr(self.tree[1].unflatten(self.tree[0]))


NO_VALUES = (
    "it may depend on structure, paths, shapes and dtypes of the parameters. For one that depends on values, compute a tree "
    "first, outside of jit, and pass that."
)


@dataclass(frozen=True)
class GivenByLeaf:
    """As an annotation: the field may be given leaf by leaf; None stays None."""

    is_leaf: Callable[[Any], bool] | None = None

    def check(self, name: str, value: Any) -> Any:
        return value if value is None or isinstance(value, PerLeaf) else PerLeaf.of(value, name, self.is_leaf)
