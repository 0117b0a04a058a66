"""MARS: variance reduction before Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Decay, NonNegative
from jadam._learning_rate import scale_by_learning_rate
from jadam._masks import MaskLike
from jadam._norm import scaled_norm
from jadam._optimizers.adam import ScaleByAdam
from jadam._rule import Slots, zeros
from jadam._transformation import GradientTransformation, block, chain
from jadam._weight_decay import add_decayed_weights


@dataclass(frozen=True, repr=False)
class ScaleByMars(ScaleByAdam):
    """Adam on gradients corrected by their change: `c = g + gamma b1/(1-b1) (g - previous g)`, then `c / max(1, |c|)`.

    The norm is that of each array.

    Args:
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        eps_root: added under the root, >= 0.
        eps_form: "standard", or "eps_hat", in which eps is added to `sqrt(v)`.
        gamma: strength of the correction, >= 0.

    Reference:
        Yuan et al. 2024, Algorithm 2, arXiv:2411.10438.
    """

    b1: Decay = 0.95
    b2: Decay = 0.99
    gamma: NonNegative = 0.025
    elementwise: ClassVar[bool] = False

    def init(self, p: Array) -> Slots:
        return super().init(p) | {"previous": zeros(p)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        c = g + h.gamma * h.b1.value / h.b1.complement * (g - slots["previous"])
        u, moments = super().update(c / jnp.maximum(1, scaled_norm(c)), slots, p, h)
        return u, moments | {"previous": g}


scale_by_mars = block(ScaleByMars)


def mars_adamw(
    learning_rate: NonNegative,
    *,
    b1: Decay = 0.95,
    b2: Decay = 0.99,
    eps: NonNegative = 1e-8,
    gamma: NonNegative = 0.025,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
) -> GradientTransformation:
    """MARS-AdamW with the approximate gradient difference: AdamW on gradients corrected by their change.

    The authors' code leaves all but matrices to AdamW: for that, put it into a `partition`.

    Args:
        learning_rate: a number >= 0 or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        gamma: strength of the correction, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.

    Reference:
        Yuan et al. 2024, Algorithm 2, arXiv:2411.10438.
    """
    return chain(
        scale_by_mars(b1, b2, eps, gamma=gamma),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
