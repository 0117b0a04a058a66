"""Laws on trees, dtypes and chains that Hypothesis draws."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jadam

shapes = st.sampled_from([(), (1,), (3,), (2, 3), (0,), (2, 1, 3)])
dtypes = st.sampled_from(["float32", "bfloat16", "float16", "complex64", "int32", "bool"])
leaves = st.one_of(st.tuples(shapes, dtypes), st.none())


def nodes(inner):
    return st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3) | st.tuples(inner, inner)


def is_spec(node):
    return isinstance(node, tuple) and len(node) == 2 and isinstance(node[1], str)


def trains(tree):
    """What `init` accepts: something to train, or nothing at all; and not None, which says that there are no parameters."""
    dtypes = [dtype for _, dtype in jax.tree.leaves(tree, is_leaf=is_spec)]
    return tree is not None and (not dtypes or any(dtype not in ("int32", "bool") for dtype in dtypes))


trees = st.recursive(leaves, nodes, max_leaves=6).filter(trains)
blocks = st.sampled_from(
    [
        jadam.clip(0.5),
        jadam.clip_by_global_norm(0.7),
        jadam.scale_by_adam(),
        jadam.add_decayed_weights(0.1),
        jadam.trace(0.9, nesterov=True),
        jadam.scale(-0.1),
        jadam.scale_by_learning_rate(jadam.linear_schedule(0.1, 0.0, 5)),
        jadam.with_precision(jadam.scale_by_adam(), state="bfloat16"),
        jadam.set_to_zero(),
    ]
)
chains = st.lists(blocks, max_size=4).map(lambda some: jadam.chain(*some))
examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def fill(tree, seed):
    """Arrays for the (shape, dtype) pairs of a tree."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda spec: jnp.float32(rng.standard_normal(spec[0])).astype(spec[1]), tree, is_leaf=is_spec)


@pytest.mark.slow
@examples
@given(tree=trees, tx=chains)
def test_types_are_a_fixed_point(tree, tx):
    params, grads = fill(tree, 0), fill(tree, 1)
    state = tx.init(params)
    updates, after = tx.update(grads, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
    assert after.count == 1
    moved, stepped = tx.step(grads, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(moved, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(stepped, state)
    jadam.describe(tx, params)


@examples
@given(tree=trees, one=chains, two=chains, three=chains)
def test_chain_is_associative(tree, one, two, three):
    left, right = jadam.chain(jadam.chain(one, two), three), jadam.chain(one, jadam.chain(two, three))
    assert left == right
    assert hash(left) == hash(right)
    chex.assert_trees_all_equal(left.init(fill(tree, 0)), right.init(fill(tree, 0)))


@pytest.mark.slow
@examples
@given(tree=trees, tx=chains)
def test_a_group_of_all_is_the_whole_and_what_is_masked_out_is_untouched(tree, tx):
    params, grads = fill(tree, 0), fill(tree, 1)
    expected = tx.update(grads, tx.init(params), params)
    for same in (jadam.masked(tx, jadam.ndim_at_least(0)), jadam.partition([(True, tx)])):
        found = same.update(grads, same.init(params), params)
        chex.assert_trees_all_close(*(jax.tree.leaves(both[0]) for both in (found, expected)), rtol=1e-6)
        assert {key.removeprefix("0.") for key in found[1].slots} == set(expected[1].slots)
    mask = ~jadam.ndim_at_least(2)
    out = jadam.masked(tx, mask)
    updates, _ = out.update(grads, out.init(params), params)
    for keep, update, grad in zip(*map(jax.tree.leaves, (mask(params), updates, grads)), strict=True):
        if not keep and jnp.issubdtype(grad.dtype, jnp.inexact):
            chex.assert_trees_all_equal(update, grad)
