"""Formulas of rules, in the numbers where the plain ones fail."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jadam
from jadam._rule import DecayRate


def rate(b):
    return DecayRate(jnp.float32(1 - b))


@pytest.mark.parametrize("b", [0.0, 0.9, 0.999, 0.99999, 1 - 1e-7])
@pytest.mark.parametrize("t", [1, 2, 100, 100_000, 2**31 - 1])
def test_debias(b, t):
    exact = -math.expm1(t * math.log1p(-float(np.float32(1 - b)))) if b else 1.0
    assert float(rate(b).debias(jnp.float32(t))) == pytest.approx(exact, rel=4e-7)
    plain = 1 - jnp.float32(b) ** jnp.float32(t)
    if b == 0.99999 and t == 1:  # what the usual formula gives there
        assert abs(float(plain) / exact - 1) > 1e-4


def test_ema_weights_sum_to_one():
    """Of a constant, the average divided by `debias` is that constant; b*m + (1-b)*x in float32 drifts away."""
    average, plain = jnp.zeros(()), np.float32(0)
    for _ in range(5000):
        average = rate(0.999).ema(average, jnp.float32(1.0))
        plain = np.float32(0.999) * plain + np.float32(1 - np.float32(0.999)) * np.float32(1.0)
    corrected = float(average) / float(rate(0.999).debias(jnp.float32(5000)))
    assert corrected == pytest.approx(1.0, rel=2e-6)
    assert rate(0.99999).ema(jnp.float32(1.0), jnp.float32(1.0)) == 1.0


def test_value_of_a_decay():
    assert float(rate(0.9).value) == pytest.approx(0.9, rel=1e-7)


@pytest.mark.parametrize("pair", [(1, True), (True, 1), (0, False), (2, 2.0), ((1, 2), (True, 2)), ((0, (1,)), (0, (1.0,)))])
def test_options_that_only_python_calls_equal(pair):
    """The program of the first was run for the second."""

    @dataclasses.dataclass(frozen=True)
    class Tells(jadam.Rule):
        mode: Any = None

        def update(self, g, slots, p, h):
            return jnp.full_like(g, len(repr(self.mode))), slots

    params = {"w": jnp.ones(2)}
    one, two = (jadam.chain(Tells(mode)) for mode in pair)
    assert one != two
    assert one == jadam.chain(Tells(pair[0]))
    assert hash(one) == hash(jadam.chain(Tells(pair[0])))
    for compiled in (lambda f: f, jax.jit):
        for tx, mode in zip((one, two), pair, strict=True):
            updates, _ = compiled(tx.update)(params, tx.init(params), params)
            assert updates["w"][0] == len(repr(mode))
