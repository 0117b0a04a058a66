"""Weight decay. Placed before `scale_by_adam` it is L2 regularisation, placed after it it is AdamW's decoupled decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from jax import Array

from jadam._groups import masked
from jadam._masks import MaskLike
from jadam._rule import Context, NonNegative, Rule, Slots, public_caller
from jadam._transformation import GradientTransformation, chain


@dataclass(frozen=True, repr=False)
class AddDecayedWeights(Rule):
    """Adds `weight_decay / peak_learning_rate * p` to the update.

    It is added to the update and not multiplied into the parameter: `p * (1 - lr*wd)` in float32 is 9 % off at
    lr*wd = 1e-7, and nothing at all at 2e-8.
    """

    weight_decay: NonNegative
    peak_learning_rate: float = 1.0

    def prepare(self, context: Context) -> dict[str, Array]:
        return {"rate": context.h.weight_decay / self.peak_learning_rate}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return g + h.rate * p, slots


def add_decayed_weights(
    weight_decay: NonNegative = 0.0, mask: MaskLike = None, *, peak_learning_rate: float = 1.0
) -> GradientTransformation:
    """Adds the parameter times `weight_decay` to its update: `u = g + weight_decay / peak_learning_rate p`.

    Before `scale_by_adam` this is L2 regularisation (coupled, as torch's Adam has it); after it, and before the learning
    rate, it is decoupled (AdamW), and multiplied by the learning rate.

    Args:
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        peak_learning_rate: what to divide by so that the decay does not depend on the learning rate's peak, > 0.

    Reference:
        Loshchilov & Hutter 2019, Algorithm 2, arXiv:1711.05101.
    """
    if not 0 < peak_learning_rate < math.inf:
        where = f"{public_caller('add_decayed_weights')}(peak_learning_rate={peak_learning_rate!r})"
        raise ValueError(f"{where}: peak_learning_rate must be a finite number > 0.")
    return masked(chain(AddDecayedWeights(weight_decay, peak_learning_rate)), mask)
