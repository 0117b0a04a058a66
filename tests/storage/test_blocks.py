"""Int8Blocks of 8 bits: the nearest codes or those that are right on average, and scales that leave nothing out."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import assert_differ, at, noise, spread, wide

from jadam._storage.blocks import BLOCK, Int8Blocks

SIZES = (1, 2, 3, 4, 5, 7, 8, 15, 16, 31, 32, 33, 47, 63, 64, 65, 69, 70)


@jax.jit
def there_and_back(x, bits=None):
    stored = Int8Blocks.of(x, bits)
    return stored, stored.decode()


def expected_codes(x):
    """The nearest code of each element, of one block in float64: from the definition, without JAX."""
    x = np.asarray(x, np.float64)
    if x.min() >= 0:
        return np.maximum(np.round(256 * (x / x.max()) ** (1 / 8)), 1) - 129
    return np.copysign(np.round(127 * (np.abs(x) / np.abs(x).max()) ** (1 / 4)), x)


@pytest.mark.parametrize("kind", ["signed", "negative", "one-sided"])
def test_blocks_have_the_nearest_codes(kind):
    """Last axes of any length, of which the last block may be short. The error of an element is half a step in its root."""
    values = [spread(3, size, seed=size) for size in SIZES]
    values = [{"signed": x, "negative": -(x * x), "one-sided": x * x}[kind] for x in values]
    coded = jax.jit(lambda arrays: [there_and_back(x) for x in arrays])(values)
    for x, (stored, decoded) in zip(values, coded, strict=True):
        assert stored.codes.shape == decoded.shape == x.shape
        assert stored.codes.dtype == jnp.int8
        assert stored.scales.shape == (3, -(-x.shape[1] // BLOCK))
        assert stored.scales.dtype == decoded.dtype == jnp.float32
        for row in range(3):
            for first in range(0, x.shape[1], BLOCK):
                block = np.s_[row, first : first + BLOCK]
                signed = x[block].min() < 0
                power, codes = (4, 127) if signed else (8, 256)
                scale = np.abs(x[block]).max()
                np.testing.assert_array_equal(stored.codes[block], expected_codes(x[block]))
                root, found = ((np.abs(np.float64(y[block])) / scale) ** (1 / power) for y in (x, np.asarray(decoded)))
                assert np.abs(root - np.maximum(found, 0)).max() <= (0.5 + 1e-4) / codes
                largest = np.abs(x[block]).argmax()
                assert decoded[block][largest] == x[block][largest], "the largest of a block is exact"
                assert (np.sign(decoded[block]) * np.sign(x[block]) >= 0).all()


def test_the_error_against_the_largest():
    """At most 1/64 of the largest of the block, the half of the widest step; and nearly reached, so no other bar would do."""
    for power in (1, 2):
        x = np.random.default_rng(3).uniform(-1 if power == 1 else 0, 1, (512, 32)).astype(np.float32)
        error = np.abs(there_and_back(x)[1] - x).max(-1) / np.abs(x).max(-1)
        assert 0.9 / 64 < error.max() < 1.02 / 64


@pytest.mark.parametrize("chance", [False, True])
def test_zeros_stay_zeros_but_in_one_sided_blocks(chance):
    """A second moment of 0 beside a first moment that is not would make an update infinite."""
    x = spread(4, 70)
    x[:, ::3] = 0
    for values, at_zero in ((np.zeros((4, 70), np.float32), np.s_[:]), (x, np.s_[:, ::3])):
        assert not np.any(there_and_back(values, noise().uniform((4, 70), 0) if chance else None)[1][at_zero])
    x = np.square(spread(16, 64, width=8.0))
    x[:, ::5] = 0
    x[::2] *= np.float32(1e-15)
    x[:, 1] = np.maximum(x[:, 1], 1e-16)
    decoded = there_and_back(x, noise().uniform(x.shape, 0) if chance else None)[1]
    assert np.all(decoded > 0)
    assert np.any(there_and_back(np.concatenate([x, -x], -1)[:, ::4])[1] == 0)  # signed blocks have one


def test_stochastic_codes_are_right_on_average():
    """Within five standard errors of the mean of 4,096 draws between two codes."""
    x = np.stack([spread(32), np.square(spread(32, seed=1)), -np.abs(spread(32, seed=2))])
    u = np.asarray(noise().uniform((4096, *x.shape), 0))
    drawn = wide(jax.jit(lambda u: Int8Blocks.of(jnp.broadcast_to(x, u.shape), u).decode())(u))
    low, high = drawn.min(0), drawn.max(0)
    slack = 2e-6 * np.abs(x)  # float32 of the powers
    assert ((low - slack <= x) & (x <= high + slack)).all()
    assert all(len(np.unique(drawn[:, i, j])) <= 2 for i in range(3) for j in range(32))
    error = np.sqrt(np.maximum((x - low) * (high - x), 0) / len(u)) + slack
    assert (np.abs(drawn.mean(0) - x) < 5 * error).all()
    nearest = np.abs(wide(there_and_back(x)[1]) - x)
    assert (nearest > 5 * error).mean() > 0.5  # nearest codes fail this


def test_decoded_blocks_are_fixed_points():
    """What is not changed is not changed by storing it again and again, not even by chance."""
    x = np.stack([spread(70), np.square(spread(70, seed=1)), -np.abs(spread(70, seed=2)), 1e-30 * spread(70)])
    bits = noise().uniform(x.shape, 0)
    stored, once = there_and_back(x, bits)
    for again in (None, bits, noise(leaf=1).uniform(x.shape, 0)):
        chex.assert_trees_all_equal(there_and_back(once, again), (stored, once))
    assert_differ(there_and_back(x, noise(leaf=1).uniform(x.shape, 0))[0].codes, stored.codes)


def test_nan_fills_its_block_and_only_it():
    for chance in (None, noise().uniform((2, 96), 0)):
        for bad in (np.nan, np.inf, -np.inf):
            for x in (spread(2, 96), np.square(spread(2, 96))):
                clean = there_and_back(x, chance)[1]
                spoilt = x.copy()
                spoilt[1, 40] = bad
                decoded = np.array(there_and_back(spoilt, chance)[1])
                assert not np.isfinite(decoded[1, 40])
                assert np.isnan(decoded[1, 32:64]).all() or not np.isnan(bad)
                decoded[1, 32:64] = clean[1, 32:64]
                np.testing.assert_array_equal(decoded, clean)


@pytest.mark.parametrize("size", [1e-45, 1e-38, 1e-37, 1e-36, 1e-30, 1e30, 3e38])
def test_tiny_and_huge_blocks(size):
    """Finite, of the right sign, no larger than the largest; what a float32 can divide by keeps its digits."""
    for x in (spread(4, 64), np.square(spread(4, 64))):
        largest = np.abs(x).reshape(4, 2, BLOCK).max(-1).repeat(BLOCK, -1)  # of each block
        x = (x / largest * np.float32(size)).astype(np.float32)
        for chance in (None, noise().uniform(x.shape, 0)):
            decoded = np.asarray(there_and_back(x, chance)[1])
            assert np.isfinite(decoded).all()
            assert np.abs(decoded).max() <= np.float32(size)
            assert (decoded * np.sign(x) >= 0).all()
            if size >= 1e-36:  # 2^-123 is lost besides where an eighth of a float32 is not a normal number
                assert np.abs(decoded - x).max() <= (1.02 if chance is None else 2.04) / 64 * size + 2.0**-123
    mixed = np.float32([[1e-38] * 32 + [1.0] * 32 + [1e30] * 32])  # each block has its own scale
    np.testing.assert_allclose(there_and_back(mixed)[1][:, 32:], mixed[:, 32:], rtol=0)


def test_blocks_under_vmap():
    """Each model as if alone: blocks do not reach across models, whatever the last axis."""
    for size in (5, 70):
        x = np.stack([spread(3, size, seed=seed) * 10**seed for seed in range(4)])
        many = jax.jit(jax.vmap(there_and_back))(x)
        for model in range(4):
            chex.assert_trees_all_equal(at(many, model), there_and_back(x[model]))


@pytest.mark.usefixtures("x64")
def test_blocks_of_float64():
    """Scales keep the dtype of the arithmetic, so its range too."""
    x = jnp.asarray(spread(3, 70), jnp.float64) * 1e-200
    stored, decoded = there_and_back(x)
    assert stored.scales.dtype == decoded.dtype == jnp.float64
    for block in (np.s_[:, :32], np.s_[:, 32:64], np.s_[:, 64:]):
        bound = 1.02 / 64 * np.abs(x[block]).max(-1, keepdims=True)
        assert (np.abs(decoded[block] - x[block]) <= bound).all()
        assert (np.abs(decoded[block]).max(-1) == np.abs(x[block]).max(-1)).all()
