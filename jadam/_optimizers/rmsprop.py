"""RMSProp: gradients divided by the root of an average of their squares."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, block, chain, identity, scale_by_learning_rate
from jadam._authoring import BadValue, Context, Decay, Hyper, NonNegative, Rule, Slots, builder, root, zeros
from jadam._optimizers.sgd import trace


@dataclass(frozen=True)
class ScaleByRms(Rule):
    """Divides gradients by the root of an average of their squares: `u = g / (sqrt(v) + eps)`.

    `v = decay v + (1-decay) g^2`; with `centered`, `u = g / (sqrt(v - m^2) + eps)` with the average gradient `m`.

    Args:
        decay: of both averages, in [0, 1).
        eps: added to the root, >= 0.
        centered: whether the square of the average gradient is subtracted from `v`.
        bias_correction: whether `v` is divided by `1 - decay^t`, as in Adam; not with `centered`.

    Raises:
        ValueError: both `centered` and `bias_correction`.
    """

    decay: Decay = 0.99
    eps: NonNegative = 1e-8
    _: KW_ONLY
    centered: bool = False
    bias_correction: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.centered and self.bias_correction:
            raise BadValue("choose one of them.", centered=True, bias_correction=True)

    def init(self, p: Array) -> Slots:
        return {"nu": zeros(p)} | ({"mu": zeros(p)} if self.centered else {})

    def prepare(self, context: Context) -> dict[str, Any]:
        return {"nu_scale": 1 / context.h.decay.debias(context.t)} if self.bias_correction else {}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        v = h.decay.ema(slots["nu"], g * g)
        if self.bias_correction:
            return g / (root(v * h.nu_scale) + h.eps), {"nu": v}
        if not self.centered:
            return g / (root(v) + h.eps), {"nu": v}
        m = h.decay.ema(slots["mu"], g)
        variance = jnp.maximum(v - m * m, 0)  # rounding may put it below zero
        return g / (root(variance) + h.eps), {"nu": v, "mu": m}


scale_by_rms = block(ScaleByRms)


@builder
def rmsprop(
    learning_rate: Hyper,
    *,
    decay: Decay = 0.99,
    eps: NonNegative = 1e-8,
    centered: bool = False,
    momentum: Decay | None = None,
) -> GradientTransformation:
    """RMSProp: `p = p - learning_rate g / (sqrt(v) + eps)`, as in torch.

    Args:
        learning_rate: a number or a schedule.
        decay: of the averages, in [0, 1); torch's `alpha`.
        eps: added to the root, >= 0.
        centered: whether to divide by the deviation from the average gradient.
        momentum: decay of a sum of the divided gradients, in [0, 1); None keeps no state for it.

    Reference:
        Tieleman & Hinton 2012, lecture 6.5; centered: Graves 2013, arXiv:1308.0850.
    """
    return chain(
        scale_by_rms(decay=decay, eps=eps, centered=centered),
        identity() if momentum is None else trace(momentum),
        scale_by_learning_rate(learning_rate),
    )
