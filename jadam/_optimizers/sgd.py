"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jax import Array

from jadam._learning_rate import scale_by_learning_rate
from jadam._rule import Decay, NonNegative, Rule, Slots, zeros
from jadam._transformation import GradientTransformation, chain, identity


@dataclass(frozen=True, repr=False)
class Trace(Rule):
    """A decaying sum of updates: `m = momentum m + g`; the update is `m`, or `g + momentum m` (Nesterov)."""

    momentum: Decay
    nesterov: bool = False

    def init(self, p: Array) -> Slots:
        return {"trace": zeros(p)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m = g + h.momentum.value * slots["trace"]
        return (g + h.momentum.value * m if self.nesterov else m), {"trace": m}


def trace(decay: Decay, nesterov: bool = False) -> GradientTransformation:
    """A decaying sum of updates, the momentum of SGD: `m = decay m + g`.

    Args:
        decay: in [0, 1), or a schedule.
        nesterov: whether the update is `g + decay m` instead of `m`.

    Reference:
        Sutskever et al. 2013, On the importance of initialization and momentum in deep learning.
    """
    return chain(Trace(decay, nesterov))


def sgd(learning_rate: NonNegative, *, momentum: Decay | None = None, nesterov: bool = False) -> GradientTransformation:
    """Stochastic gradient descent: `m = momentum m + g`, `p = p - learning_rate m`, as in torch.

    Args:
        learning_rate: a number >= 0 or a schedule.
        momentum: in [0, 1), or a schedule; None keeps no state.
        nesterov: whether the step is along `g + momentum m`.

    Reference:
        Sutskever et al. 2013, On the importance of initialization and momentum in deep learning.
    """
    return chain(identity() if momentum is None else trace(momentum, nesterov), scale_by_learning_rate(learning_rate))
