"""Rectified Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, block, chain, optional_decay, scale_by_learning_rate
from jadam._authoring import Context, Decay, Hyper, MaskLike, NonNegative, Rule, Slots, builder, root, zeros


@dataclass(frozen=True)
class ScaleByRadam(Rule):
    """Adam whose step is scaled by how well `v` is known, and which is plain momentum while it is not.

    `u = r mhat sqrt(1-b2^t) / (sqrt(v) + eps)` where `rho > 5`, else `u = mhat`;
    `r^2 = (rho-4)(rho-2) rho_inf / ((rho_inf-4)(rho_inf-2) rho)`. Arguments as in `radam`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: NonNegative = 1e-8

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p)}

    def scalars(self) -> dict[str, float]:
        return {"age": 0.0}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        correction = h.b2.debias(t)
        nu_scale = 1 / correction
        # The paper's rho = rho_inf - 2 t b2^t / (1-b2^t) cancels in float32; it is 2 age - 1, by the mean age of v's squares.
        age = 1 + (1 - h.b2.complement / correction) * context.scalars["age"]
        rho, rho_inf = 2 * age - 1, 2 / h.b2.complement - 1
        rectified = rho > 5  # as in torch; the paper has 4. Below it r^2 may be negative, or divided by zero
        rho, rho_inf = jnp.where(rectified, rho, 6), jnp.where(rectified, rho_inf, 6)
        return {
            "age": age,
            "rectified": rectified,
            "rectifier": jnp.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)),
            "mu_scale": 1 / h.b1.debias(t),
            "nu_scale": nu_scale,
            "scaled_eps": h.eps * jnp.sqrt(nu_scale),  # of the uncorrected root, as in torch
        }

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = h.b1.ema(slots["mu"], g), h.b2.ema(slots["nu"], g * g)
        divisor = jnp.where(h.rectified, (root(v * h.nu_scale) + h.scaled_eps) / h.rectifier, 1)
        return m * h.mu_scale / divisor, {"mu": m, "nu": v}


scale_by_radam = block(ScaleByRadam)


@builder
def radam(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    *,
    weight_decay: NonNegative | None = None,
    mask: MaskLike = None,
) -> GradientTransformation:
    """Rectified Adam, and with `weight_decay` rectified AdamW, as in torch.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the uncorrected root, >= 0.
        weight_decay: decoupled, a number >= 0 or a schedule; None keeps no hyperparameter for it, and needs no parameters.
        mask: which parameters decay; None is all of them.

    Reference:
        Liu et al. 2020, Algorithm 2, arXiv:1908.03265; threshold and eps as in torch.
    """
    return chain(
        scale_by_radam(b1=b1, b2=b2, eps=eps),
        optional_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
