"""Schedule-free learning: an average of the iterates in place of a schedule that falls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jadam._hyper import FixedNonNegative, NonNegative, Range, public_caller
from jadam._masks import EVERYTHING, Mask
from jadam._rule import Context, Rule, Slots
from jadam._state import OptState
from jadam._storage import decode, encode
from jadam._transformation import GradientTransformation, chain
from jadam._tree import PyTree

Interpolation = Annotated[Any, Range("in (0, 1)", lambda x: 0 < x < 1, complement=True)]
"""Between the average and the iterate. At 0 the average could not be told from the parameters."""


@dataclass(frozen=True, repr=False)
class ScheduleFree(Rule):
    """Applies updates to an iterate `z`, averages it to `x`, and moves the parameters to `y = b1 x + (1-b1) z`.

    `z = z + u`, `x = (1-c) x + c z`, where `c` is the share of this step's weight in the sum of all; the weight is
    `t^r max(learning_rate)^weight_lr_power`.
    """

    b1: Interpolation = 0.9
    warmup_steps: FixedNonNegative = 0
    r: NonNegative = 0.0
    weight_lr_power: NonNegative = 2.0
    weight_decay_at_z: NonNegative = 0.0
    mask: Mask | bool = EVERYTHING

    def init(self, p: Array) -> Slots:
        return {"z": jnp.copy(p)}

    def scalars(self) -> dict[str, float]:
        return {"weight_sum": 0.0, "learning_rate_max": 0.0}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        warm = jnp.minimum(1, t / self.warmup_steps) if self.warmup_steps else jnp.ones_like(t)
        rate = warm * context.learning_rate
        largest = jnp.maximum(context.scalars["learning_rate_max"], rate)
        weight = t**h.r * largest**h.weight_lr_power
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
        z, step = slots["z"], h.warm * g
        if self.mask:
            step = step - h.z_rate * z
        x = _averaged(p, z, h.b1.complement)
        return h.b1.value * h.c * (z + step - x) + h.b1.complement * step, {"z": z + step}


def _averaged(y: Array, z: Array, one_minus_b1: Array) -> Array:
    return z + (y - z) / (1 - one_minus_b1)


def schedule_free(
    tx: GradientTransformation,
    *,
    b1: float = 0.9,
    warmup_steps: int = 0,
    r: NonNegative = 0.0,
    weight_lr_power: NonNegative = 2.0,
) -> GradientTransformation:
    """Trains with a constant learning rate and an average of the iterates, instead of a schedule that falls.

    The parameters are where gradients are taken; read those to evaluate and keep with `schedule_free_params`.

    Args:
        tx: an optimizer of jadam without momentum of its own, such as `sgd(1.0)`.
        b1: how far the parameters are towards the average, in (0, 1); it takes the place of momentum.
        warmup_steps: steps in which the updates rise from 0 in a line.
        r: power of the step number in the weights of the average, >= 0.
        weight_lr_power: power of the largest learning rate so far in the weights, >= 0.

    Raises:
        ValueError: when a step is traced, `tx` has no learning rate.

    Reference:
        Defazio et al. 2024, arXiv:2405.15682.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.schedule_free(jadam.sgd(0.5), b1=0.9), {"w": jnp.ones(2)}
        >>> params, state = tx.step(params, tx.init(params), params)
        >>> jadam.schedule_free_params(state, params)["w"]
        Array([0.5, 0.5], dtype=float32)
    """
    return GradientTransformation(
        chain(tx, ScheduleFree(b1, warmup_steps, r, weight_lr_power)).parts, public_caller("schedule_free")
    )


def schedule_free_params(state: PyTree, params: PyTree) -> PyTree:
    """The averaged parameters of `schedule_free` or `schedule_free_adamw`: those to evaluate and to keep.

    Args:
        state: an `OptState`, or a tree with one inside.
        params: the parameters of training; what is not trained schedule-free stays as it is.

    Raises:
        ValueError: the state is not of a schedule-free optimizer.
    """
    found = False
    for inner in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, OptState)):
        if not isinstance(inner, OptState):
            continue
        for key in inner.slots:
            if "z" in inner.slots[key] and key in inner.hyperparams and "weight_lr_power" in inner.hyperparams[key]:
                found, rate = True, inner.hyperparams[key]["one_minus_b1"]
                params = jax.tree.map(
                    lambda z, p, rate=rate: p if z is None else _evaluated(p, z, rate),
                    inner.slots[key]["z"],
                    params,
                    is_leaf=lambda x: x is None,
                )
    if not found:
        raise ValueError("schedule_free_params: the state is not of a schedule-free optimizer.")
    return params


@jax.jit
def _evaluated(p: Array, z: Array, one_minus_b1: Array) -> Array:
    y, z = decode(p), decode(z)
    return encode(_averaged(y, z, one_minus_b1.astype(y.dtype)), p.dtype)
