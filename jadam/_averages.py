"""Averages and copies of parameters beside those that are trained, and the counts that they go by."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jadam._derivatives import complement_of_power
from jadam._dtypes import cast, compute_dtype, decode, encode
from jadam._errors import BadType, BadValue, door, shown
from jadam._storage.rounding import Noise, number_key, round_stochastically, step_key
from jadam._tree import PyTree, is_array, misfit, quoted


def _pairs(new: PyTree, old: PyTree, names: tuple[str, str]) -> None:
    """Whether two trees are alike; None may stand for what is left out."""
    for name, tree in zip(names, (new, old), strict=True):
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            if not is_array(leaf):
                place = quoted(jax.tree_util.keystr(path, simple=True, separator="/"))
                raise BadType(f"{name} has {shown(leaf)}, which is not an array, at {place}.")
    if jax.tree.structure(new, is_leaf=_is_none) != jax.tree.structure(old, is_leaf=_is_none):
        raise BadValue(f"{names[0]} and {names[1]} are not alike: {misfit(new, old) or misfit(old, new)}.")
    columns = (jax.tree_util.tree_leaves_with_path(new, _is_none), jax.tree.leaves(old, is_leaf=_is_none))
    for (path, one), other in zip(*columns, strict=True):
        if not (one is None or other is None or jnp.shape(one) == jnp.shape(other)):  # nothing is broadcast
            raise _unlike(path, names, [f"shape {jnp.shape(x)}" for x in (one, other)])


def _unlike(path: Any, names: tuple[str, str], what: list[str]) -> BadValue:
    place = quoted(jax.tree_util.keystr(path, simple=True, separator="/"))
    return BadValue(f"at {place}, {names[0]} has {what[0]}, and {names[1]} {what[1]}.")


def _is_none(value: Any) -> bool:
    return value is None


def _number(name: str, value: Any) -> Array:
    if not is_array(value) or jnp.ndim(value) != 0 or jnp.iscomplexobj(value):
        raise BadType("{name} must be a number.", **{name: value})
    return jnp.asarray(value)


@door
def incremental_update(
    new_tensors: PyTree, old_tensors: PyTree, step_size: float | Array, *, count: int | Array | None = None
) -> PyTree:
    """A step of an average of parameters: `old + step_size (new - old)`, for target networks and for evaluation.

    It is computed in float32 and rounded once, to the dtype of the average, which therefore stays what it is. To nearest, an
    average in bfloat16 stands still as soon as its steps are below a 512th of it: with a `step_size` of 0.005, on the way
    from 0 to 1 at 0.61. Keep it in float32, or give a `count`, with which it is right on average.

    Args:
        new_tensors: the parameters.
        old_tensors: the average, a tree like them. What is an integer becomes floating point.
        step_size: how far to go, in [0, 1].
        count: the number of this update, another each time: averages in 16 bits are then rounded up or down by chance, the
            same at every run. It changes nothing in float32.

    Raises:
        ValueError: the trees are not alike.
        TypeError: a leaf is not an array, or `step_size` or `count` is not a number.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> jadam.incremental_update(jnp.ones(2), jnp.zeros(2), 0.1)
        Array([0.1, 0.1], dtype=float32)
    """
    _pairs(new_tensors, old_tensors, ("new_tensors", "old_tensors"))
    size, numbers = _number("step_size", step_size), itertools.count()
    key = None if count is None else step_key(_number("count", count))

    def step(new: Any, old: Any) -> Any:
        leaf = next(numbers)
        if new is None or old is None:
            return None
        new, old = jnp.asarray(new), jnp.asarray(old)
        dtype = old.dtype if jnp.issubdtype(old.dtype, jnp.inexact) else jnp.result_type(float)
        wide = compute_dtype(dtype)
        start, end = decode(cast(old, dtype)), decode(cast(new, jnp.promote_types(new.dtype, dtype)))
        average = start + cast(size, wide) * (cast(end, wide) - start)
        if key is None or dtype not in (jnp.bfloat16, jnp.float16):
            return encode(average, dtype)
        bits = Noise(key ^ jnp.asarray(number_key(leaf)), "incremental_update").bits(average.shape, 0)
        return round_stochastically(average, dtype, bits)

    return jax.tree.map(step, new_tensors, old_tensors, is_leaf=_is_none)


@door
def periodic_update(new_tensors: PyTree, old_tensors: PyTree, steps: int | Array, update_period: int | Array) -> PyTree:
    """The new parameters every `update_period` steps, and else the old copy, as for a target network.

    Args:
        new_tensors: the parameters.
        old_tensors: the copy, a tree like them.
        steps: how many steps were done; the copy is renewed where `update_period` divides it.
        update_period: how many steps lie between two copies, an integer >= 1.

    Raises:
        ValueError: the trees are not alike, or `update_period` is below 1.
        TypeError: a leaf is not an array, or a number of steps is not a number.
    """
    names = ("new_tensors", "old_tensors")
    _pairs(new_tensors, old_tensors, names)
    done, period = _number("steps", steps), _number("update_period", update_period)
    if not isinstance(update_period, Array) and update_period < 1:
        raise BadValue("{name} must be an integer >= 1.", update_period=update_period)
    renewed = jnp.mod(done, cast(period, done.dtype)) == 0

    def choose(path: Any, new: Any, old: Any) -> Any:
        if new is None or old is None:
            return None
        new, old = jnp.asarray(new), jnp.asarray(old)
        if new.dtype != old.dtype:
            raise _unlike(path, names, [f"dtype {x.dtype}" for x in (new, old)])
        return jnp.where(renewed, new, old)

    return jax.tree_util.tree_map_with_path(choose, new_tensors, old_tensors, is_leaf=_is_none)


@door
def safe_increment(count: int | Array) -> Array:
    """The next count, which stays at the largest number of its dtype instead of becoming negative.

    Raises:
        TypeError: `count` is not an array of real numbers.
    """
    whole, real = (is_array(count) and jnp.issubdtype(jnp.result_type(count), kind) for kind in (jnp.integer, jnp.floating))
    if not (whole or real):
        raise BadType("{name} must be an integer or a floating-point number.", count=count)
    count = jnp.asarray(count)
    limits = jnp.iinfo(count.dtype) if whole else jnp.finfo(count.dtype)
    largest = jnp.asarray(limits.max, count.dtype)
    return jnp.where(count < largest, count + jnp.ones((), count.dtype), largest)


safe_int32_increment = door(safe_increment, "safe_int32_increment")
"""The same under optax's older name."""


@door
def bias_correction(moment: PyTree, decay: float | Array, count: int | Array) -> PyTree:
    """An average from zero divided by its bias, `1 - decay^count`, which is computed without the error of the difference.

    Args:
        moment: a tree of averages after `count` steps.
        decay: of the averages, in [0, 1).
        count: how many steps were done, >= 1.

    Raises:
        TypeError: `decay` or `count` is not a number.
    """
    _pairs(moment, moment, ("moment", "moment"))
    rate, steps = _number("decay", decay), _number("count", count)

    def corrected(m: Any) -> Array:
        m = jnp.asarray(m)
        wide = compute_dtype(m.dtype)
        # Of Python's number the complement is taken in double precision: float32 has no 0.99999.
        complement = jnp.asarray(1 - decay, wide) if isinstance(decay, float) else 1 - cast(rate, wide)
        return encode(decode(m) / complement_of_power(complement, cast(steps, wide)), m.dtype)

    return jax.tree.map(corrected, moment)
