"""AdaBelief: steps by the belief in the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax import Array

from jadam._assembly import GradientTransformation, block, chain, optional_decay, scale_by_learning_rate
from jadam._authoring import Context, Decay, Hyper, MaskLike, NonNegative, Rule, Slots, builder, root, zeros


@dataclass(frozen=True)
class ScaleByBelief(Rule):
    """Adam with the squared distance of gradients from their average in place of their square: `u = mhat / (sqrt(shat) + eps)`.

    `m = b1 m + (1-b1) g`, `s = b2 s + (1-b2) (g-m)^2 + eps_root`. Arguments as in `adabelief`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: NonNegative = 1e-16
    eps_root: NonNegative = 1e-16

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        return {"mu_scale": 1 / h.b1.debias(t), "nu_scale": 1 / h.b2.debias(t)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m = h.b1.ema(slots["mu"], g)
        s = h.b2.ema(slots["nu"], (g - m) ** 2) + h.eps_root  # this eps stays in the average, as in Algorithm 2
        return m * h.mu_scale / (root(s * h.nu_scale) + h.eps), {"mu": m, "nu": s}


scale_by_belief = block(ScaleByBelief)


@builder
def adabelief(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    *,
    eps_root: NonNegative | None = None,
    weight_decay: NonNegative | None = None,
    mask: MaskLike = None,
) -> GradientTransformation:
    """AdaBelief, as in the authors' code without rectification.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squared distances, in [0, 1).
        eps: added to the root, >= 0.
        eps_root: added to the average at every step, >= 0; None is `eps`, as in the paper.
        weight_decay: decoupled, a number >= 0 or a schedule; None keeps no hyperparameter for it, and needs no parameters.
        mask: which parameters decay; None is all of them.

    Reference:
        Zhuang et al. 2020, Algorithm 2, arXiv:2010.07468.
    """
    return chain(
        scale_by_belief(b1=b1, b2=b2, eps=eps, eps_root=eps if eps_root is None else eps_root),
        optional_decay(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
