"""Lion: the sign of a momentum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, add_decayed_weights, block, chain, scale_by_learning_rate
from jadam._authoring import Decay, Hyper, MaskLike, NonNegative, Rule, Slots, builder, zeros


@dataclass(frozen=True)
class ScaleByLion(Rule):
    """Sign of a two-speed momentum: `u = sign(b1 m + (1-b1) g)`, `m = b2 m + (1-b2) g`.

    Arguments as in `lion`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.99
    averages: ClassVar[Mapping[str, tuple[str, float]]] = {"mu": ("b2", 0)}  # of which the update has the sign

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m = slots["mu"]  # the update weighs the newest gradient more than the average that is stored
        return jnp.sign(h.b1.ema(m, g)), {"mu": h.b2.ema(m, g)}


scale_by_lion = block(ScaleByLion)


@builder
def lion(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    *,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
) -> GradientTransformation:
    """Lion: `p = p - learning_rate (sign(b1 m + (1-b1) g) + weight_decay p)`.

    Args:
        learning_rate: a number or a schedule; a third to a tenth of Adam's.
        b1: weight of the momentum in the update, in [0, 1).
        b2: decay of the momentum, in [0, 1).
        weight_decay: a number >= 0 or a schedule; three to ten times Adam's.
        mask: which parameters decay; None is all of them.

    Reference:
        Chen et al. 2023, Algorithm 2, arXiv:2302.06675.
    """
    return chain(
        scale_by_lion(b1=b1, b2=b2),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
