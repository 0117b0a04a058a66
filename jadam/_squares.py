"""Squares of many arrays, summed so that they neither overflow nor underflow, and the bound that keeps them finite."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import max_dim

from jadam._dtypes import cast, decode
from jadam._shards import over_parts, varying


class Squares(NamedTuple):
    """The squares of some leaves, summed: all that a norm needs to read.

    Attributes:
        sums: of each leaf, of its numbers times `scale`, one after the other as `groups_of` has the leaves.
        scale: a power of two, as long as no other factor was multiplied in.
        total: the sum over all leaves.
    """

    sums: Array
    scale: Array
    total: Array

    @classmethod
    def of(cls, sums: Array, scale: Array) -> Squares:
        return cls(sums, scale, lax.reduce_sum(sums, (0,)))

    @property
    def finite(self) -> Array:
        """Whether the leaves have neither NaN nor inf: of finite numbers, however huge, the sums are finite."""
        return lax.is_finite(self.total)

    def at(self, leaves: Sequence[Array], places: Sequence[int]) -> Squares:
        """Those of some of the leaves that these are the squares of."""
        order = list(itertools.chain(*groups_of(leaves)))
        chosen = [places[k] for at in groups_of([leaves[i] for i in places]) for k in at]
        sums = [lax.slice(self.sums, (n,), (n + 1,)) for n in map(order.index, chosen)]
        return Squares.of(lax.concatenate(sums, 0) if sums else self.sums[:0], self.scale)


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
        return Squares.of(jnp.zeros((0,), dtype), jnp.ones((), dtype))
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
    sums = [cast(_sums_of_bounded_squares([leaves[n] for n in at], count), dtype) for at in groups_of(leaves)]
    return Squares.of(lax.concatenate(over_parts(sums), 0), jnp.asarray(1 / UNIT, dtype))


def groups_of(leaves: Sequence[Array]) -> list[list[int]]:
    """The places of leaves, in groups that are summed at once: small vectors with others of their kind, as rows of a matrix."""
    alone: list[list[int]] = []
    small: list[int] = []
    for n, x in enumerate(leaves):
        if x.ndim == 1 and isinstance(x.size, int) and x.size <= SMALL:
            small.append(n)
        else:
            alone.append([n])
    return alone + [[small[k] for k in at] for at in grouped([leaves[n] for n in small])]


SMALL = 2**16
"""Elements of a vector that may be copied beside others."""
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
    return [lax.reduce_sum(arrays[0], axes)] if len(arrays) == 1 else _summed(arrays, axes)


# JAX cannot differentiate a reduction of several arrays by some of them.
@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _summed(arrays: list[Array], axes: tuple[int, ...]) -> list[Array]:
    zeros = [np.zeros((), x.dtype) for x in arrays]
    return lax.reduce(arrays, zeros, lambda a, b: [lax.add(x, y) for x, y in zip(a, b, strict=True)], axes)


@_summed.defjvp
def _(axes: tuple[int, ...], primals: Any, tangents: Any) -> tuple[list[Array], list[Array]]:
    return _summed(*primals, axes), [lax.reduce_sum(x, axes) for x in tangents[0]]


def _in_two_passes(leaves: list[Array], known: Squares | None, dtype: Any) -> Squares:
    # XLA for CPU fuses squares into their sum, and little else: bounds would cost ten times as much. The first pass of the
    # loop is the plain sum: a branch for the second would have all sums in the program once more, to be compiled.
    limits, groups = jnp.finfo(dtype), groups_of(leaves)
    least = sum(x.size for x in leaves) * float(limits.tiny) / float(limits.eps)  # a larger sum lost no square that counts
    one, up, down = (np.asarray(2.0**power, dtype) for power in (0, 2 * limits.maxexp // 3, -2 * limits.maxexp // 3))

    def again(carry: tuple[list[Any], Any, Any, Any]) -> Array:
        _, scale, total, _ = carry
        exact = (total <= float(limits.max)) & (total > least)
        return (scale == 0) | ((scale == 1) & ~exact)

    def sum_of_squares(carry: tuple[list[Any], Any, Any, Any]) -> tuple[list[Any], Any, Array, Array]:
        scales = carry[0]
        sums = [_sums_of_squares([leaves[n] for n in at], scale) for at, scale in zip(groups, scales, strict=True)]
        _, scale, total = own = Squares.of(lax.concatenate(sums, 0), scales[0])
        return [lax.select(total > 1, down, up)] * len(groups), scale, total, own.sums

    zero = jnp.zeros((), dtype)
    start = Squares(jnp.zeros((len(leaves),), dtype), zero, zero)
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
def _sums_of_squares(leaves: list[Array], scale: Array) -> Array:
    """Of leaves of one kind, each for itself."""
    if not _is_row_of_lanes(leaves[0]):
        return _in_a_row([summed([_scaled_squares(x, scale)])[0] for x in leaves])
    rows = lax.concatenate([lax.reshape(x, (1, x.size // LANES, LANES)) for x in leaves], 0)
    lanes = lax.reduce_sum(_scaled_squares(rows, scale), (1,))
    return lax.reduce_sum(lanes, tuple(range(1, lanes.ndim)))


def _scaled_squares(x: Array, scale: Array) -> Array:
    real = cast(decode(x), scale.dtype)
    return lax.square(lax.mul(real, lax.broadcast(scale, real.shape)))


def _in_a_row(sums: list[Array]) -> Array:
    return lax.concatenate([lax.reshape(x, (1,)) for x in sums], 0) if len(sums) > 1 else lax.reshape(sums[0], (1,))


UNIT = 8.0
"""In one pass, squares are of eighths: those of 1e-18 and of 1e18 are both numbers of float32, with room for a sum."""


def eighths_squared(x: Array, count: Any) -> Array:
    """The squares of eighths, each cut so far that a sum of `count` is finite."""
    return lax.square(bounded(lax.div(x, np.asarray(UNIT, x.dtype)), count))


@functools.partial(jax.jit, static_argnums=1)
def _sums_of_bounded_squares(leaves: list[Array], count: Any) -> Array:
    """Of leaves of one kind, each for itself."""
    if len(leaves) == 1:
        return _in_a_row(summed([eighths_squared(decode(leaves[0]), count)]))
    squares = eighths_squared(decode(lax.concatenate([lax.expand_dims(x, (0,)) for x in leaves], 0)), count)
    return lax.reduce_sum(squares, tuple(range(1, squares.ndim)))


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
