"""Every optimizer can be differentiated: by its hyperparameters, at the edges of their ranges, and by where it starts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import EACH, OPTIMIZERS, is_finite

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(0)
START, TARGET = ({"w": RNG.standard_normal((3, 4))} for _ in range(2))
OPTIONS = {"big_vision_adafactor": {"min_dim_size_to_factor": 2}}

ROUGH = {
    ("prodigy", "b1"): "without momentum the authors step by the new estimate, with it by the old",
    ("adadelta", "eps"): "the root of eps, which the first step is a multiple of, has no derivative at zero",
    ("adabelief", "b1"): "without momentum there is no distance to the average, and a step is one over eps",
    ("big_vision_adafactor", "beta2_cap"): "a kink: at the first step the cap is the decay",
    ("adabound", "learning_rate"): "the first that is not zero is what the bounds are in proportion to",
    ("laprop", "learning_rate"): "an average divided by that of the rates: 0 / 0",
    ("schedule_free_adamw", "learning_rate"): "the weights of the average are powers of it: 0 / 0",
    ("soap", "weight_decay"): "without it the gradients of this problem stay diagonal in their first basis: elements appear",
    ("stable_adamw", "b2"): "a kink: the root mean square is 1, where clipping begins",
}
"""Hyperparameters that the mathematics gives no derivative at zero; there it is finite all the same."""


@functools.cache
def problem(name):
    """The loss after four steps and its derivatives, by hyperparameters, start, and what gradients are multiplied by."""
    tx = OPTIMIZERS[name](0.05, **OPTIONS.get(name, {}))
    start = {key: jnp.asarray(value) for key, value in START.items()}
    hypers = tx.init(start).hyperparams

    def loss(hypers, params, weights):
        def step(carry, _):
            params, state = carry
            grads = jax.tree.map(lambda p, target, weight: weight * (p - target), params, TARGET, weights)
            return tx.step(grads, state, params), None

        state = tx.init(params)
        state = state._replace(hyperparams=state.hyperparams | hypers)
        (params, _), _ = jax.lax.scan(step, (params, state), None, length=4)
        return sum(jnp.sum((p - target) ** 2) for p, target in zip(*map(jax.tree.leaves, (params, TARGET)), strict=True))

    return hypers, start, jax.jit(jax.value_and_grad(loss, (0, 1)))


def dense():
    return jax.tree.map(jnp.ones_like, TARGET)


def central(f, x):
    """A difference, and how far the rounding of `f` may put it off."""
    e = 1e-4 * abs(x)
    return (f(x + e) - f(x - e)) / (2 * e), 1e-13 * abs(f(x)) / e


def inward(f, x):
    """From the edge of a range, which nothing is beyond: of second order."""
    e = -1e-7 if x else 1e-9
    return (-3 * f(x) + 4 * f(x + e) - f(x + 2 * e)) / (2 * e), 1e-13 * abs(f(x) / e)


def field(key):
    return key.rpartition(".")[2].removeprefix("one_minus_")


def edge(key):
    """Zero, as the state stores it."""
    return 1.0 if ".one_minus_" in key else 0.0


def allows_zero(name):
    """The hyperparameters whose range has zero."""
    rules = [place.part.rule for place in OPTIMIZERS[name](0.05).recipe.all]
    return {hyper.name for rule in rules for hyper in rule.hypers if hyper.allowed.holds(0.0)}


@pytest.mark.parametrize("name", EACH)
@pytest.mark.usefixtures("x64")
def test_derivatives_by_hyperparameters(name):
    """At its default, and at zero where that is allowed: b1 = 0 is how GANs train, and was NaN."""
    hypers, start, loss = problem(name)

    def at(key, x):
        return loss(hypers | {key: jnp.asarray(x)}, start, dense())

    def loss_at(key, x):
        return float(at(key, x)[0])

    for key in hypers:
        for value in {float(hypers[key]), *([edge(key)] if field(key) in allows_zero(name) else [])}:
            slope = at(key, value)[1][0][key]
            assert jnp.isfinite(slope), (key, value)
            if value != edge(key) or (name, field(key)) not in ROUGH:
                difference, off = (inward if value == edge(key) else central)(functools.partial(loss_at, key), value)
                assert slope == pytest.approx(difference, rel=1e-3, abs=1e-4 + off), (key, value)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.usefixtures("x64")
def test_where_no_gradient_is_the_derivative_is_finite(name):
    """A row that a batch does not touch: `sqrt(v)` has no derivative at zero, but `m / (sqrt(v) + eps)` has one."""
    hypers, start, loss = problem(name)
    untouched = {"w": jnp.ones((3, 4)).at[1].set(0)}
    for weights in (untouched, jax.tree.map(jnp.zeros_like, TARGET)):
        assert is_finite(loss(hypers, start, weights))


@pytest.mark.parametrize("name", EACH)
@pytest.mark.usefixtures("x64")
def test_derivatives_by_the_start(name):
    hypers, start, loss = problem(name)
    slope = loss(hypers, start, dense())[1][1]["w"][1, 2]

    def loss_at(x):
        return float(loss(hypers, {"w": start["w"].at[1, 2].set(x)}, dense())[0])

    assert slope == pytest.approx(central(loss_at, float(start["w"][1, 2]))[0], rel=1e-3, abs=1e-4)
