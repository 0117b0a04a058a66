"""How the slots of a transformation are stored."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp

from jadam._hyper import public_caller
from jadam._rule import Rule
from jadam._storage import SLOT_STORAGE
from jadam._transformation import GradientTransformation


def with_precision(tx: GradientTransformation, state: str | Mapping[str, str]) -> GradientTransformation:
    """The same transformation with its slots stored otherwise; the arithmetic stays float32.

    Args:
        tx: a transformation of jadam.
        state: "float32" (the default of every rule) or "bfloat16" (rounded to nearest, 2 bytes an element), for all slots,
            or by slot: `{"mu": "bfloat16"}`. An average of decay 0.999 changes by less than bfloat16 resolves, so that
            `nu` in "bfloat16" stops following the gradients: keep it in float32.

    Raises:
        ValueError: an unknown storage, or a slot that no rule of `tx` keeps.
    """
    chosen = {"": state} if isinstance(state, str) else dict(state)
    for storage in chosen.values():
        if storage not in SLOT_STORAGE:
            raise ValueError(f"with_precision(state={state!r}): {storage!r} must be one of {', '.join(SLOT_STORAGE)}.")
    slots = {slot for part in tx.parts if isinstance(part.rule, Rule) for slot in _slots(part.structure.rule)}
    if unknown := set(chosen) - slots - {""}:
        raise ValueError(f"with_precision: no rule keeps {unknown.pop()!r}; there are {', '.join(sorted(slots))}.")
    codecs = tuple((slot, SLOT_STORAGE[storage]) for slot, storage in chosen.items())
    parts = tuple(replace(part, storage=part.storage + codecs) for part in tx.parts)
    return GradientTransformation(parts, public_caller("with_precision"))


def _slots(rule: Any) -> set[str]:
    """All slots that a rule keeps: vectors and matrices may have their own, and some rules take only one of them."""
    found: set[str] = set()
    for length, ndim in product((2, 64, 4096), range(5)):
        with suppress(ValueError):
            found |= set(jax.eval_shape(rule.init, jax.ShapeDtypeStruct((length,) * ndim, jnp.float32)))
    return found
