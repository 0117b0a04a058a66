"""Loss scaling: gradients that float16 can hold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._annotations import AxisName, Option
from jadam._chain import TransformationLike, builder, wrap
from jadam._errors import BadValue, door
from jadam._hyper import BelowOne, Count, FixedPositive
from jadam._state import scalars_of_one
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree
from jadam._wrapper import Inside, Outcome, Wrapper

AboveOne = Annotated[float, Option.of_number("a finite number > 1", lambda x: 1 < x < math.inf)]


@dataclass(frozen=True)
class LossScale(Wrapper):
    """Divides gradients by the scale of their loss, and skips steps in which they are not finite."""

    outermost: ClassVar[bool] = True
    init_scale: FixedPositive = 2.0**15
    growth_interval: Count = 2000
    growth_factor: AboveOne = 2.0
    backoff_factor: BelowOne = 0.5
    min_scale: FixedPositive = 1.0
    max_scale: FixedPositive = 2.0**24
    axis_name: AxisName = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.min_scale <= self.init_scale <= self.max_scale:
            raise BadValue(
                f"init_scale must be between min_scale and max_scale: {self.min_scale:g} <= {self.init_scale:g} "
                f"<= {self.max_scale:g} is not true."
            )

    def scalars(self) -> dict[str, float]:
        return {"scale": self.init_scale, "good_steps": 0.0, "skipped": 0.0}

    def around(self, inside: Inside) -> tuple[Outcome, dict[str, list[Array]], dict[str, Array]]:
        old, scale = inside.scalars, inside.scalars["scale"]
        finite = inside.finite
        good = jnp.where(finite, old["good_steps"] + 1, 0)
        grows = good >= self.growth_interval
        grown = jnp.where(grows, jnp.minimum(scale * self.growth_factor, self.max_scale), scale)
        scalars = {
            "scale": jnp.where(finite, grown, jnp.maximum(scale * self.backoff_factor, self.min_scale)),
            "good_steps": jnp.where(grows, 0, good),
            "skipped": old["skipped"] + jnp.where(finite, 0, 1),
        }
        # A select, since nearly every step counts: it is fused into the loops that write the state, which read the old one.
        return inside.when(finite, inside.scaled(1 / scale), how="select"), {}, scalars


@builder
def loss_scale(
    tx: TransformationLike,
    *,
    init_scale: FixedPositive = 2.0**15,
    growth_interval: Count = 2000,
    growth_factor: AboveOne = 2.0,
    backoff_factor: BelowOne = 0.5,
    min_scale: FixedPositive = 1.0,
    max_scale: FixedPositive = 2.0**24,
    axis_name: AxisName = None,
) -> GradientTransformation:
    """Accepts the gradients of a scaled loss, whose scale adapts: float16 loses those below 6e-8, and has none above 65504.

    Multiply the loss by `current_loss_scale(state)` before it is differentiated. The gradients are divided by it before `tx`
    sees them. If one is NaN or inf, the step is skipped: updates are zero, the state of `tx` stays as it is, its count
    and schedules too, and the scale falls. After `growth_interval` good steps in a row it rises. The scale is a power of
    two as long as the arguments are, so that no digit is lost.

    Args:
        tx: a transformation. All of it is skipped, so `loss_scale` must be around everything else.
        init_scale: the initial scale, > 0.
        growth_interval: good steps in a row after which the scale rises, >= 1.
        growth_factor: by which it rises, > 1.
        backoff_factor: by which it falls, in (0, 1).
        min_scale: it falls no further, > 0.
        max_scale: it rises no further, > 0.
        axis_name: inside `jax.shard_map`, the axis of the mesh, or several, along which devices have parts of the parameters:
            if one sees NaN or inf, all skip the step. None where arrays are whole, as under `jax.jit`, on however many devices.

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
        >>> jadam.current_loss_scale(state)  # 2 * 32768 is inf in float16: the step was skipped
        Array(16384., dtype=float32)
    """
    wrapper = LossScale(
        init_scale=init_scale,
        growth_interval=growth_interval,
        growth_factor=growth_factor,
        backoff_factor=backoff_factor,
        min_scale=min_scale,
        max_scale=max_scale,
        axis_name=axis_name,
    )
    return wrap(wrapper, tx)


@door
def current_loss_scale(state: PyTree) -> Array:
    """By what the loss must be multiplied for the next update of a `loss_scale`: a float32 scalar.

    Args:
        state: an `OptState`, or a tree with one inside.

    Raises:
        ValueError: the state is of no `loss_scale`, or of several.
    """
    return scalars_of_one(state, LossScale().scalars(), "loss scales", "loss_scale")["scale"]
