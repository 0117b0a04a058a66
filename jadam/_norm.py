"""Norms that neither overflow nor underflow, and the bound that keeps squares of gradients finite."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import max_dim

from jadam._derivatives import root
from jadam._dtypes import cast, compute_dtype, decode
from jadam._errors import door
from jadam._tree import PyTree, arrays, is_trained


@door
def global_norm(updates: PyTree) -> Array:
    """The Euclidean norm of all leaves together.

    On CPU right from 1e-36 to 1e38 in float32: where the plain sum of squares would overflow or lose digits to underflow, a
    second pass scales by a power of two. GPUs and TPUs take one pass without a branch, as fast as it gets. It is right where
    the numbers that count are from 1e-18 to 1e18, and the norm to 2e19 or less. Smaller numbers are lost there, and n numbers
    count as at most 7e19 / sqrt(n) each: of finite numbers the norm is finite.

    Args:
        updates: a tree of arrays; leaves that are not numbers are passed over.

    Returns:
        A float32 scalar, float64 as soon as one leaf computes in it.
    """
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(arrays("updates", updates))]
    leaves = [cast(x, jnp.float32) if jnp.issubdtype(x.dtype, jnp.integer) else x for x in leaves]
    leaves = [x for x in leaves if is_trained(x)]
    wide = any(compute_dtype(x.dtype) == jnp.float64 for x in leaves)
    return _norm(leaves, jnp.float64 if wide else jnp.float32)


# Compiled: outside `jit`, branches of new functions are compiled anew at every call.
@functools.partial(jax.jit, static_argnames="dtype")
def _norm(leaves: list[Array], dtype: Any) -> Array:
    if not leaves:
        return jnp.zeros((), dtype)
    ways = (functools.partial(way, dtype=dtype) for way in (_in_two_passes, _in_one_pass))
    return lax.platform_dependent(leaves, cpu=next(ways), default=next(ways))


def _in_one_pass(leaves: list[Array], dtype: Any) -> Array:
    # XLA for GPU makes a select of a branch: the second pass would run at every step.
    count = sum(x.size for x in leaves)
    squares = [cast(_sum_of_bounded_squares(x, count), dtype) for x in leaves]
    return root(functools.reduce(lax.add, squares)) * UNIT


def _in_two_passes(leaves: list[Array], dtype: Any) -> Array:
    # XLA for CPU fuses squares into their sum, and nothing else: bounds would cost ten times as much.
    squares = [_sum_of_squares(x) for x in leaves]
    total = functools.reduce(lax.add, [cast(square, dtype) for square in squares])

    def scaled() -> Array:
        norms = [cast(_scaled_leaf_norm(x, square), dtype) for x, square in zip(leaves, squares, strict=True)]
        return scaled_norm(lax.concatenate(norms, 0)).reshape(())

    exact = (total <= float(jnp.finfo(dtype).max)) & (total > _least(dtype, sum(x.size for x in leaves)))
    return lax.cond(exact, lambda: root(total), scaled)


def _least(dtype: Any, size: int) -> float:
    """Squares below the smallest normal number are lost; in a sum above `size` of them / eps that does not matter."""
    return size * float(jnp.finfo(dtype).tiny) / float(jnp.finfo(dtype).eps)


# What runs for every leaf is written in lax: it is traced for every kind of leaf, and jnp takes four times as long.


@jax.jit
def _sum_of_squares(x: Array) -> Array:
    x = decode(x)
    return lax.reduce_sum(x * x, tuple(range(x.ndim)))


@jax.jit
def _scaled_leaf_norm(x: Array, square: Array) -> Array:
    """The norm of one leaf, of length 1, by a power of two that fits its sum of squares, if that is too large or small."""
    x = decode(x)
    limits = jnp.finfo(x.dtype)
    one, shift = np.asarray(1, x.dtype), 2 * limits.maxexp // 3
    up, down = one * 2.0**shift, one * 2.0**-shift
    scale = lax.select(square > limits.max, down, lax.select(square < _least(x.dtype, x.size), up, one))
    scaled = x * scale
    return (root(lax.reduce_sum(scaled * scaled, tuple(range(x.ndim)))) / scale).reshape(1)


UNIT = 8.0
"""In one pass, squares are of eighths: those of 1e-18 and of 1e18 are both numbers of float32, with room for a sum."""


def _sum_of_eighths_squared(x: Array, axes: tuple[int, ...], count: Any) -> Array:
    """The sum of the squares of eighths, each cut so far that a sum of `count` is finite."""
    x = bounded(x / np.asarray(UNIT, x.dtype), count)
    return lax.reduce_sum(x * x, axes)


@functools.partial(jax.jit, static_argnums=1)
def _sum_of_bounded_squares(x: Array, count: Any) -> Array:
    x = decode(x)
    return _sum_of_eighths_squared(x, tuple(range(x.ndim)), count)


def norm(x: Array, axes: tuple[int, ...] | None = None, mean: bool = False) -> Array:
    """Euclidean norms along some axes, or all, which stay with length 1; root mean squares with `mean`.

    On CPU those of `scaled_norm`. GPUs and TPUs take one pass instead of two, as `global_norm` does.
    """
    axes = tuple(range(x.ndim)) if axes is None else axes
    ways = (functools.partial(way, axes=axes, mean=mean) for way in (scaled_norm, _norm_in_one_pass))
    return lax.platform_dependent(x, cpu=next(ways), default=next(ways))


def _norm_in_one_pass(x: Array, axes: tuple[int, ...], mean: bool) -> Array:
    count = math.prod(x.shape[axis] for axis in axes)
    total = lax.expand_dims(_sum_of_eighths_squared(x, axes, count), axes)
    return root(total / max_dim(count, 1) if mean else total) * UNIT


def scaled_norm(x: Array, axes: tuple[int, ...] | None = None, mean: bool = False) -> Array:
    """Euclidean norms along some axes, or all, which stay with length 1; root mean squares with `mean`.

    The numbers are scaled by the largest: no square is lost.
    """
    axes = tuple(range(x.ndim)) if axes is None else axes
    limits = jnp.finfo(x.dtype)
    largest = lax.expand_dims(lax.reduce_max(lax.abs(x), axes), axes)
    # Neither 0 nor inf, nor so large that its reciprocal, by which XLA multiplies, is flushed to zero. Where all is zero it
    # is 1: XLA makes `(a / b) / scale` to `a / (b * scale)`, which must not be 0 / 0.
    scale = lax.clamp(np.asarray(limits.tiny, x.dtype), largest, np.asarray(limits.max / 8, x.dtype))
    scale = lax.select(lax.eq(largest, lax.full_like(largest, 0)), lax.full_like(largest, 1), scale)
    scale = lax.stop_gradient(scale)  # the norm does not depend on it
    unit = x / scale
    total = lax.expand_dims(lax.reduce_sum(unit * unit, axes), axes)
    return scale * root(total / (x.size / max(total.size, 1)) if mean else total)


def bounded(g: Array, squares: int = 16) -> Array:
    """Finite gradients so huge that a sum of so many squares would be inf are cut, by default to 2^61 (2^509 in float64).

    NaN and inf pass: that a step went wrong must be seen.
    """
    # In lax, as all that is traced for every kind of leaf: jnp takes four times as long to trace.
    top = np.asarray(2.0 ** (jnp.finfo(g.dtype).maxexp // 2 - 1), g.dtype)
    if isinstance(squares, int):
        limit = top / np.sqrt(np.asarray(max(16, squares), g.dtype))
    else:  # of a symbolic shape
        limit = top * lax.rsqrt(jnp.asarray(max_dim(16, squares), g.dtype))
    return lax.select(lax.is_finite(g), lax.clamp(-limit, g, limit), g)
