"""StableAdamW: AdamW with update clipping."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, block, chain, scale_by_learning_rate
from jadam._authoring import EVERYTHING, Context, Decay, Hyper, MaskLike, NonNegative, Rule, Slots, builder, norm, root, zeros


@dataclass(frozen=True)
class ScaleByStableAdamw(Rule):
    """AdamW whose step, with the decay, is divided by the root mean square of `g / sqrt(vhat)` where that is above 1.

    `u = (mhat / (sqrt(vhat) + eps) + weight_decay p) / max(1, RMS)`, `RMS = sqrt(mean(g^2 / max(vhat, eps^2)))` of each array.
    Arguments as in `stable_adamw`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.99
    eps: NonNegative = 1e-6
    weight_decay: NonNegative = 1e-2
    mask: MaskLike = EVERYTHING
    elementwise: ClassVar[bool] = False

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        return {"mu_scale": 1 / h.b1.debias(t), "nu_scale": 1 / h.b2.debias(t)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = h.b1.ema(slots["mu"], g), h.b2.ema(slots["nu"], g * g)
        size = root(v * h.nu_scale)
        rms = norm(g / jnp.maximum(size, h.eps), mean=True)
        # The decay is part of the rule: the paper lowers the learning rate, by which it is multiplied, too.
        u = m * h.mu_scale / (size + h.eps) + (h.weight_decay * p if self.mask else 0)
        return u / jnp.maximum(1, rms), {"mu": m, "nu": v}


scale_by_stable_adamw = block(ScaleByStableAdamw)


@builder
def stable_adamw(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    eps: NonNegative = 1e-6,
    *,
    weight_decay: NonNegative = 1e-2,
    mask: MaskLike = None,
) -> GradientTransformation:
    """StableAdamW: AdamW with a learning rate that is lowered for arrays whose gradients `v` has not caught up with.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.

    Reference:
        Wortsman et al. 2023, Algorithm 2, arXiv:2304.13013; as in optimi, with debiased averages.
    """
    return chain(
        scale_by_stable_adamw(b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=mask),
        scale_by_learning_rate(learning_rate),
    )
