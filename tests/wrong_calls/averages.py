"""Of averages and copies of parameters, and of counts."""

import jax.numpy as jnp

import jadam
from wrong_calls import ONES

TREE = {"w": ONES}

CALLS = {
    "incremental_update: new_tensors has 'a', which is not an array, at w.": lambda: jadam.incremental_update(
        {"w": "a"}, TREE, 0.1
    ),
    "incremental_update: new_tensors and old_tensors are not alike: w is not among the parameters.": lambda: (
        jadam.incremental_update(TREE, {}, 0.1)
    ),
    "incremental_update(step_size='a'): step_size must be a number.": lambda: jadam.incremental_update(TREE, TREE, "a"),
    "incremental_update: step_size must be given; it accepts new_tensors, old_tensors, step_size, count.": lambda: (
        jadam.incremental_update(TREE, TREE)
    ),
    "periodic_update(update_period=None): update_period must be a number.": lambda: jadam.periodic_update(TREE, TREE, 1, None),
    # JAX's words named no leaf, and (3,) met (2, 3) without any.
    "incremental_update: at w, new_tensors has shape (3,), and old_tensors shape (2, 3).": lambda: jadam.incremental_update(
        TREE, {"w": jnp.ones((2, 3))}, 0.1
    ),
    "periodic_update: at w, new_tensors has shape (3,), and old_tensors shape (2,).": lambda: jadam.periodic_update(
        TREE, {"w": jnp.ones(2)}, 1, 2
    ),
    "periodic_update: at w, new_tensors has dtype float32, and old_tensors dtype bfloat16.": lambda: jadam.periodic_update(
        TREE, {"w": ONES.astype(jnp.bfloat16)}, 1, 2
    ),
    "periodic_update(update_period=0): update_period must be an integer >= 1.": lambda: jadam.periodic_update(TREE, TREE, 4, 0),
    "safe_increment(count='a'): count must be an integer or a floating-point number.": lambda: jadam.safe_increment("a"),
    "safe_increment(count=True): count must be an integer or a floating-point number.": lambda: jadam.safe_increment(True),
    "safe_int32_increment(count=None): count must be an integer or a floating-point number.": lambda: (
        jadam.safe_int32_increment(None)
    ),
    "bias_correction(decay='a'): decay must be a number.": lambda: jadam.bias_correction(TREE, "a", 1),
    "bias_correction: moment has 'a', which is not an array, at w.": lambda: jadam.bias_correction({"w": "a"}, 0.9, 1),
}
