"""A run goes on under another transformation, and the report names what is kept, new and dropped."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from migrating import (
    ADAM,
    COSINE,
    LOW,
    PARAMS,
    RATE,
    assert_nothing_is_silent,
    begun,
    go_on,
    run_from,
    with_precision,
)
from support import EACH, OPTIMIZERS, EverySecond, eight_devices

import jadam

# Before, after, and a third in whose state the run would be if it had always been the one after.
EDITS = {
    "clip added": (ADAM, jadam.chain(jadam.clip_by_global_norm(1e6), ADAM)),
    "clip removed": (jadam.chain(jadam.clip_by_global_norm(1e6), ADAM), ADAM),
    "schedule for a number": (ADAM, jadam.adam(jadam.constant_schedule(RATE))),
    "number for a schedule": (jadam.adam(jadam.constant_schedule(RATE)), ADAM),
    "adam to adamw": (ADAM, jadam.adamw(RATE, weight_decay=0.0)),
    "adamw to adam": (jadam.adamw(RATE, weight_decay=0.0), ADAM),
    "wrapped": (ADAM, jadam.loss_scale(ADAM, init_scale=1.0)),
    "unwrapped": (jadam.loss_scale(ADAM, init_scale=1.0), ADAM),
    "into groups": (ADAM, jadam.partition([(jadam.match("a"), ADAM, "body"), (True, ADAM, "head")])),
    "out of groups": (jadam.partition([(jadam.match("a"), ADAM, "body"), (True, ADAM, "head")]), ADAM),
    "float32 for float32": (with_precision(ADAM, "float32"), ADAM),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edits_that_change_no_number(edit):
    """Bit for bit the run that had always been under the later transformation, its count and its bias correction too."""
    before, after = EDITS[edit]
    params, old = begun(before)
    expected_params, expected = begun(after)
    chex.assert_trees_all_equal(params, expected_params)
    state, report = jadam.migrate(old, after, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, expected)
    chex.assert_trees_all_equal(state.slots, expected.slots)
    found, wanted = go_on(after, state, params), go_on(after, expected, params)
    chex.assert_trees_all_equal((found[0], found[1].count), (wanted[0], wanted[1].count))
    assert_nothing_is_silent(report, old, state)
    chex.assert_trees_all_equal(jadam.migrate(jadam.to_dict(old), after, params)[0], state)  # also from a file
    fresh, _ = go_on(after, after.init(params), params)  # a state that begins anew would not do
    assert not np.allclose(fresh["a"], wanted[0]["a"], rtol=1e-6)


@pytest.mark.parametrize("storage", [("float32", "int8"), ("int8", "float32"), ("float32", "bfloat16"), ("bfloat16", "int8")])
def test_storages_of_slots(storage):
    before, after = (with_precision(ADAM, one) for one in storage)
    params, old = begun(before)
    state, report = jadam.migrate(old, after, params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, after.init(params))
    assert state.count == 5
    reference, _ = go_on(before, old, params)
    found, _ = go_on(after, state, params)
    moved = float(jnp.max(jnp.abs(reference["a"] - params["a"])))
    assert float(jnp.max(jnp.abs(found["a"] - reference["a"]))) < 0.1 * moved
    assert not report.dropped.keys() - {"slots/adam/mu.scales/a", "slots/adam/nu.scales/a"}
    assert "became" in report.kept["slots/adam/mu/a"]
    assert "int8[64,2]" in str(report) or "bfloat16[64,2]" in str(report)
    assert_nothing_is_silent(report, old, state)


def test_numbers_set_by_hand_stay_or_are_named():
    params, old = begun(ADAM)
    old = ADAM.set_hyperparams(old, learning_rate=0.5, b1=0.7)
    state, report = jadam.migrate(old, jadam.adamw(0.1), params)
    assert jadam.hyperparams(go_on(jadam.adamw(0.1), state, params)[1])["learning_rate"] == 0.5
    assert report.kept["hyperparams/learning_rate"] == "set by hand to 0.5"
    state, report = jadam.migrate(old, jadam.sgd(COSINE), params)
    assert jadam.hyperparams(state)["learning_rate"] == np.float32(RATE)
    assert report.dropped["hyperparams/learning_rate"] == "set by hand to 0.5, and now a schedule drives it"
    assert report.dropped["hyperparams/adam.one_minus_b1"] == "set by hand to 0.3"
    assert_nothing_is_silent(report, old, state)


def test_a_schedule_goes_on():
    tx, after = jadam.sgd(COSINE, momentum=0.9), jadam.chain(jadam.clip(1e6), jadam.sgd(COSINE, momentum=0.9))
    params, old = begun(tx)
    state, _ = jadam.migrate(old, after, params)
    chex.assert_trees_all_equal(go_on(after, state, params)[0], go_on(tx, old, params)[0])


# Groups, and counts of their own


def grouped(*names):
    return jadam.partition({name: jadam.adam(COSINE) for name in names}, {"a": "old", "b": names[-1]})


def test_a_group_that_joins_has_its_own_beginning():
    """One count served all: at step 1,001 the new group's first steps were 2.5 times as long."""
    old_tx, tx = jadam.partition([(True, jadam.adam(COSINE), "old")]), grouped("old", "new")
    params, old = begun(old_tx, {"a": PARAMS["a"]}, 10)
    params = params | {"b": PARAMS["b"]}
    state, report = jadam.migrate(old, tx, params)
    alone = jadam.adam(COSINE)
    found, state = go_on(tx, state, params)
    begins, _ = go_on(alone, alone.init({"b": params["b"]}), {"b": params["b"]})
    goes_on, _ = go_on(old_tx, old, {"a": params["a"]})
    chex.assert_trees_all_close(found, goes_on | begins, rtol=1e-6)
    assert {name: int(one["count"]) for name, one in state.scalars.items()} == {"old": 13, "new": 3}
    assert {"scalars/new/count", "slots/new.adam/mu/b"} <= set(report.new)
    assert report.new["slots/new.adam/mu/b"] == ""
    assert not report.dropped


def test_what_joins_an_old_count_is_reported():
    params, old = begun(ADAM, {"a": PARAMS["a"]})
    state, report = jadam.migrate(old, ADAM, PARAMS | params)
    assert report.new == dict.fromkeys(["slots/adam/mu/b", "slots/adam/nu/b"], "beside a count of 5")
    assert "slots/adam/mu: b (beside a count of 5)" in str(report)
    assert state.count == 5


@pytest.mark.parametrize("name", EACH)
def test_groups_count_alike_while_they_are_of_one_age(name):
    """A partition of one group is the transformation itself, for every optimizer; two count each their own."""
    tx = OPTIMIZERS[name](RATE)
    group = jadam.partition([(True, tx, "all")])
    like = jax.eval_shape(tx.init, PARAMS), jax.eval_shape(group.init, PARAMS)
    assert [x.shape for x in jax.tree.leaves(like[0].slots)] == [x.shape for x in jax.tree.leaves(like[1].slots)]
    assert set(like[1].scalars) >= {"all"}
    params, old = begun(tx, steps=2)
    state, report = jadam.migrate(old, group, params)
    assert state.scalars["all"]["count"] == 2
    back, _ = jadam.migrate(state, tx, params)
    chex.assert_trees_all_equal(back, old)
    assert not [name for name in report.dropped if name.startswith(("slots", "scalars"))]


def test_counts_of_groups_in_wrappers_and_of_wrappers_in_groups():
    groups = jadam.partition([(jadam.match("a"), ADAM, "a"), (True, jadam.wrap(EverySecond(), ADAM), "b")])
    _, state = begun(groups, steps=4)
    assert {key: int(own["count"]) for key, own in state.scalars.items() if "count" in own} == {"a": 4, "b.every_second": 2}
    inside = jadam.wrap(EverySecond(), jadam.partition([(jadam.match("a"), ADAM, "a"), (True, jadam.sgd(RATE), "b")]))
    _, state = begun(jadam.chain(jadam.clip(9.0), inside), steps=4)
    assert {key: int(own["count"]) for key, own in state.scalars.items()} == {"a": 2, "b": 2, "every_second": 2}
    assert state.count == 4
    _, state = begun(jadam.partition([(True, jadam.partition([(True, ADAM, "in")]), "out")]), steps=4)
    assert int(state.scalars["out.in"]["count"]) == 4


@pytest.mark.parametrize("inner", [False, True])
def test_a_wrapper_of_ones_own(inner):
    """Wrapped, what is inside goes on counting where it was; unwrapped again, it is as before."""
    wrapped = jadam.wrap(EverySecond(), ADAM)
    wrapped = jadam.chain(jadam.clip(1e6), wrapped) if inner else wrapped
    params, old = begun(ADAM)
    state, report = jadam.migrate(old, wrapped, params)
    assert {"scalars/every_second/seen", "slots/every_second/first/a", "slots/every_second/first/b"} <= set(report.new)
    grads = jax.tree.map(jnp.square, params)
    expected, _ = ADAM.step(grads, old, params)
    found, state = run_from(wrapped, state, params, [grads, grads])
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    assert (state.scalars["every_second"]["count"] if inner else state.count) == 6
    if not inner:
        back, report = jadam.migrate(state, ADAM, found)
        chex.assert_trees_all_equal(back, ADAM.step(grads, old, params)[1])
        assert {"scalars/every_second/seen", "slots/every_second/first/a"} <= set(report.dropped)


ANNEALED = jadam.adam(jadam.linear_schedule(1e-2, 0.0, 10))
CLIP = jadam.clip_by_global_norm(1e6)


def every_fourth(tx):
    return jadam.accumulate(tx, 4)


def in_two(tx):
    return jadam.partition([(jadam.match("a"), tx, "body"), (True, tx, "head")])


# Before, after, and the counts that are wanted after 8 micro-steps, of the row, groups and wrappers.
COUNTED = {
    "clip into the window": (jadam.chain(CLIP, every_fourth(ANNEALED)), every_fourth(jadam.chain(CLIP, ANNEALED)), {"": 2}),
    "no longer averaged": (jadam.average(every_fourth(ANNEALED)), every_fourth(ANNEALED), {"": 2}),
    "averaged inside": (jadam.average(every_fourth(ANNEALED)), every_fourth(jadam.average(ANNEALED)), {"": 2}),
    "neither": (jadam.average(every_fourth(ANNEALED)), ANNEALED, {"": 2}),
    "no longer accumulated": (jadam.chain(CLIP, every_fourth(ANNEALED)), ANNEALED, {"": 2}),
    "another inside": (jadam.chain(CLIP, every_fourth(ANNEALED)), jadam.lion(RATE), {"": 2}),
    "without slots": (jadam.chain(CLIP, every_fourth(jadam.sgd(COSINE))), jadam.sgd(COSINE), {"": 2}),
    "one for two groups": (in_two(every_fourth(ANNEALED)), every_fourth(ANNEALED), {"": 2}),
    "one for two rows": (in_two(jadam.chain(CLIP, every_fourth(ANNEALED))), every_fourth(ANNEALED), {"": 2}),
    "groups inside": (jadam.chain(CLIP, every_fourth(in_two(ANNEALED))), ANNEALED, {"": 2}),
    "groups": (in_two(every_fourth(ANNEALED)), in_two(ANNEALED), {"": 8, "body": 2, "head": 2}),
    "into a group": (
        jadam.chain(CLIP, every_fourth(ANNEALED)),
        jadam.partition([(True, jadam.chain(CLIP, every_fourth(ANNEALED)), "all")]),
        {"": 8, "all": 8, "all.accumulate": 2},
    ),
    # Where the window stays beside others, all stays.
    "another clip": (jadam.average(every_fourth(ADAM)), jadam.chain(CLIP, every_fourth(ADAM)), {"": 8, "accumulate": 2}),
    "guarded": (jadam.average(every_fourth(ADAM)), jadam.guard(jadam.average(every_fourth(ADAM))), {"": 8, "accumulate": 2}),
}


@pytest.mark.slow
@pytest.mark.parametrize("edit", COUNTED)
def test_the_count_of_what_was_inside_a_window_goes_on(edit):
    """What counted micro-steps beside `accumulate` went on: a schedule over 100 steps was at 80, and not at 10."""
    before, after, wanted = COUNTED[edit]
    params, old = begun(before, steps=8)
    state, report = jadam.migrate(old, after, params)
    found = {key: own["count"] for key, own in state.scalars.items() if "count" in own}
    assert {key: int(count) for key, count in found.items() if key != "guard"} | {"": int(state.count)} == wanted
    if wanted == {"": 2}:
        assert re.fullmatch(r"was scalars/.*accumulate/count", report.kept["count"])
        assert report.dropped["count"] == "8 updates"
        assert "  count (8 updates)" in str(report)
    assert_nothing_is_silent(report, old, state)
    go_on(after, state, params)


# Other things


@pytest.mark.parametrize("name", EACH)
def test_into_itself_nothing_changes(name):
    tx = OPTIMIZERS[name](RATE)
    params, old = begun(tx, steps=1)
    state, report = jadam.migrate(old, tx, params)
    chex.assert_trees_all_equal(state, old)
    assert not report.new
    assert not report.dropped
    assert set(report.kept.values()) == {""}


def test_pairs_from_elsewhere():
    before, after = (
        jadam.chain(optax.scale_by_lion(), jadam.sgd(0.1)),
        jadam.chain(jadam.clip(1.0), optax.scale_by_lion(), ADAM),
    )
    with jax.numpy_dtype_promotion("standard"):
        params, old = begun(before)
    state, report = jadam.migrate(old, after, params)
    chex.assert_trees_all_equal(state.slots["scale_by_lion"], old.slots["scale_by_lion"])
    assert "slots/scale_by_lion/mu/a" in report.kept


def test_placement_and_float64():
    mesh = eight_devices(jax.sharding.AxisType.Auto)
    place = jax.NamedSharding(mesh, jax.P("data", "model"))
    params, old = begun(ADAM)
    there = {"a": jax.device_put(params["a"], place), "b": jax.device_put(params["b"], jax.NamedSharding(mesh, jax.P()))}
    after = with_precision(jadam.chain(jadam.clip(1.0), ADAM), "int8")
    state, _ = jadam.migrate(old, after, there)
    assert [x.sharding for x in jax.tree.leaves(state)] == [x.sharding for x in jax.tree.leaves(after.init(there))]
    jax.config.update("jax_enable_x64", True)
    try:
        wide = jax.tree.map(lambda x: x.astype(jnp.float64), params)
        state, report = jadam.migrate(old, ADAM, wide)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, ADAM.init(wide))
        assert report.kept["slots/adam/mu/a"] == "float32[64,2] became float64[64,2]"
        go_on(ADAM, state, wide)
    finally:
        jax.config.update("jax_enable_x64", False)


def test_a_report_reads_well():
    params, old = begun(jadam.with_precision(jadam.adam(1e-4), params="kahan"), LOW)
    _, report = jadam.migrate(old, jadam.partition([(True, with_precision(jadam.adam(1e-4), "int8"), "all")]), params)
    lines = str(report).splitlines()
    assert lines[:4] == [
        "kept:",
        "  count",
        "  slots/all.adam/mu: a (was slots/adam/mu; float32[64,2] became int8[64,2] with float32[2,2])",
        "  slots/all.adam/mu: b (was slots/adam/mu)",
    ]
    assert lines[-3:-1] == [
        "dropped:",
        "  hyperparams: adam.eps, adam.eps_root, adam.one_minus_b1, adam.one_minus_b2, learning_rate",
    ]
    assert re.fullmatch(r"  slots/kahan/compensation: a, b \(without it, the parameter is off by up to 0.000\d+\)", lines[-1])
