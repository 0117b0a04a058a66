"""Adagrad: gradients divided by the root of the sum of all their squares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, block, chain, scale_by_learning_rate
from jadam._authoring import FixedNonNegative, Hyper, NonNegative, Rule, Slots, builder, root, zeros


@dataclass(frozen=True)
class ScaleByRss(Rule):
    """Divides gradients by the root of the sum of all their squares: `s = s + g^2`, `u = g / (sqrt(s) + eps)`.

    Arguments as in `adagrad`.
    """

    initial_accumulator_value: FixedNonNegative = 0.0
    eps: NonNegative = 1e-10

    def init(self, p: Array) -> Slots:
        return {"sum_of_squares": zeros(p) + self.initial_accumulator_value}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        s = jnp.minimum(slots["sum_of_squares"] + g * g, float(jnp.finfo(g.dtype).max))  # inf would stop it for ever
        return g / (root(s) + h.eps), {"sum_of_squares": s}


scale_by_rss = block(ScaleByRss)


@builder
def adagrad(
    learning_rate: Hyper, *, initial_accumulator_value: FixedNonNegative = 0.0, eps: NonNegative = 1e-10
) -> GradientTransformation:
    """Adagrad: `p = p - learning_rate g / (sqrt(s) + eps)` with the sum of squares `s`, as in torch.

    Args:
        learning_rate: a number or a schedule.
        initial_accumulator_value: initial value of the sum, >= 0.
        eps: added to the root, >= 0.

    Reference:
        Duchi et al. 2011, Adaptive subgradient methods, Figure 1.
    """
    direction = scale_by_rss(initial_accumulator_value=initial_accumulator_value, eps=eps)
    return chain(direction, scale_by_learning_rate(learning_rate))
