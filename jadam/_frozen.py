"""Which parameters are frozen: their update is zero whatever happens, so that no part of a transformation acts on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._recipe import Place
from jadam._rule import Rule, Slots
from jadam._scope import mask_of
from jadam._tree import Leaves
from jadam._wrapper import Wrapper


@dataclass(frozen=True)
class SetToZero(Rule):
    """Replaces updates by zeros, whatever they were."""

    keeps_zeros = True

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return jnp.zeros_like(g), slots


def frozen(row: Sequence[Place], leaves: Leaves, within: Iterable[int]) -> dict[int, Place]:
    """The leaves, of those `within`, that a row leaves where they are, and the part that sets their updates to zero."""
    open_, found = set(within), {}
    for place in reversed(row):
        selected = mask_of(place.scope).by_leaf(leaves)
        at = {i for i in open_ if selected[i]}
        rule = place.part.rule
        if isinstance(rule, SetToZero):
            found |= dict.fromkeys(at, place)
        elif isinstance(rule, Wrapper):
            found |= frozen(place.inner, leaves, at)
        elif getattr(rule, "keeps_zeros", False):
            continue
        open_ -= at
    return found
