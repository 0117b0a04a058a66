"""Adadelta: steps in the unit of the parameter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Decay, NonNegative
from jadam._learning_rate import scale_by_learning_rate
from jadam._rule import Rule, Slots, ema, zeros
from jadam._transformation import GradientTransformation, block, chain


@dataclass(frozen=True, repr=False)
class ScaleByAdadelta(Rule):
    """Scales gradients by the ratio of two roots, of an average of past updates and one of past gradients.

    `v = rho v + (1-rho) g^2`, `u = sqrt(d + eps) / sqrt(v + eps) g`, `d = rho d + (1-rho) u^2`.

    Args:
        rho: decay of both averages, in [0, 1).
        eps: added under both roots, > 0 for the first step to move.

    Reference:
        Zeiler 2012, Algorithm 1, arXiv:1212.5701.
    """

    rho: Decay = 0.9
    eps: NonNegative = 1e-6

    def init(self, p: Array) -> Slots:
        return {"nu": zeros(p), "delta": zeros(p)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        v, d = ema(slots["nu"], g * g, h.rho), slots["delta"]
        u = jnp.sqrt(d + h.eps) / jnp.sqrt(v + h.eps) * g
        return u, {"nu": v, "delta": ema(d, u * u, h.rho)}


scale_by_adadelta = block(ScaleByAdadelta)


def adadelta(learning_rate: NonNegative, *, rho: Decay = 0.9, eps: NonNegative = 1e-6) -> GradientTransformation:
    """Adadelta, as in torch; the paper's algorithm has learning rate 1.

    Args:
        learning_rate: a number >= 0 or a schedule.
        rho: decay of both averages, in [0, 1).
        eps: added under both roots, > 0 for the first step to move.

    Reference:
        Zeiler 2012, Algorithm 1, arXiv:1212.5701.
    """
    return chain(scale_by_adadelta(rho, eps), scale_by_learning_rate(learning_rate))
