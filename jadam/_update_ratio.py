"""A floor under the size of updates, as a share of their parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._after_step import AlongAxes, axes_of
from jadam._chain import block
from jadam._hyper import NonNegative
from jadam._norm import norm
from jadam._rule import Rule, Slots


@dataclass(frozen=True)
class FloorUpdateRatio(Rule):
    """Scales up an update that is small for its parameter: `u = g max(1, min_ratio |p|/|g|)`.

    After the learning rate it keeps training from standing still where a rate or a gradient is small: about 1e-3 is the ratio
    of healthy training. An update of zero has no direction, and stays zero.

    Args:
        min_ratio: the smallest norm of an update over that of its parameter, >= 0, or a schedule.
        axis: the axes along which norms are taken; None is those of the whole array.

    Raises:
        ValueError: a parameter does not have these axes.
    """

    min_ratio: NonNegative
    axis: AlongAxes | None = None
    elementwise: ClassVar[bool] = False
    keeps_zeros: ClassVar[bool] = True

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        axes = axes_of(self.axis, g.shape)
        size, least = norm(g, axes), h.min_ratio * norm(p, axes)
        small = (size > 0) & (size < least)
        return jnp.where(small, g / jnp.where(small, size, 1) * least, g), slots


floor_update_ratio = block(FloorUpdateRatio)
