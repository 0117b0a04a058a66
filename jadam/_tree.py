"""Pytrees as jadam reads them: leaves, their paths, and which of them are trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass
from operator import attrgetter
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import GetAttrKey, KeyPath, keystr, tree_flatten_with_path

from jadam._errors import BadType

PyTree = Any
T = TypeVar("T")


@dataclass(frozen=True)
class Leaves:
    """A flattened tree.

    Attributes:
        paths: JAX's key paths, in the order of `values`.
        values: the leaves.
        treedef: of the tree.
        answers: what was asked of these leaves before, by the identity of who asked.
    """

    paths: tuple[KeyPath, ...]
    values: list[Any]
    treedef: Any  # jax.tree_util.PyTreeDef, which JAX exports as a variable
    answers: dict[int, tuple[Any, Any]] = field(default_factory=dict)

    def ask(self, who: Any, answer: Callable[[Leaves], T]) -> T:
        """`answer(self)`, computed once for each `who`: the rules of a group, and all groups, ask one mask."""
        if id(who) not in self.answers:
            self.answers[id(who)] = who, answer(self)  # with `who`, so that its identity is not given to another
        return self.answers[id(who)][1]


def flatten(tree: PyTree) -> Leaves:
    pairs, treedef = tree_flatten_with_path(tree)
    return Leaves(tuple(path for path, _ in pairs), [value for _, value in pairs], treedef)


def quoted(path: KeyPath) -> str:
    """A path as an error message shows it: as `match` and `describe` write it."""
    return slashed(path) or "the root"


def slashed(path: KeyPath) -> str:
    """A path as `match` and `describe` write it: `dense/kernel`.

    The box that flax puts around an array (`nnx.Param`, linen's `Partitioned`) is not part of it.
    """
    while path and isinstance(path[-1], GetAttrKey) and path[-1].name in ("value", "raw_value"):
        path = path[:-1]
    return keystr(path, simple=True, separator="/")


def is_trained(leaf: Any) -> bool:
    """Whether optimizers act on this leaf: real or complex floating point, and nothing else."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def arrays(argument: str, tree: PyTree) -> PyTree:
    """The tree with every leaf a strongly typed array: a Python number or a weak type would cause a second trace.

    Raises:
        TypeError: a leaf is neither an array nor a number; the message names its path.
    """
    return strong(argument, tree)[0]


def strong(argument: str, tree: PyTree, shapes: bool = False) -> tuple[PyTree, list[Any], Any]:
    """`arrays(argument, tree)`, with its leaves and structure; with `shapes`, a leaf may be a `jax.ShapeDtypeStruct`."""
    try:
        leaves, treedef = jax.tree.flatten(tree)
    except ValueError:  # JAX's words do not say which
        raise BadType(
            f"{argument} has a dict whose keys cannot be sorted, such as 1 beside 'a'; give it keys of one type."
        ) from None
    if _are_strong(leaves):
        return tree, leaves, treedef
    if not shapes and jax.ShapeDtypeStruct in map(type, leaves):
        path = next(path for path, leaf in tree_flatten_with_path(tree)[0] if type(leaf) is jax.ShapeDtypeStruct)
        raise BadType(f"{argument} has a ShapeDtypeStruct at {quoted(path)}, a shape without values; pass an array.")
    if not all(map(is_array, leaves)):
        path, leaf = next((path, leaf) for path, leaf in tree_flatten_with_path(tree)[0] if not is_array(leaf))
        reason = "for which JAX has no dtype" if isinstance(leaf, int | np.ndarray | np.generic) else "which is not an array"
        raise BadType(
            f"{argument} has {leaf!r}, a {type(leaf).__name__}, at {quoted(path)}, {reason}; "
            "take it out of the tree, or put None in its place."
        )
    leaves = [_strong(leaf) for leaf in leaves]
    return treedef.unflatten(leaves), leaves, treedef


def _are_strong(leaves: list[Any]) -> bool:
    """The quick answer for nearly all trees: it is asked of every leaf at every step outside `jit`."""
    try:
        kinds = set(map(type, leaves))
        return all(issubclass(kind, jax.Array) for kind in kinds) and not any(map(attrgetter("weak_type"), leaves))
    except AttributeError:  # PRNG keys have no weak type
        return False


def is_array(leaf: Any) -> bool:
    """Whether this is an array, or a number that can become one."""
    if isinstance(leaf, int):
        return abs(leaf) <= jnp.iinfo(jnp.result_type(int)).max
    if isinstance(leaf, jax.Array | jax.ShapeDtypeStruct | float | complex):
        return True
    dtype = getattr(leaf, "dtype", None)
    return hasattr(leaf, "shape") and (dtype == jax.dtypes.float0 or hasattr(jnp, getattr(dtype, "name", "none")))


def _strong(leaf: Any) -> Any:
    if isinstance(leaf, np.ndarray | np.generic):
        return (
            leaf if leaf.dtype == jax.dtypes.float0 else jnp.asarray(leaf)
        )  # in the dtype that JAX has for it: float32 for float64, unless x64 is enabled
    if isinstance(leaf, bool | int | float | complex) or getattr(leaf, "weak_type", False):
        return jax.lax.convert_element_type(leaf, jnp.result_type(leaf))
    return leaf


def difference(tree: PyTree, reference: Leaves) -> str:
    """In words, the first path in which a tree differs in structure from another."""
    leaves = flatten(tree)
    present, expected = set(leaves.paths), set(reference.paths)
    missing = [path for path in reference.paths if path not in present]
    extra = [path for path in leaves.paths if path not in expected]
    if missing:
        return f"{quoted(missing[0])} is missing"
    if extra:
        return f"{quoted(extra[0])} is not among the parameters"
    return f"{leaves.treedef} is not {reference.treedef}"


def of_numbers(value: Any) -> bool:
    """Whether a value is made of numbers and words, in tuples and dataclasses: a cache with it holds nothing of the user's."""
    if isinstance(value, tuple):
        return all(map(of_numbers, value))
    return isinstance(value, int | float | str | None) or (is_dataclass(value) and all(map(of_numbers, vars(value).values())))
