"""Rows that catch up: as if no step had been missed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import run

import jadam
from jadam import Rows

RNG = np.random.default_rng(0)
ROWS, WIDTH, STEPS = 200, 4, 600
OPTIMIZERS = {
    "adam": (jadam.adam(1e-3), 0.05),
    "adamw": (jadam.chain(jadam.clip_by_global_norm(100.0), jadam.adamw(1e-3, weight_decay=0.1)), 0.05),
    "lion": (jadam.lion(1e-3, weight_decay=0.1), 0.05),
    "momentum": (jadam.sgd(1e-2, momentum=0.9), 1e-5),
}
"""With the largest distance from dense steps, as a share of the way gone. Of a momentum it is rounding."""


def trained(tx, touched, dense=False):
    """After steps that touch so many rows each, and one without a gradient, which touches all."""
    rng = np.random.default_rng(touched)
    params = jnp.asarray(rng.standard_normal((ROWS, WIDTH)), "float32")
    ids = np.stack([rng.choice(ROWS, touched, replace=False) for _ in range(STEPS)])
    values = 0.3 * rng.standard_normal((ROWS, WIDTH))[ids] + rng.standard_normal((*ids.shape, WIDTH))

    def step(carry, batch):
        ids, values = batch
        grads = jnp.zeros_like(params).at[ids].add(values) if dense else Rows(ids, values)
        return tx.step(grads, carry[1], carry[0]), None

    batches = jnp.asarray(ids), jnp.asarray(values, "float32")
    new, state = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), batches)[0])()
    return params, *tx.step(jnp.zeros_like(params), state, new)


@pytest.mark.parametrize(
    ("name", "touched"),
    [
        pytest.param(name, touched, marks=() if (name, touched) == ("adamw", 20) else pytest.mark.slow)
        for name in OPTIMIZERS
        for touched in (4, 20)
    ],
)
def test_as_if_no_step_had_been_missed(name, touched):
    """Moments within 1e-5 of their largest, parameters within 5 % of the way gone, where plain ones are 10 % and more off."""
    tx, bar = OPTIMIZERS[name]
    start, expected, dense = trained(tx, touched, dense=True)
    way = np.linalg.norm(expected - start)
    _, plain, _ = trained(tx, touched)
    _, found, state = trained(jadam.lazy(tx, catch_up=True), touched)
    assert np.linalg.norm(found - expected) <= bar * way
    assert np.linalg.norm(plain - expected) >= 0.1 * way
    for key, slots in dense.slots.items():
        for slot, moment in slots.items():
            assert np.abs(state.slots[key][slot] - moment).max() <= 1e-5 * np.abs(moment).max()


@pytest.mark.slow
@pytest.mark.usefixtures("x64")
def test_a_momentum_catches_up_exactly():
    """Its missed steps are a geometric series; nothing is left but float64's rounding."""
    tx, params = jadam.sgd(0.1, momentum=0.9), jnp.zeros((3, 2))
    batches = [Rows(jnp.array([n % 3]), jnp.ones((1, 2))) for n in (0, 1, 1, 2, 1, 1, 1, 0)]
    zero = jnp.zeros_like(params)
    expected, _ = run(tx, params, [zero + rows for rows in batches] + [zero])
    found, _ = run(jadam.lazy(tx, catch_up=True), params, [*batches, zero])
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_plain_is_the_transformation_itself():
    assert jadam.lazy(jadam.adam(1e-3)) == jadam.adam(1e-3)


def test_rows_that_missed_nothing_step_as_without():
    """To the bit, and dense gradients too: what is added is zero."""
    tx, params = jadam.adamw(1e-2), jnp.asarray(RNG.standard_normal((5, 2)), "float32")
    steps = [jnp.asarray(RNG.standard_normal((5, 2)), "float32") for _ in range(2)]
    expected, _ = run(tx, params, steps)
    for grads in (steps, [Rows(jnp.arange(5), g) for g in steps]):
        found, state = run(jadam.lazy(tx, catch_up=True), params, grads)
        chex.assert_trees_all_close(found, expected, rtol=1e-6)
    assert state.slots["lazy"]["steps"].tolist() == [[2.0]] * 5


@pytest.mark.parametrize("by", ["step", "update"])
@pytest.mark.parametrize("around", [jadam.guard, jadam.monitor, lambda tx: jadam.masked(tx, jadam.match("table"))])
def test_inside_wrappers_and_groups(around, by):
    """A step that a guard skips is no step: nobody missed it."""
    tx, params = jadam.lazy(jadam.adam(1e-2), catch_up=True), {"table": jnp.zeros((4, 2))}
    good = [{"table": Rows(jnp.array([n]), jnp.ones((1, 2)))} for n in (0, 1, 3, 0)]
    bad = [{"table": Rows(jnp.array([2]), jnp.full((1, 2), jnp.nan))}] if around is jadam.guard else []
    found, _ = run(around(tx), params, good[:2] + bad + good[2:], by)
    expected, _ = run(tx, params, good)
    chex.assert_trees_all_close(found, expected, rtol=1e-6)


def test_steps_are_counted_in_float32_whatever_the_storage():
    """In bfloat16, 257 steps are 256."""
    tx = jadam.with_precision(jadam.lazy(jadam.adam(1e-2), catch_up=True), state="bfloat16", min_size=1)
    slots = jax.eval_shape(tx.init, jnp.zeros((5, 3), "bfloat16")).slots
    assert slots["lazy"]["steps"].dtype == jnp.float32
    assert slots["adam"]["mu"].dtype == jnp.bfloat16
