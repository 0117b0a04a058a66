"""Dtypes: between memory and the float32 of the rules (float64 where a parameter is; complex numbers as pairs)."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike


def is_complex(dtype: DTypeLike) -> bool:
    return jnp.issubdtype(dtype, jnp.complexfloating)


def compute_dtype(dtype: DTypeLike) -> Any:
    """The dtype of the arithmetic on such an array: float64 for float64 and complex128, else float32."""
    return jnp.float64 if jnp.dtype(dtype) in (jnp.float64, jnp.complex128) else jnp.float32


def decode(x: Array) -> Array:
    """An array in the dtype of the arithmetic; complex numbers as pairs on a last axis of 2."""
    if is_complex(x.dtype):
        return jnp.stack([x.real, x.imag], axis=-1)
    return cast(x, compute_dtype(x.dtype))


def cast(x: Array, dtype: DTypeLike) -> Array:
    """`x.astype(dtype)`, without the cost of tracing it where there is nothing to do: it is called for every leaf and slot."""
    return x if x.dtype == dtype else x.astype(dtype)


def of_a_kind(x: Any, y: Any) -> bool:
    """Whether two are arrays of one shape and dtype."""
    return isinstance(x, Array) and isinstance(y, Array) and x.shape == y.shape and x.dtype == y.dtype


def holds_integers(x: Any) -> bool:
    """Whether an array counts, or says which: no arithmetic changes its dtype."""
    return jnp.issubdtype(x.dtype, jnp.integer)


def encode(x: Array, dtype: DTypeLike) -> Array:
    """The inverse of `decode`, rounding to the nearest number of `dtype`."""
    if is_complex(dtype):
        return cast(lax.complex(x[..., 0], x[..., 1]), dtype)
    return cast(x, dtype)


def full_dtype(dtype: DTypeLike) -> Any:
    """The dtype that holds the arithmetic on such an array exactly: `compute_dtype`, complex where it is complex."""
    if is_complex(dtype):
        return jnp.dtype(dtype)
    return compute_dtype(dtype)


def full_products() -> Any:
    """A context in which products of float32 matrices are float32: JAX's default is TF32 on an A100 or H100, bfloat16 on a TPU.

    Rules are called in it. Factors that a rule has rounded itself it multiplies with `precision="default"`.
    """
    return jax.default_matmul_precision("highest")
