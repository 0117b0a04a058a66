"""The state of a transformation, and the hyperparameters in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import count
from typing import Any, NamedTuple

import jax
from jax import Array

from jadam._errors import BadType
from jadam._tree import PyTree

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
        scalars: by rule, what it keeps for all parameters together.
        given: by the names of `hyperparams` and `.given`, the numbers that the code gave. A hyperparameter that differs from
            it was set by hand and stays; one that does not follows the code, also when a run resumes with another number.
            `-inf` where `set_hyperparams` set it.
    """

    count: Array  # pyright: ignore[reportIncompatibleMethodOverride] (optax's name; no one counts items of a state)
    hyperparams: dict[str, Array]
    slots: dict[str, Any]
    scalars: dict[str, dict[str, Array]]
    given: dict[str, Array]


def check_is_state(place: str, state: Any) -> None:
    if not isinstance(state, OptState):
        order = "; the order is (grads, state, params)" if place == "second" else ""
        raise BadType(f"the {place} argument is a {type(state).__name__}, not the state that init returned{order}.")


def states(tree: PyTree) -> Iterator[OptState]:
    """All states in a tree: of `optax.chain`, a train state, and those in the slots of others."""
    for inner in jax.tree.leaves(tree, is_leaf=lambda x: isinstance(x, OptState)):
        if isinstance(inner, OptState):
            yield inner
            yield from states(inner.slots)


def numbered(name: str) -> Iterator[str]:
    """The name, `name_1`, `name_2`, ..."""
    yield name
    yield from (f"{name}_{number}" for number in count(1))
