"""Masks and groups: who is selected, what is kept for whom, and what is said when a pattern or a label is wrong."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jadam

PARAMS = {
    "embed": {"table": jnp.ones((5, 3))},
    "layers": [{"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)}, {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)}],
    "norm": {"scale": jnp.ones(2)},
}
GRADS = jax.tree.map(lambda x: 0.5 * x, PARAMS)
PATHS = ["embed/table", "layers/0/bias", "layers/0/kernel", "layers/1/bias", "layers/1/kernel", "norm/scale"]


def first_updates(tx):
    return tx.update(GRADS, tx.init(PARAMS), PARAMS)[0]


def chosen(mask):
    return {path for path, value in zip(PATHS, jax.tree.leaves(mask(PARAMS)), strict=True) if value}


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (jadam.match("embed/table"), {"embed/table"}),
        (jadam.match("**/bias"), {"layers/0/bias", "layers/1/bias"}),
        (jadam.match("layers/**"), {path for path in PATHS if path.startswith("layers")}),
        (jadam.match("layers/*/bias", "norm/*"), {"layers/0/bias", "layers/1/bias", "norm/scale"}),
        (jadam.match("layers/?/k*"), {"layers/0/kernel", "layers/1/kernel"}),
        (jadam.match("**"), set(PATHS)),
        (jadam.match("**/layers/0/**"), {"layers/0/bias", "layers/0/kernel"}),
        (jadam.ndim_at_least(2), {"embed/table", "layers/0/kernel", "layers/1/kernel"}),
        (~jadam.ndim_at_least(2), {"layers/0/bias", "layers/1/bias", "norm/scale"}),
        (jadam.match("layers/**") & jadam.ndim_at_least(2), {"layers/0/kernel", "layers/1/kernel"}),
        (jadam.match("norm/**") | jadam.match("embed/**"), {"norm/scale", "embed/table"}),
        (jadam.match("layers/**") & ~jadam.match("**/bias") & True, {"layers/0/kernel", "layers/1/kernel"}),
        (jadam.match("norm/**") | (lambda params: jax.tree.map(lambda x: x.ndim == 1, params)),
         {"layers/0/bias", "layers/1/bias", "norm/scale"}),
    ],
)  # fmt: skip
def test_masks_select(mask, expected):
    assert chosen(mask) == expected


def test_masks_are_values():
    one, two = (jadam.match("**/bias") & ~jadam.ndim_at_least(2) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert repr(one) == "(match('**/bias') & ~ndim_at_least(2))"
    assert one != jadam.match("**/bias")


def test_a_pattern_that_matches_nothing_names_what_there_is():
    """A typo in a pattern would otherwise silently decay the biases."""
    tx = jadam.adamw(1e-3, mask=~jadam.match("**/biass"))
    with pytest.raises(ValueError, match=r"adamw\.init: match\('\*\*/biass'\) matches no parameter; there are .*layers/0/bias"):
        tx.init(PARAMS)
    with pytest.raises(ValueError, match=r"match\('\*/bias'\) matches no parameter"):  # a star stays within a key
        jadam.match("*/bias")(PARAMS)


@pytest.mark.parametrize(
    "mask",
    [
        jadam.match("layers/**"),
        {"embed": False, "layers": True, "norm": False},  # a prefix
        lambda params: {"embed": False, "layers": jax.tree.map(lambda x: True, params["layers"]), "norm": {"scale": False}},
    ],
    ids=["match", "prefix", "function"],
)
def test_masked_keeps_nothing_for_the_others(mask):
    tx = jadam.masked(jadam.adam(0.1), mask)
    state = tx.init(PARAMS)
    assert state.slots["adam"]["mu"]["embed"] == {"table": None}
    updates, after = tx.update(GRADS, state, PARAMS)
    chex.assert_trees_all_equal(updates["embed"], GRADS["embed"])
    chex.assert_trees_all_equal_structs(state, after)
    alone, _ = jadam.adam(0.1).update(GRADS["layers"], jadam.adam(0.1).init(PARAMS["layers"]), PARAMS["layers"])
    chex.assert_trees_all_equal(updates["layers"], alone)


def test_masked_by_all_is_the_transformation():
    tx = jadam.adamw(0.1)
    one = jadam.partition([(True, tx)])
    chex.assert_trees_all_equal(first_updates(one), first_updates(tx))
    assert jadam.masked(tx, True) == tx
    assert jadam.masked(tx, jadam.ndim_at_least(0) | True).init(PARAMS)._fields == tx.init(PARAMS)._fields
    nothing = jadam.masked(tx, False)
    chex.assert_trees_all_equal(first_updates(nothing), GRADS)
    assert not jax.tree.leaves(nothing.init(PARAMS).slots)


def test_partition_applies_the_first_that_matches():
    frozen, matrices = jadam.match("embed/**"), jadam.ndim_at_least(2)
    tx = jadam.partition([(frozen, jadam.freeze()), (matrices, jadam.sgd(0.1)), (True, jadam.sgd(1.0))])
    expected = jax.tree.map(lambda g: -0.1 * g if g.ndim == 2 else -1.0 * g, GRADS) | {"embed": {"table": jnp.zeros((5, 3))}}
    chex.assert_trees_all_close(first_updates(tx), expected, rtol=1e-6)


@pytest.mark.usefixtures("lenient")
def test_partition_by_labels_equals_optax():
    labels = {"embed": "slow", "layers": "fast", "norm": "slow"}
    ours = jadam.partition({"slow": jadam.adam(1e-3), "fast": jadam.adam(1e-1), "unused": jadam.sgd(1.0)}, labels)
    theirs = optax.partition({"slow": optax.adam(1e-3), "fast": optax.adam(1e-1)}, labels)
    state, other = ours.init(PARAMS), theirs.init(PARAMS)
    for _ in range(3):
        updates, state = ours.update(GRADS, state, PARAMS)
        expected, other = theirs.update(GRADS, other, PARAMS)
    chex.assert_trees_all_close(updates, expected, rtol=1e-5)
    assert jadam.hyperparams(state)["slow.learning_rate"] == np.float32(1e-3)
    changed = ours.set_hyperparams(state, **{"fast.learning_rate": 0.0})
    moved = ours.update(GRADS, changed, PARAMS)[0]
    assert jadam.global_norm(moved["layers"]) == 0
    assert jadam.global_norm(moved["norm"]) > 0


def test_partitions_in_partitions_and_opaque_groups():
    by_rank = functools.partial(jax.tree.map, lambda x: "ab"[x.ndim - 1])
    inner = jadam.partition({"a": optax.sgd(1.0), "b": jadam.sgd(2.0)}, by_rank)
    tx = jadam.partition([(jadam.match("layers/**"), inner), (True, jadam.freeze())])
    with pytest.raises(ValueError, match=r"no mask covers the parameter at embed/table"):
        jadam.partition([(jadam.match("layers/**"), inner)]).init(PARAMS)
    updates = first_updates(tx)
    chex.assert_trees_all_close(updates["layers"][0], {"kernel": jnp.full((3, 3), -1.0), "bias": jnp.full(3, -0.5)})
    assert jadam.global_norm(updates["embed"]) == 0


def test_a_clip_outside_stays_global():
    groups = jadam.partition([(jadam.match("embed/**"), jadam.sgd(1.0)), (True, jadam.sgd(1.0))])
    assert float(jadam.global_norm(first_updates(jadam.chain(jadam.clip_by_global_norm(1.0), groups)))) == pytest.approx(
        1.0, 1e-6
    )


def test_freeze():
    updates = first_updates(jadam.chain(jadam.adam(0.1), jadam.freeze(jadam.match("embed/**"))))
    assert jadam.global_norm(updates["embed"]) == 0
    assert jadam.global_norm(updates["norm"]) > 0
    assert not jax.tree.leaves(jadam.freeze().init(PARAMS).slots)


def test_a_mask_that_depends_on_values_is_refused():
    tx = jadam.masked(jadam.sgd(1.0), lambda params: jax.tree.map(lambda x: x.sum() > 0, params))
    with pytest.raises(ValueError, match=r"traced at embed/table; it may depend on structure, paths, shapes and dtypes"):
        tx.init(PARAMS)


def test_equal_rules_of_two_groups_are_traced_once():
    """The trace of a leaf does not depend on which group it is in."""
    traces = []

    class Counting(jadam.Rule):
        def update(self, g, slots, p, h):
            traces.append(g.shape)
            return g, slots

    tx = jadam.partition([(jadam.match("layers/0/**"), jadam.chain(Counting())), (True, jadam.chain(Counting()))])
    state = tx.init(PARAMS)
    jax.jit(tx.update).lower(GRADS, state, PARAMS)
    assert sorted(traces) == [(2,), (3,), (3, 2), (3, 3), (5, 3)]


@pytest.mark.parametrize("read", [bool, float, np.asarray, lambda x: x.item()], ids=["if", "float", "numpy", "item"])
def test_a_mask_that_reads_values_is_refused(read):
    """It would answer otherwise when the run resumes with trained parameters, or not at all under `jit`."""
    params = {"w": jnp.ones(()), "b": -jnp.ones(())}
    tx = jadam.masked(jadam.adam(1e-3), lambda params: jax.tree.map(lambda x: bool(read(x) > 0), params))
    words = "the mask reads the values of the parameters; it may depend on structure, paths, shapes and dtypes"
    state = tx.init(params)  # where there is an answer
    for refuse in (lambda: tx.update(params, state, params), lambda: jax.jit(tx.init)(params)):
        with pytest.raises(ValueError, match=words):
            refuse()
