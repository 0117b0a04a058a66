"""Masks: what counts as one, and what they say of paths."""

import re
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jadam

PARAMS = {"dense": {"kernel": jnp.ones((3, 1)), "bias": jnp.ones(1)}, "scale": jnp.ones(2)}
FITS = {"dense": {"kernel": True, "bias": False}, "scale": False}


def chosen(mask, params: Any = PARAMS):
    """The shapes of what a mask selects in `masked`."""
    slots = jadam.masked(jadam.scale_by_lion(), mask).init(params).slots
    return [x.shape for x in jax.tree.leaves(slots)]


def true(kind):
    return jax.tree.map(kind, FITS)


@pytest.mark.parametrize("kind", [bool, np.bool_, jnp.asarray, np.asarray])
def test_bools_of_any_kind(kind):
    """A mask computed with numpy or JAX, outside of jit."""
    given = true(kind)
    for mask in (given, lambda params: given):
        assert chosen(mask) == [(3, 1)]
    assert len(chosen(kind(True))) == 3
    assert chosen({"dense": kind(True), "scale": kind(False)}) == [(1,), (3, 1)]
    assert jadam.masked(jadam.sgd(1.0), true(kind)) == jadam.masked(jadam.sgd(1.0), FITS)
    assert hash(jadam.masked(jadam.sgd(1.0), true(kind))) == hash(jadam.masked(jadam.sgd(1.0), FITS))


class Layer(eqx.Module):
    """A tree that can be called: of arrays as parameters, of bools as a mask."""

    kernel: Any
    bias: Any

    def __call__(self, x):
        return x @ self.kernel + self.bias


def test_a_tree_that_can_be_called_is_a_tree():
    """A mask shaped like a module was called with the parameters."""
    params = Layer(jnp.ones((3, 1)), jnp.ones(1))
    assert chosen(Layer(True, False), params) == [(3, 1)]
    assert chosen(jadam.match("bias"), params) == [(1,)]
    assert chosen(lambda params: Layer(False, True), params) == [(1,)]
    groups = jadam.partition({"a": jadam.sgd(1.0), "b": jadam.freeze()}, Layer("a", "b"))
    moved = groups.update(params, groups.init(params), params)[0]
    assert (moved.kernel == -1).all()
    assert not moved.bias.any()
    blocks = jadam.adam_mini(0.1, blocks=Layer((3, 1), (1,)))
    assert len(blocks.init(params).slots["adam_mini"]) == 2


def test_functions_that_are_trees():
    """`jax.tree_util.Partial` is a pytree, and made to be called."""
    by_rank = jax.tree_util.Partial(lambda least, params: jax.tree.map(lambda x: x.ndim >= least, params), 2)
    assert chosen(by_rank) == [(3, 1)]


def test_masks_combine_with_what_can_be_one():
    kernel = jadam.match("**/kernel")
    for either in (kernel | {"dense": False, "scale": True}, {"dense": False, "scale": True} | kernel):
        assert len(chosen(either)) == 2
    assert chosen(FITS & kernel) == chosen(kernel & FITS) == [(3, 1)]
    assert chosen(False | kernel) == chosen(True & kernel) == [(3, 1)]
    assert jadam.ndim_at_least(np.int64(2)) == jadam.ndim_at_least(2)


def test_a_mask_is_asked_once_for_each_structure():
    asked = []

    def mask(params):
        asked.append(jax.tree.map(jnp.shape, params))
        return FITS

    tx = jadam.chain(jadam.adamw(1e-3, mask=mask), jadam.masked(jadam.sgd(0.1), mask))
    for _ in range(3):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert len(asked) == 2  # once in each of its places
    tx.init(PARAMS | {"scale": jnp.ones(5)})
    assert len(asked) == 4


class Attention(NamedTuple):
    query: Any
    value: Any


class Value(NamedTuple):
    value: Any


class Critic(eqx.Module):
    value: Any
    raw_value: Any = None


ONE = jnp.ones(2)
NAMES = {
    "a field among others": (Attention(ONE, ONE), ["query", "value"]),
    "a field alone": ({"head": Value(ONE)}, ["head/value"]),
    "a field of a module": (Critic(ONE, {"value": ONE}), ["value", "raw_value/value"]),
    "fields in fields": (Value(Value(ONE)), ["value/value"]),
    "a key": ({"value": ONE, "codes": ONE}, ["codes", "value"]),
    "a box of nnx": ({"k": nnx.Param(ONE)}, ["k"]),
    "a box called value": ({"value": nnx.Param(ONE)}, ["value"]),
    "a box in a field": (Attention(nnx.Param(ONE), ONE), ["query", "value"]),
    "a box around fields": ({"k": nnx.Param(Attention(ONE, ONE))}, ["k/query", "k/value"]),
    "a box of linen": ({"k": nn.Partitioned(ONE, ("a",)), "b": ONE}, ["b", "k"]),
    "boxes in boxes": ({"k": nn.Partitioned(nn.Partitioned(ONE, ("a",)), ("b",))}, ["k"]),
    "a box alone": (nnx.Param(ONE), ["."]),
    "an array alone": (ONE, ["."]),
    "numbers": ({0: [ONE, ONE]}, ["0/0", "0/1"]),
    "odd characters": ({"a b.c[*]?": ONE, "ä\nö": ONE}, ["a b.c[*]?", "ä\nö"]),
}


@pytest.mark.parametrize("kind", NAMES)
def test_names_of_leaves(kind):
    """A field called `value` vanished from the path, since flax's boxes have one."""
    params, names = NAMES[kind]
    for name in names:
        mask = jadam.match("" if name == "." else name)(params)
        assert sum(map(bool, jax.tree.leaves(mask))) == 1
    assert jax.tree.leaves(jadam.match("**")(params)) == [True] * len(names)
    if "\n" not in "".join(names):
        table = jadam.describe(jadam.sgd(0.1), params, fold=False).split("\n\n")[0]
        assert [re.split(" {2,}", line)[0] for line in table.split("\n")[1:]] == names


def test_paths_that_are_written_alike_are_selected_together():
    """A key of haiku's has slashes in it, and reads as keys in keys do."""
    params = {"a/b": jnp.ones(2), "a": {"b": jnp.ones(3), "c": jnp.ones(4)}}
    assert chosen(jadam.match("a/b"), params) == [(3,), (2,)]
    assert len(chosen(jadam.match("a/*"), params)) == 3
    assert chosen(~jadam.match("a/b"), params) == [(4,)]
