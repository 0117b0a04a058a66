"""Schedule-free learning: an average of the iterates in place of a schedule that falls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._chain import TransformationLike, builder, chain
from jadam._errors import BadValue, door
from jadam._hyper import Decay, FixedNonNegative, NonNegative
from jadam._masks import EVERYTHING, MaskLike
from jadam._positions import in_place_of
from jadam._rule import Context, Rule, Slots
from jadam._state import states
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree


@dataclass(frozen=True)
class ScheduleFree(Rule):
    """Applies updates to an iterate `z`, averages it to `x`, and moves the parameters to `y = b1 x + (1-b1) z`.

    `z = z + u`, `x = (1-c) x + c z`, where `c` is the share of this step's weight in the sum of all; the weight is
    `t^r max(learning_rate)^weight_lr_power`.
    """

    b1: Decay = 0.9
    warmup_steps: FixedNonNegative = 0
    r: NonNegative = 0.0
    weight_lr_power: NonNegative = 2.0
    weight_decay_at_z: NonNegative = 0.0
    mask: MaskLike = EVERYTHING

    positions: ClassVar[tuple[str, ...]] = ("z", "x")

    def init(self, p: Array) -> Slots:
        return {"z": jnp.copy(p), "x": jnp.copy(p)}

    def scalars(self) -> dict[str, float]:
        return {"weight_sum": 0.0, "learning_rate_max": 0.0}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        warm = jnp.minimum(1, t / self.warmup_steps) if self.warmup_steps else jnp.ones_like(t)
        rate = warm * context.learning_rate
        largest = jnp.maximum(context.scalars["learning_rate_max"], rate)
        # `0**0` is 1, but its derivative NaN: a warm-up may begin at zero.
        weight = t**h.r * jnp.where(h.weight_lr_power == 0, 1, largest) ** h.weight_lr_power
        total = context.scalars["weight_sum"] + weight
        share = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)
        return {
            "weight_sum": total,
            "learning_rate_max": largest,
            "c": share,
            "warm": warm,
            "z_rate": rate * h.weight_decay_at_z,
        }

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        z, x, step = slots["z"], slots["x"], h.warm * g
        if self.mask:
            step = step - h.z_rate * z
        z = z + step
        x = x + h.c * (z - x)
        return x + h.b1.complement * (z - x) - p, {"z": z, "x": x}


@builder
def schedule_free(
    tx: TransformationLike,
    *,
    b1: Decay = 0.9,
    warmup_steps: FixedNonNegative = 0,
    r: NonNegative = 0.0,
    weight_lr_power: NonNegative = 2.0,
) -> GradientTransformation:
    """Trains with a constant learning rate and an average of the iterates, instead of a schedule that falls.

    The parameters are where gradients are taken; read those to evaluate and keep with `schedule_free_params`.

    Args:
        tx: an optimizer of jadam without momentum of its own, such as `sgd(1.0)`.
        b1: how far the parameters are towards the average, in [0, 1); it takes the place of momentum.
        warmup_steps: steps in which the updates rise from 0 in a line.
        r: power of the step number in the weights of the average, >= 0.
        weight_lr_power: power of the largest learning rate so far in the weights, >= 0.

    Raises:
        ValueError: when a step is traced, `tx` has no learning rate that acts on all parameters. Of a partition, put each
            group into a `schedule_free` of its own.

    Reference:
        Defazio et al. 2024, arXiv:2405.15682.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.schedule_free(jadam.sgd(0.5), b1=0.9), {"w": jnp.ones(2)}
        >>> params, state = tx.step(params, tx.init(params), params)
        >>> jadam.schedule_free_params(state, params)["w"]
        Array([0.5, 0.5], dtype=float32)
    """
    return chain(tx, ScheduleFree(b1=b1, warmup_steps=warmup_steps, r=r, weight_lr_power=weight_lr_power))


@door
def schedule_free_params(state: PyTree, params: PyTree) -> PyTree:
    """The averaged parameters of `schedule_free` or `schedule_free_adamw`: those to evaluate and to keep.

    Args:
        state: an `OptState`, or a tree with one inside.
        params: the parameters of training; what is not trained schedule-free stays as it is.

    Raises:
        ValueError: the state is not of a schedule-free optimizer.
    """
    found = [
        inner.slots[rule]
        for inner in states(state)
        for rule, _, name in (key.rpartition(".") for key in inner.hyperparams)
        if name == "weight_lr_power"
    ]
    if not found:
        raise BadValue("the state is not of a schedule-free optimizer.")
    return in_place_of(params, [(slots, lambda x, p: x) for slots in found], "x")
