"""NAdam: Adam along a Nesterov momentum that warms up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax import Array

from jadam._assembly import GradientTransformation, block, chain, scale_by_learning_rate
from jadam._authoring import Context, Decay, Hyper, NonNegative, Rule, Slots, builder, root, zeros


@dataclass(frozen=True)
class ScaleByNadam(Rule):
    """Adam along a Nesterov momentum whose rate `c` warms up: `c_t = b1 (1 - 0.96^(t momentum_decay) / 2)`.

    `u = (c_(t+1) m / (1 - P_(t+1)) + (1-c_t) g / (1-P_t)) / (sqrt(vhat) + eps)`, with the product `P_t` of `c_1` to `c_t`.
    Arguments as in `nadam`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: NonNegative = 1e-8
    momentum_decay: NonNegative = 4e-3

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p)}

    def scalars(self) -> dict[str, float]:
        return {"mu_product": 1.0}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        # Dozat's constants; his 0.96^(t/250) is a momentum_decay of 4e-3.
        now, after = (h.b1.value * (1 - 0.5 * 0.96 ** (step * h.momentum_decay)) for step in (t, t + 1))
        product = context.scalars["mu_product"] * now  # in place of b1^t: the momentum changes, so that no power will do
        return {
            "mu_product": product,
            "m_scale": after / (1 - product * after),
            "g_scale": (1 - now) / (1 - product),
            "nu_scale": 1 / h.b2.debias(t),
        }

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = h.b1.ema(slots["mu"], g), h.b2.ema(slots["nu"], g * g)  # m itself has the rate b1, as in torch
        return (h.m_scale * m + h.g_scale * g) / (root(v * h.nu_scale) + h.eps), {"mu": m, "nu": v}


scale_by_nadam = block(ScaleByNadam)


@builder
def nadam(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    *,
    momentum_decay: NonNegative = 4e-3,
) -> GradientTransformation:
    """NAdam with Dozat's warm-up of the momentum, as in torch.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        momentum_decay: how fast the momentum warms up, >= 0.

    Reference:
        Dozat 2016, Incorporating Nesterov momentum into Adam, Algorithm 2.
    """
    return chain(
        scale_by_nadam(b1=b1, b2=b2, eps=eps, momentum_decay=momentum_decay),
        scale_by_learning_rate(learning_rate),
    )
