"""What methods of rules, wrappers and pairs returned, checked: whoever writes one is a user too."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from jadam._engine.placement import on_automatic_axes
from jadam._errors import BadType, BadValue, shown
from jadam._rows import is_rows
from jadam._tree import PyTree, is_array


def slots(rule: Any, p: Array) -> dict[str, Any]:
    """The slots that `init` makes for a parameter."""
    found = rule.init(p)
    words = f"{_class(rule)}.init must return a dictionary of arrays by name, such as {{'mu': jadam.zeros(p)}}"
    if not isinstance(found, dict):
        raise BadType(f"{words}, not {_kind(found)}.")
    for name, value in found.items():
        if not isinstance(value, Array | np.ndarray):
            raise BadType(f"{words}; {name!r} is {_kind(value)}.")
    return found


def slot(rule: Any, kept: Mapping[str, Any], name: str) -> Any:
    """A slot that `prepare` asks for."""
    if name not in kept:
        raise BadValue(f"{rule.name} keeps no slot {name!r} for all its parameters; `init` makes what it keeps.")
    return kept[name]


def scalars(block: Any) -> dict[str, Any]:
    """What a rule or wrapper keeps for all parameters together, with its initial values."""
    found = block.scalars()
    if not isinstance(found, dict) or not all(map(is_array, found.values())):
        raise BadType(f"{_class(block)}.scalars must return a dictionary of numbers or arrays by name, not {shown(found)}.")
    return found


def constants(rule: Any, found: Any) -> dict[str, Any]:
    """What `prepare` returned."""
    if not isinstance(found, dict):
        raise BadType(f"{_class(rule)}.prepare must return a dictionary of constants by name, not {_kind(found)}.")
    for name, value in found.items():
        if not all(map(is_array, jax.tree.leaves(value))):
            raise BadType(f"{_class(rule)}.prepare must return numbers and arrays; {name!r} is {shown(value)}.")
    if missing := [name for name in rule.scalars() if name not in found]:
        raise BadValue(f"{_class(rule)}.prepare must return the next {missing[0]!r} too, which its `scalars` keeps.")
    return found


def update(rule: Any, found: Any) -> tuple[Array, dict[str, Array]]:
    """What `update` of a rule returned."""
    fits = isinstance(found, tuple) and len(found) == 2 and isinstance(found[1], dict)
    if not fits or not all(hasattr(x, "shape") for x in (found[0], *found[1].values())):
        raise BadType(f"{_class(rule)}.update must return an array and a dictionary of slots, not {_kind(found)}.")
    return found


def around(wrapper: Any, found: Any, outcome: type, stored: Mapping[str, Sequence[Array]]) -> tuple[Any, dict[str, Any], dict]:
    """What `around` of a wrapper returned."""
    fits = type(found) is tuple and len(found) == 3 and isinstance(found[0], outcome)
    if not fits or not (isinstance(found[1], dict) and isinstance(found[2], dict)):
        raise BadType(
            f"{_class(wrapper)}.around must return what inside.run, stay or when returned, a dictionary of slots, and one of "
            f"scalars, not {_kind(found)}."
        )
    _, slots, scalars = found
    _same_names(wrapper, "slots", "init", [name for name, column in slots.items() if len(column)], stored)
    _same_names(wrapper, "scalars", "scalars", scalars, wrapper.scalars())
    for name, arrays in stored.items():
        shapes = [[getattr(x, "shape", None) for x in column] for column in (slots[name], arrays)]
        if shapes[0] != shapes[1]:
            raise BadValue(f"{_class(wrapper)}.around must keep the shapes of {name!r}: of {shapes[1]} it made {shapes[0]}.")
    return found


def updates(wrapper: Any, given: Any, number: int) -> Sequence[Array]:
    """The updates that a wrapper runs its inside on."""
    if not isinstance(given, list | tuple) or len(given) != number or not all(hasattr(u, "shape") or is_rows(u) for u in given):
        raise BadType(f"{_class(wrapper)}.around must run the inside on a list of {number} arrays, as inside.updates is.")
    return given


def by_pair(pair: Any, updates: PyTree, state: PyTree, params: PyTree, extra: dict[str, Any]) -> Any:
    """What the update of a pair returns. It was written without regard to explicit axes, on which JAX refuses the sum of a
    gradient and of a moment that is spread further.
    """
    arrays = {name: x for name, x in extra.items() if all(isinstance(leaf, Array) for leaf in jax.tree.leaves(x))}
    others = {name: x for name, x in extra.items() if name not in arrays}

    def update(updates: PyTree, state: PyTree, params: PyTree, arrays: dict[str, Any]) -> Any:
        return pair.update(updates, state, params, **others, **arrays)

    def places() -> Any:
        return jax.tree.map(lambda x: jax.typeof(x).sharding, (updates, state))

    first = next(iter(jax.tree.leaves(updates)), None)
    return on_automatic_axes(update, first, places)(updates, state, params, arrays)


def of_pair(pair: Any, found: Any, treedef: Any, shapes: dict[int, tuple[int, ...]]) -> tuple[dict[int, Any], Any]:
    """The updates by leaf, and the state, that a pair from elsewhere returned."""
    if not (isinstance(found, tuple) and len(found) == 2):
        raise BadType(f"the update of {pair!r} must return the updates and the next state, not {_kind(found)}.")
    try:
        leaves = treedef.flatten_up_to(found[0])
    except (ValueError, TypeError):
        leaves = None
    if leaves is None or any(getattr(leaves[i], "shape", None) != shape for i, shape in shapes.items()):
        raise BadValue(f"the update of {pair!r} must return updates with the structure and shapes of those that it receives.")
    return {i: leaves[i] for i in shapes}, found[1]


def _same_names(owner: Any, what: str, method: str, found: Collection[str], expected: Collection[str]) -> None:
    if set(found) != set(expected):
        names = [", ".join(map(repr, x)) or "none" for x in (expected, found)]
        raise BadValue(f"{_class(owner)}.around must return the {what} that `{method}` makes, {names[0]}, not {names[1]}.")


def _class(owner: Any) -> str:
    return type(owner).__name__


def _kind(value: Any) -> str:
    if value is None:
        return "None"
    if type(value) is tuple:
        return f"a tuple of {', '.join(map(_kind, value)) or 'nothing'}"
    if hasattr(value, "shape"):
        return "an array"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
