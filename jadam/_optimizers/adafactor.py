"""Adafactor: second moments of matrices as rows and columns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array
from jax.core import max_dim

from jadam._assembly import GradientTransformation, add_decayed_weights, block, chain, scale_by_learning_rate
from jadam._authoring import (
    WEIGHTS,
    Context,
    DecayRate,
    FixedNonNegative,
    MaskLike,
    Negative,
    NonNegative,
    Positive,
    Rule,
    Slots,
    WeightsLike,
    builder,
    norm,
    root,
    zeros,
)


@dataclass(frozen=True)
class ScaleByAdafactor(Rule):
    """Divides gradients by the root of a second moment that matrices keep as the means of its rows and columns.

    The newest square has the weight `t^beta2_decay` in the average `v`. `u = g / max(sqrt(v), eps1)`, divided by
    `max(1, RMS(u)/d)`, times `max(eps2, RMS(p)) min(1, 1/(learning_rate sqrt(t)))`. Arguments as in `adafactor`.
    """

    beta2_decay: Negative = -0.8
    eps1: FixedNonNegative | None = None
    eps2: NonNegative = 1e-3
    d: Positive = 1.0
    matrices: WeightsLike = WEIGHTS
    elementwise: ClassVar[bool] = False

    def _along(self) -> list[tuple[int, ...]]:
        """The axes of columns and those of rows; nothing if the second moment is not factored."""
        return sorted(self.matrices.groups[:2], key=max, reverse=True) if self.matrices else []

    def init(self, p: Array) -> Slots:
        if not (along := self._along()):
            return {"nu": zeros(p)}
        return {slot: zeros(p.sum(axes, keepdims=True)) for slot, axes in zip(("nu_row", "nu_col"), along, strict=True)}

    def squares(self, shape: tuple[int, ...]) -> int:
        # A mean is a sum before it is divided.
        return max_dim(*(math.prod(shape[axis] for axis in axes) for axes in along)) if (along := self._along()) else 1

    def prepare(self, context: Context) -> dict[str, Any]:
        t = context.t
        return {
            "b2": DecayRate(t**context.h.beta2_decay),  # 1 - b2 itself: 1 - (1 - t^beta2_decay) would lose its digits
            # The step is min(learning_rate, 1/sqrt(t)); the learning rate, at the end of the chain, cancels its inverse here.
            "relative": 1 / jnp.maximum(1, context.learning_rate * jnp.sqrt(t)),
        }

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        eps1 = jnp.finfo(g.dtype).eps if self.eps1 is None else self.eps1
        if not (along := self._along()):
            new = {"nu": h.b2.ema(slots["nu"], g * g)}
            size = root(new["nu"])
        else:
            row = h.b2.ema(slots["nu_row"], (g * g).mean(along[0], keepdims=True))
            col = h.b2.ema(slots["nu_col"], (g * g).mean(along[1], keepdims=True))
            new = {"nu_row": row, "nu_col": col}
            # The root of `row col / mean(row)`, of rank one with the same row and column means, in which nothing overflows.
            size = root(row / jnp.maximum(row.mean(along[1], keepdims=True), eps1)) * root(col)
        u = g / jnp.maximum(size, eps1)
        u = u / jnp.maximum(1, norm(u, mean=True) / h.d)
        return u * jnp.maximum(h.eps2, norm(p, mean=True)) * h.relative, new


scale_by_adafactor = block(ScaleByAdafactor)


@builder
def adafactor(
    learning_rate: NonNegative,
    *,
    beta2_decay: Negative = -0.8,
    eps1: FixedNonNegative | None = None,
    eps2: NonNegative = 1e-3,
    d: Positive = 1.0,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
    matrices: WeightsLike = None,
) -> GradientTransformation:
    """Adafactor, as in torch: steps relative to the root mean square of a parameter, with next to no state for matrices.

    Args:
        learning_rate: a number >= 0 or a schedule, of which `1/sqrt(t)` is used where that is smaller.
        beta2_decay: how the weight of a new square falls, a power of the step, < 0.
        eps1: the smallest root, >= 0; None is the epsilon of the arithmetic (1.2e-7 in float32).
        eps2: the smallest root mean square of a parameter, >= 0.
        d: the largest root mean square of the divided gradient, > 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        matrices: which second moments are kept as means over the inputs and over the outputs: a mask, or pairs
            `(mask, axes(...))` as in `muon`. By default those of all parameters but biases and scales; the tree tells the axes.

    Reference:
        Shazeer & Stern 2018, Algorithms 4 and 5, arXiv:1804.04235.
    """
    return chain(
        scale_by_adafactor(beta2_decay=beta2_decay, eps1=eps1, eps2=eps2, d=d, matrices=matrices),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
