"""Scaling of updates: by a number, by a schedule, by the learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array, lax

from jadam._chain import block, builder, chain
from jadam._hyper import Count, Hyper
from jadam._rule import Context, Rule, Slots
from jadam._schedules.schedule import ScheduleLike
from jadam._transformation import GradientTransformation


@dataclass(frozen=True)
class Scale(Rule):
    """Multiplies updates by `step_size`, a number of any sign or a schedule: `u = step_size * g`."""

    step_size: Hyper
    keeps_zeros: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return h.step_size * g, slots


@dataclass(frozen=True)
class ScaleByLearningRate(Rule):
    """Multiplies updates by minus the learning rate, the last step of an optimizer: `u = -learning_rate * g`.

    Args:
        learning_rate: a number or a schedule; below zero, adding the update ascends.
        flip_sign: whether to negate, so that adding the update descends.
    """

    learning_rate: Hyper
    flip_sign: bool = True
    keeps_zeros: ClassVar[bool] = True
    linear: ClassVar[bool] = True

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return lax.mul(g, lax.neg(h.learning_rate) if self.flip_sign else h.learning_rate), slots


scale = block(Scale)
scale_by_learning_rate = block(ScaleByLearningRate)


@dataclass(frozen=True)
class HoldFirst(Rule):
    """Replaces updates by zeros for the first `steps` steps, while the rules before it collect what they need.

    Args:
        steps: how many, >= 1.
    """

    steps: Count = 1
    keeps_zeros: ClassVar[bool] = True

    def prepare(self, context: Context) -> dict[str, Array]:
        return {"held": context.count < self.steps}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return jnp.where(h.held, jnp.zeros_like(g), g), slots


hold_first = block(HoldFirst)


@builder
def scale_by_schedule(step_size_fn: ScheduleLike) -> GradientTransformation:
    """Multiplies updates by the value of a schedule, with its sign: `u = step_size_fn(count) * g`."""
    return chain(Scale(step_size_fn))
