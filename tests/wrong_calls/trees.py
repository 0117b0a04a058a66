"""Of trees: parameters, gradients, updates."""

import jax.numpy as jnp

import jadam
from wrong_calls import FLOATS, NEEDS_PARAMS, NO_COMPLEX, ONES, PARAMS, SAME_TREE, STATE, STRUCTURE, TAKE_OUT, TX, grads, update

CALLS = {
    # trees and arguments
    f"adamw.init: params has 'relu', a str, at dense/act, {TAKE_OUT}": lambda: TX.init(grads(act="relu")),
    f"adamw.init: params has <built-in function len>, a builtin_function_or_method, at dense/act, {TAKE_OUT}": lambda: TX.init(
        grads(act=len)
    ),
    "adamw.update: the gradient at dense/kernel has shape (3,), its parameter (3, 1).": lambda: update(kernel=ONES),
    "adamw.step: the gradient at dense/bias has shape (), its parameter (1,).": lambda: TX.step(
        grads(bias=jnp.ones(())), STATE, PARAMS
    ),
    f"adamw.update: the gradient at dense/bias has dtype complex64, its parameter float32; {FLOATS}": lambda: update(
        bias=jnp.ones(1, "complex64")
    ),
    f"adamw.update: the gradient at dense/bias has dtype int32, its parameter float32; {FLOATS}": lambda: update(
        bias=jnp.ones(1, "int32")
    ),
    f"{STRUCTURE}dense/bias is missing. {SAME_TREE}": lambda: TX.update(
        {"dense": {"kernel": PARAMS["dense"]["kernel"]}}, STATE, PARAMS
    ),
    f"{STRUCTURE}dense/kernel is missing. {SAME_TREE}": lambda: update(kernel=None),
    f"{STRUCTURE}dense/more is not among the parameters. {SAME_TREE}": lambda: update(more=jnp.ones(2)),
    f"adamw.update: add_decayed_weights {NEEDS_PARAMS}": lambda: TX.update(PARAMS, STATE),
    "adamw.step: params is None; call step(grads, state, params).": lambda: TX.step(PARAMS, STATE, None),
    "chain: argument 1 is 0.1, which is not a transformation; give one of jadam's, or an (init, update) pair.": lambda: (
        jadam.chain(TX, 0.1)
    ),
    "apply_updates: the update at dense/kernel has shape (1,), its parameter (3, 1).": lambda: jadam.apply_updates(
        PARAMS, grads(kernel=jnp.ones(1))
    ),
    "apply_updates: the updates do not have the structure of the parameters: dense/bias is missing.": lambda: (
        jadam.apply_updates(PARAMS, {"dense": {}})
    ),
    f"clip_by_block_rms.init: clip_by_block_rms {NO_COMPLEX}": lambda: jadam.clip_by_block_rms(1.0).init(
        {"w": jnp.ones(2, "complex64")}
    ),
}
