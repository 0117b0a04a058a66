"""Norms that neither overflow nor underflow."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jadam._storage import compute_dtype, decode
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
        return scaled_norm(lax.concatenate(norms, 0)).reshape(())

    return lax.cond((total < limits.max) & (total > least), lambda: _root(total), scaled)


@functools.partial(jax.jit, static_argnames="dtype")
def _sum_of_squares(x: Array, dtype: Any) -> Array:
    x = decode(x)
    return jnp.sum(x * x).astype(dtype)


@functools.partial(jax.jit, static_argnames="dtype")
def _leaf_norm(x: Array, dtype: Any) -> Array:
    return scaled_norm(decode(x)).astype(dtype).reshape(1)


def scaled_norm(x: Array, axes: tuple[int, ...] | None = None, add: Callable[..., Array] = jnp.sum) -> Array:
    """Euclidean norms along some axes, or all, which stay with length 1. Scaled by the largest: no square is lost.

    With `add=jnp.mean`, root mean squares.
    """
    axes = tuple(range(x.ndim)) if axes is None else axes
    largest = jnp.max(lax.abs(x), axis=axes, keepdims=True, initial=0)
    limits = jnp.finfo(x.dtype)
    # Neither 0 nor inf, nor so large that its reciprocal, by which XLA multiplies, is flushed to zero.
    scale = lax.clamp(np.asarray(limits.tiny, x.dtype), largest, np.asarray(limits.max / 8, x.dtype))
    unit = x / scale
    return scale * _root(add(unit * unit, axis=axes, keepdims=True))


def _root(x: Array) -> Array:
    """The square root, with gradient zero instead of NaN at zero."""
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))
