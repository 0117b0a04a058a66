"""Yogi: Adam whose second moment changes by no more than the gradient."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, block, chain, scale_by_learning_rate
from jadam._authoring import Context, Decay, FixedNonNegative, Hyper, NonNegative, Rule, Slots, builder, root, zeros


@dataclass(frozen=True)
class ScaleByYogi(Rule):
    """Adam with a second moment that moves by the square of the gradient: `v = v - (1-b2) sign(v - g^2) g^2`.

    `m = b1 m + (1-b1) g`, `u = mhat / (sqrt(vhat) + eps)`. Arguments as in `yogi`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: NonNegative = 1e-3
    _: KW_ONLY
    initial_accumulator_value: FixedNonNegative = 1e-6

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p) + self.initial_accumulator_value, "nu": zeros(p) + self.initial_accumulator_value}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        return {"mu_scale": 1 / h.b1.debias(t), "nu_scale": 1 / h.b2.debias(t)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = h.b1.ema(slots["mu"], g), slots["nu"]
        v = v - h.b2.complement * jnp.sign(v - g * g) * g * g  # no average: a small g leaves a large v nearly as it is
        return m * h.mu_scale / (root(v * h.nu_scale) + h.eps), {"mu": m, "nu": v}


scale_by_yogi = block(ScaleByYogi)


@builder
def yogi(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-3,
    *,
    initial_accumulator_value: FixedNonNegative = 1e-6,
) -> GradientTransformation:
    """Yogi: Adam with a second moment that moves by no more than the square of the gradient.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: one minus the size of a move of the second moment, in [0, 1).
        eps: added to the root, >= 0.
        initial_accumulator_value: initial value of both moments, >= 0.

    Reference:
        Zaheer et al. 2018, Adaptive methods for nonconvex optimization, Algorithm 2.
    """
    rule = scale_by_yogi(b1=b1, b2=b2, eps=eps, initial_accumulator_value=initial_accumulator_value)
    return chain(rule, scale_by_learning_rate(learning_rate))
