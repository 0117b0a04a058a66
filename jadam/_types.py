"""Names of types for annotations, as optax has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jax import Array

from jadam._tree import PyTree

Params = PyTree
"""A tree of parameters."""
Updates = Params
"""A tree of updates, like the parameters."""
ScalarOrSchedule = float | Array | Callable[[Array], Any]
"""What a hyperparameter may be: a number, a scalar array, or a function of the count."""
MaskOrFn = PyTree | Callable[[Params], PyTree]
"""A tree of bools, or a function of the parameters that returns one."""
TransformInitFn = Callable[[Params], PyTree]
"""The first function of a pair: of the parameters, it returns the state."""
TransformUpdateFn = Callable[..., tuple[Updates, PyTree]]
"""The second function of a pair: of updates, state and parameters, it returns updates and the next state."""
TransformUpdateExtraArgsFn = TransformUpdateFn
"""The same with keyword arguments."""


class EmptyState(NamedTuple):
    """A state without anything in it, for a pair of your own that keeps nothing."""


class MaskedNode(NamedTuple):
    """Stands in a tree for what is masked out: a node without leaves."""
