"""Pytrees as jadam reads them: leaves, their paths, and which of them are trained."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, is_dataclass
from operator import attrgetter
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import KeyPath, all_leaves, keystr, tree_flatten_with_path

from jadam._errors import BadType, shown

PyTree = Any
T = TypeVar("T")


@dataclass(frozen=True)
class Leaves:
    """A flattened tree.

    Attributes:
        paths: JAX's key paths, in the order of `values`.
        names: the paths as `match`, `describe` and error messages write them: `dense/kernel`.
        values: the leaves.
        treedef: of the tree.
        answers: what was asked of these leaves before, by the identity of who asked.
        readers: who read values to answer. Only `init`, which may meet values, has such a list; elsewhere that is an error.
    """

    paths: tuple[KeyPath, ...]
    names: tuple[str, ...]
    values: list[Any]
    treedef: Any  # jax.tree_util.PyTreeDef, which JAX exports as a variable
    answers: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    readers: list[Any] | None = None

    def ask(self, who: Any, answer: Callable[[Leaves], T]) -> T:
        """`answer(self)`, computed once for each `who`: the rules of a group, and all groups, ask one mask."""
        if id(who) not in self.answers:
            self.answers[id(who)] = who, answer(self)  # with `who`, so that its identity is not given to another
        return self.answers[id(who)][1]


def flatten(tree: PyTree) -> Leaves:
    pairs, treedef = tree_flatten_with_path(tree)
    names = tuple(map(_slashed, unboxed(tree)))
    return Leaves(tuple(path for path, _ in pairs), names, [value for _, value in pairs], treedef)


def quoted(name: str) -> str:
    """The name of a leaf as an error message shows it."""
    return name or "the root"


def _slashed(path: KeyPath) -> str:
    return keystr(path, simple=True, separator="/")


def _is_box(node: Any) -> bool:
    """Whether flax has put this around an array: `nnx.Param` and its kind, linen's `Partitioned` and its kind.

    It is known by its type. By the name of its field (`value`) it would be taken for a field of the user's.
    """
    boxes = ("Variable", "VariableState", "AxisMetadata")
    return any(base.__module__.startswith("flax.") and base.__name__ in boxes for base in type(node).__mro__)


def unboxed(tree: PyTree, above: KeyPath = ()) -> Iterator[KeyPath]:
    """The path of each leaf, without the boxes around it."""
    for path, node in tree_flatten_with_path(tree, is_leaf=_is_box)[0]:
        if _is_box(node):
            for _, child in _children(node)[0]:
                yield from unboxed(child, above + path)
        else:
            yield above + path


def _children(node: PyTree) -> tuple[list[tuple[KeyPath, Any]], Any]:
    """A tree flattened by one level."""
    return tree_flatten_with_path(node, is_leaf=lambda below: below is not node)


def is_function(value: Any) -> bool:
    """Whether a value is a function to call. A module of equinox is a tree, and a tree that can be called is not called."""
    return callable(value) and (isinstance(value, functools.partial) or all_leaves((value,)))  # JAX's `Partial` is a tree too


def is_trained(leaf: Any) -> bool:
    """Whether optimizers act on this leaf: real or complex floating point, and nothing else."""
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def arrays(argument: str, tree: PyTree) -> PyTree:
    """The tree with every leaf a strongly typed array: a Python number or a weak type would cause a second trace.

    Raises:
        TypeError: a leaf is neither an array nor a number; the message names its path.
    """
    return strong(argument, tree)[0]


PASSED = np.zeros((), bool)
"""Stands for a function or a string among the leaves: what is not trained, and can be traced."""


def is_passed(leaf: Any) -> bool:
    """Whether this is no array but a function or a string, which a model of equinox has beside its arrays."""
    return isinstance(leaf, str | bytes) or (callable(leaf) and not is_array(leaf))


def put_back(tree: PyTree, like: PyTree, values: PyTree) -> PyTree:
    """A tree with those of `values` in the places in which `like` has functions and strings."""
    leaves, treedef = jax.tree.flatten(like)
    columns = zip(leaves, *map(treedef.flatten_up_to, (tree, values)), strict=True)
    return treedef.unflatten([value if is_passed(leaf) else new for leaf, new, value in columns])


def strong(argument: str, tree: PyTree, shapes: bool = False, passing: bool = False) -> tuple[PyTree, list[Any], Any]:
    """`arrays(argument, tree)`, with its leaves and structure.

    With `shapes`, a leaf may be a `jax.ShapeDtypeStruct`; with `passing`, a function or a string, for which `PASSED` stands.
    """
    try:
        leaves, treedef = jax.tree.flatten(tree)
    except ValueError:  # JAX's words do not say which
        raise BadType(
            f"{argument} has a dict whose keys cannot be sorted, such as 1 beside 'a'; give it keys of one type."
        ) from None
    if _are_strong(leaves):
        return tree, leaves, treedef
    if passing:
        leaves = [PASSED if is_passed(leaf) else leaf for leaf in leaves]
    if not shapes and jax.ShapeDtypeStruct in map(type, leaves):
        name = flatten(tree).names[[type(leaf) for leaf in leaves].index(jax.ShapeDtypeStruct)]
        raise BadType(f"{argument} has a ShapeDtypeStruct at {quoted(name)}, a shape without values; pass an array.")
    if not all(map(is_array, leaves)):
        name, leaf = next((name, leaf) for name, leaf in zip(flatten(tree).names, leaves, strict=True) if not is_array(leaf))
        reason = "for which JAX has no dtype" if isinstance(leaf, int | np.ndarray | np.generic) else "which is not an array"
        raise BadType(
            f"{argument} has {shown(leaf)}, a {type(leaf).__name__}, at {quoted(name)}, {reason}; "
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


def difference(tree: PyTree, names: Sequence[str], treedef: Any) -> str:
    """In words, the first place in which a tree differs in structure from that of the parameters."""
    leaves = flatten(tree)
    words = _odd_one(leaves.names, names)
    return words or f"{leaves.treedef} is not {treedef}"


def misfit(tree: PyTree, params: PyTree, is_leaf: Callable[[Any], bool] | None = None, above: KeyPath = ()) -> str:
    """In words, the first place in which a tree is not a prefix of the parameters; empty if it is one."""
    if all_leaves((tree,), is_leaf):
        return ""
    kinds = _kind(tree), _kind(params)
    if kinds[0] != kinds[1]:
        return f"at {quoted(_slashed(above))} it has {kinds[0]}, the parameters have {kinds[1]}"
    (own, structure), (others, expected) = _children(tree), _children(params)
    words = _odd_one(*([_slashed(above + path) for path, _ in side] for side in (own, others)))
    if not words and structure != expected:
        words = f"at {quoted(_slashed(above))} it is {structure}, in the parameters {expected}"
    below = (misfit(mine, its, is_leaf, above + path) for (path, mine), (_, its) in zip(own, others, strict=False))
    return words or next(filter(None, below), "")


def _odd_one(names: Sequence[str], expected: Sequence[str]) -> str:
    found, known = set(names), set(expected)
    missing, extra = (name for name in expected if name not in found), (name for name in names if name not in known)
    if (name := next(missing, None)) is not None:
        return f"{quoted(name)} is missing"
    name = next(extra, None)
    return "" if name is None else f"{quoted(name)} is not among the parameters"


def _kind(node: PyTree) -> str:
    return "None" if node is None else "an array" if all_leaves((node,)) else f"a {type(node).__name__}"


def of_numbers(value: Any) -> bool:
    """Whether a value is made of numbers and words, in tuples and dataclasses of jadam.

    A cache with it holds nothing of the user's, whose classes may be mutable, and whose functions may read anything.
    """
    if isinstance(value, tuple):
        return all(map(of_numbers, value))
    ours = is_dataclass(value) and type(value).__module__.startswith("jadam.")
    return isinstance(value, int | float | str | None) or (ours and all(map(of_numbers, vars(value).values())))
