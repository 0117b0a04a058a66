"""SOAP on gradients of low rank: what float32 cannot know of them makes no step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jadam

RNG = np.random.default_rng(0)
TX = jadam.soap(1.0, weight_decay=0.0)


def updates(gradients, dtype):
    """At each step; the first is held."""
    params = {"w": jnp.zeros(gradients.shape[1:], dtype)}

    def step(state, g):
        u, state = TX.update({"w": g}, state, params)
        return state, u["w"]

    return np.asarray(jax.lax.scan(step, TX.init(params), jnp.asarray(gradients, dtype))[1], np.float64)[1:]


def of_rank(rank, *shape):
    return RNG.standard_normal((shape[0], rank)) @ RNG.standard_normal((rank, shape[1]))


def polar(g, rank):
    """What a constant gradient `U S V^T` makes of every step: `-U V^T`."""
    left, _, right = np.linalg.svd(g)
    return -(left[:, :rank] @ right[:rank])


@pytest.mark.parametrize("rank", [1, 4, 16])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e12])
def test_a_constant_gradient_of_low_rank(rank, scale):
    """Rounding errors, 1e-7 of the gradient, were divided by their own size: steps of norm 17 instead of 1.

    Through two renewals of the bases, every 10 steps.
    """
    left, right = np.random.default_rng(rank).standard_normal((2, 16, 16))
    g = left[:, :rank] @ right[:rank] if rank < 16 else left
    found = updates(np.stack([g * scale] * 24), "float32")
    # Of full rank, a few elements may be known to float32 only as far as the bases are.
    bar = 1e-2 if rank < 16 else 0.3
    assert np.linalg.norm(found - polar(g, rank), axis=(1, 2)).max() < bar * rank**0.5


def test_steps_are_no_longer_than_the_rank_allows():
    """Of near eigenvalues the eigenvectors are not known in float32, and a step of full rank may be longer, a little."""
    for rank in (1, 4, 48):
        found = updates(np.stack([of_rank(rank, 64, 48)] * 24), "float32")
        assert np.linalg.norm(found, axis=(1, 2)).max() < 1.5 * rank**0.5


@pytest.mark.usefixtures("x64")
def test_steps_of_noise_are_those_of_float64():
    """What is known is used: steps are as long as in float64, whether each gradient has full rank, rank 1, or little noise."""
    for gradients in (
        RNG.standard_normal((24, 16, 16)),
        np.stack([of_rank(1, 16, 16) for _ in range(24)]),
        of_rank(2, 16, 16) + 1e-3 * RNG.standard_normal((24, 16, 16)),
    ):
        short, long = (np.linalg.norm(updates(gradients, dtype), axis=(1, 2)) for dtype in ("float32", "float64"))
        # 0.03 to 0.12, by the numbers and by the version of JAX: of near eigenvalues float32 finds other eigenvectors.
        assert np.abs(short / long - 1).max() < 0.3
        assert long.max() > 4  # they are not polar factors of one gradient


def test_huge_matrices_of_gradients_stay_finite():
    """A turned gradient may have the norm of the whole in one element, whose square was inf for 4096 x 4096 of 2^52."""
    found = updates(np.full((4, 64, 64), 3e38, np.float32), "float32")
    assert np.isfinite(found).all()
    assert np.linalg.norm(found, axis=(1, 2)) == pytest.approx(1, rel=1e-2)
