"""Multipliers by parameter: which factor a parameter has, what it scales, and how `describe` shows it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import run

import jadam

ONES = jnp.ones((4, 2))
PARAMS = {"embed": ONES, "layers": [{"kernel": ONES, "bias": jnp.ones(2)}, {"kernel": ONES, "bias": jnp.ones(2)}], "head": ONES}
BIAS, FIRST = jadam.match("**/bias"), jadam.match("layers/0/**")


def moved(factors):
    """By what each parameter moves where a gradient of one would move it by one."""
    found, _ = run(jadam.chain(jadam.sgd(1.0), jadam.scale_by_path(factors)), PARAMS, [PARAMS])
    return jax.tree.map(lambda new, old: float((old - new).mean()), found, PARAMS)


def test_the_first_match_counts_and_others_stay():
    assert moved([(BIAS, 2.0), (FIRST, 0.5), (jadam.match("head"), 0.0)]) == {
        "embed": 1.0,
        "layers": [{"kernel": 0.5, "bias": 2.0}, {"kernel": 1.0, "bias": 2.0}],
        "head": 0.0,
    }


def test_a_function_of_the_parameters():
    """The width rule of muP for Adam: matrices by their inputs, a prefix for the rest."""
    found = moved(lambda params: {"embed": 1.0, "layers": [0.25, 4 / params["layers"][1]["kernel"].shape[0]], "head": 3})
    assert found == {"embed": 1.0, "layers": [{"kernel": 0.25, "bias": 0.25}, {"kernel": 1.0, "bias": 1.0}], "head": 3.0}


def test_the_decay_after_it_stays():
    """Before `add_decayed_weights` the decay is not scaled, after the learning rate it is."""
    half, decay, rate = jadam.scale_by_path([(True, 0.5)]), jadam.add_decayed_weights(0.2), jadam.scale_by_learning_rate(1.0)
    for tx, expected in ((jadam.chain(half, decay, rate), 0.5 + 0.2), (jadam.chain(decay, rate, half), 0.5 * 1.2)):
        np.testing.assert_allclose(run(tx, ONES, [ONES])[0], 1 - expected, rtol=1e-6)


def test_described():
    text = jadam.describe(jadam.chain(jadam.sgd(1.0), jadam.scale_by_path([(FIRST, 0.5), (BIAS, 0.25)])), PARAMS)
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    groups = {
        name: line.split(": ")[1]
        for name, line in ((line.split(":")[0], line) for line in text.splitlines() if ": learn" in line)
    }
    assert sorted(groups.values()) == [f"learning_rate, path x{factor}" for factor in ("0.25", "0.5", "1")]
    assert rows["layers/0/bias"].split()[3] == rows["layers/0/kernel"].split()[4] != rows["layers/1/bias"].split()[3]


def test_one_rule_and_nothing_in_the_state():
    tx = jadam.chain(jadam.sgd(1.0), jadam.scale_by_path([(FIRST, 0.5), (BIAS, 0.25)]))
    assert set(jadam.hyperparams(tx.init(PARAMS))) == {"learning_rate"}
    assert tx == jadam.chain(jadam.sgd(1.0), jadam.scale_by_path([(FIRST, 0.5), (BIAS, 0.25)]))
    assert tx != jadam.chain(jadam.sgd(1.0), jadam.scale_by_path([(FIRST, 0.5), (BIAS, 0.5)]))


def test_a_pattern_that_matches_nothing():
    with pytest.raises(ValueError, match="matches no parameter"):
        moved([(jadam.match("**/scale"), 0.5)])


def test_values_are_not_read():
    with pytest.raises(TypeError, match=r"the factor at embed is .*; give a finite number"):
        moved(lambda params: jax.tree.map(jnp.max, params))
