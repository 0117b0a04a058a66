"""Arrays in 8 bits: blocks of 32 elements with a scale each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jadam._dtypes import cast

BLOCK = 32


def block_axis(shape: tuple[int, ...]) -> int:
    """The axis along which blocks lie: the second last, if it has as many elements as a block, else the last.

    The last axis lies along the lanes of a TPU, 128 of them: blocks of 32 along it break every fusion there.
    """
    return -2 if len(shape) > 1 and shape[-2] >= BLOCK else -1


def in_blocks(x: Array) -> Array:
    """An array as blocks, (..., blocks, 32, m), of which the last is filled up with zeros; m elements lie beside each other."""
    *leading, n, m = shape = _with_columns(x.shape)
    x = x.reshape(shape)
    if n % BLOCK:
        x = lax.pad(x, np.zeros((), x.dtype), [*[(0, 0, 0)] * len(leading), (0, -n % BLOCK, 0), (0, 0, 0)])
    return x.reshape(*leading, -1, BLOCK, m)


def as_array(blocks: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `in_blocks`."""
    *leading, n, m = _with_columns(shape)
    x = blocks.reshape(*leading, -1, m)
    return (x if n % BLOCK == 0 else x[..., :n, :]).reshape(shape)


def _with_columns(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The same elements, with blocks along the second last axis."""
    return shape if block_axis(shape) == -2 else (*shape, 1)


@dataclass(frozen=True, eq=False)
class Tile:
    """Which elements of an array the blocks are that a program sees.

    Attributes:
        shape: of the whole array.
        index: of each element in the whole array, uint32.
        inside: false where a block is filled up; None if none is.
        in_kernel: whether this is a part of the array, in a kernel.
    """

    shape: tuple[int, ...]
    index: Array
    inside: Array | None
    in_kernel: bool = False

    @classmethod
    def whole(cls, shape: tuple[int, ...]) -> Tile:
        """All blocks of an array."""
        *leading, n, m = _with_columns(shape)
        size = (*leading, -(-n // BLOCK), BLOCK, m)
        if n % BLOCK == 0:
            return cls(shape, lax.reshape(lax.iota(jnp.uint32, math.prod(size)), size), None)
        *outer, block, element, column = (lax.broadcasted_iota(jnp.uint32, size, axis) for axis in range(len(size)))
        row = block * np.uint32(BLOCK) + element
        index = jnp.uint32(0)
        for length, at in zip([*leading, n, m], [*outer, row, column], strict=True):
            index = index * np.uint32(length) + at
        return cls(shape, jnp.asarray(index), row < np.uint32(n))


class Int8Blocks(NamedTuple):
    """An array in 8 bits: blocks of 32 elements, each with the magnitude of its largest.

    Codes stand for powers of equal steps, so that small numbers beside large ones keep their digits:
    `scale sign(c) (c / 127)^4`, or, where no element of a block is negative, `scale ((c + 129) / 256)^8`, in which nothing
    is 0: a second moment that is rounded to 0 would make its update infinite. The sign of a scale tells which.

    Roots of 4 and 8: gradients whose sizes inside a block differ by e^(2 z), z normal, give updates with a mean square error
    of 2 to 3 % (`tests/bench/precision.py`).

    Attributes:
        codes: int8, of the shape of the array; or as `in_blocks`.
        scales: float32 (float64 where the arithmetic is), one for each block.
    """

    codes: Array
    scales: Array

    @classmethod
    def of(cls, x: Array, chance: Array | None) -> Int8Blocks:
        """An array, rounded to the nearest code, or, by uniform numbers in [0, 1), to one of two so that the mean is `x`.

        A NaN or inf fills its block with NaN.
        """
        scales = scales_of(in_blocks(x))
        return cls.encode(x, chance, scales[..., 0] if block_axis(x.shape) == -1 else scales)

    def in_blocks(self) -> Int8Blocks:
        """The same, its codes as blocks."""
        return Int8Blocks(in_blocks(self.codes), self.scales[..., None] if block_axis(self.codes.shape) == -1 else self.scales)

    def as_array(self, shape: tuple[int, ...]) -> Int8Blocks:
        """The inverse of `in_blocks`."""
        return Int8Blocks(as_array(self.codes, shape), self.scales[..., 0] if block_axis(shape) == -1 else self.scales)

    @classmethod
    def encode(cls, x: Array, chance: Array | None, scales: Array) -> Int8Blocks:
        """An array, or blocks, by its scales."""
        x = lax.stop_gradient(x)
        # Of an eighth, since the reciprocals of the largest floats are zero.
        inverse = _spread(1 / jnp.where(lax.abs(scales) < _least(x.dtype), 1, scales / 8), x.shape)
        part = lax.min(lax.abs(x / 8 * inverse), np.ones((), x.dtype))
        one_sided = _one_sided(part, inverse)
        root = jnp.sqrt(jnp.sqrt(part))
        top, unit = _codes(one_sided, x.dtype)
        code = jnp.where(one_sided, jnp.sqrt(root), root) * top
        if chance is None:
            code = lax.floor(code + 0.5)
        else:
            code = lax.floor(code)
            below, above = (_power(level * unit, one_sided) for level in (code, code + 1))
            up = cast(chance, x.dtype) * (above - below) < part - below
            code += cast(up & (code < top), x.dtype)
        code = jnp.where(one_sided, jnp.maximum(code, 1) - 129, jnp.where(x < 0, -code, code))
        return cls(_as_int8(code), scales)

    def decode(self) -> Array:
        spread = _spread(self.scales, self.codes.shape)
        code = cast(self.codes, spread.dtype)
        one_sided = _one_sided(code + 128, spread)
        code = jnp.where(one_sided, code + 129, code)
        _, unit = _codes(one_sided, spread.dtype)
        # Powers that keep the sign would take a CPU less time, and XLA for GPU and TPU writes what they share to memory.
        return jnp.copysign(_power(code * unit, one_sided) * spread, code)


def _as_int8(code: Array) -> Array:
    """Whole numbers of floats: beside 1.5 * 2^23 they are the lowest bits. A CPU takes longer to convert them."""
    beside = cast(code, jnp.float32) + np.float32(1.5 * 2**23)
    return lax.bitcast_convert_type(beside, jnp.int32).astype(jnp.int8)


def _spread(scales: Array, shape: tuple[int, ...]) -> Array:
    """The scales of blocks, for each element of these, or of an array of this shape."""
    if len(shape) > scales.ndim:
        return scales[..., None, :]
    scales = scales[..., None] if block_axis(shape) == -1 else scales
    *leading, count, m = scales.shape
    return as_array(jnp.broadcast_to(scales[..., None, :], (*leading, count, BLOCK, m)), shape)


def _codes(one_sided: Array, dtype: Any) -> tuple[Array, Array]:
    """The highest code, and its reciprocal: XLA does not compute a division in several loops."""
    tops = np.asarray([256, 127], dtype)
    return jnp.where(one_sided, *tops), jnp.where(one_sided, *(1 / tops))


def _one_sided(x: Array, spread: Array) -> Array:
    """Whether scales are negative, asked with numbers >= 0 of the elements.

    XLA on GPU would write what is the same for all of a block to memory, for the kernel that then reads it.
    """
    return (x + 1) * spread < 0


def _power(x: Array, one_sided: Array) -> Array:
    fourth = jnp.square(jnp.square(x))
    return jnp.where(one_sided, jnp.square(fourth), fourth)


def scales_of(x: Array, inside: Array | None = None, in_kernel: bool = False) -> Array:
    """The scales of blocks, of which some elements may not count."""
    x = lax.stop_gradient(x)
    # Of each element alone; of a tiny one only the sign counts.
    zero, sign = jnp.full_like(x, -0.0), jnp.full_like(x, jnp.finfo(x.dtype).tiny)
    alone = lax.select(lax.abs(x) < _least(x.dtype), lax.select(x < 0, sign, zero), -x)
    if inside is not None:
        alone = lax.select(inside, alone, zero)
    return _by_extremes(alone) if in_kernel else lax.platform_dependent(alone, tpu=_by_extremes, default=_by_halves)


def _least(dtype: Any) -> np.ndarray:
    """Of which an eighth is a normal number, that has a reciprocal."""
    return np.asarray(16 * jnp.finfo(dtype).tiny, dtype)


def joined(a: Array, b: Array) -> Array:
    """The scales of what two parts of blocks are together."""
    pattern = jnp.dtype(f"uint{8 * a.dtype.itemsize}")
    sign = pattern.type(1 << 8 * a.dtype.itemsize - 1)
    i, j = (lax.bitcast_convert_type(x, pattern) for x in (a, b))
    return lax.bitcast_convert_type(lax.max(i & ~sign, j & ~sign) | (i & j & sign), a.dtype)


def _by_extremes(alone: Array) -> Array:
    least, greatest = alone.min(-2), alone.max(-2)
    return lax.select(greatest > 0, lax.max(greatest, -least), least)


def _by_halves(alone: Array) -> Array:
    """Of a reduction over another axis than the last, XLA on GPU writes the input to memory first; of two results, both."""
    while (half := alone.shape[-2] // 2) > 0:
        alone = joined(alone[..., :half, :], alone[..., half:, :])
    return alone[..., 0, :]
