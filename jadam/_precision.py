"""In which formats a transformation stores its slots and its parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jadam._hyper import public_caller
from jadam._landing import PARAM_STORAGE, Nearest
from jadam._layout import Layout
from jadam._learning_rate import peak_of
from jadam._part import Part, keys
from jadam._rule import Rule
from jadam._storage import SLOT_STORAGE, decode, encode
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree, arrays, slashed


def with_precision(
    tx: GradientTransformation,
    state: str | Mapping[str, str] | None = None,
    params: str | None = None,
    *,
    rounding: str = "stochastic",
    min_size: int = 4096,
    seed: int = 0,
) -> GradientTransformation:
    """The same transformation with its slots, or 16-bit parameters, stored otherwise; the arithmetic stays float32.

    Which to choose, what it costs and what it risks is in a table of docs/precision.md.

    Args:
        tx: a transformation of jadam. What was said inside it, of one of its groups, holds there.
        state: storage of all slots that are averages, or by slot: `{"mu": "bfloat16", "nu": "int8"}`. "float32" (4 bytes
            an element), "bfloat16" (2) or "int8" (1.125: blocks of 32 along the last axis with a scale). Slots that begin
            as copies of the parameters (`z` and `x` of schedule-free, `p0` of Prodigy) change only by name. Slots of
            complex parameters stay as they are; so do, in "int8", those whose last axis is shorter than 4.
        params: storage of bfloat16 and float16 parameters; others stay as they are. "nearest": as they are, small steps are
            lost. "stochastic": rounded so that they are right on average; no bytes. "kahan": what rounding took away is
            kept beside them; 2 bytes a parameter. "remainder": an int16 beside a bfloat16 makes a float32, exactly; 2 bytes.
            The parameters that rules see and that `tx.update` moves are those that are stored together.
        rounding: of slots, "stochastic" or "nearest"; nearest is no chance, but freezes what changes by less than the
            format resolves.
        min_size: slots with fewer elements stay float32.
        seed: of the random bits, a hash of it, the step, the leaf, the slot and the index: the same on any devices and for
            every model under `vmap`.

    Raises:
        ValueError: an unknown storage or rounding, or a slot that no rule of `tx` keeps.
        TypeError: from `init`, a float16 parameter with "remainder".

    Example:
        >>> import jadam, jax, jax.numpy as jnp
        >>> tx = jadam.with_precision(jadam.adamw(1e-4), state="int8", params="stochastic")
        >>> params = {"w": jnp.ones((64, 64), jnp.bfloat16)}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> sum(x.nbytes for x in jax.tree.leaves(state.slots)) / 4096
        2.25
    """
    where = public_caller("with_precision")
    chosen = dict(state) if isinstance(state, Mapping) else {} if state is None else {"": state}
    for storage in chosen.values():
        _check(f"{where}(state={state!r})", storage, SLOT_STORAGE)
    if params is not None:
        _check(f"{where}(params={params!r})", params, PARAM_STORAGE)
    _check(f"{where}(rounding={rounding!r})", rounding, ("stochastic", "nearest"))
    if not isinstance(min_size, int) or min_size < 0:
        raise ValueError(f"{where}(min_size={min_size!r}): min_size must be an integer >= 0.")
    kept = [_slots(part.structure.rule) if isinstance(part.rule, Rule) else {} for part in tx.parts]
    known = set().union(*kept)
    if unknown := set(chosen) - known - {""}:
        raise ValueError(f"{where}: no rule keeps {unknown.pop()!r}; there are {', '.join(sorted(known)) or 'no slots'}.")

    parts = []
    for part, slots in zip(tx.parts, kept, strict=True):
        codecs = []
        for slot, is_position in sorted(slots.items()):
            storage = chosen.get(slot, None if is_position else chosen.get(""))
            if storage is not None:
                codecs.append((slot, SLOT_STORAGE[storage](rounding, min_size, seed)))  # pyright: ignore[reportArgumentType]
        parts.append(replace(part, storage=part.storage + tuple(codecs)))
    if params is not None:
        parts.append(Part(PARAM_STORAGE[params](**{"seed": seed} if params == "stochastic" else {})))
    return GradientTransformation(tuple(parts), where)


def check_precision(tx: GradientTransformation, params: PyTree, learning_rate: float | Callable[..., Any]) -> list[str]:
    """Which parameters such steps are too small for: a sentence for each array, none if all is well.

    A bfloat16 has 8 bits: rounded to nearest, a weight of 1.0 stays where it is under steps below 0.002.

    Args:
        tx: a transformation of jadam.
        params: a tree of arrays. Of those in 16 bits or fewer that are rounded to nearest, it is computed which elements a
            step of the learning rate moves, up or down; Adam's steps are of that size. An array gets a sentence if it
            moves less than 99 % of them.
        learning_rate: a number >= 0, or a schedule with a `peak_value`, which is taken.

    Raises:
        ValueError: a mask does not fit the parameters, or the schedule has no `peak_value`.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> [words] = jadam.check_precision(jadam.adam(1e-4), {"scale": jnp.ones(8, jnp.bfloat16)}, 1e-4)
        >>> print(words.split(";")[0])
        scale: steps of 0.0001 move 0% of its elements, which are bfloat16 rounded to nearest
    """
    rate = peak_of(learning_rate)
    if rate is None:
        raise ValueError("check_precision: the learning rate must be a number, or a schedule with a peak_value.")
    layout = Layout.of(arrays("check_precision", "params", params))
    landings = layout.landings("check_precision", dict(zip(keys(tx.parts), tx.parts, strict=True)))
    found = []
    for i in layout.trained:
        p, path = layout.leaves.values[i], slashed(layout.leaves.paths[i]) or "the parameter"
        nearest = isinstance(landings[i][1], Nearest) if i in landings else jnp.dtype(p.dtype).itemsize <= 2
        if nearest and not isinstance(p, jax.ShapeDtypeStruct | Tracer) and (moved := float(_moved(p, rate))) < 0.99:
            found.append(
                f"{path}: steps of {rate:g} move {moved:.0%} of its elements, which are {p.dtype} rounded to nearest; use "
                'with_precision(tx, params="stochastic"), "kahan" or "remainder".'
            )
    return found


@jax.jit
def _moved(p: Array, rate: float) -> Array:
    """The part of the elements that a step moves in one direction or the other."""
    stays = [encode(decode(p) + step, p.dtype) == p for step in (rate, -rate)]
    return 1 - jnp.mean(stays[0] & stays[1], dtype=jnp.float32)


def _check(where: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise ValueError(f"{where}: {value!r} must be one of {', '.join(allowed)}.")


def _slots(rule: Any) -> dict[str, bool]:
    """All slots that a rule keeps, and whether they begin as copies of the parameter.

    Vectors and matrices may have their own, and some rules take only one of them.
    """
    found: dict[str, bool] = {}
    for length, ndim in product((2, 64, 4096), range(5)):
        with suppress(ValueError):
            found |= dict.fromkeys(jax.eval_shape(rule.init, jax.ShapeDtypeStruct((length,) * ndim, jnp.float32)), False)
    for ndim in range(5):
        with suppress(ValueError), jax.ensure_compile_time_eval():
            p = jnp.arange(1.0, 1 + 2**ndim, dtype=jnp.float32).reshape((2,) * ndim)
            found |= {slot: True for slot, value in rule.init(p).items() if np.array_equal(value, p)}
    return found
