"""Cautious updates: only where the direction agrees with the gradient."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._hyper import FixedPositive, public_caller
from jadam._learning_rate import ScaleByLearningRate
from jadam._part import Opaque, Part
from jadam._rule import Rule, Slots
from jadam._transformation import GradientTransformation


@dataclass(frozen=True, repr=False)
class CautiousMask(Rule):
    """Keeps the update where it has the sign of the gradient, scaled up for what is lost: `u mask / max(mean(mask), floor)`."""

    floor: FixedPositive = 1e-3
    elementwise: ClassVar[bool] = False
    reads_gradient: ClassVar[bool] = True

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        agrees = jnp.where(jnp.sign(g) * jnp.sign(h.gradient) > 0, 1, jnp.zeros_like(g))
        return g * agrees / jnp.maximum(agrees.mean(), self.floor), slots


def cautious(tx: GradientTransformation) -> GradientTransformation:
    """The same transformation with its direction masked: no element moves against its present gradient.

    The mask stands behind the last rule that keeps slots ahead of the learning rate. The update becomes
    `u mask / max(mean(mask), 1e-3)`, with the mean over each array. It is compared with the gradient as it came: to maximize,
    negate the loss, and not the gradient.

    Args:
        tx: a transformation of jadam: an optimizer, or a block such as `scale_by_lion()`.

    Raises:
        TypeError: `tx` has a transformation from elsewhere in it.

    Reference:
        Liang et al. 2024, Algorithm 1, arXiv:2411.16085.

    Example:
        >>> import jadam
        >>> jadam.cautious(jadam.lion(1e-4))
        chain(scale_by_lion(b1=0.9, b2=0.99), cautious_mask(), add_decayed_weights(weight_decay=0.0),
              scale_by_learning_rate(learning_rate=0.0001))
    """
    parts: list[Part] = []
    segment: list[Part] = []  # up to a learning rate: an optimizer, of which a partition has several
    for part in tx.parts:
        if isinstance(part.rule, Opaque):
            raise TypeError(f"cautious: {part.rule!r} is no transformation of jadam.")
        segment.append(part)
        if isinstance(part.rule, ScaleByLearningRate):
            parts += _masked_direction(segment)
            segment = []
    if segment and not parts:
        parts, segment = _masked_direction(segment), []
    return GradientTransformation((*parts, *segment), public_caller("cautious"))


def _masked_direction(segment: list[Part]) -> list[Part]:
    keeping = [number for number, part in enumerate(segment) if type(part.rule).init is not Rule.init]
    at = keeping[-1] + 1 if keeping else 0
    masks = [segment[number].mask for number in keeping] or [segment[-1].mask]
    direction = replace(segment[0], rule=CautiousMask(), mask=reduce(or_, masks), storage=())
    return [*segment[:at], direction, *segment[at:]]
