"""Yogi: Adam whose second moment changes by no more than the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Decay, FixedNonNegative, NonNegative
from jadam._learning_rate import scale_by_learning_rate
from jadam._optimizers.adam import Moments
from jadam._rule import Slots, ema
from jadam._transformation import GradientTransformation, block, chain


@dataclass(frozen=True, repr=False)
class ScaleByYogi(Moments):
    """Adam with a second moment that moves by the square of the gradient: `v = v - (1-b2) sign(v - g^2) g^2`.

    Args:
        b1: decay of the average of gradients, in [0, 1).
        b2: one minus the size of a move of the second moment, in [0, 1).
        eps: added to the root, >= 0.
        initial_accumulator_value: where both moments begin, >= 0.

    Reference:
        Zaheer et al. 2018, Adaptive methods for nonconvex optimization, Algorithm 2.
    """

    eps: NonNegative = 1e-3
    initial_accumulator_value: FixedNonNegative = 1e-6

    def init(self, p: Array) -> Slots:
        return {slot: value + self.initial_accumulator_value for slot, value in super().init(p).items()}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = ema(slots["mu"], g, h.b1), slots["nu"]
        v = v - h.b2.complement * jnp.sign(v - g * g) * g * g
        return m * h.mu_scale / (jnp.sqrt(v * h.nu_scale) + h.eps), {"mu": m, "nu": v}


scale_by_yogi = block(ScaleByYogi)


def yogi(
    learning_rate: NonNegative,
    *,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-3,
    initial_accumulator_value: FixedNonNegative = 1e-6,
) -> GradientTransformation:
    """Yogi: Adam with a second moment that moves by no more than the square of the gradient.

    Args:
        learning_rate: a number >= 0 or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: one minus the size of a move of the second moment, in [0, 1).
        eps: added to the root, >= 0.
        initial_accumulator_value: where both moments begin, >= 0.

    Reference:
        Zaheer et al. 2018, Adaptive methods for nonconvex optimization, Algorithm 2.
    """
    return chain(scale_by_yogi(b1, b2, eps, initial_accumulator_value), scale_by_learning_rate(learning_rate))
