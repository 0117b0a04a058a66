"""Clips whose limit adapts, against their algorithms in plain Python, in the doubles of numpy."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jadam

RNG = np.random.default_rng(0)


def norms(steps=120):
    found = np.exp(0.2 * RNG.standard_normal(steps))
    found[[40, 41, 60, 90]] *= [5, 50, 3, 1e6]
    return found


def clipped(tx, sizes, params=None):
    """The norms after the clip, and the last state."""
    params = jnp.ones(2) if params is None else params
    step = jax.jit(tx.update)
    state, found = tx.init(params), []
    for size in sizes:
        updates, state = step(jnp.asarray([0.6, 0.8], params.dtype) * jnp.asarray(size, params.dtype), state, params)
        found.append(float(jadam.global_norm(updates)))
    return np.asarray(found), state


def zclip(sizes, z_thresh=2.5, alpha=0.97, warmup_steps=25, eps=1e-6):
    """Algorithm 1 of Kumar et al. 2025, with the reciprocal of z, as the authors' code has it."""
    found, mean, var = list(sizes[:warmup_steps]), np.mean(sizes[:warmup_steps]), np.var(sizes[:warmup_steps])
    for norm in sizes[warmup_steps:]:
        z = (norm - mean) / (np.sqrt(var) + eps)
        if z > z_thresh:
            norm = mean + z_thresh * np.sqrt(var) / (z / z_thresh)
        mean = alpha * mean + (1 - alpha) * norm
        var = alpha * var + (1 - alpha) * (norm - mean) ** 2
        found.append(norm)
    return np.asarray(found)


def percentile_clip(sizes, percentile=5, history=100):
    """As bitsandbytes: the first norm fills the history, the current one is in it, and the sorted one has its place."""
    kept, found = np.full(history, sizes[0]), []
    for step, norm in enumerate(sizes):
        kept[step % history] = norm
        found.append(min(norm, np.sort(kept)[percentile * history // 100]))
    return np.asarray(found)


@pytest.mark.parametrize("options", [{}, {"z_thresh": 1.5, "alpha": 0.8, "warmup_steps": 3}, {"warmup_steps": 2}], ids=str)
def test_zclip_is_the_authors_algorithm(options):
    sizes = norms()
    expected = zclip(sizes, **options)
    np.testing.assert_allclose(clipped(jadam.zclip(**options), sizes)[0], expected, rtol=3e-4)
    if not options:
        assert 3 <= (expected < 0.999 * sizes).sum() < 30


@pytest.mark.usefixtures("x64")
def test_zclip_in_float64():
    sizes = norms()
    np.testing.assert_allclose(clipped(jadam.zclip(), sizes, jnp.ones(2, jnp.float64))[0], zclip(sizes), rtol=1e-10)


@pytest.mark.parametrize("options", [{}, {"percentile": 50, "history": 7}, {"percentile": 0}, {"percentile": 99, "history": 1}])
def test_percentile_clip_is_that_of_bitsandbytes(options):
    sizes = norms(320)  # beyond two turns of the history
    expected = percentile_clip(sizes, **options)
    found, state = clipped(jadam.percentile_clip(**options), sizes)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert state.scalars["percentile_clip"]["norms"].shape == (options.get("history", 100),)
    assert float(state.scalars["percentile_clip"]["norms_seen"]) <= 2 * options.get("history", 100)


@pytest.mark.parametrize("make", [jadam.zclip, jadam.percentile_clip, lambda: jadam.clip_by_global_norm(1.0)])
@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
def test_what_is_not_finite_is_seen_everywhere_and_does_not_count(make, bad):
    """An inf made zeros of all other updates, which hid that the step went wrong."""
    params, tx = {"a": jnp.ones(2), "b": jnp.ones(3, jnp.bfloat16)}, make()
    good = jax.tree.map(lambda p: 3 * p, params)
    _, state = tx.update(good, tx.init(params), params)
    updates, after = tx.update(good | {"a": jnp.asarray([1.0, bad])}, state, params)
    assert all(jnp.isnan(u).all() for u in jax.tree.leaves(updates))
    chex.assert_trees_all_equal(after.scalars, state.scalars)
    chex.assert_tree_all_finite(tx.update(good, after, params)[0])


@pytest.mark.parametrize("make", [jadam.zclip, jadam.percentile_clip])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e20, 1e37])
def test_at_every_size(make, size):
    """A norm whose square is inf in float32 is a norm all the same."""
    sizes = [1.0, 2.0, size, 1.5, 1.0]
    found, state = clipped(make(), sizes)
    assert np.isfinite(found).all()
    assert np.isfinite(jax.tree.leaves(state)[0]).all()
    assert (found <= np.float32(sizes) * (1 + 1e-6)).all()


@pytest.mark.slow
@pytest.mark.parametrize("make", [jadam.zclip, jadam.percentile_clip])
@pytest.mark.parametrize("by", ["step", "update"])
@pytest.mark.parametrize("wrapped", [lambda tx: tx, jadam.monitor], ids=["alone", "measured"])
def test_before_an_optimizer(make, by, wrapped):
    """The history of norms was taken for a scalar: TypeError, of a `select` inside."""
    params = {"w": jnp.ones((3, 4)), "b": jnp.ones(4)}
    tx = wrapped(jadam.chain(make(), jadam.adam(1e-2)))
    expected, _ = getattr(jadam.adam(1e-2), by)(params, jadam.adam(1e-2).init(params), params)
    chex.assert_trees_all_close(getattr(tx, by)(params, tx.init(params), params)[0], expected, rtol=1e-6)
    chex.assert_trees_all_close(jax.jit(getattr(tx, by))(params, tx.init(params), params)[0], expected, rtol=1e-6)


@pytest.mark.parametrize("zeros", [1, 5])
@pytest.mark.parametrize("make", [jadam.zclip, jadam.percentile_clip, lambda: jadam.clip_by_global_norm(1.0)])
def test_a_gradient_of_zero_is_left_zero(make, zeros):
    """With a limit of 0 it was NaN."""
    found, state = clipped(make(), [0.0] * zeros)
    np.testing.assert_array_equal(found, 0)
    chex.assert_tree_all_finite(state)


def test_norms_of_zero_do_not_enter_the_history():
    """A few zeros, and the limit was 0 for the next 95 steps."""
    sizes = norms()
    sparse = np.zeros(2 * len(sizes) + 3)
    sparse[3::2] = sizes
    found, _ = clipped(jadam.percentile_clip(), sparse)
    np.testing.assert_allclose(found[sparse > 0], percentile_clip(sizes), rtol=1e-5)


@pytest.mark.parametrize("before", [0.0, 1e-4, 1.0, 100.0])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_zclip_follows_norms_that_were_constant(before, eps):
    """A variance of 0 made the mean the limit, and so the variance stayed 0: after zeros, nothing ever moved."""
    size = 50 * before or 1.0
    found, state = clipped(jadam.zclip(warmup_steps=5, eps=eps), [before] * 10 + [size] * 200)
    np.testing.assert_allclose(found[:10], before, rtol=1e-5)
    np.testing.assert_allclose(found[10], before or size, rtol=1e-3)  # a spike at first, if there is anything to judge it by
    np.testing.assert_allclose(found[-1], size, rtol=1e-3)
    assert state.scalars["zclip"]["norm_mean"] > 0.9 * size


def test_zclip_has_derivatives_through_steps():
    """The root of a variance of 0 has none; they were NaN."""
    params = {"w": jnp.arange(1.0, 4.0)}

    def after(params, make):
        tx = jadam.chain(make(), jadam.sgd(0.1))
        state = tx.init(params)
        for _ in range(3):
            params, state = tx.step(params, state, params)
        return jadam.global_norm(params)

    plain = jax.grad(after)(params, jadam.identity)
    for make in (jadam.zclip, jadam.percentile_clip):
        chex.assert_tree_all_finite(jax.grad(after)(params, make))
    chex.assert_trees_all_close(jax.grad(after)(params, jadam.zclip), plain, rtol=1e-6)
    chex.assert_tree_all_finite(jax.grad(after)(params, lambda: jadam.zclip(warmup_steps=1, eps=0.0)))


def test_in_a_group_and_in_a_chain():
    """Of a group, the norm of the group; beside a constant limit, as in the authors' code."""
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    tx = jadam.partition({"a": jadam.percentile_clip(history=4), "b": jadam.identity()}, {"a": "a", "b": "b"})
    updates, state = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(state.scalars["a.percentile_clip"]["norms"], np.sqrt(2) * np.ones(4), rtol=1e-6)
    chex.assert_trees_all_close(updates, params, rtol=1e-6)
    both = jadam.chain(jadam.zclip(), jadam.clip_by_global_norm(1.0))
    assert float(jadam.global_norm(both.update(params, both.init(params), params)[0])) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: jadam.zclip(z_thresh=0.0), r"zclip\(z_thresh=0.0\): z_thresh must be a finite number > 0"),
        (lambda: jadam.zclip(alpha=1.0), r"alpha must be in \[0, 1\)"),
        (lambda: jadam.zclip(warmup_steps=0), r"warmup_steps must be an integer"),
        (lambda: jadam.percentile_clip(percentile=100), r"percentile must be an integer in \[0, 100\)"),
        (lambda: jadam.percentile_clip(percentile=2.5), r"percentile must be an integer in \[0, 100\)"),
        (lambda: jadam.percentile_clip(history=0), r"history must be an integer"),
    ],
)
def test_options_out_of_range(make, words):
    with pytest.raises(ValueError, match=words):
        make()
