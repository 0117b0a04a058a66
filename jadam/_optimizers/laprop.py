"""LaProp: the division first, the momentum after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, block, chain, decay_after_step, scale_by_learning_rate
from jadam._authoring import Context, Decay, MaskLike, NonNegative, Rule, Slots, builder, root, zeros


@dataclass(frozen=True)
class ScaleByLaprop(Rule):
    """An average of divided gradients: `m = b1 m + (1-b1) lr g / (sqrt(vhat) + eps)`, `u = m / c`.

    `c` is the same average of the learning rates, so that a change of the learning rate does not rescale past steps.
    Arguments as in `laprop`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: NonNegative = 1e-15

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p)}

    def scalars(self) -> dict[str, float]:
        return {"average_learning_rate": 0.0}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, rate = context.h, context.learning_rate
        average = h.b1.ema(context.scalars["average_learning_rate"], rate)  # with a constant rate, rate (1 - b1^t)
        return {
            "average_learning_rate": average,
            "learning_rate": rate,
            "mu_scale": jnp.where(average > 0, 1 / jnp.where(average > 0, average, 1), 0),  # a warm-up may begin at zero
            "nu_scale": 1 / h.b2.debias(context.t),
        }

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        v = h.b2.ema(slots["nu"], g * g)
        m = h.b1.ema(slots["mu"], h.learning_rate * g / (root(v * h.nu_scale) + h.eps))
        return m * h.mu_scale, {"mu": m, "nu": v}


scale_by_laprop = block(ScaleByLaprop)


@builder
def laprop(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-15,
    *,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
) -> GradientTransformation:
    """LaProp: `p = (1 - weight_decay) (p - learning_rate u)` with an average `u` of divided gradients.

    Args:
        learning_rate: a number >= 0 or a schedule.
        b1: decay of the average of divided gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        weight_decay: a number >= 0 or a schedule; it is not multiplied by the learning rate.
        mask: which parameters decay; None is all of them.

    Reference:
        Ziyin et al. 2020, Algorithm 1, arXiv:2002.04839.
    """
    return chain(
        scale_by_laprop(b1=b1, b2=b2, eps=eps),
        scale_by_learning_rate(learning_rate),
        decay_after_step(weight_decay, mask, form="constant"),
    )
