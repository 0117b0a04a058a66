"""Loss scaling: what float16 would lose, and steps that are skipped whole."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import run

import jadam

PARAMS = {"w": jnp.linspace(-1, 1, 6, dtype=jnp.float16).reshape(3, 2), "b": jnp.ones(2, jnp.float32)}


def grads(value):
    return jax.tree.map(lambda p: jnp.full(p.shape, value, p.dtype), PARAMS)


def inner():
    return jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(jadam.linear_schedule(0.1, 0.0, 10)))


def test_gradients_below_float16_arrive():
    """Without a scale the gradient of this loss is zero in float16."""

    def loss(params, scale):
        return scale * 1e-8 * jnp.sum(params["w"].astype(jnp.float32))

    tx, plain = jadam.loss_scale(jadam.sgd(1e6)), jadam.sgd(1e6)
    state = tx.init(PARAMS)
    scaled, unscaled = (jax.grad(loss)(PARAMS, s) for s in (jadam.current_loss_scale(state), jnp.float32(1)))
    assert scaled["w"].dtype == jnp.float16
    updates, _ = tx.update(scaled, state, PARAMS)
    np.testing.assert_allclose(np.asarray(updates["w"], np.float64), -1e-2, rtol=2e-3)
    lost, _ = plain.update(unscaled, plain.init(PARAMS), PARAMS)
    assert not lost["w"].any()


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("compiled", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_bad_step_changes_the_scale_alone(bad, compiled):
    tx = jadam.loss_scale(inner(), init_scale=8.0)
    updates, state = compiled(tx.update)(grads(0.5), tx.init(PARAMS), PARAMS)
    assert all(x.any() for x in jax.tree.leaves(updates))
    spoiled = grads(0.5) | {"b": jnp.asarray([0.5, bad])}
    updates, after = compiled(tx.update)(spoiled, state, PARAMS)
    assert not any(x.any() for x in jax.tree.leaves(updates))
    new, stepped = compiled(tx.step)(spoiled, state, PARAMS)
    chex.assert_trees_all_equal(new, PARAMS)
    for skipped in (after, stepped):
        chex.assert_trees_all_equal(skipped._replace(scalars={}), state._replace(scalars={}))
        assert jadam.current_loss_scale(skipped) == 4
        assert skipped.scalars["loss_scale"]["skipped"] == 1
    _, good = compiled(tx.update)(grads(0.5), after, PARAMS)
    assert good.count == 2


def test_the_inner_optimizer_sees_only_good_steps():
    """With a bad step between them, two good ones give what two give without; the schedule does not move on either."""
    tx, plain = jadam.loss_scale(inner(), init_scale=4.0), inner()
    params, state = run(tx, PARAMS, [grads(2.0), grads(jnp.inf), grads(1.0)])  # the scale is 4, 4, 2
    expected, exact = run(plain, PARAMS, [grads(0.5)] * 2)
    chex.assert_trees_all_equal(params, expected)
    chex.assert_trees_all_equal(state.slots, exact.slots)
    assert state.count == exact.count == 2


def test_the_scale_grows_and_falls_within_its_limits():
    options = {"growth_interval": 3, "growth_factor": 4.0, "backoff_factor": 0.25, "min_scale": 0.5, "max_scale": 30.0}
    tx = jadam.loss_scale(jadam.sgd(0.1), init_scale=2.0, **options)
    state, seen = tx.init(PARAMS), []
    for value in [1.0] * 7 + [jnp.nan] * 4 + [1.0] * 2 + [jnp.nan] + [1.0] * 3:
        seen.append(float(jadam.current_loss_scale(state)))
        _, state = tx.update(grads(value), state, PARAMS)
    assert seen == [2, 2, 2, 8, 8, 8, 30, 30, 7.5, 1.875, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert jadam.current_loss_scale(state) == 2  # three good ones in a row; the two before the last NaN do not count


def test_scan_vmap_and_one_trace():
    tx = jadam.loss_scale(jadam.adam(0.1), init_scale=2.0, growth_interval=2)
    values = jnp.asarray([[1.0, jnp.inf], [1.0, 1.0], [1.0, 1.0]])

    @chex.assert_max_traces(1)
    def step(carry, v):
        params, state = carry
        g = jax.tree.map(lambda x: jnp.full(x.shape, v).astype(x.dtype), params)
        return tx.step(g, state, params), jadam.current_loss_scale(state)

    start = (PARAMS, tx.init(PARAMS))
    (_, state), scales = jax.jit(jax.vmap(partial(jax.lax.scan, step, start), in_axes=1))(values)
    assert state.count.tolist() == [3, 2]
    assert scales.tolist() == [[2, 2, 4], [2, 1, 1]]


@pytest.mark.usefixtures("lenient")
def test_around_foreign_optimizers_and_low_precision():
    for tx in (optax.adam(0.1), jadam.with_precision(jadam.adam(0.1), state="int8", params="kahan", min_size=0)):
        scaled = jadam.loss_scale(jadam.chain(tx), init_scale=4.0)
        state = scaled.init(PARAMS)
        _, good = scaled.update(grads(1.0), state, PARAMS)
        updates, after = scaled.update(grads(jnp.nan), good, PARAMS)
        chex.assert_trees_all_equal(after.slots, good.slots)
        assert not any(x.any() for x in jax.tree.leaves(updates))


def test_it_must_be_around_all_else():
    """A clip before it saw scaled gradients, and another group was trained on them."""
    scaled = jadam.loss_scale(jadam.sgd(0.1))
    inside = jadam.partition([(jadam.match("b"), jadam.sgd(0.1)), (True, scaled)])
    for tx in (jadam.chain(jadam.clip_by_global_norm(1.0), scaled), inside, jadam.masked(scaled, jadam.match("b"))):
        with pytest.raises(ValueError, match=r"loss_scale skips whole steps; put it around all else, without a mask"):
            tx.update(grads(1.0), tx.init(PARAMS), PARAMS)


def test_reading_the_scale():
    tx = jadam.loss_scale(jadam.sgd(0.1))
    assert jadam.current_loss_scale({"opt": optax.chain(tx).init(PARAMS)}) == 2.0**15
    with pytest.raises(ValueError, match=r"current_loss_scale: the state has no loss scales"):
        jadam.current_loss_scale(jadam.sgd(0.1).init(PARAMS))
    with pytest.raises(ValueError, match=r"the state has 2 loss scales"):
        jadam.current_loss_scale(jadam.loss_scale(tx).init(PARAMS))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"init_scale": 0.25}, r"init_scale must be between min_scale and max_scale: 1 <= 0.25 <= 1.67772e\+07 is not true"),
        ({"init_scale": 0.0}, r"loss_scale\(init_scale=0.0\): init_scale must be a finite number > 0"),
        ({"growth_interval": 0}, r"growth_interval must be an integer in \[1, 2\*\*31\)"),
        ({"growth_factor": 1.0}, r"growth_factor must be a finite number > 1"),
        ({"backoff_factor": 1.0}, r"backoff_factor must be in \(0, 1\)"),
    ],
)
def test_options_out_of_range(option, words):
    with pytest.raises(ValueError, match=words):
        jadam.loss_scale(jadam.sgd(0.1), **option)
