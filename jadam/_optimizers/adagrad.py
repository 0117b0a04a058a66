"""Adagrad and Adadelta."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Decay, FixedNonNegative, NonNegative
from jadam._learning_rate import scale_by_learning_rate
from jadam._rule import Rule, Slots, ema, zeros
from jadam._transformation import GradientTransformation, block, chain


@dataclass(frozen=True, repr=False)
class ScaleByRss(Rule):
    """Divides gradients by the root of the sum of all their squares: `u = g / (sqrt(s) + eps)`, `s = s + g^2`.

    Args:
        initial_accumulator_value: where the sum begins, >= 0.
        eps: added to the root, >= 0.

    Reference:
        Duchi et al. 2011, Adaptive subgradient methods, Figure 1.
    """

    initial_accumulator_value: FixedNonNegative = 0.0
    eps: NonNegative = 1e-10

    def init(self, p: Array) -> Slots:
        return {"sum_of_squares": zeros(p) + self.initial_accumulator_value}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        s = slots["sum_of_squares"] + g * g
        return g / (jnp.sqrt(s) + h.eps), {"sum_of_squares": s}


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


scale_by_rss = block(ScaleByRss)
scale_by_adadelta = block(ScaleByAdadelta)


def adagrad(
    learning_rate: NonNegative, *, initial_accumulator_value: FixedNonNegative = 0.0, eps: NonNegative = 1e-10
) -> GradientTransformation:
    """Adagrad: `p = p - learning_rate g / (sqrt(s) + eps)` with the sum of squares `s`, as in torch.

    Args:
        learning_rate: a number >= 0 or a schedule.
        initial_accumulator_value: where the sum begins, >= 0.
        eps: added to the root, >= 0.

    Reference:
        Duchi et al. 2011, Adaptive subgradient methods, Figure 1.
    """
    return chain(scale_by_rss(initial_accumulator_value, eps), scale_by_learning_rate(learning_rate))


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
