"""Windows of micro-batches: how long they are, how they are ended early, how one asks for them, and how optax spells them."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from micro_batches import NAN, PARAMS, grads, inner, mean, spoiled, told
from support import compilations, run

import jadam


def test_the_window_follows_a_schedule_of_the_steps_done():
    tx = jadam.accumulate(jadam.sgd(1.0), lambda count: 1 + count)
    for around in (tx, jadam.chain(jadam.clip(9.0), tx)):  # alone, and beside others, whose count is of micro-steps
        params, state, ended = PARAMS, around.init(PARAMS), []
        for n in range(10):
            params, state = around.step(grads(n), state, params)
            ended.append(bool(jadam.has_updated(state)))
        assert np.flatnonzero(ended).tolist() == [0, 2, 5, 9]
    assert jadam.hyperparams(state)["every"] == 4
    below = jadam.accumulate(jadam.sgd(1.0), lambda count: jnp.where(count < 1, 1, 0.0))
    assert run(below, PARAMS, [grads(0)] * 3)[1].count == 3


def test_the_window_can_be_set_without_a_trace():
    tx = jadam.accumulate(jadam.sgd(1.0), 4)
    _, state = run(tx, PARAMS, [grads(0)])
    state = tx.set_hyperparams(state, every=2)
    assert compilations(lambda: tx.step(grads(0), state, PARAMS)) == 0
    assert jadam.has_updated(tx.step(grads(0), state, PARAMS)[1])
    with pytest.raises(ValueError, match=r"every must be an integer in \[1, 2\*\*24\]"):
        tx.set_hyperparams(state, every=2.5)
    eight = jadam.accumulate(jadam.sgd(1.0), 8)  # programs are shared too
    assert compilations(lambda: eight.step(grads(0), eight.init(PARAMS), PARAMS)) == 0


def test_flush_makes_the_step_of_a_window_that_is_not_full():
    tx = jadam.accumulate(inner(), 4)
    params, state = run(tx, PARAMS, [grads(0), grads(1), spoiled(grads(2), NAN)])
    params, state = jadam.flush(tx, state, params)
    expected, exact = run(inner(), PARAMS, [mean([grads(0), grads(1)])])
    chex.assert_trees_all_close(params, expected, rtol=2e-6)
    assert state.count == exact.count == 1
    assert jadam.has_updated(state)
    again = jax.jit(partial(jadam.flush, tx))(state, params)
    chex.assert_trees_all_equal(again, (params, state))  # there is nothing more
    assert jadam.has_updated(again[1])  # of the window before
    nothing = run(tx, PARAMS, [spoiled(grads(0), NAN)])[1]
    params, state = jadam.flush(tx, nothing, PARAMS)
    chex.assert_trees_all_equal(params, PARAMS)
    assert not jadam.has_updated(state)


def test_flush_tells_the_inside_what_it_would_have_been_told():
    tx = jadam.accumulate(jadam.chain(told(), jadam.sgd(1.0)), 4)
    state = tx.init(PARAMS)
    for weight, value in ((1.0, 2.0), (3.0, 6.0)):
        _, state = tx.step(grads(0), state, PARAMS, weight=weight, value=value)
    assert jadam.flush(tx, state, PARAMS)[1].slots["told"] == {"weight": 4, "value": 5}


def test_flush_beside_others_and_in_groups():
    """A clip before it sees zeros; what follows makes its step; each group has its own window."""
    acc = jadam.accumulate(jadam.scale_by_adam(), 4)
    tx = jadam.chain(jadam.clip(9.0), acc, jadam.scale_by_learning_rate(0.1))
    expected = run(jadam.adam(0.1), PARAMS, [mean([grads(0), grads(1)])])[0]
    chex.assert_trees_all_close(jadam.flush(tx, *run(tx, PARAMS, [grads(0), grads(1)])[::-1])[0], expected, rtol=2e-6)
    groups = [(jadam.match("b"), jadam.accumulate(jadam.sgd(1.0), 3), "b"), (True, jadam.accumulate(jadam.sgd(1.0), 5), "w")]
    tx = jadam.loss_scale(jadam.partition(groups), init_scale=1.0)
    params, state = run(tx, PARAMS, [grads(0)] * 3)
    chex.assert_trees_all_close(params, {"w": PARAMS["w"], "b": PARAMS["b"] - grads(0)["b"]}, rtol=1e-6)
    params, _ = jadam.flush(tx, state, params)
    chex.assert_trees_all_close(params, jax.tree.map(jnp.subtract, PARAMS, grads(0)), rtol=1e-6)


@pytest.mark.parametrize(
    ("tx", "words"),
    [
        (jadam.adam(0.1), "tx has no accumulate, whose window could end"),
        (jadam.masked(jadam.accumulate(jadam.sgd(0.1), 2), {"w": False, "b": True}), "the parameter at w is not accumulated"),
        (jadam.chain(jadam.ema(0.9), jadam.accumulate(jadam.sgd(0.1), 2)), "ema stands before accumulate and keeps a state"),
        (jadam.accumulate(jadam.accumulate(jadam.sgd(0.1), 2), 2), "one accumulate stands inside another"),
    ],
)
def test_what_cannot_be_flushed(tx, words):
    with pytest.raises(ValueError, match=f"^flush: {words}"):
        jadam.flush(tx, tx.init(PARAMS), PARAMS)


def test_has_updated_of_a_tree_and_of_what_has_none():
    tx = jadam.accumulate(jadam.sgd(1.0), 1)
    state = run(optax.chain(tx), PARAMS, [grads(0)], "update")[1]
    assert jadam.has_updated({"opt": state})
    assert not jadam.has_updated(tx.init(PARAMS))


# As optax spells it


@pytest.mark.usefixtures("lenient")
@pytest.mark.parametrize(
    "options", [{}, {"use_grad_mean": False}, {"should_skip_update_fn": optax.skip_not_finite}], ids=" ".join
)
def test_multi_steps_has_the_numbers_of_optax(options):
    class Run(NamedTuple):
        updates: Any
        ended: Any

    def of(lib: Any, wrapped: Callable[[Any], Any] = lambda tx: tx) -> list[Run]:
        tx = lib.MultiSteps(lib.adamw(0.1, weight_decay=0.1), lambda count: 2 + count, **options)
        state, update, runs = wrapped(tx).init(PARAMS), jax.jit(wrapped(tx).update), []
        for n in range(7):
            g = spoiled(grads(n), NAN) if options.keys() == {"should_skip_update_fn"} and n in (0, 3) else grads(n)
            updates, state = update(g, state, PARAMS)
            runs.append(Run(updates, tx.has_updated(state) if wrapped(tx) is tx else None))
        return runs

    ours, theirs = of(jadam), of(optax)
    chex.assert_trees_all_close(ours, theirs, rtol=1e-4, atol=1e-7)
    assert {bool(one.ended) for one in ours} == {True, False}
    inside = of(jadam, lambda tx: jadam.chain(jadam.clip(99.0), tx))
    chex.assert_trees_all_close([one.updates for one in inside], [one.updates for one in ours], rtol=1e-6, atol=1e-8)


def test_multi_steps_is_a_transformation():
    tx = jadam.MultiSteps(jadam.adam(0.1), 2)
    assert isinstance(tx, jadam.GradientTransformation)
    assert tx == jadam.accumulate(jadam.adam(0.1), 2) == tx.gradient_transformation()
    assert repr(tx).startswith("accumulate(chain(scale_by_adam(")
    init, update = tx
    assert not jadam.has_updated(update(PARAMS, init(PARAMS), PARAMS)[1])
    assert set(jadam.with_precision(tx, state={"mean": "bfloat16"}).init(PARAMS).slots) == {"accumulate", "adam"}
    assert jadam.has_updated(jadam.flush(tx, *run(tx, PARAMS, [grads(0)])[::-1])[1])
