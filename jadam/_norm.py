"""Norms that neither overflow nor underflow, and the bound that keeps squares of gradients finite."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import max_dim

from jadam._derivatives import root
from jadam._dtypes import cast, compute_dtype, decode
from jadam._errors import door
from jadam._rows import is_rows, of_rows
from jadam._shards import varying
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


class Squares(NamedTuple):
    """The squares of some leaves, summed: all that a norm needs to read.

    Attributes:
        sums: of each leaf, of its numbers times `scale`.
        scale: a power of two, as long as no other factor was multiplied in.
        total: the sum over all leaves.
    """

    sums: list[Array]
    scale: Array
    total: Array

    @classmethod
    def of(cls, sums: list[Array], scale: Array) -> Squares:
        return cls(sums, scale, functools.reduce(lax.add, sums) if sums else jnp.zeros_like(scale))

    @property
    def finite(self) -> Array:
        """Whether the leaves have neither NaN nor inf: of finite numbers, however huge, the sums are finite."""
        return lax.is_finite(self.total)

    def at(self, places: Sequence[int]) -> Squares:
        """Those of some of the leaves."""
        return Squares.of([self.sums[i] for i in places], self.scale)


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


# A loop has no derivative in reverse; that of the norm is `norm_of`'s.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
@functools.partial(jax.jit, static_argnums=0)
def squares_of(dtype: Any, leaves: list[Array], known: Squares | None = None) -> Squares:
    """The squares of leaves, summed in a dtype.

    Args:
        dtype: float32 or float64.
        leaves: real or complex arrays.
        known: their squares as they are known from a pass over more leaves, whose scale may not be right for these.
    """
    if not leaves:
        return Squares.of([], jnp.ones((), dtype))
    if any(map(varying, leaves)):  # parts of arrays, whose sums can be added only if none has a scale of its own
        return _in_one_pass(leaves, known, dtype)
    ways = (functools.partial(way, dtype=dtype) for way in (_in_two_passes, _in_one_pass))
    return lax.platform_dependent(leaves, known, cpu=next(ways), default=next(ways))


@squares_of.defjvp
def _(dtype: Any, primals: tuple[list[Array], Any], tangents: Any) -> tuple[Squares, Squares]:
    squares = squares_of(dtype, *primals)
    return squares, jax.tree.map(jnp.zeros_like, squares)


def _in_one_pass(leaves: list[Array], known: Squares | None, dtype: Any) -> Squares:
    # XLA for GPU makes a select of a branch: the second pass would run at every step. There are two or more vectors for each
    # matrix, and to start a kernel takes longer than to sum a vector: those of a kind are summed together.
    if known is not None:
        return known
    count = sum(x.size for x in leaves)
    groups = _together(leaves, [n for n, x in enumerate(leaves) if x.ndim == 1])
    sums = _in_order(groups, [_sums_of_bounded_squares([leaves[n] for n in at], count) for at in groups])
    return Squares.of([cast(x, dtype) for x in sums], jnp.asarray(1 / UNIT, dtype))


def _together(leaves: list[Array], small: list[int]) -> list[list[int]]:
    """The places of leaves, in groups that are summed at once: the small ones with others of their kind."""
    alone = [[n] for n in range(len(leaves)) if n not in set(small)]
    return alone + [[small[k] for k in at] for at in grouped([leaves[n] for n in small])]


def _in_order(groups: list[list[int]], found: list[list[Array]]) -> list[Array]:
    """What was found for groups of leaves, by leaf."""
    by_place = {n: x for at, several in zip(groups, found, strict=True) for n, x in zip(at, several, strict=True)}
    return [by_place[n] for n in range(len(by_place))]


TOGETHER = 32
"""How many arrays are summed in one kernel: XLA for GPU fuses no more than 96 operands and results."""


def grouped(arrays: Sequence[Array]) -> list[list[int]]:
    """The places of arrays that one kernel can sum: of a kind, and not too many."""
    kinds: dict[Any, list[int]] = {}
    for n, x in enumerate(arrays):
        kinds.setdefault(jax.typeof(x), []).append(n)
    return [at[k : k + TOGETHER] for at in kinds.values() for k in range(0, len(at), TOGETHER)]


def summed(arrays: list[Array], axes: tuple[int, ...] | None = None) -> list[Array]:
    """The sum of each of some arrays of a kind along some axes, or all, in one reduction: one kernel."""
    axes = tuple(range(arrays[0].ndim)) if axes is None else axes
    return _summed(arrays, axes)


# JAX cannot differentiate a reduction of several arrays by some of them.
@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _summed(arrays: list[Array], axes: tuple[int, ...]) -> list[Array]:
    if len(arrays) == 1:
        return [lax.reduce_sum(arrays[0], axes)]
    zeros = [np.zeros((), x.dtype) for x in arrays]
    return lax.reduce(arrays, zeros, lambda a, b: [lax.add(x, y) for x, y in zip(a, b, strict=True)], axes)


@_summed.defjvp
def _(axes: tuple[int, ...], primals: Any, tangents: Any) -> tuple[list[Array], list[Array]]:
    return _summed(*primals, axes), [lax.reduce_sum(x, axes) for x in tangents[0]]


def _in_two_passes(leaves: list[Array], known: Squares | None, dtype: Any) -> Squares:
    # XLA for CPU fuses squares into their sum, and little else: bounds would cost ten times as much. The first pass of the
    # loop is the plain sum: a branch for the second would have all sums in the program once more, to be compiled.
    limits = jnp.finfo(dtype)
    groups = _together(leaves, [n for n, x in enumerate(leaves) if _is_row_of_lanes(x)])
    least = sum(x.size for x in leaves) * float(limits.tiny) / float(limits.eps)  # a larger sum lost no square that counts
    one, up, down = (np.asarray(2.0**power, dtype) for power in (0, 2 * limits.maxexp // 3, -2 * limits.maxexp // 3))

    def again(carry: tuple[list[Any], Any, Any, list[Any]]) -> Array:
        _, scale, total, _ = carry
        exact = (total <= float(limits.max)) & (total > least)
        return (scale == 0) | ((scale == 1) & ~exact)

    def sum_of_squares(carry: tuple[list[Any], Any, Any, list[Any]]) -> tuple[list[Any], Any, Array, list[Array]]:
        scales = carry[0]
        sums = _in_order(groups, [_sums_of_squares([leaves[n] for n in at], x) for at, x in zip(groups, scales, strict=True)])
        total = functools.reduce(lax.add, sums)
        return [lax.select(total > 1, down, up)] * len(groups), scales[0], total, sums

    zero = jnp.zeros((), dtype)
    start = Squares([zero] * len(leaves), zero, zero)
    if known is not None:  # the plain sums, mostly: no pass is needed
        start = known._replace(scale=jnp.where(known.scale == 1, one, zero))
    # A scale for each sum, though all are equal: XLA would write one for all out in the shape of the leaves.
    carry = [jnp.asarray(one)] * len(groups), start.scale, start.total, start.sums
    _, scale, total, sums = lax.while_loop(again, sum_of_squares, carry)
    return Squares(sums, scale, total)


# What runs for every leaf is written in lax: it is traced for every kind of leaf, and jnp takes four times as long.


LANES = 32


def _is_row_of_lanes(x: Array) -> bool:
    # Three kernels of its own are more than a small vector is worth. With others it is summed one number after the other,
    # which loses digits over thousands of numbers: so lanes are summed first.
    return x.ndim == 1 and isinstance(x.size, int) and x.size <= 128 * LANES and x.size % LANES == 0


@jax.jit
def _sums_of_squares(leaves: list[Array], scale: Array) -> list[Array]:
    """Of leaves of one kind, each for itself."""
    real = [cast(decode(x), scale.dtype) for x in leaves]
    squares = [lax.square(lax.mul(x, lax.broadcast(scale, x.shape))) for x in real]
    if len(squares) > 1:
        squares = summed([lax.reshape(x, (x.size // LANES, LANES)) for x in squares], (0,))
    return summed(squares)


UNIT = 8.0
"""In one pass, squares are of eighths: those of 1e-18 and of 1e18 are both numbers of float32, with room for a sum."""


def _eighths_squared(x: Array, count: Any) -> Array:
    """The squares of eighths, each cut so far that a sum of `count` is finite."""
    return lax.square(bounded(x / np.asarray(UNIT, x.dtype), count))


@functools.partial(jax.jit, static_argnums=1)
def _sums_of_bounded_squares(leaves: list[Array], count: Any) -> list[Array]:
    """Of leaves of one kind, each for itself."""
    return summed([_bounded_squares(x, count) for x in leaves])


@functools.partial(jax.jit, static_argnums=1)
def _bounded_squares(x: Array, count: Any) -> Array:
    return _eighths_squared(decode(x), count)


def norm(x: Array, axes: tuple[int, ...] | None = None, mean: bool = False) -> Array:
    """Euclidean norms along some axes, or all, which stay with length 1; root mean squares with `mean`.

    On CPU those of `scaled_norm`. GPUs and TPUs take one pass instead of two, as `global_norm` does.
    """
    axes = tuple(range(x.ndim)) if axes is None else axes
    ways = (functools.partial(way, axes=axes, mean=mean) for way in (scaled_norm, _norm_in_one_pass))
    return lax.platform_dependent(x, cpu=next(ways), default=next(ways))


def _norm_in_one_pass(x: Array, axes: tuple[int, ...], mean: bool) -> Array:
    count = math.prod(x.shape[axis] for axis in axes)
    total = lax.expand_dims(lax.reduce_sum(_eighths_squared(x, count), axes), axes)
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

    NaN and inf pass: that a step went wrong must be seen. Where there are no squares, all pass.
    """
    if isinstance(squares, int) and squares == 0:
        return g
    # In lax, as all that is traced for every kind of leaf: jnp takes four times as long to trace.
    top = np.asarray(2.0 ** (jnp.finfo(g.dtype).maxexp // 2 - 1), g.dtype)
    if isinstance(squares, int):
        limit = top / np.sqrt(np.asarray(max(16, squares), g.dtype))
    else:  # of a symbolic shape
        limit = top * lax.rsqrt(jnp.asarray(max_dim(16, squares), g.dtype))
    return lax.select(lax.is_finite(g), lax.clamp(-limit, g, limit), g)
