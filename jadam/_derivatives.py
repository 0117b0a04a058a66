"""Functions whose derivatives JAX's own formulas lose: NaN at the edge of a range, zero through what is rounded.

Hyperparameters are tuned by differentiating through steps. The values are those of the plain formulas, and cost nothing.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._dtypes import cast, full_products


@jax.custom_jvp
def root(x: Array) -> Array:
    """The square root, with derivative zero at zero.

    There `sqrt` has inf, and the square inside it 0: of `m / (sqrt(g^2) + eps)`, which has a derivative at `g = 0`, JAX makes
    NaN.
    """
    return lax.sqrt(x)


@root.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    y = root(*primals)
    positive = y > 0
    return y, tangents[0] * jnp.where(positive, 0.5 / jnp.where(positive, y, 1), 0)


@jax.custom_jvp
def complement_of_power(complement: Array, t: Array) -> Array:
    """`1 - b**t` by `1 - b`: in float32 the plain formula is off by 7e-4 for b = 0.99999, this one by an ulp or two."""
    return -jnp.expm1(t * jnp.log1p(-complement))


@complement_of_power.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    # That of the power: the logarithm has none at b = 0, where GANs train; nor has JAX's `b**0`, for a second derivative.
    t, b = primals[1], 1 - primals[0]
    by_t = b**t * jnp.log(jnp.where(b > 0, b, 1))
    return complement_of_power(*primals), t * jnp.where(t == 1, 1, b) ** (t - 1) * tangents[0] - by_t * tangents[1]


@jax.custom_jvp
def straight_through(rounded: Array, x: Array) -> Array:
    """`rounded`, with the derivative of `x`, of which it is a rounding (Bengio et al. 2013, arXiv:1308.3432)."""
    return rounded


@straight_through.defjvp
def _(primals: tuple[Array, Array], tangents: tuple[Any, Array]) -> tuple[Array, Array]:
    return primals[0], cast(tangents[1], primals[0].dtype)


@jax.custom_jvp
def eigenvectors(a: Array) -> Array:
    """Those of a symmetric matrix, as columns; where eigenvalues are equal, they are taken not to turn among each other."""
    return jnp.linalg.eigh(a)[1]


@eigenvectors.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    with full_products():
        w, q = jnp.linalg.eigh(*primals)
        gaps = w[None, :] - w[:, None]
        known = jnp.abs(gaps) > _negligible(w)
        return q, q @ jnp.where(known, q.T @ tangents[0] @ q / jnp.where(known, gaps, 1), 0)


@jax.custom_jvp
def orthonormalized(x: Array) -> Array:
    """The orthogonal factor of a square matrix; columns that depend on those before them are taken not to turn."""
    return jnp.linalg.qr(x)[0]


@orthonormalized.defjvp
def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    with full_products():
        q, r = jnp.linalg.qr(*primals)
        sizes = jnp.diagonal(r)
        known = jnp.abs(sizes) > _negligible(sizes)
        r = r + jnp.diag(jnp.where(known, 0, 1 - sizes))
        turns = jax.scipy.linalg.solve_triangular(r, tangents[0].T @ q, trans="T", lower=False).T  # Q^T dX R^-1
        below = jnp.tril(jnp.where(known[None, :], turns, 0), -1)
        return q, q @ (below - below.T)


def _negligible(x: Array) -> Array:
    """What rounding leaves of zero beside numbers such as these."""
    return jnp.max(jnp.abs(x)) * (x.size * float(jnp.finfo(x.dtype).eps))
