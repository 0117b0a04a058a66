"""NAdamW: AdamW one step of momentum ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax import Array

from jadam._assembly import GradientTransformation, add_decayed_weights, block, chain, scale_by_learning_rate
from jadam._authoring import Context, Decay, Hyper, MaskLike, NonNegative, Rule, Slots, builder, root, zeros


@dataclass(frozen=True)
class ScaleByNadamw(Rule):
    """Adam one step of momentum ahead: `u = (b1 m + (1-b1) g) / (1-b1^t) / (sqrt(vhat) + eps)`.

    `m = b1 m + (1-b1) g`, `v = b2 v + (1-b2) g^2`. Arguments as in `nadamw`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: NonNegative = 1e-8

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        return {"mu_scale": 1 / h.b1.debias(t), "nu_scale": 1 / h.b2.debias(t)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = h.b1.ema(slots["mu"], g), h.b2.ema(slots["nu"], g * g)
        ahead = h.b1.ema(m, g)  # corrected as m is, by t and not by t + 1, as in AlgoPerf's code
        return ahead * h.mu_scale / (root(v * h.nu_scale) + h.eps), {"mu": m, "nu": v}


scale_by_nadamw = block(ScaleByNadamw)


@builder
def nadamw(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    *,
    weight_decay: NonNegative = 1e-2,
    mask: MaskLike = None,
) -> GradientTransformation:
    """NAdamW: Adam one step of momentum ahead, with decoupled weight decay, as in AlgoPerf.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.

    Reference:
        Choi et al. 2019, arXiv:1910.05446; as in AlgoPerf's baseline.
    """
    return chain(
        scale_by_nadamw(b1=b1, b2=b2, eps=eps),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
