"""LAMB: Adam with a step in proportion to the weights of each layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, add_decayed_weights, block, chain, scale_by_learning_rate
from jadam._authoring import Decay, Hyper, MaskLike, NonNegative, Rule, Slots, builder, norm
from jadam._optimizers.adam import scale_by_adam


@dataclass(frozen=True)
class ScaleByTrustRatio(Rule):
    """Scales the update of each parameter to the norm of the parameter: `u = |p| / |g| g`, and `u = g` where a norm is 0.

    `|p| / |g|` is the trust ratio of `lamb`. An update whose norm is below 1e-19 counts as 0, as its squares are in float32:
    where gradients have ended, averages stay at the least number there is, and the ratio would make whole steps of them.
    """

    elementwise: ClassVar[bool] = False

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        p_norm, g_norm = norm(p), norm(g)
        both = (p_norm > 0) & (g_norm > jnp.finfo(g_norm.dtype).tiny ** 0.5)  # a parameter at zero must be able to leave it
        ratio = jnp.where(both, p_norm / jnp.where(both, g_norm, 1), 1)
        return g * jnp.minimum(ratio, jnp.finfo(ratio.dtype).max), slots  # of the least gradients it is inf


scale_by_trust_ratio = block(ScaleByTrustRatio)


@builder
def lamb(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-6,
    *,
    weight_decay: NonNegative = 1e-2,
    mask: MaskLike = None,
) -> GradientTransformation:
    """LAMB: `p = p - learning_rate |p|/|u| u` with `u = mhat / (sqrt(vhat) + eps) + weight_decay p`, for each array `p`.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.

    Reference:
        You et al. 2020, Algorithm 2, arXiv:1904.00962.
    """
    return chain(
        scale_by_adam(b1=b1, b2=b2, eps=eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )
