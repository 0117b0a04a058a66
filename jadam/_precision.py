"""In which formats a transformation stores its slots and its parameters."""

from __future__ import annotations

import math
import operator
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

from jadam._groups import SetToZero
from jadam._hyper import public_caller
from jadam._landing import PARAM_STORAGE, Nearest
from jadam._layout import Layout
from jadam._learning_rate import ScaleByLearningRate, peak_of
from jadam._part import Opaque, Part, named
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
        tx: a transformation of jadam. What was said inside it, of one of its groups, holds there. Slots of optimizers from
            elsewhere in it stay as they are. Within `optax.chain` it must come last, since parameters land on its updates.
        state: storage of all slots that are averages, or by slot: `{"mu": "bfloat16", "nu": "int8"}`. "float32" (4 bytes
            an element), "bfloat16" (2) or "int8" (1.125: blocks of 32 along the last axis with a scale). Slots that begin
            as copies of the parameters (`z` and `x` of schedule-free, `p0` of Prodigy) change only by name. Slots of
            complex parameters stay as they are; so do, in "int8", those whose last axis is shorter than 4.
        params: storage of bfloat16 and float16 parameters; others stay as they are. "nearest": as they are, small steps are
            lost. "stochastic": rounded so that they are right on average; no bytes. "kahan": what rounding took away is
            kept beside them; 2 bytes a parameter. "remainder": an int16 beside a bfloat16 makes a float32, exactly; 2 bytes.
            Rules see, and updates move, the sum of what is stored.
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
    parts_of(where, tx)
    chosen = dict(state) if isinstance(state, Mapping) else {} if state is None else {"": state}
    for storage in chosen.values():
        _check(f"{where}(state={state!r})", storage, SLOT_STORAGE)
    if params is not None:
        _check(f"{where}(params={params!r})", params, PARAM_STORAGE)
    _check(f"{where}(rounding={rounding!r})", rounding, ("stochastic", "nearest"))
    min_size, seed = _integer(where, "min_size", min_size), _integer(where, "seed", seed)
    if min_size < 0:
        raise ValueError(f"{where}(min_size={min_size!r}): min_size must be an integer >= 0.")
    kept = [_slots(part.structure.rule) if isinstance(part.rule, Rule) else {} for part in tx.parts]
    known = set().union(*kept)
    if unknown := set(chosen) - known - ({""} if isinstance(state, str) else set()):
        raise ValueError(f"{where}: no rule keeps {unknown.pop()!r}; there are {', '.join(sorted(known)) or 'no slots'}.")
    if chosen and not known and any(isinstance(part.rule, Opaque) for part in tx.parts):
        raise ValueError(f"{where}: the slots of {tx!r} come from elsewhere; use an optimizer of jadam for another storage.")

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


def check_precision(
    tx: GradientTransformation, params: PyTree, learning_rate: float | Callable[..., Any] | None = None
) -> list[str]:
    """Which parameters such steps are too small for: a sentence for each array, none if all is well.

    A bfloat16 has 8 bits: rounded to nearest, a weight of 1.0 stays where it is under steps below 0.002.

    Args:
        tx: a transformation of jadam.
        params: a tree of arrays. Of those in 16 bits or fewer that are rounded to nearest, it is computed which elements a
            step of the learning rate moves, up or down; Adam's steps are of that size. An array gets a sentence if it
            moves less than 99 % of them. Frozen ones, and those whose values are not known, are passed over.
        learning_rate: a number >= 0, or a schedule with a `peak_value`, which is taken; None is the rate that `tx` has for
            each parameter, as far as that can be known.

    Raises:
        ValueError: a mask does not fit the parameters, the rate is out of range, or the schedule has no `peak_value`.
        TypeError: `tx` is no transformation of jadam.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> [words] = jadam.check_precision(jadam.adam(1e-4), {"scale": jnp.ones(8, jnp.bfloat16)}, 1e-4)
        >>> print(words.split(";")[0])
        scale: steps of 0.0001 move 0% of its elements, which are bfloat16 rounded to nearest
    """
    where = "check_precision"
    parts = parts_of(where, tx)
    given = None if learning_rate is None else peak_of(learning_rate)
    if learning_rate is not None and not (given is not None and 0 <= given < math.inf):
        raise ValueError(f"{where}: the learning rate must be a finite number >= 0, or a schedule with such a peak_value.")
    layout = Layout.of(arrays(where, "params", params))
    landings = layout.landings(where, parts)
    chosen = [(part.rule, set(layout.selected(where, part))) for part in parts.values()]
    found = []
    for i in layout.trained:
        p, rules = layout.leaves.values[i], [rule for rule, leaves in chosen if i in leaves]
        own = [peak_of(rule.learning_rate) for rule in rules if isinstance(rule, ScaleByLearningRate)]
        rate = max(filter(None, own), default=None) if given is None else given
        nearest = isinstance(landings[i][1], Nearest) if i in landings else jnp.dtype(p.dtype).itemsize <= 2
        unknown = rate is None or isinstance(p, jax.ShapeDtypeStruct | Tracer)
        if unknown or not nearest or any(isinstance(rule, SetToZero) for rule in rules):
            continue
        if (moved := float(_moved(p, rate))) < 0.99:
            better = [name for name, kind in PARAM_STORAGE.items() if kind is not Nearest and p.dtype in kind.dtypes]
            advice = (
                f"use with_precision(tx, params=...) of {' or '.join(map(repr, better))}" if better else "keep it in float32"
            )
            found.append(
                f"{slashed(layout.leaves.paths[i]) or 'the parameter'}: steps of {rate:g} move {moved:.0%} of its elements, "
                f"which are {p.dtype} rounded to nearest; {advice}."
            )
    return found


@jax.jit
def _moved(p: Array, rate: float) -> Array:
    """The part of the elements that a step moves in one direction or the other."""
    moves = [encode(decode(p) + step, p.dtype) != p for step in (rate, -rate)]
    return jnp.mean(moves[0] | moves[1], dtype=jnp.float32)


def parts_of(where: str, tx: Any) -> dict[str, Part]:
    """The parts of a transformation by their names in the state."""
    if not isinstance(tx, GradientTransformation):
        kind = type(tx).__name__
        raise TypeError(
            f"{where}: a {kind} is no transformation of jadam; write jadam.adam(...), or jadam.chain(...) around it."
        )
    return named(tx.parts)


def _integer(where: str, name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ValueError(f"{where}({name}={value!r}): {name} must be an integer{' >= 0' * (name == 'min_size')}.")
    return operator.index(value)


def _check(where: str, value: Any, allowed: Any) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{where}: {value!r} must be one of {', '.join(allowed)}.")


def _slots(rule: Any) -> dict[str, bool]:
    """All slots that a rule keeps, and whether they begin as copies of the parameter.

    Vectors and matrices may have their own, and some rules take only one of them.
    """
    found: dict[str, bool] = {}
    for length, ndim in product((2, 64, 4096), range(5)):
        with suppress(Exception):  # what `init` refuses there, it will refuse
            found |= dict.fromkeys(jax.eval_shape(rule.init, jax.ShapeDtypeStruct((length,) * ndim, jnp.float32)), False)
    for ndim in range(5):
        with suppress(Exception), jax.ensure_compile_time_eval():
            p = jnp.arange(2**ndim, dtype=jnp.float32).reshape((2,) * ndim) + 0.7310586  # no value that a slot begins with
            found |= {slot: True for slot, value in rule.init(p).items() if np.array_equal(value, p)}
    return found
