"""Clipping of updates: by value, by norm over all parameters, by root mean square, by units."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jadam._rule import Context, Positive, Rule, Slots
from jadam._storage import compute_dtype, decode
from jadam._transformation import block
from jadam._tree import PyTree, arrays, is_trained


def global_norm(updates: PyTree) -> Array:
    """The Euclidean norm of all leaves together, right from 1e-36 to 1e38 in float32.

    Where the plain sum of squares would overflow or lose digits to underflow, a second pass scales by a power of two.

    Args:
        updates: a tree of arrays; leaves that are not real or complex floating point are passed over.

    Returns:
        A float32 scalar, float64 as soon as one leaf computes in it.
    """
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(arrays("global_norm", "updates", updates))]
    leaves = [x for x in leaves if is_trained(x)]
    wide = any(compute_dtype(x.dtype) == jnp.float64 for x in leaves)
    return _norm(leaves, jnp.float64 if wide else jnp.float32)


def _norm(leaves: list[Array], dtype: Any) -> Array:
    if not leaves:
        return jnp.zeros((), dtype)
    total = functools.reduce(lax.add, [_sum_of_squares(x, dtype) for x in leaves])
    # Squares below the smallest normal number are lost: too little to matter if the total is above `size` of them / eps.
    limits = jnp.finfo(dtype)
    least = sum(x.size for x in leaves) * float(limits.tiny) / float(limits.eps)

    def scaled() -> Array:
        norms = [_leaf_norm(x, dtype) for x in leaves]
        return _scaled_norm(lax.concatenate(norms, 0)).reshape(())

    return lax.cond((total < limits.max) & (total > least), lambda: _root(total), scaled)


@functools.partial(jax.jit, static_argnames="dtype")
def _sum_of_squares(x: Array, dtype: Any) -> Array:
    x = decode(x)
    return jnp.sum(x * x).astype(dtype)


@functools.partial(jax.jit, static_argnames="dtype")
def _leaf_norm(x: Array, dtype: Any) -> Array:
    return _scaled_norm(decode(x)).astype(dtype).reshape(1)


def _scaled_norm(x: Array, axes: tuple[int, ...] | None = None) -> Array:
    """Euclidean norms along some axes, or all, which stay with length 1. Scaled by the largest: no square is lost."""
    axes = tuple(range(x.ndim)) if axes is None else axes
    largest = jnp.max(lax.abs(x), axis=axes, keepdims=True, initial=0)
    limits = jnp.finfo(x.dtype)
    # Neither 0 nor inf, nor so large that its reciprocal, by which XLA multiplies, is flushed to zero.
    scale = lax.clamp(np.asarray(limits.tiny, x.dtype), largest, np.asarray(limits.max / 8, x.dtype))
    unit = x / scale
    return scale * _root(jnp.sum(unit * unit, axis=axes, keepdims=True))


def _root(x: Array) -> Array:
    """The square root, with gradient zero instead of NaN at zero."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


@dataclass(frozen=True, repr=False)
class Clip(Rule):
    """Cuts every element of the updates to [-max_delta, max_delta].

    Args:
        max_delta: > 0.
    """

    max_delta: Positive

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return jnp.clip(g, -h.max_delta, h.max_delta), slots


@dataclass(frozen=True, repr=False)
class ClipByGlobalNorm(Rule):
    """Scales all updates by one factor so that their global norm is at most `max_norm`: `u = min(1, max_norm/(norm + eps)) g`.

    Args:
        max_norm: the largest norm, > 0.
        eps: >= 0; 1e-6 gives torch's `clip_grad_norm_`.

    Reference:
        Pascanu et al. 2013, Algorithm 1, arXiv:1211.5063.
    """

    max_norm: Positive
    eps: float = 0.0

    def prepare(self, context: Context) -> dict[str, Array]:
        norm = global_norm(context.updates).astype(context.t.dtype)
        # One factor to multiply by: XLA would write a divided gradient to memory and read it back three times.
        return {"factor": context.h.max_norm / jnp.maximum(norm + self.eps, context.h.max_norm)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return h.factor * g, slots


@dataclass(frozen=True, repr=False)
class ClipByBlockRms(Rule):
    """Scales the update of each parameter so that its root mean square is at most `threshold`.

    Args:
        threshold: the largest root mean square of one array, > 0.

    Reference:
        Shazeer & Stern 2018, section 6, arXiv:1804.04235.
    """

    threshold: Positive
    elementwise: ClassVar[bool] = False

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        rms = _scaled_norm(g) / max(g.size, 1) ** 0.5
        return g * (h.threshold / jnp.maximum(rms, h.threshold)), slots


@dataclass(frozen=True, repr=False)
class AdaptiveGradClip(Rule):
    """Scales the gradient of each unit so that its norm is at most `clipping` times the norm of the unit's weights.

    A unit is an output: its weights lie along all axes but the last in kernels of 4 axes (HWIO), along the first axis in
    those of 2 and 3; vectors, and what has at most one axis longer than 1, are one unit.

    Args:
        clipping: the largest ratio, > 0.
        eps: the norm that weights of zero are taken to have, > 0.
        axis: the axes along which the weights of a unit lie, instead of those above.

    Raises:
        ValueError: a parameter has more than 4 axes, and `axis` is not given.

    Reference:
        Brock et al. 2021, equation 3, arXiv:2102.06171.
    """

    clipping: Positive
    eps: Positive = 1e-3
    axis: int | tuple[int, ...] | None = None
    elementwise: ClassVar[bool] = False

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        axes = self._axes(g.shape)
        largest = h.clipping * jnp.maximum(_scaled_norm(p, axes), h.eps)
        return g * (largest / jnp.maximum(_scaled_norm(g, axes), largest)), slots

    def _axes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        if self.axis is not None:
            return (self.axis,) if isinstance(self.axis, int) else tuple(self.axis)
        if sum(length > 1 for length in shape) <= 1:
            return tuple(range(len(shape)))
        if len(shape) > 4:
            raise ValueError(f"adaptive_grad_clip: a parameter has shape {shape}; with more than 4 axes, give axis=.")
        return (0, 1, 2) if len(shape) == 4 else (0,)


clip = block(Clip)
clip_by_global_norm = block(ClipByGlobalNorm)
clip_by_block_rms = block(ClipByBlockRms)
adaptive_grad_clip = block(AdaptiveGradClip)
