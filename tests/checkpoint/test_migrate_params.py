"""A run goes on with other parameters: renamed, grown, of another shape or storage."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from migrating import ADAM, LOW, PARAMS, RATE, assert_nothing_is_silent, begun, go_on, with_precision
from support import master

import jadam


def test_renamed_parameters():
    params, old = begun(ADAM, {"enc": {"k": PARAMS["a"], "b": PARAMS["b"]}})
    moved = {"body": {"enc": params["enc"]}}
    for renamed in ({"enc": "body/enc"}, {"enc/k": "body/enc/k", "enc/b": "body/enc/b"}, lambda path: f"body/{path}"):
        state, report = jadam.migrate(old, ADAM, moved, renamed=renamed)
        chex.assert_trees_all_equal(state.slots["adam"]["mu"], {"body": old.slots["adam"]["mu"]})
        assert report.kept["slots/adam/mu/body/enc/k"] == "was slots/adam/mu/enc/k"
        assert_nothing_is_silent(report, old, state)
        assert not report.dropped
        assert not report.new
    state, report = jadam.migrate(old, ADAM, moved)
    assert {"slots/adam/mu/enc/k", "slots/adam/nu/enc/b"} <= set(report.dropped)
    assert not np.asarray(state.slots["adam"]["mu"]["body"]["enc"]["k"]).any()


@pytest.mark.parametrize("tx", [ADAM, with_precision(ADAM, "int8"), jadam.adafactor(RATE), jadam.schedule_free_adamw(RATE)])
def test_grown_parameters(tx):
    """The old elements keep what they have; the new ones begin, positions as copies of the parameter."""
    params, old = begun(tx)
    grown = params | {"a": jnp.full((96, 2), 0.25).at[:64].set(params["a"])}
    state, report = jadam.migrate(old, tx, grown)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(grown))
    assert any("became" in remark for remark in report.kept.values())
    if tx == ADAM:
        mu = state.slots["adam"]["mu"]["a"]
        chex.assert_trees_all_equal(mu[:64], old.slots["adam"]["mu"]["a"])
        assert not mu[64:].any()
        assert report.kept["slots/adam/mu/a"] == "float32[64,2] became float32[96,2]"
    if "schedule_free" in state.slots:
        z = state.slots["schedule_free"]["z"]["a"]
        chex.assert_trees_all_equal(z[:64], old.slots["schedule_free"]["z"]["a"])
        assert (z[64:] == 0.25).all()
    go_on(tx, state, grown)
    assert_nothing_is_silent(report, old, state)


def test_other_shapes_are_dropped_and_named():
    params, old = begun(ADAM)
    turned = params | {"a": params["a"].T}
    state, report = jadam.migrate(old, ADAM, turned)
    assert report.dropped["slots/adam/mu/a"] == "float32[64,2], where the new one is float32[2,64]"
    assert report.new["slots/adam/mu/a"] == "beside a count of 5"
    go_on(ADAM, state, turned)


def test_scalars_of_a_rule_are_kept_together_or_not_at_all():
    """A longer history began with zeros, and counted as many norms as before: the limit was 0, and all updates."""
    before, after = (jadam.chain(jadam.percentile_clip(history=n), jadam.sgd(RATE)) for n in (50, 100))
    params, old = begun(before)
    state, report = jadam.migrate(old, after, params)
    chex.assert_trees_all_equal(state.scalars, after.init(params).scalars)
    assert report.dropped["scalars/percentile_clip/norms"] == "float32[50], where the new one is float32[100]"
    assert report.dropped["scalars/percentile_clip/norms_seen"] == "it belongs to norms, which does not fit"
    assert_nothing_is_silent(report, old, state)
    state, _ = jadam.migrate(old, jadam.chain(jadam.percentile_clip(history=50), ADAM), params)
    assert state.scalars["percentile_clip"]["norms_seen"] == 5


def landing(params):
    return jadam.with_precision(jadam.adam(1e-4), params=params)


@pytest.mark.parametrize("other", ["kahan", "remainder", "nearest", "stochastic"])
@pytest.mark.parametrize("storage", ["kahan", "remainder"])
def test_what_is_beside_parameters_is_kept_or_named(storage, other):
    """The sum of both is the parameter, whatever the storage; where it cannot be kept, the report says how much is lost."""
    params, old = begun(landing(storage), LOW)
    state, report = jadam.migrate(old, landing(other), params)

    def value(state):
        beside = next((state.slots[key] for key in ("kahan", "remainder") if key in state.slots), {})
        return {name: master(params[name], {slot: tree[name] for slot, tree in beside.items()}) for name in params}

    apart = {
        name: float(jnp.max(jnp.abs(x - y))) for (name, x), y in zip(value(old).items(), value(state).values(), strict=True)
    }
    largest = {name: float(jnp.max(jnp.abs(value(old)[name] - params[name].astype(jnp.float32)))) for name in params}
    if other == storage:
        assert apart == {"a": 0.0, "b": 0.0}
    elif other in ("kahan", "remainder"):
        assert all(apart[name] <= largest[name] / 256 for name in params)
    else:
        slot = "compensation" if storage == "kahan" else "remainder"
        for name in params:
            assert apart[name] > 0
            assert (
                report.dropped[f"slots/{storage}/{slot}/{name}"]
                == f"without it, the parameter is off by up to {apart[name]:.2g}"
            )
    assert_nothing_is_silent(report, old, state)
    go_on(landing(other), state, params)


def test_parameters_that_become_float32_lose_what_was_beside_them_by_name():
    params, old = begun(landing("remainder"), LOW)
    full = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    state, report = jadam.migrate(old, jadam.adam(1e-4), full)
    assert "off by up to" in report.dropped["slots/remainder/remainder/a"]
    chex.assert_trees_all_equal(state.slots["adam"], old.slots["adam"])
