"""States that come from elsewhere than the last step: from a checkpoint, or changed by hand."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from jadam._engine.checks import COUNT, check_scalar, kept_scalars
from jadam._engine.kept import Type
from jadam._engine.numbers import alike
from jadam._engine.plan import Plan
from jadam._errors import BadType, BadValue, shown
from jadam._state import GIVEN, OptState
from jadam._tree import flatten, is_array, quoted


def restored(plan: Plan, state: OptState) -> OptState:
    """The state with the numbers that stand in place of its arrays as those arrays.

    Numbers outside of JAX are checked, since they are known without waiting for a device: a count below zero, or a decay
    rate of 2, would make every parameter NaN.
    """
    for field in ("hyperparams", "slots", "scalars", "given"):
        if not isinstance(getattr(state, field), Mapping):
            raise BadValue(f"the {field} of the state are {getattr(state, field)!r}, and not a dict.")
    if state.count is None:
        check_scalar("count", state.count, COUNT)
    if _comes_from_a_step(plan, state):
        return state
    given = {key: _number(value, plan.dtype) for key, value in state.given.items()}
    assigned = {
        key: alike(given[key + GIVEN], _checked(plan, key, value))
        for key, value in state.hyperparams.items()
        if isinstance(value, int | float | np.ndarray | np.generic)
        or (isinstance(value, Array) and (value.dtype != plan.dtype or value.weak_type))
        if key + GIVEN in given and np.ndim(value) == 0 and not _too_large(value)
    }
    if assigned:
        state = state._replace(hyperparams={**state.hyperparams, **assigned})
    leaves = flatten(state)
    for name, leaf in zip(leaves.names, leaves.values, strict=True):
        if not is_array(leaf):
            raise BadType(f"{quoted(name)} of the state is {shown(leaf)}, which is not an array.")
    types, number = kept_scalars(plan), Type((), plan.dtype)
    return state._replace(
        count=_number(state.count, np.int32),
        scalars={
            key: {name: _number(value, types.get(key, {}).get(name, number).dtype) for name, value in own.items()}
            for key, own in state.scalars.items()
        },
        given=given,
    )


def _comes_from_a_step(plan: Plan, state: OptState) -> bool:
    """The quick answer for nearly all states: it is asked at every step outside `jit`, and where one is traced."""
    try:
        of_arrays = all(issubclass(kind, Array | Tracer) for kind in set(map(type, jax.tree.leaves(state))))
        return of_arrays and not any(x.weak_type or x.dtype != plan.dtype for x in state.hyperparams.values())
    except AttributeError:  # no array, or a PRNG key, which has no weak type
        return False


def _checked(plan: Plan, key: str, value: Any) -> Any:
    """A hyperparameter that was put into the state; a schedule replaces it before it acts."""
    hyper = next((hyper for one in plan.all for name, hyper in one.hypers if name == key), None)
    if hyper and key in plan.numbers and not isinstance(value, Array):
        hyper.allowed.check(key, hyper.store(float(value)))  # in float64, where 1 - 2^-31 is less than 1
    return value


def _too_large(value: Any) -> bool:
    """Whether this is an integer that no float can represent. It is refused as what is not an array."""
    return isinstance(value, int) and abs(value) > sys.float_info.max


def _number(value: Any, dtype: Any) -> Any:
    """A Python number as an array, if it is of the kind that must be there; everything else as it is."""
    if _too_large(value):
        return value
    if np.dtype(dtype) == np.int32 and isinstance(value, int | np.integer | np.ndarray) and np.ndim(value) == 0 and value < 0:
        raise BadValue(f"the count of the state is {value}, and not the number of updates done.")
    return np.asarray(value, dtype) if isinstance(value, int if np.dtype(dtype) == np.int32 else int | float) else value
