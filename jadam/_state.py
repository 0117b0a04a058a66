"""The state of a transformation, and the hyperparameters in it."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

import jax
from jax import Array

from jadam._tree import PyTree

COMPLEMENT = "one_minus_"


class OptState(NamedTuple):
    """The state of a jadam transformation; a pytree of arrays with the same structure, shapes and dtypes after every step.

    Attributes:
        count: int32 scalar, updates done. It saturates and never wraps.
        hyperparams: by rule and name, scalars in float32 (float64 as soon as one parameter is). A `Decay` such as `b2` is
            kept as `one_minus_b2`. What a schedule gave last is written here. Read them with `jadam.hyperparams`, set them
            with `tx.set_hyperparams`.
        slots: by rule and slot, trees like the parameters, with None where the rule keeps nothing; the whole state of a
            transformation from elsewhere.
        scalars: by rule, what it keeps for all parameters together.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride] (optax's name; no one counts items of a state)
    hyperparams: dict[str, dict[str, Array]]
    slots: dict[str, Any]
    scalars: dict[str, dict[str, Array]]


def check_is_state(where: str, place: str, state: Any) -> None:
    if not isinstance(state, OptState):
        order = "; the order is (grads, state, params)" if place == "second" else ""
        raise TypeError(f"{where}: the {place} argument is a {type(state).__name__}, not the state that init gave{order}.")


def readable_names(state: OptState) -> dict[str, tuple[str, str]]:
    """The hyperparameters of one state: `(rule, name in the state)` by the name that users see.

    That is the bare name (`b2`) where only one rule has it, else with the rule before it (`adam_1.b2`), or the rule alone
    where it is called like its hyperparameter (`learning_rate_1`).
    """
    places = [(rule, stored) for rule, values in state.hyperparams.items() for stored in values]
    bare = Counter(stored.removeprefix(COMPLEMENT) for _, stored in places)
    names = {}
    for rule, stored in places:
        name = stored.removeprefix(COMPLEMENT)
        alike = re.fullmatch(rf"(.*\.)?{name}(_\d+)?", rule)
        names[name if bare[name] == 1 else rule if alike else f"{rule}.{name}"] = rule, stored
    return names


def hyperparams(state: PyTree) -> dict[str, Array]:
    """The hyperparameters in a state, by name: `hyperparams(state)["learning_rate"]`.

    Args:
        state: an `OptState`, or any tree with such inside (of `optax.chain`, `optax.MultiSteps`, a train state).

    Returns:
        Scalars, float32 or float64. What a schedule drives is the value that the last update used; before the first
        update, the value that it will use. A name that several rules have comes with the rule's: `adam_1.b2`; one that
        several states have is numbered: `b2_1`.
    """
    found: dict[str, Array] = {}
    for inner in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, OptState)):
        if not isinstance(inner, OptState):
            continue
        own = {
            name: 1 - value if stored.startswith(COMPLEMENT) else value
            for name, (rule, stored) in readable_names(inner).items()
            for value in jax.tree.leaves(inner.hyperparams[rule][stored])  # one, which flax.nnx has put in a box
        }
        for name, value in (*own.items(), *hyperparams(inner.slots).items()):
            found[numbered(name, found)] = value
    return found


def numbered(name: str, taken: Any) -> str:
    """The name, or `name_1`, `name_2`, ... if it is taken."""
    free, number = name, 0
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free
