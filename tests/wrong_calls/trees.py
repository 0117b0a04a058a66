"""Of trees: parameters, gradients, updates."""

import jax
import jax.numpy as jnp
import numpy as np

import jadam
from wrong_calls import FLOATS, NEEDS_PARAMS, NO_COMPLEX, ONES, PARAMS, SAME_TREE, STATE, STRUCTURE, TAKE_OUT, TX, grads, update

SHAPE = jax.ShapeDtypeStruct((3,), jnp.float32)
SHAPES = "has a ShapeDtypeStruct at w, a shape without values; pass an array."
COPY = (
    "a copy of the parameter, of which only the shape is given at w; pass arrays, or write jax.eval_shape(tx.init, params) for "
    "the shapes of the state."
)
NO_DTYPE = "for which JAX has no dtype; take it out of the tree, or put None in its place."
NOT_OURS = "is not a jadam transformation; write jadam.adam(...), or jadam.chain(...) around it."

CALLS = {
    # trees and arguments
    f"adamw.init: params has slice(3, None, None), a slice, at dense/act, {TAKE_OUT}": lambda: TX.init(
        grads(act=slice(3, None))
    ),
    f"adamw.update: the gradient tree has 'relu', a str, at dense/act, {TAKE_OUT}": lambda: TX.update(
        grads(act="relu"), STATE, grads(act=ONES)
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
    # leaves and keys
    f"adamw.init: params has array([1., 1.], dtype=float128), a ndarray, at w, {NO_DTYPE}": lambda: TX.init(
        {"w": np.ones(2, np.longdouble)}
    ),
    f"adamw.init: params has {10**30}, a int, at w, {NO_DTYPE}": lambda: TX.init({"w": 10**30, "v": 1.0}),
    f"adamw.init: params has array(['a'], dtype='<U1'), a ndarray, at w, {NO_DTYPE}": lambda: TX.init({"w": np.array(["a"])}),
    f"adamw.init: params has array([1, None], dtype=object), a ndarray, at w, {NO_DTYPE}": lambda: TX.init(
        {"w": np.array([1, None])}
    ),
    "adamw.init: params has a dict whose keys cannot be sorted, such as 1 beside 'a'; give it keys of one type.": lambda: (
        TX.init({1: ONES, "b": ONES})
    ),
    "adamw.init: nothing in params is trained: its leaves are bool, int32, none real or complex floating point.": lambda: (
        TX.init({"a": jnp.arange(3), "b": jnp.ones(2, bool)})
    ),
    f"schedule_free_adamw.init: z of schedule_free begins as {COPY}": lambda: jadam.schedule_free_adamw(1.0).init({"w": SHAPE}),
    f"prodigy.init: p0 of scale_by_prodigy begins as {COPY}": lambda: jadam.prodigy().init({"w": SHAPE}),
    f"adamw.update: the gradient tree {SHAPES}": lambda: TX.update({"w": SHAPE}, TX.init({"w": SHAPE}), {"w": ONES}),
    f"adamw.step: params {SHAPES}": lambda: TX.step({"w": ONES}, TX.init({"w": SHAPE}), {"w": SHAPE}),
    f"adamw.update: the gradient tree has 'a', a str, at w, {TAKE_OUT}": lambda: TX.update({"w": "a"}, STATE, {"w": ONES}),
    f"adamw.update: the gradient at dense/bias has dtype [('float0', 'V')], its parameter float32; {FLOATS}": lambda: update(
        bias=np.zeros(1, jax.dtypes.float0)
    ),
    "adamw.update: the gradient at dense/kernel has shape (3, 1), its parameter (2, 1).": lambda: TX.update(
        PARAMS, STATE, grads(kernel=jnp.ones((2, 1)))
    ),
    "apply_updates: the update at dense/bias has dtype complex64, its parameter float32.": lambda: jadam.apply_updates(
        PARAMS, grads(bias=jnp.ones(1, "complex64"))
    ),
    "apply_updates: the updates do not have the structure of the parameters: dense/more is not among the parameters.": lambda: (
        jadam.apply_updates(PARAMS, grads(more=ONES))
    ),
    f"apply_updates: params {SHAPES}": lambda: jadam.apply_updates({"w": SHAPE}, {"w": ONES}),
    f"apply_updates: updates has 'a', a str, at w, {TAKE_OUT}": lambda: jadam.apply_updates({"w": ONES}, {"w": "a"}),
    f"global_norm: updates has 'a', a str, at the root, {TAKE_OUT}": lambda: jadam.global_norm("a"),
    f"global_norm: updates {SHAPES}": lambda: jadam.global_norm({"w": SHAPE}),
    f"describe: params has 'a', a str, at w, {TAKE_OUT}": lambda: jadam.describe(TX, {"w": "a"}),
    f"describe: a dict {NOT_OURS}": lambda: jadam.describe(PARAMS, TX),
    f"check_precision: a dict {NOT_OURS}": lambda: jadam.check_precision(PARAMS, TX),
    "state_shardings: None is not a transformation; the order is (tx, params).": lambda: jadam.state_shardings(None, PARAMS),
    "schedule_free_params: the state is not of a schedule-free optimizer.": lambda: jadam.schedule_free_params(STATE, PARAMS),
    "schedule_free_params: the state has another structure than the parameters: it was made for other ones.": lambda: (
        jadam.schedule_free_params(jadam.schedule_free_adamw(1.0).init(PARAMS), {"w": ONES})
    ),
    "zeros: 'a' is not an array; pass the parameter.": lambda: jadam.zeros("a"),
}
