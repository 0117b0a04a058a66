"""The hyperparameters of a step: numbers from the code or set by hand, and what schedules and arrays say."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jadam._annotations import check_in_dtype
from jadam._dtypes import cast
from jadam._engine.checks import COUNT, check_scalar
from jadam._engine.placement import scalar
from jadam._engine.plan import Plan
from jadam._errors import BadType, BadValue
from jadam._hyper import HyperField
from jadam._recipe import Recipe
from jadam._schedules.fields import not_a_number
from jadam._state import GIVEN, SET, OptState, spoken


class Said(NamedTuple):
    """What the code says of hyperparameters at one step.

    Attributes:
        numbers: those that are numbers, in the order of the plan: an operand, so that another number compiles nothing.
        driven: those of schedules and arrays, by their keys in the state.
    """

    numbers: Any
    driven: dict[str, Array]


def said(recipe: Recipe, plan: Plan, state: OptState) -> Said:
    """Asks the code. Schedules are called here, outside of anything that is compiled: they may be any Python."""
    driven = {}
    for key, hyper, driver, counter in recipe.drivers:
        if key in state.hyperparams and (counter is None or counter in state.scalars):  # else `check_state` refuses it
            count = state.count if counter is None else state.scalars[counter].get("count")
            check_scalar("count" if counter is None else f"scalars[{counter!r}]['count']", count, COUNT)
            driven[key] = _asked(key, hyper, driver, count, plan.dtype)
    return Said(_operand(recipe, plan, state.count), driven)


def _operand(recipe: Recipe, plan: Plan, count: Any) -> Any:
    """The numbers of the code as an array beside the state: put there once, since every step outside `jit` needs it."""
    numbers = np.fromiter(recipe.numbers.values(), plan.dtype, len(plan.numbers))
    if isinstance(count, Tracer) or not isinstance(count, Array):
        return numbers
    place = plan.dtype, count.sharding
    if place not in recipe.operands:
        operand = jax.device_put(numbers, count.sharding if count.committed else None)
        if isinstance(operand, Tracer):  # a state that a function under `jit` closes over
            return numbers
        recipe.operands[place] = operand
    return recipe.operands[place]


def _asked(key: str, hyper: HyperField, driver: Any, count: Any, dtype: Any) -> Array:
    """What a schedule or an array says at a step, as the state holds it."""
    value = _called(spoken(key), hyper, driver, count, dtype) if callable(driver) else driver
    stored = jnp.asarray(hyper.store(value), dtype)
    if stored is value and not getattr(type(driver), "is_schedule", False):
        stored = jnp.copy(stored)  # an array that the schedule keeps would be deleted with a state that is donated
    return stored


def _called(name: str, hyper: HyperField, driver: Any, count: Any, dtype: Any) -> Any:
    """The value of a schedule: a number, which is in range as far as that can be seen without waiting for a device."""
    schedule = f"the schedule of {name}"
    try:
        value = driver(count)
    except jax.errors.JAXTypeError as error:
        if not isinstance(count, Tracer):
            raise
        words = "reads the count as a number, and under jit it is traced; write it with jnp (jnp.where for if)."
        raise BadValue(f"{schedule} {words}") from error
    if words := not_a_number(value):
        raise BadType(f"{schedule} returned {words}; it must return a number.")
    known = not isinstance(value, Array) or (isinstance(count, np.integer) and not isinstance(value, Tracer))
    if known:
        number = float(value)
        if not hyper.allowed.holds(number):
            raise BadValue(f"{schedule} returned {number:g}; it must be {hyper.allowed.words}.")
        check_in_dtype(name, number, hyper.store(number), dtype)
    return value if isinstance(value, Array | np.generic | np.ndarray) else float(value)


def _given(plan: Plan, key: str, value: Any) -> Any:
    """What counts as given for a value that drives the state, in a buffer of its own: a state may be donated."""
    return jnp.full((), SET, plan.dtype) if key in plan.traced else jnp.copy(value)


def alike(old: Any, value: Any) -> Array:
    """The value with the dtype, shape and placement of an array of the state, so that no call compiles again."""
    if isinstance(old, int | float):  # of a checkpoint: a step makes it an array
        return value
    if isinstance(value, Tracer) or isinstance(old, Tracer) or not isinstance(old, Array):
        return jnp.broadcast_to(jnp.asarray(value, old.dtype), jnp.shape(value) or old.shape)
    new = np.broadcast_to(np.asarray(value, old.dtype), old.shape)
    return jax.device_put(new, old.sharding if old.committed else None)


def initial(recipe: Recipe, plan: Plan, sharding: Any) -> tuple[dict[str, Array], dict[str, Array]]:
    """The hyperparameters of a new state, and what was given."""
    driven = {key: _asked(key, hyper, driver, np.int32(0), plan.dtype) for key, hyper, driver, _ in recipe.drivers}
    values = recipe.numbers | driven
    given = recipe.numbers | {key: _given(plan, key, value) for key, value in driven.items()}
    return (
        {key: scalar(value, plan.dtype, sharding) for key, value in values.items()},
        {key + GIVEN: scalar(value, plan.dtype, sharding) for key, value in given.items()},
    )


def without_state(recipe: Recipe, plan: Plan) -> OptState:
    """What a step goes by where the caller has no state: the numbers of the code, and no count."""
    hyperparams, given = initial(recipe, plan, None)
    return OptState(None, hyperparams, {}, {}, given)  # pyright: ignore[reportArgumentType]


def acting(plan: Plan, state: OptState, code: Said) -> dict[str, tuple[Array, Array]]:
    """The hyperparameters that act at a step, with what was given, by their keys in the state.

    A number of the state that is not the one that the code gave was set by hand, and stays. Otherwise what the code says now
    acts.
    """
    values, index = {}, {key: n for n, key in enumerate(plan.numbers)}
    numbers = jnp.asarray(code.numbers)
    for one in plan.all:
        for key, hyper in one.hypers:
            value, given = state.hyperparams[key], state.given[key + GIVEN]
            if key in code.driven:
                values[key] = code.driven[key], _given(plan, key, code.driven[key])
                continue
            number = cast(lax.index_in_dim(numbers, index[key], keepdims=False), value.dtype)
            follows = lax.eq(value, given)
            # `value - given` is zero there, and lets a derivative with respect to the state's number through; not of a bound
            # that may be inf, where it is NaN. `given` from what acts: of results that depend on one another, XLA for GPU makes
            # one kernel.
            followed = number if hyper.allowed.holds(math.inf) else lax.add(number, lax.sub(value, given))
            acts = lax.select(follows, followed, value)
            values[key] = acts, lax.select(follows, lax.stop_gradient(acts), given)
    return values
