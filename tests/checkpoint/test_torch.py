"""Runs of torch's that go on here: its own numbers, recorded by `tests/bench/torch_states.py`, and back."""

from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import load_script

import jadam

FILE = np.load(Path(__file__).parent.parent / "data" / "torch_states.npz", allow_pickle=False)
SCRIPT = load_script("tests/bench/torch_states.py")
NAMES = {0: ("dense/kernel", (1, 0)), 1: "dense/bias"}
TXS = {
    "adam": jadam.adam(1e-2, b1=0.8, b2=0.95, eps=1e-6),
    "adamw": jadam.adamw(1e-2, weight_decay=0.1),
    "amsgrad": jadam.amsgrad(1e-2, b1=0.8, b2=0.95),
    "sgd": jadam.sgd(1e-2, momentum=0.9, nesterov=True),
    "sgd_dampened": jadam.sgd(1e-2, momentum=0.9, dampening=0.3, weight_decay=0.1),
}


def recorded(case, dtype):
    """What `optimizer.state_dict()` was after five steps, and the parameters then and after ten."""
    prefix = f"{case}/{dtype}/"
    found = {name.removeprefix(prefix): FILE[name] for name in FILE.files if name.startswith(prefix)}
    state: dict = {0: {}, 1: {}}
    for name, value in found.items():
        kind, n, *what = name.split("/")
        if kind == "state":
            state[int(n)][what[0]] = value
    before, after = (as_tree(found[f"{kind}/0"], found[f"{kind}/1"]) for kind in ("params", "after"))
    return {"state": state, "param_groups": [{"params": [0, 1]}]}, before, after


def as_tree(weight, bias):
    return {"dense": {"kernel": jnp.asarray(weight.T), "bias": jnp.asarray(bias)}}


def go_on(tx, state, params):
    for step in range(SCRIPT.STOP, SCRIPT.STEPS):
        grads = jax.tree.map(lambda g, p: g.astype(p.dtype), as_tree(*(FILE[f"grads/{n}"][step] for n in (0, 1))), params)
        params, state = tx.step(grads, state, params)
    return params, state


def count_of(case):
    return SCRIPT.STOP if case.startswith("sgd") else None


@pytest.mark.parametrize("case", SCRIPT.CASES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_of_torch_goes_on(case, dtype, request):
    if dtype == "float64":
        request.getfixturevalue("x64")
    tx, (state_dict, params, after) = TXS[case], recorded(case, dtype)
    state = jadam.from_torch(tx, params, state_dict, NAMES, count=count_of(case))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))
    assert state.count == SCRIPT.STOP
    limit = 1e-11 if dtype == "float64" else 1e-6
    found, _ = go_on(tx, state, params)
    chex.assert_trees_all_close(found, after, rtol=limit, atol=0)
    fresh, _ = go_on(tx, tx.init(params), params)
    assert max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(*map(jax.tree.leaves, (fresh, after)), strict=True)) > 1e-4


@pytest.mark.parametrize("case", SCRIPT.CASES)
def test_there_and_back_bit_for_bit(case):
    tx, (state_dict, params, _) = TXS[case], recorded(case, "float32")
    state = jadam.from_torch(tx, params, state_dict, NAMES, count=count_of(case))
    back = jadam.to_torch(tx, params, state, NAMES)
    chex.assert_trees_all_equal(back["state"], state_dict["state"])
    assert all(x.dtype == np.float32 and x.flags.c_contiguous for entry in back["state"].values() for x in entry.values())


def test_names_of_the_parameters_instead_of_indices():
    state_dict, params, _ = recorded("adam", "float32")
    named = {"state": {"linear.weight": state_dict["state"][0], "linear.bias": state_dict["state"][1]}}
    names = {"linear.weight": NAMES[0], "linear.bias": NAMES[1]}
    tx = TXS["adam"]
    state = jadam.from_torch(tx, params, named, names)
    chex.assert_trees_all_equal(state, jadam.from_torch(tx, params, state_dict, list(NAMES.values())))
    assert set(jadam.to_torch(tx, params, state, names)["state"]) == set(names)


def test_any_storage_and_what_is_around():
    """Slots of 8 bits, a clip, a loss scale, groups with counts of their own, parameters that are frozen."""
    state_dict, params, _ = recorded("adam", "float32")
    full = jadam.from_torch(TXS["adam"], params, state_dict, NAMES)
    low = jadam.with_precision(TXS["adam"], "bfloat16", min_size=0)
    mu = jadam.from_torch(low, params, state_dict, NAMES).slots["adam"]["mu"]
    chex.assert_trees_all_equal(mu, jax.tree.map(lambda x: x.astype(jnp.bfloat16), full.slots["adam"]["mu"]))
    around = jadam.loss_scale(jadam.chain(jadam.clip_by_global_norm(1.0), TXS["adam"]))
    chex.assert_trees_all_equal(jadam.from_torch(around, params, state_dict, NAMES).slots, full.slots)
    state_dict["state"][1]["step"] = np.float32(9)
    groups = jadam.partition([(jadam.match("**/kernel"), TXS["adam"], "a"), (True, TXS["adam"], "b")])
    state = jadam.from_torch(groups, params, state_dict, NAMES)
    assert (state.scalars["a"]["count"], state.scalars["b"]["count"], state.count) == (5, 9, 9)
    back = jadam.to_torch(groups, params, state, NAMES)["state"]
    assert (back[0]["step"], back[1]["step"]) == (5, 9)
    plateau = jadam.chain(TXS["adam"], jadam.reduce_on_plateau())  # whose own scalar called `count` is not of steps
    chex.assert_trees_all_equal(
        jadam.from_torch(plateau, params, recorded("adam", "float32")[0], NAMES).scalars, plateau.init(params).scalars
    )
    frozen = jadam.partition([(jadam.match("**/kernel"), TXS["adam"], "a"), (True, jadam.freeze(), "b")])
    assert jadam.from_torch(frozen, params, {"state": {0: state_dict["state"][0]}}, {0: NAMES[0]}).count == 5


AROUND = {
    "accumulate": lambda tx: jadam.accumulate(tx, 2),
    "accumulate beside a clip": lambda tx: jadam.chain(jadam.clip(1.0), jadam.accumulate(tx, 2)),
    "average": jadam.average,
    "uniform": lambda tx: jadam.average(tx, "uniform", debias=False),
    "lookahead": lambda tx: jadam.lookahead(tx, 5, 0.5),
    "monitor": jadam.monitor,
}


@pytest.mark.parametrize("around", AROUND)
def test_what_is_around_begins(around):
    """`accumulate keeps mean; torch has the moments of ... alone`: what torch knows nothing of was asked of it."""
    state_dict, params, _ = recorded("adamw", "float32")
    tx = AROUND[around](TXS["adamw"])
    state, fresh = jadam.from_torch(tx, params, state_dict, NAMES), tx.init(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, fresh)
    moments = jadam.from_torch(TXS["adamw"], params, state_dict, NAMES).slots
    chex.assert_trees_all_equal(state.slots, fresh.slots | moments)
    counts = [own.pop("count") for own in (*state.scalars.values(), *fresh.scalars.values()) if "count" in own]
    assert [int(count) for count in counts] in ([], [5, 0])
    chex.assert_trees_all_equal((state.scalars, state.count), (fresh.scalars, jnp.asarray(5, jnp.int32)))
    state = jadam.from_torch(tx, params, state_dict, NAMES)
    chex.assert_trees_all_equal(jadam.to_torch(tx, params, state, NAMES)["state"], state_dict["state"])
    go_on(tx, state, params)


def test_what_makes_updates_is_still_asked_of_torch():
    state_dict, params, _ = recorded("adamw", "float32")
    with pytest.raises(ValueError, match=r"scale_by_lion keeps mu; torch has"):
        jadam.from_torch(jadam.average(jadam.lion(0.1)), params, state_dict, NAMES)
