"""Loss scaling: gradients that float16 can hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jax import Array

from jadam._hyper import Count, FixedPositive, Option, public_caller
from jadam._rule import Context, Rule, Slots
from jadam._state import OptState
from jadam._transformation import GradientTransformation, chain
from jadam._tree import PyTree


@dataclass(frozen=True, repr=False)
class LossScale(Rule):
    """Divides gradients by the scale of their loss, and leaves out steps in which they are not finite."""

    init_scale: FixedPositive = 2.0**15
    growth_interval: Count = 2000
    growth_factor: Annotated[float, Option("a number > 1", lambda x: x > 1)] = 2.0
    backoff_factor: Annotated[float, Option("in (0, 1)", lambda x: 0 < x < 1)] = 0.5
    min_scale: FixedPositive = 1.0
    max_scale: FixedPositive = 2.0**24

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.min_scale <= self.init_scale <= self.max_scale:
            raise ValueError(
                f"loss_scale: init_scale must lie between min_scale and max_scale: {self.min_scale:g} <= {self.init_scale:g} "
                f"<= {self.max_scale:g} does not hold."
            )

    def scalars(self) -> dict[str, float]:
        return {"scale": self.init_scale, "good_steps": 0.0, "skipped": 0.0}

    def prepare(self, context: Context) -> dict[str, Any]:
        finite, scale = context.finite, context.scalars["scale"]
        good = jnp.where(finite, context.scalars["good_steps"] + 1, 0)
        grows = good >= self.growth_interval
        grown = jnp.where(grows, jnp.minimum(scale * self.growth_factor, self.max_scale), scale)
        return {
            "scale": jnp.where(finite, grown, jnp.maximum(scale * self.backoff_factor, self.min_scale)),
            "good_steps": jnp.where(grows, 0, good),
            "skipped": context.scalars["skipped"] + jnp.where(finite, 0, 1),
            "unscale": 1 / scale,
            "accept": finite,
        }

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return h.unscale * g, slots


def loss_scale(
    tx: GradientTransformation,
    *,
    init_scale: float = 2.0**15,
    growth_interval: int = 2000,
    growth_factor: float = 2.0,
    backoff_factor: float = 0.5,
    min_scale: float = 1.0,
    max_scale: float = 2.0**24,
) -> GradientTransformation:
    """Takes the gradients of a scaled loss, whose scale adapts: float16 loses those below 6e-8, and has none above 65504.

    Multiply the loss by `current_loss_scale(state)` before it is differentiated. The gradients are divided by it before `tx`
    sees them. If one is NaN or inf, the step is left out: updates are zero, the state of `tx` stays as it is, its count
    and schedules too, and the scale falls. After `growth_interval` good steps in a row it rises. The scale is a power of
    two as long as the arguments are, so that no digit is lost.

    Args:
        tx: a transformation. All of it is left out, so `loss_scale` must be around everything else.
        init_scale: the first scale, > 0.
        growth_interval: good steps in a row after which the scale rises, >= 1.
        growth_factor: by which it rises, > 1.
        backoff_factor: by which it falls, in (0, 1).
        min_scale: it falls no further, > 0.
        max_scale: it rises no further, > 0.

    Raises:
        ValueError: an argument is out of its range; when a step is traced, a rule or a mask is around it.

    Reference:
        Micikevicius et al. 2018, section 3.2, arXiv:1710.03740.

    Example:
        >>> import jadam, jax, jax.numpy as jnp
        >>> tx, params = jadam.loss_scale(jadam.adam(1e-3)), {"w": jnp.ones(2, jnp.float16)}
        >>> state = tx.init(params)
        >>> loss = lambda params, scale: scale * jnp.sum(params["w"].astype(jnp.float32) ** 2)
        >>> grads = jax.grad(loss)(params, jadam.current_loss_scale(state))
        >>> params, state = tx.step(grads, state, params)
        >>> jadam.current_loss_scale(state)  # 2 * 32768 is inf in float16: the step was left out
        Array(16384., dtype=float32)
    """
    rule = LossScale(init_scale, growth_interval, growth_factor, backoff_factor, min_scale, max_scale)
    return GradientTransformation(chain(rule, tx).parts, public_caller("loss_scale"))


def current_loss_scale(state: PyTree) -> Array:
    """By what the loss must be multiplied for the next update of a `loss_scale`: a float32 scalar.

    Args:
        state: an `OptState`, or a tree with one inside.

    Raises:
        ValueError: the state is of no `loss_scale`, or of several.
    """
    found = list(_scales(state))
    if len(found) != 1:
        raise ValueError(f"current_loss_scale: the state has {len(found) or 'no'} loss scales; it must be of one `loss_scale`.")
    return found[0]


def _scales(state: PyTree) -> Iterator[Array]:
    for inner in jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, OptState)):
        if isinstance(inner, OptState):
            own = [values for key, values in inner.scalars.items() if re.fullmatch(r"(.*\.)?loss_scale(_\d+)?", key)]
            yield from (jax.tree.leaves(values["scale"])[0] for values in own)  # flax.nnx keeps it in a box
            yield from _scales(inner.slots)
