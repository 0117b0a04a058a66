"""The state of a transformation, and the hyperparameters in it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from itertools import chain, count
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.tree_util import KeyPath, tree_flatten_with_path

from jadam._errors import BadType, BadValue
from jadam._tree import Leaves, PyTree

COMPLEMENT = "one_minus_"
GIVEN = ".given"
SET = -math.inf
"""Stands for the number that the code gave where a hyperparameter was set by hand, whatever the code says."""


class OptState(NamedTuple):
    """The state of a jadam transformation; a pytree of arrays with the same structure, shapes and dtypes after every step.

    Attributes:
        count: int32 scalar, updates done. It saturates and never wraps.
        hyperparams: scalars in float32 (float64 as soon as one parameter is) by `rule.name`, such as `adam.eps`, or the bare
            name where both are alike: `learning_rate`. A `Decay` such as `b2` is kept as `one_minus_b2`. Each is what the
            last update used; what is assigned to one acts from the next update on, unless a schedule drives it.
        slots: by rule and slot, trees like the parameters, with None where the rule keeps nothing; the whole state of a
            transformation from elsewhere.
        scalars: by rule, what it keeps for all parameters together; and the step counts of groups, and of wrappers beside
            others, which have their own beginning.
        given: by the names of `hyperparams` and `.given`, the numbers that the code gave. A hyperparameter that differs from
            it was set by hand and stays; one that does not follows the code, also when a run resumes with another number.
            `-inf` where `set_hyperparams` set it.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride] (optax's name; no one counts items of a state)
    hyperparams: dict[str, Array]
    slots: dict[str, Any]
    scalars: dict[str, dict[str, Array]]
    given: dict[str, Array]


def as_state(place: str, state: Any) -> OptState:
    """The state, which a checkpoint may have restored without its type, as a dict or a tuple of the same content."""
    if isinstance(state, OptState):
        return state
    if isinstance(state, Mapping) and set(state) == set(OptState._fields):
        return OptState(**state)
    if isinstance(state, list | tuple) and len(state) == len(OptState._fields) and isinstance(state[1], Mapping):
        return OptState(*state)
    remedy = "the order is (grads, state, params)" if place == "second" else "pass what tx.init or tx.update returned"
    raise BadType(f"the {place} argument is a {type(state).__name__}, not the state that init returned; {remedy}.")


def spoken(key: str) -> str:
    """A key of `hyperparams` without the mark of a complement."""
    rule, dot, name = key.rpartition(".")
    return rule + dot + name.removeprefix(COMPLEMENT)


def states(tree: PyTree) -> Iterator[OptState]:
    """All states in a tree: of `optax.chain`, a train state, and those in the slots of others."""
    for inner in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, OptState)):
        if isinstance(inner, OptState):
            yield inner
            yield from states(inner.slots)


def scalars_of_one(tree: PyTree, names: Collection[str], kept: str, of: str) -> dict[str, Array]:
    """What the only wrapper with these scalars keeps, of all states in a tree; `kept` and `of` say what that is in words."""
    found = scalars_with(tree, names)
    if len(found) != 1:
        raise BadValue(f"the state has {len(found) or 'no'} {kept}; it must be of one `{of}`.")
    return found[0]


def scalars_with(tree: PyTree, names: Collection[str]) -> list[dict[str, Array]]:
    """What each wrapper with these scalars keeps, of all states in a tree."""
    return [
        {name: jax.tree.leaves(x)[0] for name, x in scalars.items()}  # flax.nnx keeps each in a box
        for state in states(tree)
        for scalars in state.scalars.values()  # under a name that may begin with a group's, and be numbered
        if set(scalars) >= set(names)
    ]


def numbered(name: str) -> Iterator[str]:
    """The name, `name_1`, `name_2`, ..."""
    yield name
    yield from (f"{name}_{number}" for number in count(1))


def owners(tree: PyTree, params: Leaves) -> list[int | None]:
    """For each leaf of a state, the number of the parameter that it belongs to.

    In a slot of jadam's that is the leaf in its place, whatever parameters are called. Elsewhere it is the one of its shape
    whose path its own path ends with.
    """
    numbers = {path: number for number, path in enumerate(params.paths)}

    def elsewhere(path: KeyPath, leaf: Any) -> int | None:
        ends = (numbers.get(path[start:]) for start in range(len(path) + 1))
        alike = (n for n in ends if n is not None and jnp.shape(params.values[n]) == jnp.shape(leaf))
        return next(alike, None)

    def of_slot(slot: PyTree) -> list[int | None] | None:
        """Those of a tree like the parameters, in which None may stand for leaves."""
        try:
            column = params.treedef.flatten_up_to(slot)
        except (ValueError, TypeError):
            return None
        return [number for number, values in enumerate(column) for _ in jax.tree.leaves(values)]

    found: list[int | None] = []
    for path, node in tree_flatten_with_path(tree, is_leaf=lambda x: isinstance(x, OptState))[0]:
        if not isinstance(node, OptState):
            found.append(elsewhere(path, node))
            continue
        for field, value in zip(node._fields, node, strict=True):
            if field != "slots":
                found += [None] * len(jax.tree.leaves(value))
                continue
            for key in sorted(value):  # as JAX flattens a dict
                slots = value[key]
                columns = [of_slot(slots[slot]) for slot in sorted(slots)] if isinstance(slots, dict) else [None]
                found += owners(slots, params) if None in columns else chain.from_iterable(filter(None, columns))
    return found
