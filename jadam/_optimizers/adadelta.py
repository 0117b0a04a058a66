"""Adadelta: steps in the unit of the parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax import Array

from jadam._assembly import GradientTransformation, block, chain, scale_by_learning_rate
from jadam._authoring import Decay, Hyper, NonNegative, Rule, Slots, builder, root, zeros


@dataclass(frozen=True)
class ScaleByAdadelta(Rule):
    """Scales gradients by the ratio of two roots, of an average of past updates and one of past gradients.

    `v = rho v + (1-rho) g^2`, `u = sqrt(d + eps) / sqrt(v + eps) g`, `d = rho d + (1-rho) u^2`. Arguments as in `adadelta`.
    """

    rho: Decay = 0.9
    eps: NonNegative = 1e-6

    def init(self, p: Array) -> Slots:
        return {"nu": zeros(p), "delta": zeros(p)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        v, d = h.rho.ema(slots["nu"], g * g), slots["delta"]
        u = root(d + h.eps) / root(v + h.eps) * g  # with the d before u: d is an average of past updates
        return u, {"nu": v, "delta": h.rho.ema(d, u * u)}


scale_by_adadelta = block(ScaleByAdadelta)


@builder
def adadelta(learning_rate: Hyper, *, rho: Decay = 0.9, eps: NonNegative = 1e-6) -> GradientTransformation:
    """Adadelta, as in torch; the paper's algorithm has learning rate 1.

    Args:
        learning_rate: a number or a schedule.
        rho: decay of both averages, in [0, 1).
        eps: added under both roots, >= 0; at zero nothing ever moves.

    Reference:
        Zeiler 2012, Algorithm 1, arXiv:1212.5701.
    """
    return chain(scale_by_adadelta(rho=rho, eps=eps), scale_by_learning_rate(learning_rate))
