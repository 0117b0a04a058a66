"""Parameters of 16 bits whose steps rounding takes away."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jadam._dtypes import decode, encode
from jadam._engine.plan import Plan
from jadam._recipe import Recipe
from jadam._storage.params import PARAM_STORAGE, Nearest


class PrecisionWarning(UserWarning):
    """A model in 16 bits that will not learn as it should: its parameters are rounded to nearest, which loses their steps.

    `tx.init` gives it once, outside `jit`, where parameters and learning rate are known; `check_precision` lists all of them.
    """


def peak_of(learning_rate: Any) -> float | None:
    """The highest value of a learning rate: the number, or the `peak_value` of a schedule that has one."""
    peak = getattr(learning_rate, "peak_value", None) if callable(learning_rate) else learning_rate
    try:
        return None if peak is None else float(peak)
    except (TypeError, ValueError, OverflowError):  # a tracer, or what `scale_by_learning_rate` will refuse
        return None


def warn_of_lost(recipe: Recipe, plan: Plan, values: Sequence[Any]) -> None:
    """Warns the user where `tx.init` was called: at the first frame that is not jadam's."""
    if found := lost(recipe, plan, values):
        more = f" And {len(found) - 1} more: see jadam.check_precision(tx, params)." if len(found) > 1 else ""
        level, frame = 1, sys._getframe()
        while frame.f_back and frame.f_globals.get("__name__", "").startswith("jadam."):
            level, frame = level + 1, frame.f_back
        warnings.warn(f"{found[0]}{more}", PrecisionWarning, stacklevel=level)


def lost(recipe: Recipe, plan: Plan, values: Sequence[Any], rate: float | None = None) -> list[str]:
    """The parameters that steps of a rate, or of the learning rate that the recipe has for them, move too rarely."""
    # A plan has no numbers: they are read off the recipe, whose parts are in the same order.
    rates = [
        (set(placed.at), peak_of(getattr(place.part.rule, "learning_rate", None)))
        for place, placed in zip(recipe.all, plan.all, strict=True)
        if any(hyper.name == "learning_rate" for hyper in place.part.rule.hypers)
    ]
    sentences = []
    for i in plan.trained:
        p = values[i]
        nearest = isinstance(plan.storage(i), Nearest) and (i in plan.landings or jnp.dtype(p.dtype).itemsize <= 2)
        if not nearest or isinstance(p, jax.ShapeDtypeStruct | Tracer):
            continue  # of abstract parameters no value is known
        step = max((own for at, own in rates if i in at and own), default=None) if rate is None else rate
        if step is None:
            continue  # unknown, or a rate of 0, which moves nothing on purpose
        moved = _moved(p, step)
        if isinstance(moved, Tracer):
            continue  # of parameters that a function under `jit` closes over
        if moved < 0.99:
            better = [name for name, kind in PARAM_STORAGE.items() if kind is not Nearest and p.dtype in kind.dtypes]
            names = " or ".join(map(repr, better))
            advice = f"use with_precision(tx, params=...) of {names}" if better else "keep it in float32"
            where = plan.names[i] or "the parameter"
            stuck = f"steps of {step:g} move {float(moved):.0%} of its elements, which are {p.dtype} rounded to nearest"
            sentences.append(f"{where}: {stuck}; {advice}.")
    return sentences


@jax.jit
def _moved(p: Array, rate: float) -> Array:
    """The part of the elements that a step moves in one direction or the other."""
    moves = [encode(decode(p) + step, p.dtype) != p for step in (rate, -rate)]
    return jnp.mean(moves[0] | moves[1], dtype=jnp.float32)
