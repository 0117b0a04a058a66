"""ADOPT: Adam that divides by the second moment of earlier gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, add_decayed_weights, block, chain, hold_first, scale_by_learning_rate
from jadam._authoring import Context, Decay, Hyper, MaskLike, NonNegative, Rule, Slots, builder, root, zeros


@dataclass(frozen=True)
class ScaleByAdopt(Rule):
    """Divides the gradient by the root of the `v` before it, and averages afterwards.

    `m = b1 m + (1-b1) clip(g / max(sqrt(v), eps))`, then `v = b2 v + (1-b2) g^2`; the update is `m`.
    The first step only sets `v = g^2`; step `n` after it clips to `[-n^0.25, n^0.25]`. Arguments as in `adopt`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.9999
    eps: NonNegative = 1e-6
    use_clipping: bool = True

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        return {"first": context.count == 0, "bound": jnp.sqrt(jnp.sqrt(context.t - 1))}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = slots["mu"], slots["nu"]
        size = jnp.where(h.first, 1, jnp.maximum(root(v), h.eps))  # the first u does not count, and eps may be 0
        u = g / size  # by a v that does not know g yet: why any b2 converges
        if self.use_clipping:
            u = jnp.clip(u, -h.bound, h.bound)
        m = jnp.where(h.first, m, h.b1.ema(m, u))
        return m, {"mu": m, "nu": jnp.where(h.first, g * g, h.b2.ema(v, g * g))}


scale_by_adopt = block(ScaleByAdopt)


@builder
def adopt(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.9999,
    eps: NonNegative = 1e-6,
    *,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
    use_clipping: bool = True,
) -> GradientTransformation:
    """ADOPT: Adam that converges with any `b2`. Nothing moves at the first step.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of divided gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: the smallest divisor, >= 0; with zero, the first gradient after none but zeros is divided by zero.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        use_clipping: whether divided gradients are clipped to the fourth root of the step.

    Reference:
        Taniguchi et al. 2024, Algorithm 2, arXiv:2411.02853.
    """
    return chain(
        scale_by_adopt(b1=b1, b2=b2, eps=eps, use_clipping=use_clipping),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
        hold_first(),
    )
