"""Arrays in 8 bits: blocks of 32 elements with a scale each."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jadam._dtypes import cast

BLOCK = 32


class Int8Blocks(NamedTuple):
    """An array in 8 bits: blocks of 32 along the last axis, each with the magnitude of its largest element.

    Codes stand for powers of equal steps, so that small numbers beside large ones keep their digits:
    `scale sign(c) (c / 127)^4`, or, where no element of a block is negative, `scale ((c + 129) / 256)^8`, in which nothing
    is 0: a second moment that is rounded to 0 would make its update infinite. The sign of a scale tells which.

    Roots of 4 and 8: gradients whose sizes inside a block differ by e^(2 z), z normal, give updates with a mean square error
    of 2 to 3 % (`tests/bench/precision.py`).

    Attributes:
        codes: int8, of the shape of the array.
        scales: float32 (float64 where the arithmetic is), one for each block.
    """

    codes: Array
    scales: Array

    @classmethod
    def encode(cls, x: Array, chance: Array | None) -> Int8Blocks:
        """Rounded to the nearest code, or, by uniform numbers in [0, 1), to one of two so that the mean is `x`.

        A NaN or inf fills its block with NaN.
        """
        x = lax.stop_gradient(x)
        low, high = _extremes(x)
        scale = jnp.maximum(high, -low)
        scale = jnp.where(scale < 64 * float(jnp.finfo(x.dtype).tiny), 0, scale)
        scales = jnp.where(low >= 0, -scale, scale)
        spread = _spread(scales, x.shape)
        one_sided, top = spread < 0, _top(spread)
        inverse = 1 / jnp.where(scale > 0, scale / 8, 1)  # an eighth: the reciprocal of the largest floats is flushed to zero
        size = jnp.minimum(jnp.abs(x) / 8 * _spread(inverse, x.shape), 1)
        root = jnp.sqrt(jnp.sqrt(size))
        code = jnp.where(one_sided, jnp.sqrt(root), root) * top
        if chance is None:
            code = jnp.round(code)
        else:
            code = jnp.minimum(jnp.floor(code), top - 1)
            below, above = (_power(level / top, one_sided) for level in (code, code + 1))
            code += cast(cast(chance, x.dtype) * (above - below) < size - below, x.dtype)
        code = jnp.where(one_sided, jnp.maximum(code, 1) - 129, jnp.copysign(code, x))
        return cls(jnp.where(spread == 0, 0, code).astype(jnp.int8), scales)

    def decode(self) -> Array:
        spread = _spread(self.scales, self.codes.shape)
        one_sided = spread < 0
        code = cast(self.codes, spread.dtype) + jnp.where(one_sided, 129, 0).astype(spread.dtype)
        unit = jnp.where(one_sided, 1 / 256, 1 / 127).astype(spread.dtype)  # XLA does not compute a division in several loops
        return jnp.copysign(_power(code * unit, one_sided), code) * jnp.abs(spread)


def _top(scale: Array) -> Array:
    """The highest code of a block."""
    return jnp.where(scale < 0, 256, 127).astype(scale.dtype)


def _power(x: Array, one_sided: Array) -> Array:
    fourth = jnp.square(jnp.square(x))
    return jnp.where(one_sided, jnp.square(fourth), fourth)


def _spread(x: Array, shape: tuple[int, ...]) -> Array:
    """A number for each block as one for each element."""
    return jnp.broadcast_to(x[..., None], (*x.shape, BLOCK)).reshape(*shape[:-1], -1)[..., : shape[-1]]


def _extremes(x: Array) -> tuple[Array, Array]:
    """The least and the greatest element of each block, in one loop: of two, XLA on CPU writes their input to memory first."""
    zero, inf = np.zeros((), x.dtype), np.asarray(np.inf, x.dtype)
    padded = lax.pad(x, zero, [(0, 0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % BLOCK, 0)])
    blocks = padded.reshape(*x.shape[:-1], -1, BLOCK)

    def both(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        return lax.min(a[0], b[0]), lax.max(a[1], b[1])

    return tuple(lax.reduce((blocks, blocks), (inf, -inf), both, (x.ndim,)))
