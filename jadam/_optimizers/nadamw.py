"""NAdamW: AdamW one step of momentum ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Decay, NonNegative
from jadam._learning_rate import scale_by_learning_rate
from jadam._masks import MaskLike
from jadam._optimizers.adam import Moments
from jadam._rule import Slots, ema
from jadam._transformation import GradientTransformation, block, chain
from jadam._weight_decay import add_decayed_weights


@dataclass(frozen=True, repr=False)
class ScaleByNadamw(Moments):
    """Adam one step of momentum ahead: `u = (b1 m + (1-b1) g) / (1-b1^t) / (sqrt(vhat) + eps)`.

    Args:
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.

    Reference:
        Choi et al. 2019, arXiv:1910.05446; as in AlgoPerf's baseline.
    """

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = ema(slots["mu"], g, h.b1), ema(slots["nu"], g * g, h.b2)
        return ema(m, g, h.b1) * h.mu_scale / (jnp.sqrt(v * h.nu_scale) + h.eps), {"mu": m, "nu": v}


scale_by_nadamw = block(ScaleByNadamw)


def nadamw(
    learning_rate: NonNegative,
    *,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 1e-2,
    mask: MaskLike = None,
) -> GradientTransformation:
    """NAdamW: Adam one step of momentum ahead, with decoupled weight decay, as in AlgoPerf.

    Args:
        learning_rate: a number >= 0 or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.

    Reference:
        Choi et al. 2019, arXiv:1910.05446.
    """
    return chain(scale_by_nadamw(b1, b2, eps), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(learning_rate))
