"""Pytrees as jadam reads them: leaves, their paths, and which of them are trained."""

from __future__ import annotations

from operator import attrgetter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.tree_util import GetAttrKey, KeyPath, keystr, tree_flatten_with_path

PyTree = Any


class Leaves(NamedTuple):
    """A flattened tree. `paths` are JAX's key paths, in the order of `values`."""

    paths: tuple[KeyPath, ...]
    values: list[Any]
    treedef: Any  # jax.tree_util.PyTreeDef, which JAX exports as a variable


def flatten(tree: PyTree) -> Leaves:
    pairs, treedef = tree_flatten_with_path(tree)
    return Leaves(tuple(path for path, _ in pairs), [value for _, value in pairs], treedef)


def quoted(path: KeyPath) -> str:
    """A path as an error message shows it: `['dense']['kernel']`."""
    return keystr(path) or "the root"


def slashed(path: KeyPath) -> str:
    """A path as `match` and `describe` write it: `dense/kernel`.

    The box that flax puts around an array (`nnx.Param`, linen's `Partitioned`) is no part of it.
    """
    while path and isinstance(path[-1], GetAttrKey) and path[-1].name in ("value", "raw_value"):
        path = path[:-1]
    return keystr(path, simple=True, separator="/")


def is_trained(leaf: Any) -> bool:
    """Whether optimizers act on this leaf: real or complex floating point, and nothing else."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def arrays(where: str, argument: str, tree: PyTree) -> PyTree:
    """The tree with every leaf a strongly typed array: a Python number or a weak type would cause a second trace.

    Raises:
        TypeError: a leaf is neither an array nor a number; the message names its path.
    """
    leaves, treedef = jax.tree.flatten(tree)
    if _are_strong(leaves):
        return tree
    if not all(map(is_array, leaves)):
        path, leaf = next((path, leaf) for path, leaf in tree_flatten_with_path(tree)[0] if not is_array(leaf))
        raise TypeError(
            f"{where}: {argument} has {leaf!r}, a {type(leaf).__name__}, at {quoted(path)}, which is no array; "
            "take it out of the tree, or put None in its place."
        )
    return treedef.unflatten([_strong(leaf) for leaf in leaves])


def _are_strong(leaves: list[Any]) -> bool:
    """The quick answer for what nearly all trees are: it is asked of every leaf at every step outside jit."""
    try:
        kinds = set(map(type, leaves))
        return all(issubclass(kind, jax.Array) for kind in kinds) and not any(map(attrgetter("weak_type"), leaves))
    except AttributeError:  # PRNG keys have no weak type
        return False


def is_array(leaf: Any) -> bool:
    """Whether this is an array, or a number that can be one."""
    if isinstance(leaf, jax.Array | bool | int | float | complex):
        return True
    return hasattr(leaf, "shape") and getattr(getattr(leaf, "dtype", None), "kind", "O") not in "OSU"


def _strong(leaf: Any) -> Any:
    if isinstance(leaf, bool | int | float | complex) or getattr(leaf, "weak_type", False):
        return jax.lax.convert_element_type(leaf, jnp.result_type(leaf))
    return leaf


def difference(tree: PyTree, reference: Leaves) -> str:
    """In words, the first path in which a tree differs in structure from another."""
    leaves = flatten(tree)
    missing = [path for path in reference.paths if path not in set(leaves.paths)]
    extra = [path for path in leaves.paths if path not in set(reference.paths)]
    if missing:
        return f"{quoted(missing[0])} is missing"
    if extra:
        return f"{quoted(extra[0])} is not among the parameters"
    return f"{leaves.treedef} is not {reference.treedef}"


def owners(tree: PyTree, params: Leaves) -> list[int | None]:
    """For each leaf of a state, the number of the parameter it belongs to: the one whose path its own path ends with.

    In a slot of jadam's, that is the path after `slots`, rule and slot, whatever the shape; elsewhere shapes must agree.
    """
    numbers = {path: number for number, path in enumerate(params.paths)}

    def owner(path: KeyPath, leaf: Any) -> int | None:
        if path and path[-1] in (GetAttrKey("codes"), GetAttrKey("scales")):  # of `Blocks`, which stands for one array
            path = path[:-1]
        for start in range(len(path) + 1):
            number = numbers.get(path[start:])
            if number is None:
                continue
            is_slot = start >= 3 and path[start - 3] == GetAttrKey("slots") and path[start:]
            if is_slot or jnp.shape(params.values[number]) == leaf.shape:
                return number
        return None

    return [owner(path, leaf) for path, leaf in tree_flatten_with_path(tree)[0]]
