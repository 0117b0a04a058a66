"""Adam-atan2: Adam without eps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, add_decayed_weights, block, chain, scale_by_learning_rate
from jadam._authoring import Context, Decay, Hyper, MaskLike, NonNegative, Rule, Slots, builder, root, zeros


@dataclass(frozen=True)
class ScaleByAdamAtan2(Rule):
    """Adam with the division replaced by an angle: `u = a atan2(mhat, b sqrt(vhat))`, which needs no eps and is bounded.

    `m = b1 m + (1-b1) g`, `v = b2 v + (1-b2) g^2`. Arguments as in `adam_atan2`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.99
    a: NonNegative = 1.27
    b: NonNegative = 1.0

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        return {"mu_scale": 1 / h.b1.debias(t), "nu_scale": 1 / h.b2.debias(t)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = h.b1.ema(slots["mu"], g), h.b2.ema(slots["nu"], g * g)
        size = h.b * root(v * h.nu_scale)
        size = jnp.where((m == 0) & (size == 0), 1, size)  # atan2(0, 0) is atan2(0, 1), but its derivative is 0 / 0
        return h.a * jnp.arctan2(m * h.mu_scale, size), {"mu": m, "nu": v}


scale_by_adam_atan2 = block(ScaleByAdamAtan2)


@builder
def adam_atan2(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.99,
    *,
    a: NonNegative = 1.27,
    b: NonNegative = 1.0,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
) -> GradientTransformation:
    """Adam-atan2: `p = p - learning_rate (a atan2(mhat, b sqrt(vhat)) + weight_decay p)`.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        a: scale of the update, >= 0; 1.27 makes a quarter turn about 2, and `mhat = sqrt(vhat)` about 1.
        b: scale of the root, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.

    Reference:
        Everett et al. 2024, section 5, arXiv:2407.05872.
    """
    return chain(
        scale_by_adam_atan2(b1=b1, b2=b2, a=a, b=b),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
