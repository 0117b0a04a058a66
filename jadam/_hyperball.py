"""Hyperball: steps of a set length on the sphere of each matrix, around any optimizer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jadam._after_step import AfterStep, AlongAxes, axes_of
from jadam._chain import Transformation, builder, chain
from jadam._dtypes import decode
from jadam._errors import BadValue
from jadam._groups import masked
from jadam._masks import MaskLike, as_mask, ndim_at_least
from jadam._norm import norm
from jadam._recipe import Part, Recipe
from jadam._rule import Context, Slots
from jadam._scope import masked_by
from jadam._transformation import GradientTransformation
from jadam._weight_decay import AddDecayedWeights, DecayAfterStep, decays

GOLDEN = np.uint32(2654435769)
"""2^32 over the golden ratio: of its multiples any that follow each other are evenly spread (Weyl 1916)."""


@dataclass(frozen=True)
class Hyperball(AfterStep):
    """A step of `learning_rate` times the radius along the update, and back to the radius: `q = p + lr R u/|u|`, `q R/|q|`.

    Arguments as in `hyperball`.
    """

    radius: Literal["initial", "current"] = "initial"
    axis: AlongAxes = (-2, -1)
    elementwise: ClassVar[bool] = False
    positions: ClassVar[tuple[str, ...]] = ("radius",)  # of which rounding would be a wrong norm for ever

    def init(self, p: Array) -> Slots:
        axes = axes_of(self.axis, p.shape)
        return {"radius": norm(decode(p), axes)} if self.radius == "initial" else {}

    def prepare(self, context: Context) -> dict[str, Array]:
        return {"rate": jnp.abs(context.learning_rate), "turn": _spread(context.count)}

    def land(self, u: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        axes = axes_of(self.axis, u.shape)
        size = norm(u, axes)  # the learning rate is in it: the authors' bound 1e-10 is of the update without
        moves = size > 0
        radius = slots["radius"] if self.radius == "initial" else norm(p, axes)
        q = p + radius * (h.rate * (u / jnp.where(moves, jnp.maximum(size, 1e-10 * h.rate), 1)))
        new = _scaled(q, radius / norm(q, axes))
        if h.stored(new) is not new:
            new = _rounded_to(radius, new, axes, h)
        # Where nothing moves, as while micro-batches are collected, no bit does.
        return jnp.where(moves, new, p), slots


def _scaled(x: Array, factor: Array) -> Array:
    """Zeros, which have no direction to be scaled in, stay zeros."""
    return jnp.where(jnp.isfinite(factor), x * factor, x)


def _rounded_to(radius: Array, new: Array, axes: tuple[int, ...], h: Any) -> Array:
    """A matrix that has this norm when it is rounded to nearest: `new`, of which some elements are half a unit to a unit off.

    A factor would not do: what it changes by less than half a unit is lost, and equal elements change all or none.
    """
    step = h.stored.unit / 2
    missed = lax.stop_gradient(radius - norm(h.stored(new), axes))
    # Few large elements may have most of the norm, and a unit of one be more than is missed: those whose step counts for at
    # most a quarter of it make it up.
    largest = jnp.sqrt(jnp.abs(missed) / (4 * step)) * jnp.sqrt(lax.stop_gradient(radius))
    moved = jnp.where(jnp.abs(new) < largest, new * (1 + step * jnp.sign(missed)), new)
    reach = lax.stop_gradient(norm(h.stored(moved), axes) - norm(h.stored(new), axes))
    # Of these the share that makes it up, in turns: none is pushed step after step.
    turn = (_spread(lax.reshape(lax.iota(jnp.uint32, math.prod(new.shape)), new.shape)) + h.turn) % 1
    return jnp.where(turn * jnp.abs(reach) < jnp.abs(missed), moved, new)


def _spread(number: Array) -> Array:
    """Numbers in [0, 1), float32: evenly spread for numbers that follow each other."""
    upper = (number.astype(jnp.uint32) * GOLDEN) >> np.uint32(8)
    return upper.astype(jnp.int32).astype(jnp.float32) * np.float32(2.0**-24)


@builder
def hyperball(
    tx: Transformation,
    mask: MaskLike = None,
    *,
    radius: Literal["initial", "current"] = "initial",
    axis: AlongAxes = (-2, -1),
) -> GradientTransformation:
    """The same transformation with matrices whose norm stays as it was at the start: `q = p - lr R u/|u|`, `p = q R/|q|`.

    `u` is the update of `tx`, of which only the direction counts, `R` the norm of the matrix, and `lr` the learning rate, which
    is therefore relative: the angle of a step. Other factors of an update, such as those of `scale_by_path`, count for the
    other parameters alone. Where the norm stays, weight decay would have nothing to do, and that of `tx` is masked out. In
    every storage of 16 bits the norm is kept too, as near as a unit of one of many elements.

    Args:
        tx: a transformation of jadam with a learning rate, such as `adam(0.01)` or `muon(0.01)`.
        mask: which parameters keep their norm; by default those with two or more axes. A matrix of zeros has norm zero, and
            stays where it is: mask it out.
        radius: "initial" keeps the norm at the start in the state, one number a matrix; "current" keeps nothing and takes the
            norm before each step, which over many steps drifts by what is rounded.
        axis: the axes of a matrix. What has others too is a stack of matrices, each with a norm of its own.

    Raises:
        ValueError: a rule of `tx` decays by itself (StableAdamW, Prodigy); a parameter does not have these axes; when a step is
            traced, there is no learning rate that acts on all of `mask`: with groups, put `hyperball` into each.

    Reference:
        Wen et al. 2026, arXiv:2606.16899.

    Example:
        >>> import jadam
        >>> tx = jadam.hyperball(jadam.adam(0.01))
    """
    own = ndim_at_least(2) if mask is None else as_mask(mask)
    for rule in (at.part.rule for at in tx.recipe.all):
        if not isinstance(rule, AddDecayedWeights | DecayAfterStep) and decays(rule):
            raise BadValue(f"of {tx!r} the decay cannot be masked: {rule.key} decays by itself; write weight_decay=0.0.")

    def without_decay(part: Part) -> Part:
        decay = isinstance(part.rule, AddDecayedWeights | DecayAfterStep)
        return replace(part, scope=(*part.scope, masked_by(~own))) if decay else part

    free = GradientTransformation.of(Recipe(tuple(p.map(without_decay) for p in tx.recipe.parts), tx.recipe.landings))
    return chain(free, masked(chain(Hyperball(radius, axis)), own))
