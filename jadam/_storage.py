"""How slots and parameters are stored: the codecs between memory and the float32 of the rules.

This is the one place that knows storage formats. The engine decodes before a rule and encodes after it; a new format is a
class here, and every algorithm has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


def compute_dtype(dtype: DTypeLike) -> Any:
    """The dtype of the arithmetic on such an array: float64 for float64 and complex128, else float32."""
    return jnp.float64 if jnp.dtype(dtype) in (jnp.float64, jnp.complex128) else jnp.float32


def decode(x: Array) -> Array:
    """An array of any float dtype in the dtype of the arithmetic; complex numbers as pairs on a last axis of 2."""
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


class SlotStorage(Protocol):
    """A format of slots. `decode(encode(x, dtype))` is `x` up to the format's rounding."""

    def encode(self, x: Array, dtype: DTypeLike) -> Any:
        """The stored form, an array or a tree of arrays, of a slot of a parameter of this dtype."""
        ...

    def decode(self, stored: Any) -> Array:
        """The slot in the dtype of the arithmetic."""
        ...


@dataclass(frozen=True)
class Float32:
    """Slots in the dtype of the arithmetic: 4 bytes an element, 8 for float64 parameters."""

    def encode(self, x: Array, dtype: DTypeLike) -> Array:
        return encode(x, full_dtype(dtype))

    def decode(self, stored: Array) -> Array:
        return decode(stored)


@dataclass(frozen=True)
class BFloat16:
    """Slots in bfloat16, rounded to nearest: 2 bytes an element. Complex slots stay as they are: no complex is smaller."""

    def encode(self, x: Array, dtype: DTypeLike) -> Array:
        return encode(x, full_dtype(dtype) if jnp.issubdtype(dtype, jnp.complexfloating) else jnp.bfloat16)

    def decode(self, stored: Array) -> Array:
        return decode(stored)


SLOT_STORAGE: dict[str, SlotStorage] = {"float32": Float32(), "bfloat16": BFloat16()}


class ParamStorage(Protocol):
    """A format of parameters. `land` gives the update that takes a stored parameter to its next stored value."""

    def decode(self, p: Array) -> Array:
        """The parameter in the dtype of the arithmetic."""
        ...

    def land(self, u: Array, p: Array) -> Array:
        """The update `u`, in the dtype of the arithmetic, as an array to be added to `p`, in the dtype of `p`."""
        ...


@dataclass(frozen=True)
class Nearest:
    """Parameters as they are. The caller's `params + updates` rounds to nearest."""

    def decode(self, p: Array) -> Array:
        return decode(p)

    def land(self, u: Array, p: Array) -> Array:
        return encode(u, p.dtype)


NEAREST = Nearest()
