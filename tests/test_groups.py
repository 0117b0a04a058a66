"""Masks and groups: who is selected, what is kept for whom, and what is said when a pattern or a label is wrong."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import NAMESPACE

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


def rates(state):
    return {name: float(value) for name, value in jadam.hyperparams(state).items() if "learning_rate" in name}


def test_groups_have_names():
    """`set_hyperparams(learning_rate=...)` set the first group alone, and a group in front renumbered all names."""
    layers = jadam.match("layers/**")
    tx = jadam.partition([(jadam.match("embed/**"), jadam.sgd(1.0)), (layers, jadam.sgd(2.0), "body"), (True, jadam.sgd(3.0))])
    state = tx.init(PARAMS)
    assert rates(state) == {"0.learning_rate": 1.0, "body.learning_rate": 2.0, "2.learning_rate": 3.0}
    changed = tx.set_hyperparams(state, **{"body.learning_rate": 0.0, "0.learning_rate": 4.0})
    assert rates(changed) == {"0.learning_rate": 4.0, "body.learning_rate": 0.0, "2.learning_rate": 3.0}
    updates, _ = tx.update(GRADS, changed, PARAMS)
    assert jadam.global_norm(updates["layers"]) == 0
    assert (updates["embed"]["table"] == -2).all()
    assert repr(tx).endswith(
        "scale_by_learning_rate(learning_rate=2.0), 'body'), (True, scale_by_learning_rate(learning_rate=3.0))])"
    )
    assert eval(repr(tx), {**NAMESPACE}) == tx
    described = jadam.describe(tx, PARAMS)
    for group in ("0 = match('embed/**')", "body = match('layers/**')", "2 = everything else"):
        assert f"\n{group}: learning_rate\n" in described
    same = jadam.partition(
        [(jadam.match("embed/**"), jadam.sgd(1.0), "0"), (layers, jadam.sgd(2.0), "body"), (True, jadam.sgd(3.0))]
    )
    assert same == tx


def test_names_of_groups_in_groups_and_of_alike_rules():
    inner = jadam.partition([(jadam.match("layers/0/**"), jadam.sgd(1.0)), (True, jadam.chain(jadam.sgd(2.0), jadam.sgd(3.0)))])
    tx = jadam.partition([(jadam.match("layers/**"), inner), (True, inner, "rest")])
    with pytest.raises(ValueError, match=r"match\('layers/0/\*\*'\) matches no parameter"):
        tx.init({"layers": [{}, PARAMS["layers"][1]], "norm": PARAMS["norm"]})
    state = tx.init(PARAMS)
    names = ["0.learning_rate", "1.learning_rate_0", "1.learning_rate_1"]
    assert list(rates(state)) == [f"{group}.{name}" for group in ("0", "rest") for name in names]
    for name in rates(state):
        changed = rates(tx.set_hyperparams(state, **{name: 7.0}))
        assert {one for one in changed if changed[one] == 7.0} == {name}


ODD_NAMES = [
    "a.b",
    "0",
    "1",
    "a_1",
    "a",
    "adam",
    "learning_rate",
    "one_minus_b2",
    "a b",
    "ä/ö",
    "eps",
    "adam.eps",
    ".given",
    "slots",
]


def test_names_of_groups_may_be_anything():
    """Labels were read as rules, numbers and complements."""
    params = {str(n): jnp.ones(n + 1) for n in range(len(ODD_NAMES))}
    labels = dict(zip(params, ODD_NAMES, strict=True))
    txs = {name: jadam.adam(n + 1.0, b2=0.5 + n / 100) for n, name in enumerate(ODD_NAMES)}
    by_mask = jadam.partition([(jadam.match(key), txs[name], name) for key, name in labels.items()])
    for tx in (by_mask, jadam.partition(txs, labels)):
        state = tx.init(params)
        found = jadam.hyperparams(state)
        assert len(found) == len(state.hyperparams) == 5 * len(ODD_NAMES)
        for n, name in enumerate(ODD_NAMES):
            assert float(found[f"{name}.learning_rate"]) == n + 1
            assert float(found[f"{name}.adam.b2"]) == pytest.approx(0.5 + n / 100)
        changed = tx.set_hyperparams(state, **{f"{name}.learning_rate": 0.0 for name in ODD_NAMES[1:]})
        moved = tx.update(params, changed, params)[0]
        assert [bool(moved[key].any()) for key in params] == [True] + [False] * (len(ODD_NAMES) - 1)
        assert set(state.slots) == {f"{name}.adam" for name in ODD_NAMES}


def test_a_label_and_a_rule_of_one_name_share_no_hyperparameter():
    """`adam.learning_rate` was of the group `adam`, and of the rule `adam`, at once."""

    @dataclasses.dataclass(frozen=True)
    class Adam(jadam.Rule):
        learning_rate: jadam.NonNegative = 3.0

        def update(self, g, slots, p, h):
            return h.learning_rate * g, slots

    tx = jadam.chain(jadam.partition([(True, jadam.sgd(2.0), "adam")]), Adam())
    state = tx.init(PARAMS)
    assert sorted(map(float, state.hyperparams.values())) == [2.0, 3.0]
    assert sorted(rates(state).values()) == [2.0, 3.0]
    chex.assert_trees_all_close(tx.update(GRADS, state, PARAMS)[0], jax.tree.map(lambda g: -6.0 * g, GRADS))


def test_a_rule_whose_name_ends_with_a_number():
    class Scale2(jadam.Rule):
        def update(self, g, slots, p, h):
            return 2 * g, slots

    @dataclasses.dataclass(frozen=True)
    class Learning_Rate_1(jadam.Rule):
        learning_rate: jadam.NonNegative = 5.0
        b: jadam.NonNegative = 6.0
        b_1: jadam.NonNegative = 7.0

        def update(self, g, slots, p, h):
            return h.learning_rate * g, slots

    tx = jadam.chain(jadam.sgd(1.0), Learning_Rate_1(), jadam.sgd(2.0), Scale2(), Scale2())
    found = jadam.hyperparams(tx.init(PARAMS))
    assert sorted(map(float, found.values())) == [1.0, 2.0, 5.0, 6.0, 7.0]
    for name in found:
        changed = jadam.hyperparams(tx.set_hyperparams(tx.init(PARAMS), **{name: 9.0}))
        assert [other for other in changed if changed[other] == 9.0] == [name]

    @dataclasses.dataclass(frozen=True)
    class Complement(jadam.Rule):
        one_minus_x: jadam.NonNegative = 0.1

        def update(self, g, slots, p, h):
            return g, slots

    with pytest.raises(ValueError, match="one_minus_x: this is how the state calls a Decay"):
        Complement()


def test_no_groups():
    """Gradients passed through, and `params + updates` climbed."""
    for build in (lambda: jadam.partition([]), lambda: jadam.partition({}, {"w": "a"}), lambda: jadam.partition(())):
        with pytest.raises(ValueError, match="there are no groups"):
            build()


def test_groups_from_an_iterator():
    pairs = [(jadam.match("embed/**"), jadam.freeze()), (True, jadam.sgd(1.0))]
    assert (
        jadam.partition(iter(pairs)) == jadam.partition(zip(*zip(*pairs, strict=True), strict=True)) == jadam.partition(pairs)
    )


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
