"""Every optimizer can be differentiated: by its hyperparameters, at the edges of their ranges, and by where it starts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import OPTIMIZERS, is_finite

RNG = np.random.default_rng(0)
START = {"w": RNG.standard_normal((3, 4)), "b": RNG.standard_normal(5)}
TARGET = {"w": RNG.standard_normal((3, 4)), "b": RNG.standard_normal(5)}
OPTIONS = {"big_vision_adafactor": {"min_dim_size_to_factor": 2}}

JUMPS = {
    ("prodigy", "b1"): "without momentum the authors step by the new estimate, with it by the old",
}
"""Hyperparameters whose value at zero is no limit of the values around it."""


@functools.cache
def problem(name):
    """The loss after four steps and its derivatives, by hyperparameters, start, and what gradients are multiplied by."""
    tx = OPTIMIZERS[name](0.05, **OPTIONS.get(name, {}))
    start = {key: jnp.asarray(value) for key, value in START.items()}
    state = tx.init(start)

    def loss(hypers, params, weights):
        def step(carry, _):
            params, state = carry
            grads = jax.tree.map(lambda p, target, weight: weight * (p - target), params, TARGET, weights)
            return tx.step(grads, state, params), None

        (params, _), _ = jax.lax.scan(step, (params, state._replace(hyperparams=state.hyperparams | hypers)), None, length=4)
        return sum(jnp.sum((p - target) ** 2) for p, target in zip(*map(jax.tree.leaves, (params, TARGET)), strict=True))

    return state.hyperparams, start, jax.jit(jax.value_and_grad(loss, (0, 1)))


def dense():
    return jax.tree.map(jnp.ones_like, TARGET)


def central(f, x):
    e = 1e-4 * abs(x)
    return (f(x + e) - f(x - e)) / (2 * e)


def inward(f, x):
    """From the edge of a range, which nothing is beyond: of second order."""
    e = -1e-4 if x else 1e-9
    return (-3 * f(x) + 4 * f(x + e) - f(x + 2 * e)) / (2 * e)


def field(key):
    return key.rpartition(".")[2].removeprefix("one_minus_")


def edge(key):
    """Zero, as the state stores it."""
    return 1.0 if ".one_minus_" in key else 0.0


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.usefixtures("x64")
def test_derivatives_by_hyperparameters(name):
    """By every hyperparameter: at its default, and at zero (b1 = 0 is how GANs train, and was NaN)."""
    hypers, start, loss = problem(name)
    for key in hypers:
        for value in {float(hypers[key]), edge(key)}:
            at = lambda x, key=key: loss(hypers | {key: jnp.asarray(x)}, start, dense())  # noqa: E731
            slope = at(value)[1][0][key]
            assert jnp.isfinite(slope), (key, value)
            if value != edge(key) or (name, field(key)) not in JUMPS:
                difference = (inward if value == edge(key) else central)(lambda x: float(at(x)[0]), value)
                assert slope == pytest.approx(difference, rel=1e-3, abs=1e-4), (key, value)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.usefixtures("x64")
def test_where_no_gradient_is_the_derivative_is_finite(name):
    """A row that a batch does not touch: `sqrt(v)` has no derivative at zero, but `m / (sqrt(v) + eps)` has one."""
    hypers, start, loss = problem(name)
    untouched = dense() | {"w": jnp.ones((3, 4)).at[1].set(0)}
    for weights in (untouched, jax.tree.map(jnp.zeros_like, TARGET)):
        assert is_finite(loss(hypers, start, weights))


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.usefixtures("x64")
def test_the_start_can_be_differentiated(name):
    hypers, start, loss = problem(name)
    slope = loss(hypers, start, dense())[1][1]["w"][1, 2]
    at = lambda x: float(loss(hypers, start | {"w": start["w"].at[1, 2].set(x)}, dense())[0])  # noqa: E731
    assert slope == pytest.approx(central(at, float(start["w"][1, 2])), rel=1e-3, abs=1e-4)
