"""Stochastic rounding, and the random bits for it: a hash of counters, so that there is no key to carry.

What is rounded up with a probability equal to its distance from the number below is right on average: small changes add up,
which rounding to nearest would lose one by one (Croci et al. 2022, doi:10.1098/rsos.211631).
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from jadam._derivatives import straight_through

FACTOR = np.uint32(0x846CA68B)


def step_key(count: Array) -> Array:
    """The key of a step, uint32 of shape (2,)."""
    x = _mixed(count.astype(jnp.uint32).reshape(1))
    return lax.concatenate([x, _mixed(x)], 0)


def number_key(number: int) -> np.ndarray:
    """The key of a leaf, or of a slot, to be combined with a step's by xor.

    Two words in an array, as in `step_key`: XLA writes what is a scalar into its kernels, which then differ from leaf to
    leaf, and compiles each of them (GPT-2's 148 leaves: 8.5 s instead of 2).
    """
    x = _mixed(np.asarray([number ^ 0x9E3779B9], np.uint32))
    return np.concatenate([x, _mixed(x)])


def _mixed(x: Any) -> Any:
    """A bijection of 32 bits in which every bit of `x` reaches every other (Wellons 2018, "lowbias32")."""
    x = (x ^ (x >> 16)) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * FACTOR
    return x ^ (x >> 16)


@dataclass(frozen=True)
class Noise:
    """The random bits of one array at one step: a hash of (seed, step, leaf, slot, index), whichever device an element is on.

    Attributes:
        key: of the step and the leaf, two words.
        name: of the slot; others give other bits.
        index: of the elements, uint32, where they are not the whole array in its order.
    """

    key: Any
    name: str
    index: Array | None = None

    def bits(self, shape: tuple[int, ...], seed: int) -> Array:
        """Independent uniform numbers, uint32; the upper bits are the better ones.

        No operation more than the tests of chance need, since XLA compiles them anew for every array: a single factor, that
        of `_mixed`, and folds of 16 bits.
        """
        name = number_key(zlib.crc32(f"{seed}/{self.name}".encode()))
        index = lax.reshape(lax.iota(jnp.uint32, math.prod(shape)), shape) if self.index is None else self.index
        x = (index ^ (self.key[0] ^ name[0])) * FACTOR + (self.key[1] ^ name[1])
        for _ in range(2):
            x = (x ^ (x >> np.uint32(16))) * FACTOR
        return x

    def uniform(self, shape: tuple[int, ...], seed: int) -> Array:
        """Independent uniform numbers in [0, 1), float32 of 24 bits."""
        return _uniform(self.bits(shape, seed))


def _uniform(bits: Array) -> Array:
    # As int32, which is one instruction: a CPU converts unsigned numbers in several.
    upper = lax.bitcast_convert_type(bits >> np.uint32(8), jnp.int32)
    return upper.astype(jnp.float32) * np.float32(2.0**-24)


def round_stochastically(x: Array, dtype: DTypeLike, bits: Array) -> Array:
    """One of the two neighbours of `x` (float32) in `dtype`, so that the mean is `x`; with its derivative. NaN and inf stay."""
    lost = 23 - jnp.finfo(dtype).nmant
    noise = bits >> np.uint32(32 - lost)
    pattern = lax.bitcast_convert_type(x, jnp.uint32) + noise
    if dtype == jnp.bfloat16:
        rounded = lax.bitcast_convert_type((pattern >> np.uint32(16)).astype(jnp.uint16), jnp.bfloat16)
    else:
        rounded = _with_subnormals(x, pattern & np.uint32(2**32 - 2**lost), bits, dtype)
    return straight_through(lax.select(lax.is_finite(x), rounded, x.astype(dtype)), x)


def _with_subnormals(x: Array, pattern: Array, bits: Array, dtype: DTypeLike) -> Array:
    """For a dtype with a smaller range of exponents: below its normal numbers, the distance to the next is constant."""
    info = jnp.finfo(dtype)
    least = float(info.smallest_subnormal)
    steps = jnp.abs(x) / least
    below = jnp.floor(steps)
    small = jnp.copysign((below + (_uniform(bits) > 1 - (steps - below)).astype(x.dtype)) * least, x)
    normal = lax.bitcast_convert_type(pattern, jnp.float32)
    return jnp.where(jnp.abs(x) < float(info.smallest_normal), small, normal).astype(dtype)
