"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, chain, identity, optional_decay, scale_by_learning_rate
from jadam._authoring import BadValue, Context, Decay, Hyper, MaskLike, NonNegative, Rule, Slots, builder, zeros


@dataclass(frozen=True)
class Trace(Rule):
    """A decaying sum of updates: `m = momentum m + (1-dampening) g`; the update is `m`, or `g + momentum m` (Nesterov)."""

    momentum: Decay
    nesterov: bool = False
    dampening: NonNegative = 0.0
    averages: ClassVar[Mapping[str, tuple[str, float]]] = {"trace": ("momentum", 1)}

    def init(self, p: Array) -> Slots:
        return {"trace": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        return {"weight": jnp.where(context.count == 0, 1, 1 - context.h.dampening)}  # as torch begins with g itself

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m = h.momentum.value * slots["trace"] + h.weight * g
        return (g + h.momentum.value * m if self.nesterov else m), {"trace": m}


@builder
def trace(decay: Decay, nesterov: bool = False, *, dampening: NonNegative = 0.0) -> GradientTransformation:
    """A decaying sum of updates, the momentum of SGD: `m = decay m + (1-dampening) g`; the first `m` is `g`.

    Args:
        decay: in [0, 1), or a schedule.
        nesterov: whether the update is `g + decay m` instead of `m`.
        dampening: what updates after the first are weighted down by, >= 0.
    """
    return chain(Trace(momentum=decay, nesterov=nesterov, dampening=dampening))


@builder
def sgd(
    learning_rate: Hyper,
    momentum: Decay | None = None,
    *,
    dampening: NonNegative = 0.0,
    nesterov: bool = False,
    weight_decay: NonNegative | None = None,
    mask: MaskLike = None,
) -> GradientTransformation:
    """Stochastic gradient descent: `m = momentum m + (1-dampening) g`, `p = p - learning_rate m`, as in torch.

    Args:
        learning_rate: a number or a schedule.
        momentum: decay of the sum of gradients, in [0, 1), or a schedule; None keeps no state.
        dampening: what gradients after the first are weighted down by, >= 0.
        nesterov: whether the step is along `g + momentum m`.
        weight_decay: added to gradients, times the parameter, before the momentum; a number >= 0 or a schedule. None keeps no
            hyperparameter for it, and needs no parameters.
        mask: which parameters decay; None is all of them.

    Raises:
        ValueError: `nesterov` without a momentum.

    Reference:
        Sutskever et al. 2013, On the importance of initialization and momentum in deep learning.
    """
    if momentum is None and nesterov:
        raise BadValue("nesterov needs a momentum.", nesterov=True)
    direction = identity() if momentum is None else trace(momentum, nesterov=nesterov, dampening=dampening)
    return chain(optional_decay(weight_decay, mask), direction, scale_by_learning_rate(learning_rate))
