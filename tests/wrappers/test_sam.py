"""Sharpness-aware minimization: the papers' formulas, and optax's numbers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import wide

import jadam

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.linspace(0.5, 2.0, 4)}


def loss(params):
    return sum(jnp.sum((1 + jnp.arange(x.size, dtype=x.dtype)) * jnp.cos(x.ravel()) ** 2) for x in jax.tree.leaves(params))


grad_fn = jax.grad(loss)


def exact(params):
    """The gradient in float64."""
    size = lambda x: (1 + np.arange(x.size)).reshape(x.shape)  # noqa: E731
    return {name: -size(x) * np.sin(2 * x) for name, x in params.items()}


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("rho", [0.0, 0.05, 0.5])
def test_it_is_the_formula_of_the_papers(rho, adaptive):
    tx = jadam.sam(jadam.sgd(0.01), rho=rho, adaptive=adaptive)
    params, state, expected = PARAMS, tx.init(PARAMS), wide(PARAMS)
    step = jax.jit(lambda s, p: tx.step(grad_fn(p), s, p, grad_fn=grad_fn))
    for _ in range(5):
        params, state = step(state, params)
        g, t = exact(expected), jax.tree.map(lambda p: np.abs(p) + 0.01 if adaptive else np.ones_like(p), expected)
        norm = np.sqrt(sum(np.sum((t[name] * g[name]) ** 2) for name in g))
        worst = {name: p + rho * t[name] ** 2 * g[name] / norm for name, p in expected.items()}
        expected = jax.tree.map(lambda p, g: p - 0.01 * g, expected, exact(worst))
    chex.assert_trees_all_close(params, expected, rtol=1e-5, atol=1e-6)
    assert state.count == 5


@pytest.mark.usefixtures("lenient")  # for optax
@pytest.mark.parametrize("make", [lambda lib: lib.adam(0.1), lambda lib: lib.sgd(0.05, momentum=0.9)], ids=["adam", "sgd"])
def test_equals_optax(make):
    ours = jadam.sam(jadam.chain(jadam.clip_by_global_norm(1.0), make(jadam)), rho=0.1)
    ascent = optax.chain(optax.contrib.normalize(), optax.sgd(0.1))
    theirs = optax.contrib.sam(optax.chain(optax.clip_by_global_norm(1.0), make(optax)), ascent, opaque_mode=True)
    params, state, expected, kept = PARAMS, ours.init(PARAMS), PARAMS, theirs.init(PARAMS)
    for _ in range(5):
        params, state = ours.step(grad_fn(params), state, params, grad_fn=grad_fn)
        updates, kept = theirs.update(grad_fn(expected), kept, expected, grad_fn=lambda p, _: grad_fn(p))
        expected = optax.apply_updates(expected, updates)
        chex.assert_trees_all_close(params, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("size", [0.0, 1e-30, 1e18])
def test_gradients_of_any_size_give_a_number(size, adaptive):
    tx = jadam.sam(jadam.sgd(0.0), rho=0.05, adaptive=adaptive)
    seen = []

    def watch(params):
        seen.append(params)
        return grad_fn(params)

    grads = jax.tree.map(lambda p: jnp.full_like(p, size), PARAMS)
    tx.update(grads, tx.init(PARAMS), PARAMS, grad_fn=watch)
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, seen[0], PARAMS))
    assert moved == 0 if size == 0 else 0.01 < moved < 0.1


def test_groups_masks_and_leaves_that_are_not_trained():
    """Only what it acts on moves; the function sees the whole tree, and its gradients may be those of integers too."""
    params = PARAMS | {"n": jnp.int32(3)}
    full = lambda p: grad_fn({"w": p["w"], "b": p["b"]}) | {"n": np.zeros((), jax.dtypes.float0)}  # noqa: E731
    seen = []
    watch = lambda p: seen.append(p) or full(p)  # noqa: E731
    tx = jadam.partition([(jadam.match("w"), jadam.sam(jadam.sgd(0.1))), (True, jadam.sgd(0.1))])
    updates, _ = tx.update(full(params), tx.init(params), params, grad_fn=watch)
    chex.assert_trees_all_equal(seen[0]["b"], params["b"])
    assert not bool((seen[0]["w"] == params["w"]).all())
    assert seen[0]["n"] == 3
    np.testing.assert_allclose(updates["b"], -0.1 * grad_fn(PARAMS)["b"], rtol=1e-6)


def test_under_jit_scan_and_vmap():
    tx = jadam.loss_scale(jadam.average(jadam.sam(jadam.adam(0.1), rho=0.1, adaptive=True), "uniform"), init_scale=1.0)

    def train(params):
        body = lambda c, _: (tx.step(grad_fn(c[0]), c[1], c[0], grad_fn=grad_fn), None)  # noqa: E731
        return jax.lax.scan(body, (params, tx.init(params)), None, length=3)[0]

    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)
    params, _ = jax.vmap(train)(many)
    alone, _ = jax.jit(train)(jax.tree.map(lambda x: x[1], many))
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], params), alone, rtol=1e-5, atol=1e-6)


def test_it_is_seen_through():
    tx = jadam.sam(jadam.adam(0.1), rho=0.1)
    state = tx.set_hyperparams(tx.init(PARAMS), rho=0.2)
    assert jadam.hyperparams(state)["rho"] == jnp.float32(0.2)
    assert repr(tx).startswith("sam(chain(scale_by_adam(")
    assert "sam, adam" in jadam.describe(tx, PARAMS)
    with pytest.raises(ValueError, match=r"sam.update: grad_fn is missing; call update\(grads, state, params, grad_fn=...\)"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="sam needs the parameters"):
        tx.update(PARAMS, tx.init(PARAMS), grad_fn=grad_fn)
    with pytest.raises(ValueError, match="the gradients that grad_fn returned do not have the structure of the parameters"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS, grad_fn=lambda p: p["w"])
