"""The norms of a step: each array is read once for all who ask for its norm, or whether it is finite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._dtypes import compute_dtype
from jadam._norm import Squares, squares_of


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
                squares.at([key.index(one) for one in own])
                for key, (_, squares) in self._known.items()
                if own and set(own) <= set(key) and squares.scale.dtype == dtype
            )
            self._known[own] = arrays, squares_of(dtype, list(arrays), next(more, None))
        return self._known[own][1]

    def scaled(self, old: Sequence[Any], new: Sequence[Any], factor: Array) -> None:
        """Notes that `new` are `old` times a factor."""
        if (known := self._known.get(tuple(map(id, old)))) is not None:
            squares = known[1]
            self._known[tuple(map(id, new))] = new, squares._replace(scale=squares.scale / factor.astype(squares.scale.dtype))


@jax.jit
def sums_of_squares(x: Array, y: Array) -> tuple[Array, Array]:
    """Of two arrays of a leaf, on all its axes, so written that XLA computes them where the arrays are computed."""
    axes = tuple(range(x.ndim))

    def apart(x: Array, y: Array) -> tuple[Array, Array]:
        return lax.reduce_sum(x * x, axes), lax.reduce_sum(y * y, axes)

    def together(x: Array, y: Array) -> tuple[Array, Array]:
        # XLA for GPU puts one reduction into the kernel of a leaf, and no second one.
        zero = jnp.zeros((), x.dtype)
        return lax.reduce((x * x, y * y), (zero, zero), lambda a, b: (a[0] + b[0], a[1] + b[1]), axes)

    return lax.platform_dependent(x, y, cpu=apart, tpu=apart, default=together)
