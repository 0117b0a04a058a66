"""What kernels share: which arrays they can have, and how scalars come into them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jax import Array, lax


def can_be_counted(arrays: Sequence[Array]) -> bool:
    """Whether Triton finds all their elements: Pallas counts those of up to 4 GiB in 32 bits, of which one is then a sign."""
    return not any(isinstance(x.size, int) and 2**31 <= x.size <= 2**32 // x.dtype.itemsize for x in arrays)


def as_number(x: Array) -> Array:
    """A scalar, or a key of two words, as a row of numbers: every compiler can load these."""
    return (x.astype(jnp.int32) if x.dtype == bool else x).reshape(1, -1)


def from_number(ref: Any, of: Any) -> Any:
    """The inverse, in a kernel; of the type that it had."""
    return (ref[0, 0], ref[0, 1]) if of.shape else ref[0, 0] != 0 if of.dtype == bool else ref[0, 0]


def one_key(keys: Any) -> Any:
    """The words of the keys of step and leaf together."""
    return None if keys is None else (tuple(lax.bitwise_xor(a, b) for a, b in zip(*keys, strict=True)),)
