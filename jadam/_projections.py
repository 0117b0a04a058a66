"""Parameters that stay in a set: after each step they are brought to its nearest point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array, lax

from jadam._after_step import AfterStep, AlongAxes, axes_of
from jadam._chain import builder, chain
from jadam._dtypes import cast
from jadam._errors import BadType, BadValue, shown
from jadam._groups import masked
from jadam._hyper import Bound, Positive
from jadam._masks import MaskLike
from jadam._norm import norm
from jadam._rule import Slots
from jadam._transformation import GradientTransformation


@dataclass(frozen=True)
class KeepParamsNonnegative(AfterStep):
    """Sets what would be below zero to zero."""

    def land(self, u: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return lax.max(p + u, jnp.zeros_like(u)), slots


@builder
def keep_params_nonnegative(mask: MaskLike = None) -> GradientTransformation:
    """Keeps parameters at zero or above: `p = max(p + u, 0)`. It stands last in a chain.

    Args:
        mask: which parameters; None is all of them.

    Example:
        >>> import jadam
        >>> tx = jadam.chain(jadam.adam(1e-3), jadam.keep_params_nonnegative(jadam.match("**/scale")))
    """
    return masked(chain(KeepParamsNonnegative()), mask)


@dataclass(frozen=True)
class KeepParamsInL2Ball(AfterStep):
    """Shrinks what would be longer than `radius` to that length."""

    radius: Bound
    axis: AlongAxes | None = None
    elementwise: ClassVar[bool] = False

    def land(self, u: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        new = p + u
        length = norm(new, axes_of(self.axis, new.shape))
        # A select, and not a factor of min(1, radius / length): what is inside stays to the bit.
        return jnp.where(length > h.radius, new * (h.radius / jnp.maximum(length, h.radius)), new), slots


@builder
def keep_params_in_l2_ball(
    radius: Bound = 1.0, mask: MaskLike = None, *, axis: AlongAxes | None = None
) -> GradientTransformation:
    """Keeps the norm of parameters at `radius` or below: `q = p + u`, `p = q min(1, radius/|q|)`. It stands last in a chain.

    Args:
        radius: the largest norm, > 0, or a schedule; inf for any.
        mask: which parameters; None is all of them.
        axis: the axes along which the norm is taken: 0 for each column of a kernel, the weights of one output (max-norm). None
            is that of the whole array.

    Raises:
        ValueError: a parameter does not have these axes.

    Reference:
        Srebro & Shraibman 2005; Srivastava et al. 2014, section 5.1, for columns.
    """
    return masked(chain(KeepParamsInL2Ball(radius, axis)), mask)


@dataclass(frozen=True)
class KeepParamsInSimplex(AfterStep):
    """Moves to the nearest point that is nonnegative and sums to `scale` along an axis."""

    scale: Positive = 1.0
    axis: int = -1
    elementwise: ClassVar[bool] = False

    def land(self, u: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        (axis,) = axes_of(self.axis, u.shape)
        return _on_simplex(jnp.moveaxis(p + u, axis, -1), h.scale, axis), slots


def _on_simplex(x: Array, scale: Array, axis: int) -> Array:
    """The nearest points of the simplex, for rows on the last axis, which is moved back to `axis`."""
    # What is subtracted from all elements is that for which the largest k, and no more, stay above zero. From the largest on,
    # so that a common offset costs no digits; twice, since the sums of long rows round.
    x = x - jnp.max(x, -1, keepdims=True)
    count = lax.broadcasted_iota(x.dtype, x.shape, x.ndim - 1) + 1
    largest = -jnp.sort(-x, -1)
    excess = (jnp.cumsum(largest, -1) - scale) / count
    stay = jnp.maximum(jnp.sum(largest > excess, -1, keepdims=True), 1)  # of NaN none is larger
    new = lax.max(x - jnp.take_along_axis(excess, stay - 1, -1), jnp.zeros_like(x))
    new = new + jnp.where(new > 0, (scale - jnp.sum(new, -1, keepdims=True)) / cast(stay, x.dtype), 0)
    return jnp.moveaxis(lax.max(new, jnp.zeros_like(new)), -1, axis)


@builder
def keep_params_in_simplex(scale: Positive = 1.0, mask: MaskLike = None, *, axis: int = -1) -> GradientTransformation:
    """Keeps rows of parameters nonnegative, with the sum `scale`, as mixtures are. It stands last in a chain.

    Each row lands on the nearest point of the simplex. The initial parameters need not be on it: the first step brings them
    there.

    Args:
        scale: the sum of a row, > 0, or a schedule.
        mask: which parameters; None is all of them.
        axis: along which the elements of a row are.

    Raises:
        ValueError: a parameter does not have this axis.

    Reference:
        Duchi et al. 2008, Algorithm 1: Efficient projections onto the l1-ball for learning in high dimensions.
    """
    return masked(chain(KeepParamsInSimplex(scale, axis)), mask)


@dataclass(frozen=True)
class ProjectParams(AfterStep):
    """Replaces the parameter that a step reaches by what a function makes of it."""

    projection: Callable[[Array], Array]
    elementwise: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.projection) or isinstance(self.projection, type):
            raise BadType(f"projection is {shown(self.projection)}; give a function of one array that returns one like it.")

    def land(self, u: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        new = self.projection(p + u)
        if jnp.shape(new) != u.shape:
            raise BadValue(f"the projection made an array of shape {jnp.shape(new)} of {{parameter}}, which has {u.shape}.")
        return jnp.asarray(new, u.dtype), slots


@builder
def project_params(projection: Callable[[Array], Array], mask: MaskLike = None) -> GradientTransformation:
    """Replaces each parameter that a step reaches by a function of it: `p = projection(p + u)`. It stands last in a chain.

    Args:
        projection: a function of one array, float32 whatever the storage (float64 where the parameter is), that returns one of
            the same shape: your own, or one of `optax.projections`. What it does twice should be what it does once.
        mask: which parameters; None is all of them.

    Raises:
        TypeError: `projection` is not a function.
        ValueError: when a step is traced, it changes the shape.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx = jadam.chain(jadam.sgd(0.1), jadam.project_params(lambda p: jnp.clip(p, -1.0, 1.0)))
    """
    return masked(chain(ProjectParams(projection)), mask)
