"""Errors inside `jit`, after which nothing is lost, and those that end in words of JAX."""

import jax
import jax.numpy as jnp
import pytest
from wrong_calls import PARAMS, STATE, TX, grads

import jadam

OTHERS_FOLLOW = {
    "adam_mini.init: blocks does not fit the parameters: ": lambda: jadam.adam_mini(1e-3, blocks={"other": (1,)}).init(PARAMS),
    "masked.init: the mask does not fit the parameters: ": lambda: jadam.masked(TX, {"other": True}).init(PARAMS),
}
"""JAX's own words, which change with its version, end these messages."""


@pytest.mark.parametrize("beginning", OTHERS_FOLLOW)
def test_error_that_ends_in_words_of_jax(beginning):
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the words are checked below)
        OTHERS_FOLLOW[beginning]()
    assert str(error.value).startswith(beginning)
    assert "dense" in str(error.value)


def test_the_same_words_inside_jit():
    step = jax.jit(lambda g, s, p: jadam.chain(TX).update(g, s, p))
    with pytest.raises(ValueError, match=r"chain\.update: the gradient at dense/kernel has shape \(3,\)"):
        step(grads(kernel=jnp.ones(3)), STATE, PARAMS)


def test_an_error_loses_nothing():
    with pytest.raises(ValueError, match="has shape"):
        TX.step(grads(kernel=jnp.ones(3)), STATE, PARAMS)
    moved, state = TX.step(PARAMS, STATE, PARAMS)
    assert state.count == 1
    assert moved["dense"]["kernel"].shape == (3, 1)


def test_rules_of_users_speak_of_themselves():
    class ScaleByMine(jadam.Rule):
        def update(self, g, slots, p, h):
            return g, slots

    assert repr(ScaleByMine()) == "scale_by_mine()"
    assert jadam.block(ScaleByMine)().name == "scale_by_mine"
