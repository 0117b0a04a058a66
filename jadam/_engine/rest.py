"""The rest of a computation: what is still to do for one of its results, when others are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import Array
from jax.extend.core import ClosedJaxpr, Var, jaxpr_as_fun


def rest_of(
    function: Callable[[Any], tuple[Array, list[Array]]], like: Any, lost: Sequence[int]
) -> Callable[[Any, list[Array]], Array] | None:
    """How the first result of a function is computed, by its operands and the other results, which are not computed again.

    Args:
        function: of a tree of arrays; it returns an array, and a list of others.
        like: the shapes and dtypes of its operands.
        lost: which operands will not be there, by their places among the leaves of the tree.

    Returns:
        The function; None if it needs an operand that will not be there.
    """
    trace = jax.make_jaxpr(function)(like)
    (first, *others), inputs = trace.jaxpr.outvars, trace.jaxpr.invars
    needed, equations = {first}, []
    for equation in reversed(trace.jaxpr.eqns):
        if any(x in needed and x not in others for x in equation.outvars):
            equations.insert(0, equation)
            needed |= {x for x in equation.invars if isinstance(x, Var)}
    if any(inputs[n] in needed for n in lost):
        return None
    given = {x: n for n, x in enumerate(others) if isinstance(x, Var) and x not in inputs}
    rest = trace.jaxpr.replace(invars=[*inputs, *given], outvars=[first], eqns=equations)
    compute = jaxpr_as_fun(ClosedJaxpr(rest, trace.consts))
    return lambda operands, known: compute(*jax.tree.leaves(operands), *(known[n] for n in given.values()))[0]
