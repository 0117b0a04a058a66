"""The modes in which JAX finds what is usually let pass; strict dtypes and ranks hold for the whole suite already."""

import chex
import jax
import jax.numpy as jnp
import pytest
from support import EACH, OPTIMIZERS, run

import jadam

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6).reshape(2, 3), "b": jnp.ones(3, jnp.bfloat16)}


def chains():
    full = jadam.chain(
        jadam.adaptive_grad_clip(0.1),
        jadam.clip(1.0),
        jadam.clip_by_block_rms(1.0),
        jadam.clip_by_global_norm(1.0),
        jadam.add_decayed_weights(0.1),
        jadam.partition([(jadam.match("w"), jadam.adamw(0.1)), (True, jadam.sgd(0.1, momentum=0.9))]),
    )
    return {"everything": full} | {name: optimizer(0.1) for name, optimizer in OPTIMIZERS.items()}


def steps(tx):
    return run(tx, PARAMS, [PARAMS, PARAMS])


@pytest.mark.parametrize("name", ["everything", *(pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS)])
def test_debug_nans_and_no_tracer_leaks(name):
    with jax.checking_leaks():
        jax.jit(lambda: steps(chains()[name]))()
    with jax.debug_nans(True), jax.debug_infs(True):
        tx = chains()[name]
        params = {"w": jnp.zeros((2, 3))} | {"b": PARAMS["b"]}
        tx.step(jax.tree.map(jnp.zeros_like, PARAMS), tx.init(params), params)
        steps(tx)


@pytest.mark.parametrize("name", ["everything", *EACH])
def test_disable_jit(name):
    compiled = steps(chains()[name])
    with jax.disable_jit():
        chex.assert_trees_all_close(steps(chains()[name]), compiled, rtol=1e-2, atol=1e-6)  # an ulp of bfloat16


@pytest.mark.parametrize("name", ["everything", *EACH])
@pytest.mark.usefixtures("x64")
def test_x64_changes_nothing_for_float32(name):
    tx = chains()[name]
    wide = {"w": jnp.ones((2, 3), jnp.float64), "b": jnp.ones(3, jnp.float64)}
    for params, dtype in ((PARAMS, "float32"), (wide, "float64")):
        _, state = jax.eval_shape(lambda p: tx.step(p, tx.init(p), p), params)
        assert {x.dtype for x in jax.tree.leaves(state)} == {jnp.dtype(dtype), jnp.dtype("int32")}


@pytest.mark.parametrize("name", ["everything", *EACH])
def test_no_implicit_transfers_in_a_step(name):
    tx = chains()[name]
    state = tx.init(PARAMS)
    tx.step(PARAMS, state, PARAMS)
    with jax.transfer_guard("disallow"):
        tx.step(PARAMS, state, PARAMS)
