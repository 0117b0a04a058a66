"""AMSGrad: Adam whose step sizes never grow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Decay, NonNegative
from jadam._learning_rate import scale_by_learning_rate
from jadam._optimizers.adam import Moments
from jadam._rule import Context, Slots, ema, zeros
from jadam._transformation import GradientTransformation, block, chain

Maximum = Literal["uncorrected", "corrected", "paper"]


@dataclass(frozen=True, repr=False)
class ScaleByAmsgrad(Moments):
    """Adam with the largest average of squares so far in place of the present one.

    Args:
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        maximum: of what. "uncorrected": of `v`, bias-corrected afterwards (torch); "corrected": of `vhat` (optax); "paper": of
            `v`, without any bias correction.

    Reference:
        Reddi et al. 2018, Algorithm 2, arXiv:1904.09237.
    """

    maximum: Maximum = "uncorrected"

    def init(self, p: Array) -> Slots:
        return super().init(p) | {"nu_max": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        scales = super().prepare(context)
        if self.maximum == "paper":
            scales = {"mu_scale": jnp.ones_like(context.t), "nu_scale": jnp.ones_like(context.t)}
        return scales

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = ema(slots["mu"], g, h.b1), ema(slots["nu"], g * g, h.b2)
        if self.maximum == "corrected":
            largest = vhat = jnp.maximum(slots["nu_max"], v * h.nu_scale)
        else:
            largest = jnp.maximum(slots["nu_max"], v)
            vhat = largest * h.nu_scale
        return m * h.mu_scale / (jnp.sqrt(vhat) + h.eps), {"mu": m, "nu": v, "nu_max": largest}


scale_by_amsgrad = block(ScaleByAmsgrad)


def amsgrad(
    learning_rate: NonNegative,
    *,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    maximum: Maximum = "uncorrected",
) -> GradientTransformation:
    """AMSGrad: Adam with `max(v)` in place of `v`, as in torch.

    Args:
        learning_rate: a number >= 0 or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        maximum: of what. "uncorrected": of `v`, bias-corrected afterwards (torch); "corrected": of `vhat` (optax); "paper": of
            `v`, without any bias correction.

    Reference:
        Reddi et al. 2018, Algorithm 2, arXiv:1904.09237.
    """
    return chain(scale_by_amsgrad(b1, b2, eps, maximum), scale_by_learning_rate(learning_rate))
