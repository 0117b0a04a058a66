"""Derivatives where JAX's own are NaN, inf or zero."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jadam._derivatives import complement_of_power, eigenvectors, orthonormalized, root, straight_through
from jadam._storage.params import Kahan, Remainder


def test_root():
    x = jnp.asarray([0.0, 1e-30, 4.0])
    np.testing.assert_array_equal(root(x), jnp.sqrt(x))
    assert jax.vmap(jax.grad(root))(x).tolist() == pytest.approx([0.0, 0.5e15, 0.25])
    assert not jnp.isfinite(jax.grad(jnp.sqrt)(0.0))
    by_gradient = jax.grad(lambda g: 0.1 * g / (root(0.001 * g * g) + 1e-3))
    assert by_gradient(0.0) == pytest.approx(100)


@pytest.mark.parametrize("b", [0.0, 0.5, 0.999])
@pytest.mark.parametrize("t", [1, 2, 7])
def test_complement_of_power(b, t):
    """`1 - b**t` by `1 - b` has the derivative `t b**(t-1)`: at b = 0 it is 1 at the first step, and 0 after."""
    derivative = jax.grad(complement_of_power)(jnp.float32(1 - b), jnp.float32(t))
    assert derivative == pytest.approx(t * b ** (t - 1), rel=1e-5)
    second = jax.grad(jax.grad(complement_of_power))(jnp.float32(1 - b), jnp.float32(t))
    assert second == pytest.approx(-t * (t - 1) * b ** max(t - 2, 0), rel=1e-5)


def test_what_is_rounded_has_the_derivative_of_what_was():
    assert jax.grad(lambda x: straight_through(jnp.round(x), x) ** 2)(1.3) == 2
    p, beside = jnp.bfloat16(1.5), {"remainder": jnp.int16(100), "compensation": jnp.bfloat16(1e-3)}
    for storage in (Remainder(), Kahan()):
        assert jax.grad(lambda p, storage=storage: storage.decode(p, beside))(p) == 1
        assert jax.grad(lambda x, storage=storage: storage.round(x, jnp.bfloat16, None).astype(jnp.float32))(1.2345) == 1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("function", [eigenvectors, orthonormalized])
def test_bases(function):
    """The derivative of JAX where that is finite; finite where eigenvalues are equal, or columns zero."""
    rng = np.random.default_rng(0)
    x, weights = rng.standard_normal((2, 4, 4))
    plain = {eigenvectors: lambda a: jnp.linalg.eigh(a)[1], orthonormalized: lambda a: jnp.linalg.qr(a)[0]}[function]

    def of(basis):
        return jax.grad(lambda x: jnp.sum(weights * basis(x @ x.T)))

    np.testing.assert_allclose(of(function)(x), of(plain)(x), rtol=1e-9)
    singular = np.where(np.arange(4) < 2, x, 0) @ np.where(np.arange(4) < 2, x, 0).T
    singular[:, 2:] = singular[2:] = 0
    assert jnp.isfinite(of(function)(singular)).all()
    assert not jnp.isfinite(of(plain)(singular)).all()
