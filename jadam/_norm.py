"""Norms that neither overflow nor underflow."""

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
from jadam._rows import is_rows, of_rows
from jadam._squares import UNIT, Squares, eighths_squared, squares_of
from jadam._tree import PyTree, arrays, is_trained


@door
def global_norm(updates: PyTree) -> Array:
    """The Euclidean norm of all leaves together.

    On CPU right from 1e-36 to 1e38 in float32: where the plain sum of squares would overflow or lose digits to underflow, a
    second pass scales by a power of two. GPUs and TPUs take one pass without a branch, as fast as it gets. It is right where
    the numbers that count are from 1e-18 to 1e18, and the norm to 2e19 or less. Smaller numbers are lost there, and n numbers
    count as at most 7e19 / sqrt(n) each: of finite numbers the norm is finite.

    Args:
        updates: a tree of arrays; leaves that are not numbers are passed over. Of `Rows`, values of one id are summed.

    Returns:
        A float32 scalar, float64 as soon as one leaf computes in it.
    """
    updates = jax.tree.map(lambda x: of_rows(x) if is_rows(x) else x, arrays("updates", updates), is_leaf=is_rows)
    leaves = [jnp.asarray(x) for x in jax.tree.leaves(updates)]
    leaves = [cast(x, jnp.float32) if jnp.issubdtype(x.dtype, jnp.integer) else x for x in leaves]
    leaves = [x for x in leaves if is_trained(x)]
    wide = any(compute_dtype(x.dtype) == jnp.float64 for x in leaves)
    return _norm(jnp.float64 if wide else jnp.float32, leaves)


# Compiled: outside `jit`, branches of new functions are compiled anew at every call.
@functools.partial(jax.jit, static_argnums=0)
def _norm(dtype: Any, leaves: list[Array]) -> Array:
    return norm_of(leaves, squares_of(dtype, leaves))


@jax.custom_jvp
def norm_of(leaves: list[Array], squares: Squares) -> Array:
    """The Euclidean norm of leaves by their squares, of which only their derivative reads the leaves again."""
    return lax.sqrt(squares.total) / squares.scale


@norm_of.defjvp
def _(primals: tuple[list[Array], Squares], tangents: tuple[list[Array], Squares]) -> tuple[Array, Array]:
    y, dtype = norm_of(*primals), primals[1].scale.dtype
    unit = jnp.where(y > 0, y, 1)
    pairs = zip(primals[0], tangents[0], strict=True)
    return y, sum((jnp.sum(cast(decode(x), dtype) / unit * cast(decode(t), dtype)) for x, t in pairs), jnp.zeros((), dtype))


def norm(x: Array, axes: tuple[int, ...] | None = None, mean: bool = False) -> Array:
    """Euclidean norms along some axes, or all, which stay with length 1; root mean squares with `mean`.

    On CPU those of `scaled_norm`. GPUs and TPUs take one pass instead of two, as `global_norm` does.
    """
    axes = tuple(range(x.ndim)) if axes is None else axes
    ways = (functools.partial(way, axes=axes, mean=mean) for way in (scaled_norm, _norm_in_one_pass))
    return lax.platform_dependent(x, cpu=next(ways), default=next(ways))


def _norm_in_one_pass(x: Array, axes: tuple[int, ...], mean: bool) -> Array:
    count = math.prod(x.shape[axis] for axis in axes)
    total = lax.expand_dims(lax.reduce_sum(eighths_squared(x, count), axes), axes)
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
