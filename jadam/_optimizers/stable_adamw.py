"""StableAdamW: AdamW with update clipping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Decay, NonNegative
from jadam._learning_rate import scale_by_learning_rate
from jadam._masks import EVERYTHING, MaskLike
from jadam._norm import scaled_norm
from jadam._optimizers.adam import Moments
from jadam._rule import Slots, ema
from jadam._transformation import GradientTransformation, block, chain


@dataclass(frozen=True, repr=False)
class ScaleByStableAdamw(Moments):
    """AdamW whose step, with the decay, is divided by the root mean square of `g / sqrt(vhat)` where that is above 1.

    `u = (mhat / (sqrt(vhat) + eps) + weight_decay p) / max(1, RMS)`, `RMS = sqrt(mean(g^2 / max(vhat, eps^2)))` of each array.

    Args:
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay.

    Reference:
        Wortsman et al. 2023, Algorithm 2, arXiv:2304.13013.
    """

    b2: Decay = 0.99
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 1e-2
    mask: MaskLike = EVERYTHING
    elementwise: ClassVar[bool] = False

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = ema(slots["mu"], g, h.b1), ema(slots["nu"], g * g, h.b2)
        root = jnp.sqrt(v * h.nu_scale)
        rms = scaled_norm(g / jnp.maximum(root, h.eps), mean=True)
        u = m * h.mu_scale / (root + h.eps) + (h.weight_decay * p if self.mask else 0)
        return u / jnp.maximum(1, rms), {"mu": m, "nu": v}


scale_by_stable_adamw = block(ScaleByStableAdamw)


def stable_adamw(
    learning_rate: NonNegative,
    *,
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    eps: NonNegative = 1e-6,
    weight_decay: NonNegative = 1e-2,
    mask: MaskLike = None,
) -> GradientTransformation:
    """StableAdamW: AdamW with a learning rate that is lowered for arrays whose gradients `v` has not caught up with.

    Args:
        learning_rate: a number >= 0 or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.

    Reference:
        Wortsman et al. 2023, Algorithm 2, arXiv:2304.13013; as in optimi, with debiased averages.
    """
    return chain(
        scale_by_stable_adamw(b1, b2, eps, weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
