"""Rectified Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Decay, NonNegative
from jadam._learning_rate import scale_by_learning_rate
from jadam._masks import MaskLike
from jadam._optimizers.adam import Moments
from jadam._rule import Context, Slots, debias, ema
from jadam._transformation import GradientTransformation, block, chain
from jadam._weight_decay import optional_decay


@dataclass(frozen=True, repr=False)
class ScaleByRadam(Moments):
    """Adam whose step is scaled by how well `v` is known, and which is plain momentum while it is not.

    `u = r mhat sqrt(1-b2^t) / (sqrt(v) + eps)` where `rho > 5`, else `u = mhat`;
    `r^2 = (rho-4)(rho-2) rho_inf / ((rho_inf-4)(rho_inf-2) rho)`.

    Args:
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the uncorrected root, >= 0.

    Reference:
        Liu et al. 2020, Algorithm 2, arXiv:1908.03265; threshold and eps as in torch.
    """

    eps_form = "eps_hat"

    def scalars(self) -> dict[str, float]:
        return {"age": 0.0}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, scales = context.h, super().prepare(context)
        # The paper's rho = rho_inf - 2 t b2^t / (1-b2^t) cancels in float32; it is 2 age - 1, by the mean age of v's squares.
        age = 1 + (1 - h.b2.complement / debias(h.b2, context.t)) * context.scalars["age"]
        rho, rho_inf = 2 * age - 1, 2 / h.b2.complement - 1
        r2 = (rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho)
        return scales | {"age": age, "known": rho > 5, "rectifier": jnp.sqrt(jnp.where(rho > 5, r2, 1))}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = ema(slots["mu"], g, h.b1), ema(slots["nu"], g * g, h.b2)
        divisor = jnp.where(h.known, (jnp.sqrt(v * h.nu_scale) + h.eps) / h.rectifier, 1)
        return m * h.mu_scale / divisor, {"mu": m, "nu": v}


scale_by_radam = block(ScaleByRadam)


def radam(
    learning_rate: NonNegative,
    *,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative | None = None,
    mask: MaskLike = None,
) -> GradientTransformation:
    """Rectified Adam, and with `weight_decay` rectified AdamW, as in torch.

    Args:
        learning_rate: a number >= 0 or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the uncorrected root, >= 0.
        weight_decay: decoupled, a number >= 0 or a schedule; None keeps no hyperparameter for it, and needs no parameters.
        mask: which parameters decay; None is all of them.

    Reference:
        Liu et al. 2020, Algorithm 2, arXiv:1908.03265.
    """
    return chain(scale_by_radam(b1, b2, eps), optional_decay(weight_decay, mask), scale_by_learning_rate(learning_rate))
