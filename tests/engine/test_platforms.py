"""What GPUs and TPUs run where it is not what CPUs run, run on the CPU."""

import contextlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from support import run

import jadam
from jadam._engine.norms import _row_by_row
from jadam._norm import norm, norm_of, scaled_norm
from jadam._squares import _in_one_pass, groups_of

RNG = np.random.default_rng(0)
TREE = {"a": jnp.asarray(RNG.standard_normal((40, 5)), jnp.float32), "b": jnp.asarray(RNG.standard_normal(3), jnp.float32)}


PLATFORMS = "cuda", "tpu"


@contextlib.contextmanager
def elsewhere(platform):
    """The branches for another platform, in programs that nothing else uses."""

    def dependent(*operands, default, **by_platform):
        return by_platform.get(platform, default)(*operands)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lax, "platform_dependent", dependent)
        jax.clear_caches()
        yield
    jax.clear_caches()


def one_pass(leaves):
    return norm_of(leaves, _in_one_pass(leaves, None, jnp.float32))


@pytest.mark.parametrize("size", [1e-18, 1e-12, 1.0, 1e12, 1e17])
def test_norms_in_one_pass(size):
    tree = jax.tree.map(lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x), 1) * size, TREE)
    exact = np.sqrt(sum(np.sum(np.asarray(x, np.float64) ** 2) for x in jax.tree.leaves(tree)))
    assert float(one_pass(jax.tree.leaves(tree))) == pytest.approx(exact, rel=1e-6)


def test_norms_in_one_pass_are_finite_where_numbers_are():
    for size in (1e-45, 1e-30, 1e25, 3e38):
        huge = [jnp.full(1000, size, jnp.float32), jnp.ones(3)]
        assert jnp.isfinite(one_pass(huge))
        assert _in_one_pass(huge, None, jnp.float32).finite
    assert one_pass([jnp.array(jnp.inf), jnp.ones(2)]) == jnp.inf
    assert jnp.isnan(one_pass([jnp.array(jnp.nan), jnp.ones(2)]))
    assert one_pass([jnp.zeros(3)]) == 0
    chex.assert_trees_all_equal(jax.grad(lambda x: one_pass([x]))(jnp.zeros(3)), jnp.zeros(3))
    chex.assert_trees_all_close(jax.grad(lambda x: one_pass([x]))(jnp.array([3.0, 4.0])), jnp.array([0.6, 0.8]), rtol=1e-6)


@pytest.mark.parametrize("axes", [None, (0,), (0, 1)])
@pytest.mark.parametrize("mean", [False, True])
def test_norms_of_one_array(axes, mean):
    for size in (1e-17, 1.0, 1e17):
        x = size * jnp.sign(TREE["a"])
        with elsewhere("cuda"):
            found = norm(x, axes, mean)
        np.testing.assert_allclose(found, scaled_norm(x, axes, mean), rtol=1e-6)


SEVERAL = {
    "clipped": jadam.chain(jadam.clip_by_global_norm(0.1), jadam.adamw(0.1)),
    "kahan": jadam.with_precision(jadam.adamw(0.1), params="kahan"),
    "remainder, bfloat16": jadam.with_precision(jadam.adamw(0.1), params="remainder", state="bfloat16", min_size=0),
    "stochastic, int8": jadam.with_precision(jadam.lion(0.1), params="stochastic", state="int8", min_size=0),
    **{name: getattr(jadam, name)(0.1) for name in ("adadelta", "adan", "mars_adamw", "lamb", "stable_adamw", "adafactor")},
    "units": jadam.chain(jadam.adaptive_grad_clip(0.1), jadam.sgd(0.1)),
    "without a number": jadam.chain(jadam.trace(0.9), jadam.scale(-0.1)),
}
USUAL = {"clipped", "stochastic, int8", "lamb"}


def steps(name):
    dtype = jnp.bfloat16 if "," in name or name == "kahan" else jnp.float32
    params = jax.tree.map(lambda x: x.astype(dtype), TREE)
    grads = [jax.tree.map(lambda x, k=k: (x * k).astype(dtype), TREE) for k in (1.0, -0.3, 2.0)]
    return run(SEVERAL[name], params, grads, by="update"), run(SEVERAL[name], params, grads, by="step")


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in USUAL else pytest.mark.slow) for name in SEVERAL])
def test_steps_are_those_of_a_cpu(name):
    expected = steps(name)
    for platform in PLATFORMS:
        with elsewhere(platform):
            chex.assert_trees_all_close(steps(name), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("by", ["step", "update"])
def test_guarded_and_watched_steps(platform, by):
    """On CPU a branch, elsewhere a select, whose sums depend on the slots or the slots on them."""
    tx = jadam.monitor(jadam.guard(jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(0.1))), by_leaf=True)
    bad = jax.tree.map(lambda x: x.at[0].set(jnp.nan), TREE)
    expected, here = run(tx, TREE, [TREE, bad, TREE], by)
    with elsewhere(platform):
        found, there = run(tx, TREE, [TREE, bad, TREE], by)
    chex.assert_trees_all_close(found, expected, rtol=1e-6, atol=1e-7)  # a step of 0.1 may end near zero
    chex.assert_trees_all_close(there, here, rtol=1e-5, atol=1e-7)
    assert there.scalars["guard"]["skipped"] == 1


SHAPES = [(5, 7), (5, 3), (4,), (), (2, 3, 4), (0, 3), (6, 1)] * 40  # more of each than one kernel sums


def test_arrays_of_a_shape_that_are_summed_together_keep_their_sums():
    """Those of the first and of the last of a shape are their own."""
    rng = np.random.default_rng(0)
    x, y = ([rng.normal(size=shape).astype(np.float32) for shape in SHAPES] for _ in range(2))
    exact = [[np.sum(one.astype(np.float64) ** 2) for one in arrays] for arrays in (x, y)]
    squares = jax.jit(lambda x: _in_one_pass(x, None, jnp.float32))(x)
    np.testing.assert_allclose(
        np.asarray(squares.sums) / squares.scale**2, [exact[0][n] for at in groups_of(x) for n in at], rtol=2e-6
    )
    pairs = jax.jit(_row_by_row)(list(zip(x, y, strict=True)))
    np.testing.assert_allclose(np.asarray(pairs).T, exact, rtol=2e-6)
