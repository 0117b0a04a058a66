"""The hyperparameters in a state, read and set by the names that users see."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jadam._annotations import check_in_dtype
from jadam._engine.numbers import alike
from jadam._errors import BadType, BadValue, door
from jadam._hyper import Driven, Range
from jadam._recipe import Recipe
from jadam._state import COMPLEMENT, GIVEN, SET, OptState, as_state, numbered, spoken, states
from jadam._tree import PyTree

ANY = Range("a number", lambda x: True)
"""Of a state in the slots of a pair, the range of a hyperparameter is not known."""


def readable_names(state: OptState) -> dict[str, str]:
    """The hyperparameters of one state: the key by the name that users see.

    That is the bare name (`b2`) where only one rule has it, else with its group and rule before it (`body.adam.b2`). Of several
    `learning_rate` the first is numbered too: what is called `learning_rate` is not one of them.
    """
    keys = state.hyperparams
    unnumbered = {key: re.sub(r"_\d+$", "", key) for key in keys}
    bare = {key: spoken(stem if stem in keys else key).rpartition(".")[2] for key, stem in unnumbered.items()}
    times = Counter(bare.values())
    names: dict[str, str] = {}
    for key in keys:
        full = spoken(key) + "_0" * (key + "_1" in keys)
        name = bare[key] if times[bare[key]] == 1 else full
        names[next(free for free in numbered(name) if free not in names)] = key
    return names


def places(tree: PyTree) -> dict[str, tuple[int, str]]:
    """The hyperparameters of all states in a tree: the number of the state and the key in it, by the name that users see."""
    readable = [(name, number, key) for number, state in enumerate(states(tree)) for name, key in readable_names(state).items()]
    times = Counter(name for name, _, _ in readable)
    found: dict[str, tuple[int, str]] = {}
    for name, number, key in readable:
        free = numbered(name) if times[name] == 1 else (f"{name}_{n}" for n in count())
        found[next(name for name in free if name not in found)] = number, key
    return found


def value_of(key: str, stored: Any) -> Array:
    """A hyperparameter of a state as users read it."""
    (value,) = jax.tree.leaves(stored)  # flax.nnx puts it in a box
    return to_stored(key, value)


def to_stored(key: str, value: Any) -> Any:
    """From what users read to what the state has, and back: the complement of a `Decay`, else the same."""
    return 1 - value if key.rsplit(".", 1)[-1].startswith(COMPLEMENT) else value


@door
@door
def hyperparams(state: PyTree) -> dict[str, Array]:
    """The hyperparameters in a state, by name: `hyperparams(state)["learning_rate"]`.

    Args:
        state: an `OptState`, or any tree with such inside (of `optax.chain`, `optax.MultiSteps`, a train state).

    Returns:
        Scalars, float32 or float64. What a schedule drives is the value that the last update used; before the first
        update, the value that it will use. A name that several rules have comes with the group's and the rule's:
        `body.adam.b2`. Where these are alike too, they are numbered: `learning_rate_0`; so is a name of several states, `b2_0`.

    Raises:
        TypeError: there is no state of jadam inside.
    """
    inside = list(states(state))
    if not inside:
        raise BadType(f"a {type(state).__name__} has no state of jadam inside; pass what tx.init or tx.update returned.")
    return {name: value_of(key, inside[number].hyperparams[key]) for name, (number, key) in places(state).items()}


def set_hyperparams(recipe: Recipe, state: OptState, values: dict[str, Any]) -> OptState:
    """The state of a recipe with other hyperparameters."""
    state = as_state("first", state)
    fields = {key: (hyper, getattr(at.part.rule, hyper.name)) for at in recipe.all for key, hyper in at.hypers}
    if other := set(state.hyperparams) ^ set(fields):
        raise BadValue(f"the state belongs to another transformation: only one of the two has {sorted(other)[0]}.")
    known = places(state)  # the first state is this one, others stand in the slots of pairs
    inside = list(states(state))
    edits: dict[int, dict[str, Any]] = {}
    for name, value in values.items():
        if name not in known:
            alike = [other for other in known if re.fullmatch(rf"(.*\.)?{re.escape(name)}(_\d+)?", other)]
            raise BadValue(f"there is no {name!r}; there are {', '.join(sorted(alike or known)) or 'none'}.")
        number, key = known[name]
        hyper, driver = fields[key] if number == 0 else (None, None)
        _check(name, value, hyper.allowed if hyper else ANY, driver, inside[number].hyperparams[key])
        edits.setdefault(number, {})[key] = value
    return _edited(state, edits, iter(range(1 + max(edits, default=0))))


def _check(name: str, value: Any, allowed: Range, driver: Any, old: Any) -> None:
    """Whether a value can be set; for each of several, where there are several models."""
    if callable(driver) or isinstance(driver, Driven):
        raise BadValue(f"{name} is driven by {driver!r}; build the transformation with a number to set it.")
    if callable(value):
        raise BadValue(f"{name} must be a number here; build the transformation with the schedule.")
    several = isinstance(value, list | tuple | np.ndarray | Array) and not isinstance(value, Tracer) and np.ndim(value) > 0
    for one in np.ravel(value) if several else [value]:
        if np.ndim(one) == 0:
            allowed.check(name, one)
            if not isinstance(one, Tracer):
                check_in_dtype(name, one, allowed.store(one), getattr(jax.tree.leaves(old)[0], "dtype", None))


def _edited(tree: PyTree, edits: dict[int, dict[str, Any]], numbers: Iterator[int]) -> PyTree:
    """A tree with values put into its states, which are numbered as `states` finds them."""

    def edit(leaf: Any) -> Any:
        if not isinstance(leaf, OptState) or (number := next(numbers, None)) is None:
            return leaf
        new = {key: _replaced(key, leaf.hyperparams[key], value) for key, value in edits.get(number, {}).items()}
        given = {key + GIVEN: _marked(leaf.given[key + GIVEN]) for key in new}
        slots = _edited(leaf.slots, edits, numbers)
        return leaf._replace(hyperparams=leaf.hyperparams | new, slots=slots, given=leaf.given | given)

    return jax.tree.map(edit, tree, is_leaf=lambda x: isinstance(x, OptState))


def _replaced(key: str, stored: Any, value: Any) -> Any:
    (old,), treedef = jax.tree.flatten(stored)  # flax.nnx keeps it in a box, which stays
    if jnp.shape(value) not in ((), jnp.shape(old)):
        raise BadValue(f"{key} has shape {jnp.shape(value)}, in the state it has {jnp.shape(old)}.")
    return treedef.unflatten([alike(old, to_stored(key, value))])


def _marked(stored: Any) -> Any:
    """What was given, of a hyperparameter that is set."""
    return jax.tree.map(lambda old: alike(old, SET), stored)
