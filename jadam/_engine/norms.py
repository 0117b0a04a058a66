"""The norms of a step: each array is read once for all who ask for its norm, or whether it is finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._dtypes import compute_dtype
from jadam._squares import Squares, grouped, squares_of, summed


class Norms:
    """The squares of the arrays that a row, or one around it, has asked for. XLA for CPU would compute them once more.

    What a row learns is for itself and for rows inside it, not for those around it: its arrays may be of another trace.
    """

    def __init__(self, around: Norms | None = None):
        # By the identities of the arrays, which are kept so that no other array gets one of them.
        self._known: dict[tuple[int, ...], tuple[Sequence[Any], Squares]] = {} if around is None else dict(around._known)

    def squares(self, arrays: Sequence[Any]) -> Squares:
        """Of these arrays, as they are stored."""
        own = tuple(map(id, arrays))
        if own not in self._known:
            wide = any(compute_dtype(x.dtype) == jnp.float64 for x in arrays)
            dtype = jnp.float64 if wide else jnp.float32
            more = (
                squares.at(others, [key.index(one) for one in own])
                for key, (others, squares) in self._known.items()
                if own and set(own) <= set(key) and squares.scale.dtype == dtype
            )
            self._known[own] = arrays, squares_of(dtype, list(arrays), next(more, None))
        return self._known[own][1]

    def scaled(self, old: Sequence[Any], new: Sequence[Any], factor: Array) -> None:
        """Notes that `new` are `old` times a factor."""
        if (known := self._known.get(tuple(map(id, old)))) is not None:
            squares = known[1]
            self._known[tuple(map(id, new))] = new, squares._replace(scale=squares.scale / factor.astype(squares.scale.dtype))


Pair = tuple[Array, Array]


@jax.jit
def sums_of_squares(pairs: list[Pair], on_cpu: list[Pair | None]) -> list[Pair]:
    """Of two arrays of each leaf, so written that XLA computes them where the arrays are computed; on CPU as they are known."""
    tpu, default = (lambda pairs, _, way=way: way(pairs) for way in (_apart, _row_by_row))
    return lax.platform_dependent(pairs, on_cpu, cpu=_as_known, tpu=tpu, default=default)


def _as_known(pairs: list[Pair], known: list[Pair | None]) -> list[Pair]:
    return [_whole(x, y) if sums is None else sums for (x, y), sums in zip(pairs, known, strict=True)]


def _apart(pairs: list[Pair]) -> list[Pair]:
    return [_whole(x, y) for x, y in pairs]


def _row_by_row(pairs: list[Pair]) -> list[Pair]:
    # XLA for GPU puts one reduction into the kernel of a leaf, and no second one. It sums up rows there; what is left of
    # leaves with as many rows is summed up in one kernel. Of a vector it would copy the old parameter, in a kernel more: the
    # kernel of that leaf writes the squares, and those of vectors of a shape are summed up in one.
    rows = [_rows(x, y) if x.ndim > 1 else lax.optimization_barrier((x * x, y * y)) for x, y in pairs]
    sums: list[Any] = [None] * len(rows)
    for at in grouped([x for x, _ in rows]):
        parts = [one for n in at for one in rows[n]]
        totals = summed(parts) if parts[0].ndim else parts
        for k, n in enumerate(at):
            sums[n] = totals[2 * k], totals[2 * k + 1]
    return sums


@jax.jit
def _whole(x: Array, y: Array) -> Pair:
    axes = tuple(range(x.ndim))
    return lax.reduce_sum(x * x, axes), lax.reduce_sum(y * y, axes)


@jax.jit
def _rows(x: Array, y: Array) -> Pair:
    return tuple(summed([x * x, y * y], (x.ndim - 1,)))  # pyright: ignore[reportReturnType]
