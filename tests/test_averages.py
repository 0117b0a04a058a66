"""Averages and copies of parameters, and counts: optax's numbers, right in 16 bits."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jadam

pytestmark = pytest.mark.usefixtures("lenient")
RNG = np.random.default_rng(0)
NEW = {"w": jnp.asarray(RNG.standard_normal((3, 2)), jnp.float32), "b": [jnp.float32(2.0), None]}
OLD = {"w": jnp.asarray(RNG.standard_normal((3, 2)), jnp.float32), "b": [jnp.float32(-1.0), None]}


@pytest.mark.parametrize("size", [0.0, 0.005, 0.3, 1.0, jnp.float32(0.1)])
def test_incremental_update_equals_optax(size):
    found, expected = (lib.incremental_update(NEW, OLD, size) for lib in (jadam, optax))
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.jit(jadam.incremental_update)(NEW, OLD, size), expected)
    chex.assert_trees_all_close(jadam.incremental_update(jnp.arange(3), jnp.zeros(3, int), 0.5), jnp.arange(3) / 2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_incremental_update_rounds_once(dtype):
    """Of numbers of 16 bits, the nearest number of 16 bits to the exact average; optax rounds three times."""
    rng = np.random.default_rng(0)
    new, old = (jnp.asarray(rng.standard_normal(2000), dtype) for _ in range(2))
    exact = np.asarray(old, np.float64) + 0.3 * (np.asarray(new, np.float64) - np.asarray(old, np.float64))
    found, theirs = jadam.incremental_update(new, old, 0.3), optax.incremental_update(new, old, 0.3)
    assert found.dtype == dtype
    nearest = jnp.asarray(exact, jnp.float32).astype(dtype)
    assert np.mean(np.asarray(found == nearest)) >= 0.998
    assert np.mean(np.asarray(theirs == nearest)) < 0.9
    assert jadam.incremental_update(new, old, jnp.float32(0.3)).dtype == dtype
    kept = jadam.incremental_update(new, old.astype(jnp.float32), 0.001)  # the average in float32, of bfloat16
    np.testing.assert_allclose(
        kept, np.asarray(old, np.float64) + 0.001 * (np.asarray(new, float) - np.asarray(old, float)), 1e-5
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_target_network_in_16_bits_arrives(dtype):
    """Without a count it stands still in bfloat16, as optax's: nothing else tells one step from the next."""
    new, old = (
        {"w": jnp.ones(2**14, dtype), "b": jnp.ones(2**14, dtype)},
        {"w": jnp.zeros(2**14, dtype), "b": jnp.zeros(2**14, dtype)},
    )
    follow = lambda with_count: jax.lax.fori_loop(  # noqa: E731
        0, 1000, lambda n, x: jadam.incremental_update(new, x, 0.005, count=n if with_count else None), old
    )
    found = follow(True)
    means = {name: np.mean(np.asarray(x, np.float64)) for name, x in found.items()}
    np.testing.assert_allclose(list(means.values()), 1 - 0.995**1000, atol=2e-4)
    assert np.std(np.asarray(found["w"], np.float64)) < 0.01
    assert not bool((found["w"] == found["b"]).all())
    still = np.asarray(follow(False)["w"], np.float64)
    assert (still < 0.62).all() == (dtype == jnp.bfloat16)
    wide, counted = (jadam.incremental_update(NEW, OLD, 0.3, count=n) for n in (None, 7))
    chex.assert_trees_all_equal(wide, counted)


def test_incremental_update_of_complex_numbers():
    new, old = jnp.asarray([1 + 2j]), jnp.asarray([3 - 1j])
    np.testing.assert_allclose(jadam.incremental_update(new, old, 0.25), [2.5 - 0.25j], rtol=1e-6)


@pytest.mark.parametrize("steps", [0, 1, 5, 6, jnp.int32(9)])
def test_periodic_update_equals_optax(steps):
    found, expected = (lib.periodic_update(NEW, OLD, steps, 3) for lib in (jadam, optax))
    chex.assert_trees_all_equal(found, expected)
    chex.assert_trees_all_equal(jax.jit(jadam.periodic_update)(NEW, OLD, steps, 3), expected)
    chex.assert_trees_all_equal(found, NEW if int(steps) % 3 == 0 else OLD)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint8", "float16", "float32"])
def test_a_count_saturates(dtype):
    largest = jnp.asarray((jnp.iinfo if "int" in dtype else jnp.finfo)(dtype).max, dtype)
    for own in (jadam.safe_increment, jadam.safe_int32_increment):
        for count in (jnp.zeros((), dtype), jnp.asarray(7, dtype), largest):
            found, expected = own(count), optax.safe_increment(count)
            assert found == expected
            assert found.dtype == expected.dtype
        assert own(largest) == largest
    assert jadam.safe_increment(3) == 4


def test_bias_correction():
    """The difference of two float32 is what optax takes: at b2 = 0.9999 its first average of squares is off by 1e-4."""
    exact = 2.0 / (1 - 0.9999**1)
    ours, theirs = (float(lib.bias_correction(jnp.float32(2.0), 0.9999, jnp.int32(1))) for lib in (jadam, optax))
    assert ours == pytest.approx(exact, rel=1e-6)
    assert theirs != pytest.approx(exact, rel=1e-6)
    for count in (1, 5, jnp.int32(1000)):
        chex.assert_trees_all_close(*(lib.bias_correction(NEW, 0.9, count) for lib in (jadam, optax)), rtol=1e-5)


@pytest.mark.parametrize("debias", [True, False])
def test_ema_equals_optax(debias):
    ours, theirs = (lib.ema(0.9, debias=debias, accumulator_dtype=None) for lib in (jadam, optax))
    params = {"w": NEW["w"]}
    states = [ours.init(params), theirs.init(params)]
    for n in range(5):
        grads = jax.tree.map(lambda x, n=n: x + n, params)
        found, states[0] = ours.update(grads, states[0])
        expected, states[1] = theirs.update(grads, states[1])
        chex.assert_trees_all_close(found, expected, rtol=1e-5)
    chex.assert_trees_all_close(states[0].slots["ema"]["ema"], states[1].ema, rtol=1e-5)


def test_types_are_there_for_annotations():
    def update(updates: jadam.Updates, state: jadam.EmptyState, params: jadam.Params | None = None):
        return updates, state

    make: jadam.TransformInitFn = lambda params: jadam.EmptyState()  # noqa: E731
    step: jadam.TransformUpdateFn = update
    tx = jadam.chain(jadam.GradientTransformation(make, step), jadam.scale(2.0))
    np.testing.assert_array_equal(tx.update(NEW["w"], tx.init(NEW["w"]))[0], 2 * NEW["w"])
    masked = {"w": NEW["w"], "b": jadam.MaskedNode()}
    assert len(jax.tree.leaves(masked)) == 1
    assert jax.tree.leaves(jadam.adam(0.1).init(masked).slots["adam"]["mu"])[0].shape == (3, 2)
