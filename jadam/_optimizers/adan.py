"""Adan: Adam with a Nesterov momentum of differences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, add_decayed_weights, block, chain, decay_after_step, scale_by_learning_rate
from jadam._authoring import Context, Decay, Hyper, MaskLike, NonNegative, Rule, Slots, builder, root, zeros


@dataclass(frozen=True)
class ScaleByAdan(Rule):
    """Averages of gradients, of their differences and of squares of both: `u = (mhat + b2 what) / (sqrt(nhat) + eps)`.

    `d = g - previous g` (initially 0), `m = b1 m + (1-b1) g`, `w = b2 w + (1-b2) d`, `n = b3 n + (1-b3) (g + b2 d)^2`.
    Arguments as in `adan`.
    """

    b1: Decay = 0.98
    b2: Decay = 0.92
    b3: Decay = 0.99
    eps: NonNegative = 1e-8

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "delta": zeros(p), "nu": zeros(p), "previous": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        return {
            "first": context.count == 0,
            "mu_scale": 1 / h.b1.debias(t),
            "delta_scale": h.b2.value / h.b2.debias(t),  # the factor b2 of `what` in the update, and its bias correction
            "nu_scale": 1 / h.b3.debias(t),
        }

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        d = jnp.where(h.first, 0, g - slots["previous"])  # no difference to the zeros of `init`
        m, w = h.b1.ema(slots["mu"], g), h.b2.ema(slots["delta"], d)
        n = h.b3.ema(slots["nu"], (g + h.b2.value * d) ** 2)
        u = (m * h.mu_scale + w * h.delta_scale) / (root(n * h.nu_scale) + h.eps)
        return u, {"mu": m, "delta": w, "nu": n, "previous": g}


scale_by_adan = block(ScaleByAdan)


@builder
def adan(
    learning_rate: Hyper,
    b1: Decay = 0.98,
    b2: Decay = 0.92,
    b3: Decay = 0.99,
    eps: NonNegative = 1e-8,
    *,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
    no_prox: bool = False,
) -> GradientTransformation:
    """Adan with proximal weight decay: `p = (p - learning_rate u) / (1 + learning_rate weight_decay)`.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of differences, in [0, 1).
        b3: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        no_prox: whether to decay as AdamW does instead.

    Reference:
        Xie et al. 2022, Algorithm 1, arXiv:2208.06677; the paper's betas are one minus these.
    """
    direction, rate = scale_by_adan(b1=b1, b2=b2, b3=b3, eps=eps), scale_by_learning_rate(learning_rate)
    if no_prox:
        return chain(direction, add_decayed_weights(weight_decay, mask), rate)
    return chain(direction, rate, decay_after_step(weight_decay, mask, form="proximal"))
