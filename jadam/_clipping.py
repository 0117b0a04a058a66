"""Clipping of updates: by value, by norm over all parameters, by root mean square, by units."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
from jax import Array, lax

from jadam._annotations import AxisName, Option, is_integer
from jadam._chain import block
from jadam._errors import BadValue
from jadam._hyper import Bound, FixedNonNegative, Positive
from jadam._matrices import NONE, ExplicitLike
from jadam._norm import norm
from jadam._rule import Context, Rule, Slots


def _root_of_factor(bound: Array, norm: Array) -> Array:
    """The root of `min(1, bound / norm)`, to multiply by twice: the factor itself may be too small for float32."""
    # Of inf, and of 0 where the norm is 0 too, the factor is 1, and not NaN: the root of this power of two is exact.
    limits = jnp.finfo(bound.dtype)
    bound = jnp.clip(bound, float(limits.tiny), 2.0 ** (limits.maxexp - 2))
    # Of two equal roots XLA makes a root times a reciprocal root, which is not 1.
    return jnp.where(norm <= bound, 1, jnp.sqrt(bound) / jnp.sqrt(jnp.maximum(norm, bound)))


@dataclass(frozen=True)
class Clip(Rule):
    """Cuts every element of the updates to [-max_delta, max_delta].

    Args:
        max_delta: the largest magnitude of an element, > 0; inf for any.
    """

    max_delta: Bound
    keeps_zeros: ClassVar[bool] = True

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return jnp.clip(g, -h.max_delta, h.max_delta), slots


@dataclass(frozen=True)
class GlobalNormClip(Rule):
    """Scales all updates by one factor, so that their global norm is at most what `limit` says.

    If one of them is NaN or inf, all become NaN: that a step went wrong is seen in every parameter.
    """

    measured: bool = field(default=False, kw_only=True)
    axis_name: AxisName = field(default=None, kw_only=True)
    keeps_zeros: ClassVar[bool] = True

    @abstractmethod
    def limit(self, context: Context, norm: Array) -> tuple[Array, dict[str, Array]]:
        """The largest norm at this step, and what is kept for the next one."""

    def compared(self, norm: Array) -> Array:
        """What is compared with the limit."""
        return norm

    def measuring(self) -> GlobalNormClip:
        return replace(self, measured=True)

    def scalars(self) -> dict[str, Any]:
        return dict.fromkeys(("clipped_norm", "clipped_share", "measured_steps"), 0.0) if self.measured else {}

    def prepare(self, context: Context) -> dict[str, Array]:
        norm = context.norm
        limit, kept = self.limit(context, norm)
        # A factor to multiply by: XLA would write a divided gradient to memory and read it back three times.
        root = _root_of_factor(limit, self.compared(norm))
        if self.measured:
            # Steps of its own, since a run may have been measured from its middle on.
            share, steps = context.scalars["clipped_share"], context.scalars["measured_steps"] + 1
            clipped = (norm > limit).astype(norm.dtype)
            reached = jnp.minimum(jnp.minimum(norm, limit), float(jnp.finfo(norm.dtype).max))
            kept |= {"clipped_norm": reached, "clipped_share": share + (clipped - share) / steps, "measured_steps": steps}
        return {"root": jnp.where(context.finite, root, jnp.nan), **kept}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return lax.mul(lax.mul(g, h.root), h.root), slots


@dataclass(frozen=True)
class ClipByGlobalNorm(GlobalNormClip):
    """Scales all updates by one factor so that their global norm is at most `max_norm`: `u = min(1, max_norm/(norm + eps)) g`.

    If one of them is NaN or inf, all become NaN, as a factor of NaN makes them: that a step went wrong is seen in every
    parameter. `guard` skips such a step.

    Args:
        max_norm: the largest norm, > 0; inf for any.
        eps: added to the norm, >= 0; 1e-6 gives torch's `clip_grad_norm_`.
        measured: whether `metrics` shows the norm after clipping and the share of clipped steps; `monitor` sees to it.
        axis_name: inside `jax.shard_map`, the axis of the mesh, or several, along which devices have parts of the parameters,
            whose squares are added up. None where arrays are whole, as under `jax.jit`, on however many devices.

    Reference:
        Pascanu et al. 2013, Algorithm 1, arXiv:1211.5063.
    """

    max_norm: Bound
    eps: FixedNonNegative = 0.0

    def limit(self, context: Context, norm: Array) -> tuple[Array, dict[str, Array]]:
        return context.h.max_norm, {}

    def compared(self, norm: Array) -> Array:
        return norm + self.eps


@dataclass(frozen=True)
class ClipByBlockRms(Rule):
    """Scales the update of each parameter so that its root mean square is at most `threshold`.

    Args:
        threshold: the largest root mean square of one array, > 0; inf for any.

    Reference:
        Shazeer & Stern 2018, section 6, arXiv:1804.04235.
    """

    threshold: Bound
    elementwise: ClassVar[bool] = False
    keeps_zeros: ClassVar[bool] = True

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        root = _root_of_factor(h.threshold, norm(g, mean=True))
        return g * root * root, slots


def _are_axes(axis: Any) -> bool:
    axes = axis if isinstance(axis, tuple) else (axis,)
    return all(map(is_integer, axes)) and len(set(axes)) == len(axes)


@dataclass(frozen=True)
class AdaptiveGradClip(Rule):
    """Scales the gradient of each unit so that its norm is at most `clipping` times the norm of the unit's weights.

    A unit is an output: its weights extend along all axes but the last in kernels of 4 axes (HWIO), along the first axis in
    those of 2 and 3; vectors, and what has at most one axis longer than 1, are one unit.

    Args:
        clipping: the largest ratio, > 0; inf for any.
        eps: the norm that weights of zero are assumed to have, > 0.
        axis: the axes along which the weights of a unit extend, instead of those above.
        matrices: of which parameters the inputs are these axes: a mask, of what the tree tells, or pairs `(mask, axes(...))`.

    Raises:
        ValueError: a parameter has more than 4 axes, and neither `axis` nor `matrices` says which.

    Reference:
        Brock et al. 2021, equation 3, arXiv:2102.06171.
    """

    clipping: Bound
    eps: Positive = 1e-3
    axis: Annotated[int | tuple[int, ...], Option("an axis, or a tuple of different axes", _are_axes)] | None = None
    matrices: ExplicitLike = NONE
    elementwise: ClassVar[bool] = False
    keeps_zeros: ClassVar[bool] = True

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        axes = self._axes(g.shape)
        largest = h.clipping * jnp.maximum(norm(p, axes), h.eps)
        root = _root_of_factor(largest, norm(g, axes))
        return g * root * root, slots

    def _axes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.axis is not None:
            axes = self.axis if isinstance(self.axis, tuple) else (self.axis,)
            found = {axis % len(shape) for axis in axes if -len(shape) <= axis < len(shape)}
            if len(found) < len(axes):
                raise BadValue(
                    f"{{parameter}} has shape {shape}, in which axis={self.axis} are not different axes; mask it out."
                )
            return tuple(sorted(found))
        if self.matrices is not None:
            return self.matrices.inputs
        if sum(length > 1 for length in shape) <= 1:
            return tuple(range(len(shape)))
        if len(shape) > 4:
            raise BadValue(
                f"{{parameter}} has shape {shape}; with more than 4 axes, give adaptive_grad_clip axis= or matrices=."
            )
        return (0, 1, 2) if len(shape) == 4 else (0,)


clip = block(Clip)
clip_by_global_norm = block(ClipByGlobalNorm)
clip_by_block_rms = block(ClipByBlockRms)
adaptive_grad_clip = block(AdaptiveGradClip)
