"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Decay, NonNegative, public_caller
from jadam._learning_rate import scale_by_learning_rate
from jadam._rule import Context, Rule, Slots, zeros
from jadam._transformation import GradientTransformation, chain, identity


@dataclass(frozen=True, repr=False)
class Trace(Rule):
    """A decaying sum of updates: `m = momentum m + (1-dampening) g`; the update is `m`, or `g + momentum m` (Nesterov)."""

    momentum: Decay
    nesterov: bool = False
    dampening: NonNegative = 0.0

    def init(self, p: Array) -> Slots:
        return {"trace": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Array]:
        return {"weight": jnp.where(context.count == 0, 1, 1 - context.h.dampening)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m = h.momentum.value * slots["trace"] + h.weight * g
        return (g + h.momentum.value * m if self.nesterov else m), {"trace": m}


def trace(decay: Decay, nesterov: bool = False, *, dampening: NonNegative = 0.0) -> GradientTransformation:
    """A decaying sum of updates, the momentum of SGD: `m = decay m + (1-dampening) g`; the first `m` is `g`.

    Args:
        decay: in [0, 1), or a schedule.
        nesterov: whether the update is `g + decay m` instead of `m`.
        dampening: what updates after the first are weighted down by, >= 0.

    Reference:
        Sutskever et al. 2013, On the importance of initialization and momentum in deep learning.
    """
    return chain(Trace(decay, nesterov, dampening))


def sgd(
    learning_rate: NonNegative,
    *,
    momentum: Decay | None = None,
    dampening: NonNegative = 0.0,
    nesterov: bool = False,
) -> GradientTransformation:
    """Stochastic gradient descent: `m = momentum m + (1-dampening) g`, `p = p - learning_rate m`, as in torch.

    Args:
        learning_rate: a number >= 0 or a schedule.
        momentum: in [0, 1), or a schedule; None keeps no state.
        dampening: what gradients after the first are weighted down by, >= 0.
        nesterov: whether the step is along `g + momentum m`.

    Raises:
        ValueError: `nesterov` without a momentum.

    Reference:
        Sutskever et al. 2013, On the importance of initialization and momentum in deep learning.
    """
    if momentum is None and nesterov:
        raise ValueError(f"{public_caller('sgd')}(nesterov=True): nesterov needs a momentum.")
    direction = identity() if momentum is None else trace(momentum, nesterov, dampening=dampening)
    return chain(direction, scale_by_learning_rate(learning_rate))
