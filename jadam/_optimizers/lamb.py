"""LAMB: Adam with a step in proportion to the weights of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Decay, NonNegative
from jadam._learning_rate import scale_by_learning_rate
from jadam._masks import MaskLike
from jadam._norm import scaled_norm
from jadam._optimizers.adam import scale_by_adam
from jadam._rule import Rule, Slots
from jadam._transformation import GradientTransformation, block, chain
from jadam._weight_decay import add_decayed_weights


@dataclass(frozen=True, repr=False)
class ScaleByTrustRatio(Rule):
    """Scales the update of each parameter to the norm of the parameter: `u = |p| / |g| g`, and `u = g` where a norm is 0.

    Reference:
        You et al. 2020, section 3, arXiv:1904.00962.
    """

    elementwise: ClassVar[bool] = False

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        norm, own = scaled_norm(p), scaled_norm(g)
        known = (norm > 0) & (own > 0)
        return g * jnp.where(known, norm / jnp.where(known, own, 1), 1), slots


scale_by_trust_ratio = block(ScaleByTrustRatio)


def lamb(
    learning_rate: NonNegative,
    *,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 1e-2,
    mask: MaskLike = None,
) -> GradientTransformation:
    """LAMB: `p = p - learning_rate |p|/|u| u` with `u = mhat / (sqrt(vhat) + eps) + weight_decay p`, for each array `p`.

    Args:
        learning_rate: a number >= 0 or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.

    Reference:
        You et al. 2020, Algorithm 2, arXiv:1904.00962.
    """
    return chain(
        scale_by_adam(b1, b2, eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )
