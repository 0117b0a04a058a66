"""Gradient accumulation under the name that optax has for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._chain import TransformationLike, builder, wrap
from jadam._errors import BadType, method
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree
from jadam._wrapper import Inside, Outcome, Wrapper
from jadam._wrappers.accumulate import Every, accumulate, has_updated


@dataclass(frozen=True)
class SkipMicroSteps(Wrapper):
    """Leaves everything as it is at a micro-step that a function of optax's kind refuses."""

    should_skip_update_fn: Callable[..., Any]

    def around(self, inside: Inside) -> tuple[Outcome, dict[str, list[Array]], dict[str, Array]]:
        params = inside.tree(inside.params) if inside.has_params else None
        found = self.should_skip_update_fn(inside.tree(inside.updates), inside.count, params)
        skips = found[0] if isinstance(found, tuple) and len(found) == 2 else None
        if not isinstance(skips, Array) or (skips.shape, skips.dtype) != ((), jnp.bool_):
            raise BadType("should_skip_update_fn must return a bool scalar array and a state, as optax.skip_not_finite does.")
        return inside.when(~skips, inside.updates, how="loop"), {}, {}


@dataclass(frozen=True, eq=False, repr=False, init=False)
class MultiSteps(GradientTransformation):
    """`accumulate` as optax spells it: a transformation, which may stand wherever one may, and what optax's object has besides.

    Its state is an `OptState`. The mean is float32, which `with_precision(..., state={"mean": "bfloat16"})` changes.

    Args:
        opt: a transformation, or any `(init, update)` pair.
        every_k_schedule: micro-batches in a window: `every` of `accumulate`.
        use_grad_mean: whether `opt` sees the mean of their gradients, else the sum.
        should_skip_update_fn: a function `(updates, gradient_step, params)` that returns whether a micro-step is skipped, as if
            it had never been, and a state, which is not kept: `optax.skip_not_finite`, for instance. Without one, gradients
            that are not finite are dropped from their window.

    Raises:
        ValueError: `every_k_schedule` is out of its range.
        TypeError: when a step is traced, `should_skip_update_fn` returns something else.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.MultiSteps(jadam.adamw(1e-3), every_k_schedule=2), {"w": jnp.ones(2)}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> updates["w"], tx.has_updated(state)
        (Array([0., 0.], dtype=float32), Array(False, dtype=bool))
    """

    @method
    def __init__(
        self,
        opt: TransformationLike,
        every_k_schedule: Every,
        use_grad_mean: bool = True,
        should_skip_update_fn: Callable[..., Any] | None = None,
    ):
        made = _multi_steps(opt, every_k_schedule, use_grad_mean, should_skip_update_fn)
        vars(self).update(recipe=made.recipe, name="MultiSteps")

    def has_updated(self, state: PyTree) -> Array:
        """Whether the last micro-step made a step of `opt`: `jadam.has_updated`."""
        return has_updated(state)

    def gradient_transformation(self) -> GradientTransformation:
        """The transformation alone."""
        return GradientTransformation.of(self.recipe, self.name)


@builder
def _multi_steps(
    opt: TransformationLike,
    every_k_schedule: Every,
    use_grad_mean: bool,
    should_skip_update_fn: Callable[..., Any] | None,
) -> GradientTransformation:
    reduction = "mean" if use_grad_mean else "sum"
    if should_skip_update_fn is None:
        return accumulate(opt, every_k_schedule, reduction=reduction)
    if not callable(should_skip_update_fn):
        raise BadType("{name} must be a function.", should_skip_update_fn=should_skip_update_fn)
    return wrap(SkipMicroSteps(should_skip_update_fn), accumulate(opt, every_k_schedule, reduction=reduction, nonfinite="keep"))
