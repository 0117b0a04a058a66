"""AMSGrad: Adam whose step sizes never grow."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, block, chain, scale_by_learning_rate
from jadam._authoring import Context, Decay, Hyper, NonNegative, Rule, Slots, builder, root, zeros

Maximum = Literal["uncorrected", "corrected", "paper"]


@dataclass(frozen=True)
class ScaleByAmsgrad(Rule):
    """Adam with the largest average of squares so far in place of the present one.

    `m = b1 m + (1-b1) g`, `v = b2 v + (1-b2) g^2`, `vmax = max(vmax, v)`, `u = mhat / (sqrt(vmaxhat) + eps)`.
    Arguments as in `amsgrad`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: NonNegative = 1e-8
    _: KW_ONLY
    maximum: Maximum = "uncorrected"

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p), "nu_max": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        if self.maximum == "paper":  # its Algorithm 2 has no bias correction
            return {"mu_scale": jnp.ones_like(t), "nu_scale": jnp.ones_like(t)}
        return {"mu_scale": 1 / h.b1.debias(t), "nu_scale": 1 / h.b2.debias(t)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = h.b1.ema(slots["mu"], g), h.b2.ema(slots["nu"], g * g)
        if self.maximum == "corrected":
            largest = vhat = jnp.maximum(slots["nu_max"], v * h.nu_scale)
        else:
            largest = jnp.maximum(slots["nu_max"], v)
            vhat = largest * h.nu_scale
        return m * h.mu_scale / (root(vhat) + h.eps), {"mu": m, "nu": v, "nu_max": largest}


scale_by_amsgrad = block(ScaleByAmsgrad)


@builder
def amsgrad(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    *,
    maximum: Maximum = "uncorrected",
) -> GradientTransformation:
    """AMSGrad: Adam with `max(v)` in place of `v`, as in torch.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        maximum: of what. "uncorrected": of `v`, bias-corrected afterwards (torch); "corrected": of `vhat` (optax); "paper": of
            `v`, without any bias correction.

    Reference:
        Reddi et al. 2018, Algorithm 2, arXiv:1904.09237.
    """
    return chain(scale_by_amsgrad(b1=b1, b2=b2, eps=eps, maximum=maximum), scale_by_learning_rate(learning_rate))
