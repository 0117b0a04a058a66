"""Between memory and the float32 of the rules: dtypes, and the formats in which slots are stored.

The engine decodes before a rule and encodes after it; a new format is a class here, and every algorithm has it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from jadam._rounding import Noise, round_stochastically


def compute_dtype(dtype: DTypeLike) -> Any:
    """The dtype of the arithmetic on such an array: float64 for float64 and complex128, else float32."""
    return jnp.float64 if jnp.dtype(dtype) in (jnp.float64, jnp.complex128) else jnp.float32


def decode(x: Array | Blocks) -> Array:
    """A stored array in the dtype of the arithmetic; complex numbers as pairs on a last axis of 2."""
    if isinstance(x, Blocks):
        return x.decode()
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        return jnp.stack([x.real, x.imag], axis=-1)
    return cast(x, compute_dtype(x.dtype))


def cast(x: Array, dtype: DTypeLike) -> Array:
    """`x.astype(dtype)`, without the cost of tracing it where there is nothing to do: it is called for every leaf and slot."""
    return x if x.dtype == dtype else x.astype(dtype)


def encode(x: Array, dtype: DTypeLike) -> Array:
    """The inverse of `decode`, rounding to the nearest number of `dtype`."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return cast(lax.complex(x[..., 0], x[..., 1]), dtype)
    return cast(x, dtype)


def full_dtype(dtype: DTypeLike) -> Any:
    """The dtype that holds the arithmetic on such an array exactly: `compute_dtype`, complex where it is complex."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        return jnp.dtype(dtype)
    return compute_dtype(dtype)


Rounding = Literal["stochastic", "nearest"]


@dataclass(frozen=True, repr=False)
class SlotStorage(ABC):
    """A format of slots, and the rounding that goes with it.

    Attributes:
        rounding: "stochastic", or "nearest".
        min_size: slots with fewer elements stay in the dtype of the arithmetic.
        seed: of the random bits.
    """

    rounding: Rounding = "stochastic"
    min_size: int = 4096
    seed: int = 0

    @property
    def draws(self) -> bool:
        """Whether `encode` needs random bits."""
        return self.rounding == "stochastic"

    def encode(self, x: Array, dtype: DTypeLike, noise: Noise | None = None) -> Any:
        """The stored form, for `decode`, of a slot of a parameter of this dtype; without noise, rounded to nearest."""
        if jnp.issubdtype(dtype, jnp.complexfloating) or x.size < self.min_size:
            return encode(x, full_dtype(dtype))
        return self.compress(cast(x, compute_dtype(dtype)), noise if self.draws else None)

    @abstractmethod
    def compress(self, x: Array, noise: Noise | None) -> Any:
        """The stored form of an array in the dtype of the arithmetic."""

    def __repr__(self) -> str:
        return type(self).__name__.lower() + (f"({options})" if (options := own_options(self)) else "")


def own_options(storage: Any) -> str:
    """The options of a storage that are not the defaults, as arguments."""
    values = ((field.name, getattr(storage, field.name), field.default) for field in fields(storage))
    return ", ".join(f"{name}={value!r}" for name, value, default in values if value != default)


class Float32(SlotStorage):
    """Slots in the dtype of the arithmetic: 4 bytes an element, 8 for float64 parameters."""

    @property
    def draws(self) -> bool:
        return False

    def compress(self, x: Array, noise: Noise | None) -> Array:
        return x


class BFloat16(SlotStorage):
    """Slots in bfloat16: 2 bytes an element. Rounded to nearest, an average of decay 0.999 freezes."""

    def compress(self, x: Array, noise: Noise | None) -> Array:
        if noise is None:
            return cast(x, jnp.bfloat16)
        return round_stochastically(cast(x, jnp.float32), jnp.bfloat16, noise.bits(x.shape, self.seed))


BLOCK = 32


class Blocks(NamedTuple):
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
    def encode(cls, x: Array, chance: Array | None) -> Blocks:
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
    both = lambda a, b: (lax.min(a[0], b[0]), lax.max(a[1], b[1]))  # noqa: E731
    return tuple(lax.reduce((blocks, blocks), (inf, -inf), both, (x.ndim,)))


class Int8(SlotStorage):
    """Slots in 8 bits and a scale for each 32: 1.125 bytes an element. Last axes shorter than 4 stay as they are."""

    def compress(self, x: Array, noise: Noise | None) -> Any:
        if x.ndim == 0 or x.shape[-1] < 4:
            return x
        return Blocks.encode(x, None if noise is None else noise.uniform(x.shape, self.seed))


FLOAT32 = Float32()
SLOT_STORAGE: dict[str, type[SlotStorage]] = {kind.__name__.lower(): kind for kind in (Float32, BFloat16, Int8)}
