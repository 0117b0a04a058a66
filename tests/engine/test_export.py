"""`jax.export` with symbolic shapes: one program for all sizes, or words that say which size must be known."""

import chex
import jax
import jax.export
import jax.numpy as jnp
import pytest
from support import EACH, OPTIMIZERS

import jadam

ASKING = {"adam_mini", "big_vision_adafactor", "muon", "normuon", "soap"}
"""Optimizers that do one thing or another by how long axes are."""
STORAGES = {
    "bfloat16": {"state": "bfloat16", "min_size": 0},
    "int8": {"state": "int8", "min_size": 0},
    **{params: {"params": params} for params in ("stochastic", "kahan", "remainder", "nearest")},
}


def exported(tx, function, axes, dtype=jnp.float32, **scope):
    b, d = jax.export.symbolic_shape(axes, **scope)
    params = {"w": jax.ShapeDtypeStruct((b, d), dtype), "v": jax.ShapeDtypeStruct((d,), dtype)}
    return jax.export.export(jax.jit(function))(params, jax.eval_shape(tx.init, params), params)


def assert_runs(tx, axes, shape, dtype=jnp.float32, **scope):
    """What is exported makes the step of arrays of this shape."""
    params = {"w": jnp.linspace(0.1, 1.0, shape[0] * shape[1]).reshape(shape).astype(dtype), "v": jnp.ones(shape[1], dtype)}
    state = tx.init(params)
    for name in ("update", "step"):
        found = exported(tx, getattr(tx, name), axes, dtype, **scope).call(params, state, params)
        chex.assert_trees_all_close(found, getattr(tx, name)(params, state, params), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_every_optimizer_is_exported_or_says_what_it_asks(name):
    tx = OPTIMIZERS[name](0.1)
    if name not in ASKING:
        assert_runs(tx, "b, d", (3, 5))
        return
    with pytest.raises(ValueError, match=f"{name}.*depends on whether '.*', which a symbolic shape leaves open; export for"):
        exported(tx, tx.step, "b, d")
    assert_runs(tx, "b, d", (64, 65), constraints=["d >= b + 1", "b >= 32", "d <= 9999"])


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name == "kahan" else pytest.mark.slow) for name in STORAGES])
def test_storages_are_exported(name):
    tx = jadam.with_precision(jadam.adamw(0.1), **STORAGES[name])
    axes, shape = ("32*b, 32*d", (64, 32)) if name == "int8" else ("b, d", (3, 64))
    assert_runs(tx, axes, shape, jnp.bfloat16)
    if name == "int8":
        with pytest.raises(ValueError, match=r"with_precision\.init: .* whether '[bd]' >= '(4|32)'"):
            exported(tx, tx.step, "b, d")


def test_whether_a_slot_is_small_must_be_known():
    tx = jadam.with_precision(jadam.adamw(0.1), state="bfloat16")
    with pytest.raises(ValueError, match=r"whether 'd' >= '4096'"):
        exported(tx, tx.step, "b, d")
