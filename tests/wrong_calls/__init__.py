"""Wrong calls of the public API, with the whole message that each ends in. One module an area, found by the test."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

import jadam

PARAMS = {"dense": {"kernel": jnp.ones((3, 1)), "bias": jnp.ones(1)}}
TX = jadam.adamw(1e-3)
STATE = TX.init(PARAMS)
ADAM, SOAP, BIAS, ONES = jadam.adam(1.0), jadam.soap(1e-3), jadam.match("**/bias"), jnp.ones(3)

NEEDS_PARAMS = "needs the parameters; call update(grads, state, params), not update(grads, state)."
HUGE = 10**400
DIGITS = f"{str(HUGE)[:100]}..."
NO_FLOAT = f"{DIGITS}, which no float can represent"
STRUCTURE = "adamw.update: the gradients do not have the structure of the parameters: "
SAME_TREE = "Differentiate with respect to the same tree, or mask out what has no gradient."
TAKE_OUT = "which is not an array; take it out of the tree, or put None in its place."
NO_COMPLEX = "does not act on complex parameters, and w is complex64; mask it out."
FLOATS = "give a floating-point gradient, complex where the parameter is."
OTHER_STATE = "It was made for other parameters, another mask or another storage; call init with these."


def grads(**changes):
    return {"dense": PARAMS["dense"] | changes}


def update(**changes):
    return TX.update(grads(**changes), STATE, PARAMS)


class Always(jadam.Wrapper):
    """Runs the inside, as it would run without it."""

    def around(self, inside):
        return inside.run(inside.updates), {}, {}


class _Stranger(NamedTuple):
    """A pair of functions, as optax's are."""

    init: Callable
    update: Callable

    def __repr__(self):
        return "stranger"


PAIR = _Stranger(lambda params: (), lambda updates, state, params=None: (updates, state))


def traced(tx, params=PARAMS):
    """A first step, with the parameters as gradients."""
    return tx.update(params, tx.init(params), params)
