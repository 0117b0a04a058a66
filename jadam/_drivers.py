"""The hyperparameters of a step: numbers from the state, or what schedules and arrays give."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jadam._hyper import Driven, HyperField
from jadam._part import Part, named
from jadam._state import OptState


@functools.partial(jax.jit, static_argnames=("schedule", "hyper", "dtype"))
def scheduled(schedule: Callable[[Any], Any], hyper: HyperField, dtype: Any, count: Array) -> Array:
    """The value of a schedule as the state holds it."""
    return jnp.asarray(hyper.store(schedule(count)), dtype)


def driven(parts: Sequence[Part], state: OptState) -> OptState:
    """The state with the hyperparameters that arrays drive, as in a transformation that is built anew inside `jit`."""
    given: dict[str, dict[str, Array]] = {}
    for key, part in named(parts).items():
        for hyper in part.hypers:
            value, old = getattr(part.rule, hyper.name), state.hyperparams.get(key, {}).get(hyper.stored)
            if isinstance(value, Driven) and old is not None:
                given.setdefault(key, {})[hyper.stored] = jnp.asarray(hyper.store(value), old.dtype)
    if not given:
        return state
    return state._replace(hyperparams={key: own | given.get(key, {}) for key, own in state.hyperparams.items()})


def evaluated(parts: Mapping[str, Part], state: OptState) -> dict[str, dict[str, Array]]:
    """The hyperparameters by rule and name in the state, with schedules at this step."""
    values = {key: dict(own) for key, own in state.hyperparams.items()}
    for key, part in parts.items():
        for hyper in part.hypers:
            given, old = getattr(part.rule, hyper.name), values[key][hyper.stored]
            if callable(given):
                values[key][hyper.stored] = scheduled(given, hyper, old.dtype, state.count)
    return values
