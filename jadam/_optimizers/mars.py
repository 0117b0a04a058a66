"""MARS: variance reduction before Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, add_decayed_weights, block, chain, scale_by_learning_rate
from jadam._authoring import Context, Decay, Hyper, MaskLike, NonNegative, Rule, Slots, builder, norm, root, zeros


@dataclass(frozen=True)
class ScaleByMars(Rule):
    """Adam on gradients corrected by their change: `c = g + gamma b1/(1-b1) (g - previous g)`, then `c / max(1, |c|)`.

    The norm is that of each array. Arguments as in `mars_adamw`; `eps_root` and `eps_form` as in `adam`.
    """

    b1: Decay = 0.95
    b2: Decay = 0.99
    eps: NonNegative = 1e-8
    eps_root: NonNegative = 0.0
    eps_form: Literal["standard", "eps_hat"] = "standard"
    gamma: NonNegative = 0.025
    elementwise: ClassVar[bool] = False

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p), "previous": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        nu_scale = 1 / h.b2.debias(t)
        scaled_eps = h.eps if self.eps_form == "standard" else h.eps * jnp.sqrt(nu_scale)  # of the uncorrected root
        return {"mu_scale": 1 / h.b1.debias(t), "nu_scale": nu_scale, "scaled_eps": scaled_eps}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        # The approximate form; the exact one takes the gradient at the previous parameters anew, on the present batch.
        c = g + h.gamma * h.b1.value / h.b1.complement * (g - slots["previous"])
        c = c / jnp.maximum(1, norm(c))
        m, v = h.b1.ema(slots["mu"], c), h.b2.ema(slots["nu"], c * c)
        u = m * h.mu_scale / (root(v * h.nu_scale + h.eps_root) + h.scaled_eps)
        return u, {"mu": m, "nu": v, "previous": g}


scale_by_mars = block(ScaleByMars)


@builder
def mars_adamw(
    learning_rate: Hyper,
    b1: Decay = 0.95,
    b2: Decay = 0.99,
    eps: NonNegative = 1e-8,
    *,
    gamma: NonNegative = 0.025,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
) -> GradientTransformation:
    """MARS-AdamW with the approximate gradient difference: AdamW on gradients corrected by their change.

    The authors' code leaves all but matrices to AdamW: for that, put it into a `partition`.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        gamma: strength of the correction, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.

    Reference:
        Yuan et al. 2024, Algorithm 2, arXiv:2411.10438.
    """
    return chain(
        scale_by_mars(b1=b1, b2=b2, eps=eps, gamma=gamma),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
