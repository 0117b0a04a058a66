"""NAdam: Adam along a Nesterov momentum that warms up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Decay, NonNegative
from jadam._learning_rate import scale_by_learning_rate
from jadam._optimizers.adam import Moments
from jadam._rule import Context, Slots, debias, ema
from jadam._transformation import GradientTransformation, block, chain


@dataclass(frozen=True, repr=False)
class ScaleByNadam(Moments):
    """Adam along a Nesterov momentum whose rate `c` warms up: `c_t = b1 (1 - 0.96^(t momentum_decay) / 2)`.

    `u = (c_(t+1) m / (1 - P_(t+1)) + (1-c_t) g / (1-P_t)) / (sqrt(vhat) + eps)`, with the product `P_t` of `c_1` to `c_t`.

    Args:
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        momentum_decay: how fast the momentum warms up, >= 0.

    Reference:
        Dozat 2016, Incorporating Nesterov momentum into Adam, Algorithm 2.
    """

    momentum_decay: NonNegative = 4e-3

    def scalars(self) -> dict[str, float]:
        return {"mu_product": 1.0}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        now, after = (h.b1.value * (1 - 0.5 * 0.96 ** (step * h.momentum_decay)) for step in (t, t + 1))
        product = context.scalars["mu_product"] * now
        return {
            "mu_product": product,
            "m_scale": after / (1 - product * after),
            "g_scale": (1 - now) / (1 - product),
            "nu_scale": 1 / debias(h.b2, t),
        }

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = ema(slots["mu"], g, h.b1), ema(slots["nu"], g * g, h.b2)
        return (h.m_scale * m + h.g_scale * g) / (jnp.sqrt(v * h.nu_scale) + h.eps), {"mu": m, "nu": v}


scale_by_nadam = block(ScaleByNadam)


def nadam(
    learning_rate: NonNegative,
    *,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    momentum_decay: NonNegative = 4e-3,
) -> GradientTransformation:
    """NAdam with Dozat's warm-up of the momentum, as in torch.

    Args:
        learning_rate: a number >= 0 or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        momentum_decay: how fast the momentum warms up, >= 0.

    Reference:
        Dozat 2016, Incorporating Nesterov momentum into Adam, Algorithm 2.
    """
    return chain(scale_by_nadam(b1, b2, eps, momentum_decay), scale_by_learning_rate(learning_rate))
