"""Adam and AdamW."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jax import Array

from jadam._assembly import (
    DecayScale,
    GradientTransformation,
    add_decayed_weights,
    block,
    chain,
    peak_of,
    scale_by_learning_rate,
)
from jadam._authoring import Context, Decay, FixedPositive, Hyper, MaskLike, NonNegative, Rule, Slots, builder, root, zeros

EpsForm = Literal["standard", "eps_hat"]


@dataclass(frozen=True)
class ScaleByAdam(Rule):
    """Divides an average of the gradients by the root of an average of their squares: `u = mhat / (sqrt(vhat) + eps)`.

    `m = b1 m + (1-b1) g`, `v = b2 v + (1-b2) g^2`, `mhat = m / (1-b1^t)`, `vhat = v / (1-b2^t)`.
    Arguments as in `adam`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: NonNegative = 1e-8
    eps_root: NonNegative = 0.0
    _: KW_ONLY
    eps_form: EpsForm = "standard"
    averages: ClassVar[Mapping[str, tuple[str, float]]] = {"mu": ("b1", 1), "nu": ("b2", -0.5)}

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        nu_scale = 1 / h.b2.debias(t)  # divided once a step, so that elements are only multiplied
        # "eps_hat" belongs at the uncorrected root: the corrected one is larger by sqrt(nu_scale), and eps must be, too.
        scaled_eps = h.eps if self.eps_form == "standard" else h.eps * jnp.sqrt(nu_scale)
        return {"mu_scale": 1 / h.b1.debias(t), "nu_scale": nu_scale, "scaled_eps": scaled_eps}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m = h.b1.ema(slots["mu"], g)
        v = h.b2.ema(slots["nu"], g * g)
        return m * h.mu_scale / (root(v * h.nu_scale + h.eps_root) + h.scaled_eps), {"mu": m, "nu": v}


scale_by_adam = block(ScaleByAdam)


@builder
def adam(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    *,
    eps_root: NonNegative = 0.0,
    eps_form: EpsForm = "standard",
) -> GradientTransformation:
    """Adam: `p = p - learning_rate mhat / (sqrt(vhat) + eps)`, as in the paper and in torch.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        eps_root: added under the root, >= 0.
        eps_form: "standard", or "eps_hat" for the paper's efficient form, in which eps is added to `sqrt(v)`.

    Reference:
        Kingma & Ba 2015, Algorithm 1, and section 2 for the efficient form, arXiv:1412.6980.
    """
    return chain(
        scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root, eps_form=eps_form),
        scale_by_learning_rate(learning_rate),
    )


@builder
def adamw(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    *,
    eps_root: NonNegative = 0.0,
    eps_form: EpsForm = "standard",
    weight_decay: NonNegative = 1e-2,
    mask: MaskLike = None,
    decay: DecayScale = "decoupled",
    peak_learning_rate: FixedPositive | None = None,
) -> GradientTransformation:
    """Adam with decoupled weight decay: `p = p - learning_rate (mhat / (sqrt(vhat) + eps) + weight_decay p)`, as in torch.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        eps_root: added under the root, >= 0.
        eps_form: "standard", or "eps_hat" for Adam's efficient form, in which eps is added to `sqrt(v)`.
        weight_decay: a number >= 0 or a schedule; 1e-2 as in torch (optax has 1e-4).
        mask: which parameters decay; None is all of them.
        decay: "decoupled" multiplies by the learning rate, as torch does; "independent" by the learning rate divided by its
            peak, so that tuning one leaves the other as it is (`weight_decay` is then some 1e-5 to 1e-3); "corrected" by
            its square divided by its peak, which keeps the norms of gradients level as the learning rate falls (AdamC).
        peak_learning_rate: the peak (> 0) for "independent" and "corrected"; by default the number, or the schedule's
            `peak_value`.

    Raises:
        ValueError: an unknown `decay`, or one that needs a peak with a schedule that has no `peak_value`.

    Reference:
        Loshchilov & Hutter 2019, Algorithm 2, arXiv:1711.05101; AdamC: Defazio 2025, arXiv:2506.02285.
    """
    if decay != "decoupled" and peak_learning_rate is None:
        peak_learning_rate = peak_of(learning_rate)
    return chain(
        scale_by_adam(b1=b1, b2=b2, eps=eps, eps_root=eps_root, eps_form=eps_form),
        add_decayed_weights(weight_decay, mask, decay=decay, peak_learning_rate=peak_learning_rate),
        scale_by_learning_rate(learning_rate),
    )
