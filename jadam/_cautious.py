"""Cautious updates: only where the direction agrees with the gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import takewhile
from operator import or_
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._chain import Transformation, builder
from jadam._errors import BadType
from jadam._hyper import FixedPositive
from jadam._learning_rate import ScaleByLearningRate
from jadam._recipe import Pair, Part, Recipe
from jadam._rule import Rule, Slots
from jadam._scope import Scope, mask_of, masked_by
from jadam._transformation import GradientTransformation


@dataclass(frozen=True)
class CautiousMask(Rule):
    """Keeps the update where it has the sign of the gradient, scaled up for what is lost: `u mask / max(mean(mask), floor)`."""

    floor: FixedPositive = 1e-3
    elementwise: ClassVar[bool] = False
    reads_gradient: ClassVar[bool] = True

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        agrees = jnp.where(jnp.sign(g) * jnp.sign(h.gradient) > 0, 1, jnp.zeros_like(g))
        return g * agrees / jnp.maximum(agrees.mean(), self.floor), slots


@builder
def cautious(tx: Transformation) -> GradientTransformation:
    """The same transformation with its direction masked: no element moves against its present gradient.

    The mask is placed after the last part that keeps slots before the learning rate; inside a wrapper, where that part is.
    The update becomes `u mask / max(mean(mask), 1e-3)`, with the mean over each array. It is compared with the raw gradient:
    to maximize, negate the loss, and not the gradient.

    Args:
        tx: a transformation of jadam: an optimizer, or a block such as `scale_by_lion()`. A pair from elsewhere in it must
            come before a learning rate of jadam's.

    Raises:
        TypeError: the direction comes from a pair from elsewhere that no learning rate follows: it may point down already.

    Reference:
        Liang et al. 2024, Algorithm 1, arXiv:2411.16085.

    Example:
        >>> import jadam
        >>> jadam.cautious(jadam.lion(1e-4))
        chain(scale_by_lion(b1=0.9, b2=0.99), cautious_mask(), add_decayed_weights(weight_decay=0.0),
              scale_by_learning_rate(learning_rate=0.0001))
    """
    return GradientTransformation.of(Recipe(tuple(_masked_row(tx.recipe.parts)), tx.recipe.landings))


def _masked_row(row: Sequence[Part]) -> list[Part]:
    parts: list[Part] = []
    segment: list[Part] = []  # up to a learning rate: an optimizer, of which a partition has several
    for part in row:
        segment.append(part)
        if _descends(part):
            parts += _masked_direction(segment)
            segment = []
    return parts + (segment if parts else _masked_direction(segment))


def _descends(part: Part) -> bool:
    return isinstance(part.rule, ScaleByLearningRate) or any(map(_descends, part.inner))


def _directs(part: Part) -> bool:
    """Whether it makes a direction: what keeps slots does, and of a wrapper what is inside."""
    return any(map(_directs, part.inner)) if part.inner else part.keeps_slots


def _masked_direction(segment: list[Part]) -> list[Part]:
    """The parts with the mask after the last of them that makes the direction, or inside that, if it is a wrapper."""
    directing = [n for n, part in enumerate(segment) if _directs(part)]
    wrapping = directing or [n for n, part in enumerate(segment) if part.inner and _descends(part)]
    if wrapping and (wrapper := segment[wrapping[-1]]).inner:
        inside = replace(wrapper, inner=tuple(_masked_row(wrapper.inner)))
        return [inside if part is wrapper else part for part in segment]
    if not segment:
        return segment
    if directing and isinstance(rule := segment[directing[-1]].rule, Pair) and not _descends(segment[-1]):
        raise BadType(f"{rule!r} makes the direction, and may have a learning rate; put scale_by_learning_rate after it.")
    at = directing[-1] + 1 if directing else 0
    scopes = [segment[number].scope for number in directing or [-1]]
    alike = takewhile(lambda level: all(scope == level[0] for scope in level), zip(*scopes, strict=False))
    shared: tuple[Scope, ...] = tuple(level[0] for level in alike)
    mask = reduce(or_, [mask_of(scope[len(shared) :]) for scope in scopes])
    direction = Part(CautiousMask(), shared if shared in scopes else (*shared, masked_by(mask)))
    return [*segment[:at], direction, *segment[at:]]
