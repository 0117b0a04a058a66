"""How much of a step there is to trace and to lower, before XLA starts."""

import jax
import optax
import pytest
from jax.extend.core import jaxprs_in_params
from test_cost import GPT2, clipped_adamw

import jadam


@pytest.mark.usefixtures("lenient")  # for optax
def test_a_clipped_step_is_traced_by_kinds_of_leaves():
    """Each equation costs time before XLA starts. There were 1586, and 1840 lines: squares of each vector for itself, twice."""
    params = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, "float32"), GPT2, is_leaf=lambda x: isinstance(x, tuple))
    counts, lines = {}, {}
    for lib in (jadam, optax):
        tx = clipped_adamw(lib)
        traced = jax.jit(tx.update).trace(params, jax.eval_shape(tx.init, params), params)
        found, waiting = {}, [traced.jaxpr.jaxpr]
        while waiting:
            one = waiting.pop()
            if id(one) not in found:
                found[id(one)] = one
                waiting += [inner for equation in one.eqns for inner in jaxprs_in_params(equation.params)]
        counts[lib], lines[lib] = sum(len(one.eqns) for one in found.values()), traced.lower().as_text().count("\n")
    own, other = counts.values()
    assert own <= 0.24 * other
    own, other = lines.values()
    assert own <= 0.17 * other
