"""AdaMax: Adam with the infinity norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, block, chain, scale_by_learning_rate
from jadam._authoring import Context, Decay, Hyper, NonNegative, Rule, Slots, builder, zeros


@dataclass(frozen=True)
class ScaleByAdamax(Rule):
    """Divides an average of the gradients by a decaying maximum of their sizes: `u = mhat / v`, `v = max(b2 v, |g| + eps)`.

    Arguments as in `adamax`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: NonNegative = 1e-8

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        return {"mu_scale": 1 / context.h.b1.debias(context.t)}  # a maximum has no bias to correct

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m = h.b1.ema(slots["mu"], g)
        v = jnp.maximum(h.b2.value * slots["nu"], jnp.abs(g) + h.eps)
        return m * h.mu_scale / v, {"mu": m, "nu": v}


scale_by_adamax = block(ScaleByAdamax)


@builder
def adamax(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
) -> GradientTransformation:
    """AdaMax: `p = p - learning_rate mhat / max(b2 v, |g| + eps)`, as in torch.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the maximum, in [0, 1).
        eps: added to every magnitude, >= 0.

    Reference:
        Kingma & Ba 2015, Algorithm 2, arXiv:1412.6980; eps as in torch.
    """
    return chain(scale_by_adamax(b1=b1, b2=b2, eps=eps), scale_by_learning_rate(learning_rate))
