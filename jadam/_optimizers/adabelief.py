"""AdaBelief: steps by the belief in the gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Decay, NonNegative
from jadam._learning_rate import scale_by_learning_rate
from jadam._masks import MaskLike
from jadam._optimizers.adam import Moments
from jadam._rule import Slots, ema
from jadam._transformation import GradientTransformation, block, chain
from jadam._weight_decay import optional_decay


@dataclass(frozen=True, repr=False)
class ScaleByBelief(Moments):
    """Adam with the squared distance of gradients from their average in place of their square: `u = mhat / (sqrt(shat) + eps)`.

    `s = b2 s + (1-b2) (g-m)^2 + eps`.

    Args:
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squared distances, in [0, 1).
        eps: added to the average at every step, and to the root, >= 0.

    Reference:
        Zhuang et al. 2020, Algorithm 2, arXiv:2010.07468.
    """

    eps: NonNegative = 1e-16

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m = ema(slots["mu"], g, h.b1)
        s = ema(slots["nu"], (g - m) ** 2, h.b2) + h.eps
        return m * h.mu_scale / (jnp.sqrt(s * h.nu_scale) + h.eps), {"mu": m, "nu": s}


scale_by_belief = block(ScaleByBelief)


def adabelief(
    learning_rate: NonNegative,
    *,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-16,
    weight_decay: NonNegative | None = None,
    mask: MaskLike = None,
) -> GradientTransformation:
    """AdaBelief, as in the authors' code without rectification.

    Args:
        learning_rate: a number >= 0 or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squared distances, in [0, 1).
        eps: added to the average at every step, and to the root, >= 0.
        weight_decay: decoupled, a number >= 0 or a schedule; None keeps no hyperparameter for it, and needs no parameters.
        mask: which parameters decay; None is all of them.

    Reference:
        Zhuang et al. 2020, Algorithm 2, arXiv:2010.07468.
    """
    return chain(scale_by_belief(b1, b2, eps), optional_decay(weight_decay, mask), scale_by_learning_rate(learning_rate))
