"""`import jadam.optax as optax`: the names, numbers and states of optax, computed by jadam where the table says so."""

import doctest
import functools
import importlib
import inspect
import pickle
import subprocess
import sys
import warnings
from typing import Any

import chex
import equinox as eqx
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax_calls
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState
from support import ROOT, load_script

import jadam
import jadam.optax as door
from jadam.optax._table import OTHER_NUMBERS, OURS

pytestmark = pytest.mark.usefixtures("lenient")

RNG = np.random.default_rng(0)
PUBLIC = [name for name in dir(optax) if not name.startswith("_")]
NAMES = [name for name in PUBLIC if not inspect.ismodule(getattr(optax, name))]
START = {"dense": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}, "scale": jnp.ones(())}
GRADS = [jax.tree.map(lambda x: jnp.asarray(RNG.standard_normal(x.shape) + 0.3, jnp.float32), START) for _ in range(20)]


def train(tx, start=START, jit=False, grads=GRADS):
    """What steps make of parameters, and the state."""
    params, state = start, tx.init(start)
    update = jax.jit(tx.update) if jit else tx.update
    for g in grads:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def moved(params, start=START):
    return jax.tree.map(lambda p, s: np.asarray(p, np.float64) - np.asarray(s, np.float64), params, start)


def distance(a, b, start=START):
    """Of parameters after training, as a share of how far they went."""
    pairs = zip(jax.tree.leaves(moved(a, start)), jax.tree.leaves(moved(b, start)), strict=True)
    return max(np.max(np.abs(x - y)) / np.max(np.abs(y)) for x, y in pairs)


# Names


def test_every_public_name_is_there():
    assert len(NAMES) >= 212
    assert not [name for name in PUBLIC if not hasattr(door, name)]
    assert not hasattr(door, "adamww")


def test_signatures_and_defaults_are_those_of_optax():
    for name in NAMES:
        theirs = getattr(optax, name)
        if inspect.isfunction(theirs) or isinstance(theirs, functools.partial):
            assert inspect.signature(getattr(door, name)) == inspect.signature(theirs), name
    assert inspect.signature(door.adamw) != inspect.signature(jadam.adamw)


def test_classes_are_those_of_optax():
    """`isinstance` holds both ways, also of states."""
    classes = [name for name in NAMES if isinstance(getattr(optax, name), type)]
    assert len(classes) > 40
    assert all(getattr(door, name) is getattr(optax, name) for name in classes)
    assert isinstance(door.adam(0.1), optax.GradientTransformationExtraArgs)
    assert isinstance(optax.adam(0.1), door.GradientTransformation)


def test_submodules_import_as_those_of_optax():
    for name in sorted(name for name in sys.modules if name.startswith("optax.") and not name.endswith("_test")):
        assert importlib.import_module(f"jadam.{name}") is sys.modules[f"jadam.{name}"], name

    names: dict[str, Any] = {}
    exec("from jadam.optax import losses; import jadam.optax.contrib._muon as muon", names)
    exec("from jadam.optax.schedules import inject_hyperparams; from jadam.optax.transforms import chain", names)
    assert names["losses"] is optax.losses
    assert names["muon"].MuonDimensionNumbers is optax.contrib.MuonDimensionNumbers
    assert names["chain"] is door.chain is not optax.chain
    assert names["inject_hyperparams"] is door.inject_hyperparams is not optax.inject_hyperparams
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("jadam.optax.nothing")


def test_the_table_is_up_to_date():
    script = load_script("docs/optax_names.py")
    text = script.PAGE.read_text()
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # optax has names that it will not keep
        assert text == script.page(text), "run python docs/optax_names.py"
    assert "| `adam` | jadam |" in text
    assert all(name in NAMES for name in OURS | OTHER_NUMBERS)


def test_jadam_alone_does_not_import_optax():
    code = "import jadam, sys; jadam.adam(0.1); sys.exit('optax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.slow
def test_the_examples_of_optax_print_what_they_say():
    """The docstrings of optax, run with what stands behind the door."""
    names = {"optax": door, "jax": jax, "jnp": jnp} | vars(door)
    flags = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    with warnings.catch_warnings(action="ignore"):
        found = doctest.testmod(door, extraglobs=names, optionflags=flags)
    assert found.attempted > 300
    assert found.failed <= 3  # that of `partition`, whose second and third line begin with ">>>" and fail with optax too


def test_without_optax_words_say_what_to_install():
    code = "import sys; sys.modules['optax'] = None; import jadam.optax"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert "pip install jadam[optax]" in ran.stderr


SUITE = load_script("tests/bench/optax_suite.py")
A_TEST_OF_OPTAX = """
import optax.tree
from optax import contrib
from optax._src import test_utils
from optax.transforms import _clipping
class Test:
  def test_a(self):
    optax.tree.get({}, "optax")
  def test_b(self):
    optax.EmptyState()
"""


def test_which_tests_of_optax_its_users_could_have_written():
    assert SUITE.of_users(A_TEST_OF_OPTAX) == ({"_clipping"}, {"test_b"})
    assert SUITE.of_users(A_TEST_OF_OPTAX.replace("optax.transforms import _clipping", "optax import tree"))[0] == set()
    assert SUITE.of_users("from optax._src import base")[0] == {"base"}


@pytest.mark.slow
def test_a_test_of_optax_runs_with_the_door_in_its_place(tmp_path):
    text = SUITE.behind_the_door(A_TEST_OF_OPTAX)
    assert "optax.EmptyState()" in text
    text = text.replace("optax.EmptyState()", "import sys; assert optax is sys.modules['jadam.optax']")
    results = SUITE.run(
        tmp_path / "one_test.py", text.replace("  def test_a", "  def test_c(self):\n    1 / 0\n  def test_a"), 300
    )
    assert [not said for said in results.values()] == [False, True, True]


# Numbers


@pytest.mark.slow
def test_calls_of_public_repositories():
    """99 % of the uses run, and none with other numbers."""
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # some are of names that optax will not keep
        found = optax_calls.verdicts(door)
    assert optax_calls.uses(found) == 2028
    assert optax_calls.uses(found, "equal") >= 0.99 * optax_calls.uses(found)
    assert not optax_calls.uses(found, "other numbers", "missing", "not in optax")
    wrong = optax_calls.Call("adam", [], {"learning_rate": 0.01}, 1, 1)
    assert optax_calls.verdict(wrong, door, _Slower).outcome == "other numbers"


class _Slower:
    """A namespace whose `adam` is another."""

    @staticmethod
    def adam(learning_rate, b1=0.9, b2=0.999, eps=1e-8):
        return optax.adam(0.999 * learning_rate, b1, b2, eps)


ROWS = {
    "add_decayed_weights": (0.1,),
    "clip": (0.5,),
    "clip_by_block_rms": (0.5,),
    "clip_by_global_norm": (0.5,),
    "ema": (0.9,),
    "scale": (0.5,),
    "scale_by_learning_rate": (0.1,),
    "scale_by_rms": (0.9, 1e-8, 0.0, False),
    "scale_by_schedule": (optax.linear_schedule(0.1, 0.0, 30),),
    "scale_by_stddev": (0.9, 1e-8, 0.1, False),
    "trace": (0.9, True),
}


@pytest.mark.parametrize("name", sorted(OURS))
def test_rules_are_those_of_optax_in_float64(name, x64):
    """The arithmetic of jadam and of optax is one: it is float32 that keeps them apart."""
    start, grads = jax.tree.map(lambda x: x.astype(jnp.float64), (START, GRADS))
    ours, theirs = getattr(door, name)(*ROWS.get(name, ())), getattr(optax, name)(*ROWS.get(name, ()))
    assert [part.ours for part in ours.update.row.parts] == [OURS[name]]
    (a, ours_state), (b, theirs_state) = (train(tx, start, grads=grads) for tx in (ours, theirs))
    chex.assert_trees_all_close((a, ours_state), (b, theirs_state), rtol=1e-12, atol=1e-14)
    assert jax.tree.structure(ours_state) == jax.tree.structure(theirs_state)
    if name != "set_to_zero":
        with pytest.raises(AssertionError):
            chex.assert_trees_all_close(train(ours, start, grads=grads[:-1])[0], b, rtol=1e-9)


def test_adam_in_float32_is_nearer_to_float64_than_that_of_optax():
    zeros = jax.tree.map(jnp.zeros_like, START)  # beside which the rounding of parameters is nothing
    with optax_calls._x64():
        wide = jax.tree.map(lambda x: x.astype(jnp.float64), (zeros, GRADS))
        exact = train(optax.adam(1e-3), wide[0], grads=wide[1])[0]
    ours, theirs = (distance(train(o.adam(1e-3), zeros)[0], exact, zeros) for o in (door, optax))
    assert ours < 0.2 * theirs


OPTIMIZERS = {
    "chain": lambda o: o.chain(o.clip_by_global_norm(0.5), o.adamw(o.cosine_decay_schedule(0.01, 30), mask=KERNELS)),
    "named_chain": lambda o: o.named_chain(("clip", o.clip(0.1)), ("adam", o.adam(0.01))),
    "inject": lambda o: o.inject_hyperparams(o.adamw)(learning_rate=o.linear_schedule(0.1, 0.0, 20), weight_decay=0.1),
    "multi_transform": lambda o: o.multi_transform({"a": o.adam(0.01), "b": o.sgd(0.1, 0.9)}, labels),
    "masked": lambda o: o.chain(o.masked(o.add_decayed_weights(0.1), KERNELS), o.sgd(0.1)),
    "apply_if_finite": lambda o: o.apply_if_finite(o.adam(0.01), 3),
    "schedule of the user's": lambda o: o.sgd(lambda count: 0.1 if count < 5 else 0.01),
    "pair": lambda o: o.chain(o.GradientTransformation(lambda p: (), lambda u, s, p=None: (u, s)), o.yogi(0.01)),
    "nadamw": lambda o: o.nadamw(0.01),
    "lars": lambda o: o.lars(0.01),
    "array in a schedule": lambda o: o.sgd(o.linear_schedule(jnp.float32(0.1), 0.0, 30)),
    "rate in an array": lambda o: o.adam(jnp.float32(0.01)),
}


def KERNELS(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)


def labels(params):
    return jax.tree.map(lambda x: "a" if x.ndim > 1 else "b", params)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("jit", [True, False])
def test_states_and_numbers_are_those_of_optax(name, jit):
    if jit and "schedule of" in name:
        with pytest.raises(jax.errors.TracerBoolConversionError):
            train(OPTIMIZERS[name](door), jit=True)
        return
    (ours, our_state), (theirs, their_state) = (train(OPTIMIZERS[name](o), jit=jit) for o in (door, optax))
    assert distance(ours, theirs) < 1e-4  # the bias correction of optax in float32
    chex.assert_trees_all_close(our_state, their_state, rtol=1e-4, atol=1e-6)
    assert jax.tree.structure(our_state) == jax.tree.structure(their_state)
    assert distance(train(OPTIMIZERS[name](door), grads=GRADS[:-1])[0], theirs) > 1e-3


def test_complex_and_integer_leaves_are_those_of_optax():
    """In jadam real and imaginary parts are apart; the state is the same, so that a leaf decides at each trace."""
    start = {"c": jnp.asarray([1 + 1j, 2 - 1j]), "n": jnp.asarray([1, 2])}
    grads = [{"c": jnp.asarray([0.3 - 1j, 0.1j]), "n": jnp.asarray([1.0, 2.0])}] * 3
    chex.assert_trees_all_close(
        train(door.adam(0.1), start, grads=grads)[0], train(optax.adam(0.1), start, grads=grads)[0], rtol=1e-5
    )


def test_what_a_schedule_brings_below_zero():
    """Fromage's decay is negative: with a schedule, that is seen at the step alone."""
    start = {"w": jnp.ones(3)}
    for o in (door, optax):
        tx = o.add_decayed_weights(lambda count: -0.1)
        updates, _ = tx.update(start, tx.init(start), start)
        np.testing.assert_allclose(updates["w"], 0.9, rtol=1e-6)
        with jax.disable_jit():
            np.testing.assert_allclose(tx.update(start, tx.init(start), start)[0]["w"], 0.9, rtol=1e-6)


def test_what_only_optax_has_a_number_for():
    """A clip to zero, which jadam refuses: behind the door it runs as it does in optax."""
    with pytest.raises(ValueError, match="max_norm"):
        jadam.clip_by_global_norm(0.0)
    assert all(part.ours is None for part in door.clip_by_global_norm(0.0).update.row.parts)


# Moments in 16 bits


def test_moments_are_in_float32_unless_an_argument_says_otherwise():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), START)
    assert {x.dtype for x in jax.tree.leaves(door.adam(0.1).init(half)[0][1:])} == {jnp.dtype("float32")}
    assert {x.dtype for x in jax.tree.leaves(optax.adam(0.1).init(half)[0][1:])} == {jnp.dtype("bfloat16")}
    state = door.adam(0.1, mu_dtype=jnp.bfloat16).init(half)[0]
    assert state.mu["scale"].dtype == jnp.bfloat16
    assert door.adam(0.1, mu_dtype=jnp.float32).init(half)[0].mu["scale"].dtype == jnp.float32


def test_mu_dtype_rounds_as_optax_does():
    """Inside `jit` XLA rounds less: optax's own numbers differ by half a percent."""
    for jit in (True, False):
        (ours, a), (theirs, b) = (train(o.adamw(0.01, mu_dtype="bfloat16"), jit=jit) for o in (door, optax))
        assert distance(ours, theirs) < 1e-5
        assert a[0].mu["scale"].dtype == b[0].mu["scale"].dtype == jnp.bfloat16
        assert distance(train(door.adamw(0.01), jit=jit)[0], theirs) > 1e-3


def test_a_state_keeps_its_dtypes():
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), START)
    state = optax.adam(0.1).init(half)  # a checkpoint of optax
    _, after = door.adam(0.1).update(half, state, half)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, state)


# Speed outside jit


@pytest.mark.parametrize(
    "name",
    [
        "chain",
        "inject",
        "multi_transform",
        "masked",
        "apply_if_finite",
        "nadamw",
        "schedule of the user's",
        "array in a schedule",
    ],
)
def test_a_step_outside_jit_is_compiled_once(name, monkeypatch):
    """Also for a transformation that is built anew, as `inject_hyperparams` does at each step."""
    tx = OPTIMIZERS[name](door)
    _, state = train(tx, grads=GRADS[:2])
    monkeypatch.setattr(jax, "jit", None)  # whoever compiles anew
    for again in (tx, OPTIMIZERS[name](door)):
        again.update(GRADS[1], state, START)
    with pytest.raises(TypeError, match="not callable"):
        door.chain(door.scale(0.123), door.trace(0.5)).update(GRADS[0], (optax.EmptyState(), optax.TraceState(START)), START)


def test_equal_transformations_are_equal():
    ours = [door.adam(door.cosine_decay_schedule(0.01, 30)) for _ in range(2)]
    assert ours[0] == ours[1]
    assert hash(ours[0].update) == hash(ours[1].update)
    assert door.adam(0.1) != door.adam(0.2)


def test_neighbours_are_one_row_of_jadam(monkeypatch):
    rows = []
    run = door._door.Row.update.__globals__["_run_ours"]
    monkeypatch.setitem(run.__globals__, "_run_ours", lambda parts, *rest: (rows.append(len(parts)), run(parts, *rest))[1])
    tx = door.chain(door.clip_by_global_norm(1.0), door.adamw(0.1, mask={"dense": True, "scale": False}), door.trace(0.9))
    jax.make_jaxpr(tx.update)(GRADS[0], tx.init(START), START)
    assert rows == [4, 1]  # and one count in each


# Errors


def test_errors_name_the_leaf_and_the_function_that_was_called():
    tx = door.adamw(0.1)
    grads = {**GRADS[0], "dense": {**GRADS[0]["dense"], "bias": jnp.ones((4, 1))}}
    with pytest.raises(ValueError, match=r"adamw.update: the gradient at dense/bias has shape \(4, 1\)"):
        tx.update(grads, tx.init(START), START)
    with pytest.raises(TypeError, match="adamw: there is no weight_decay_rate"):
        door.adamw(0.1, weight_decay_rate=0.1)
    with pytest.raises(ValueError, match="pass what init or update returned"):
        tx.update(GRADS[0], (), START)


# States, as projects use them


def test_hyperparameters_in_a_chain():
    tx = door.chain(door.clip_by_global_norm(1.0), door.inject_hyperparams(door.sgd)(learning_rate=0.1))
    state = tx.init(START)
    assert state[0] == optax.EmptyState()
    state[1].hyperparams["learning_rate"] = 0.5
    updates, state = tx.update(GRADS[0], state, START)
    clipped, _ = optax.clip_by_global_norm(1.0).update(GRADS[0], None)
    chex.assert_trees_all_close(updates, jax.tree.map(lambda g: -0.5 * g, clipped), rtol=1e-6)
    inner = state[1]._replace(hyperparams=state[1].hyperparams | {"learning_rate": jnp.float32(0.25)})
    updates, _ = tx.update(GRADS[0], (state[0], inner), START)
    chex.assert_trees_all_close(updates, jax.tree.map(lambda g: -0.25 * g, clipped), rtol=1e-6)


def test_the_tools_of_optax_on_states():
    tx = door.adam(door.linear_schedule(0.1, 0.0, 10))
    state: Any = train(tx)[1]
    assert [s.count for s in state] == [20, 20]
    assert isinstance(state[0], optax.ScaleByAdamState)
    assert isinstance(state[1], optax.ScaleByScheduleState)
    chex.assert_trees_all_equal(door.tree_utils.tree_get(state, "mu"), state[0].mu)
    doubled = door.tree.map_params(tx, lambda x: 2 * x, state)
    chex.assert_trees_all_equal(doubled[0].nu, jax.tree.map(lambda x: 2 * x, state[0].nu))
    assert doubled[0].count == 20
    reset = door.tree.set(state, count=jnp.int32(0))
    chex.assert_trees_all_close(tx.update(GRADS[0], reset)[0], optax.adam(0.1).update(GRADS[0], reset)[0], rtol=1e-5)


def test_a_schedule_reads_its_own_count():
    """In optax each part has a count; one that was set apart is read apart."""
    tx = door.chain(door.scale_by_adam(), door.scale_by_schedule(door.linear_schedule(0.0, 1.0, 10)))
    state = tx.init(START)
    state = (state[0], optax.ScaleByScheduleState(jnp.int32(5)))
    theirs = optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(optax.linear_schedule(0.0, 1.0, 10)))
    (ours, after), (expected, _) = (t.update(GRADS[0], state, START) for t in (tx, theirs))
    chex.assert_trees_all_close(ours, expected, rtol=1e-5)
    assert (after[0].count, after[1].count) == (1, 6)


def test_a_checkpoint_of_optax_is_one_of_the_door(tmp_path):
    tx, theirs = (OPTIMIZERS["inject"](o) for o in (door, optax))
    params, state = train(theirs, grads=GRADS[:10])
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", (params, state))
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: (START, tx.init(START))))
    as_bytes = flax.serialization.from_bytes(tx.init(START), flax.serialization.to_bytes(state))
    for kept in (restored[1], as_bytes):
        updates, _ = tx.update(GRADS[10], kept, params)
        chex.assert_trees_all_close(updates, theirs.update(GRADS[10], state, params)[0], rtol=1e-4, atol=1e-7)


def test_transformations_and_their_makers_pickle():
    assert pickle.loads(pickle.dumps(door.adam)) is door.adam


def test_vmap_and_scan():
    tx = OPTIMIZERS["chain"](door)
    many = jax.tree.map(lambda x: jnp.stack([x, x + 1]), START)
    states = jax.vmap(tx.init)(many)
    updates, _ = jax.vmap(tx.update)(jax.tree.map(lambda *x: jnp.stack(x), *GRADS[:2]), states, many)
    single, _ = tx.update(GRADS[1], tx.init(START), jax.tree.map(lambda x: x + 1, START))
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], updates), single, rtol=1e-5)

    def body(carry, g):
        updates, state = tx.update(g, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    scanned, _ = jax.lax.scan(body, (START, tx.init(START)), jax.tree.map(lambda *x: jnp.stack(x), *GRADS))
    chex.assert_trees_all_close(scanned, train(tx), rtol=1e-5, atol=1e-7)


def test_train_state():
    state = TrainState.create(apply_fn=None, params=START, tx=OPTIMIZERS["chain"](door))
    for g in GRADS:
        state = state.apply_gradients(grads=g)
    chex.assert_trees_all_close(state.params, train(OPTIMIZERS["chain"](door))[0], rtol=1e-6)


def test_nnx_optimizer():
    moved = []
    for o in (door, optax):
        model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, OPTIMIZERS["inject"](o), wrt=nnx.Param)
        grads = jax.tree.map(jnp.ones_like, nnx.state(model, nnx.Param))
        for _ in range(3):
            nnx.jit(lambda m, opt, g: opt.update(m, g))(model, optimizer, grads)
        moved.append(nnx.to_pure_dict(nnx.state(model)))
    chex.assert_trees_all_close(*moved, rtol=1e-5)


def test_functions_as_leaves():
    """The example of a frozen layer in equinox gives `init` the whole model."""
    model = eqx.nn.MLP(1, 1, 8, 1, key=jax.random.key(0))
    grads = eqx.filter_grad(lambda m: jnp.sum(m(jnp.ones(1))))(model)
    updates = [o.sgd(0.1).update(grads, o.sgd(0.1).init(model), model)[0] for o in (door, optax)]
    chex.assert_trees_all_close(*updates, rtol=1e-6)


def test_extra_arguments_reach_who_asks():
    def update(updates, state, params=None, *, loss, **extra):
        return jax.tree.map(lambda u: u * loss, updates), state

    asks = door.GradientTransformationExtraArgs(lambda params: (), update)
    tx = door.chain(door.masked(door.chain(door.scale(2.0), asks), True), door.scale(0.5))
    updates, _ = tx.update(GRADS[0], tx.init(START), START, loss=3.0)
    chex.assert_trees_all_close(updates, jax.tree.map(lambda g: 3.0 * g, GRADS[0]), rtol=1e-6)


@pytest.mark.slow
def test_line_searches_run():
    def loss(params):
        return sum(jnp.sum((x - 0.5) ** 2) for x in jax.tree.leaves(params))

    for o in (door, optax):
        tx, params = o.lbfgs(), START
        state = tx.init(params)
        value_and_grad = o.value_and_grad_from_state(loss)
        for _ in range(3):
            value, grads = value_and_grad(params, state=state)
            updates, state = tx.update(grads, state, params, value=value, grad=grads, value_fn=loss)
            params = o.apply_updates(params, updates)
        assert loss(params) < 1e-8


# What stopped projects, where jadam's own namespace is another on purpose


def test_keywords_that_jadam_has_not():
    for call in (
        lambda o: o.adamw(1e-2, mu_dtype=jnp.bfloat16),
        lambda o: o.scale_by_adam(0.9, 0.95, 1e-8, nesterov=True),
        lambda o: o.adafactor(1e-2, multiply_by_parameter_scale=True, factored=True, decay_rate=0.8, momentum=0.9),
        lambda o: o.trace(0.9, accumulator_dtype=jnp.bfloat16),
    ):
        assert distance(train(call(door))[0], train(call(optax))[0]) < 1e-5
        with pytest.raises((TypeError, ValueError)):
            call(jadam)


@pytest.mark.parametrize("name", ["adamw", "rmsprop", "adagrad", "lion"])
def test_defaults_that_jadam_has_otherwise(name):
    ours, theirs, own = (train(getattr(o, name)(0.01))[0] for o in (door, optax, jadam))
    assert distance(ours, theirs) < 1e-4  # the bias correction of optax in float32
    assert distance(own, theirs) > 1e-3


def test_state_classes_are_found():
    state = door.chain(door.scale_by_adam(), door.scale_by_schedule(lambda c: 0.1)).init(START)
    schedules = jax.tree.leaves(state, is_leaf=lambda x: isinstance(x, optax.ScaleByScheduleState))
    assert sum(isinstance(x, optax.ScaleByScheduleState) for x in schedules) == 1
    assert isinstance(door.masked(door.clip(1.0), KERNELS).init(START), optax.MaskedState)


def test_a_mask_that_is_one_leaf():
    """In optax it is True for everything, and biases decay."""

    class Config(dict):
        pass

    mask = Config(dense=True, scale=False)
    zeros = jax.tree.map(jnp.zeros_like, START)
    updates, _ = (tx := optax.adamw(0.1, mask=mask)).update(zeros, tx.init(START), START)
    assert updates["scale"] != 0
    with pytest.raises(TypeError, match=r"adamw: .* is not a mask"):
        door.adamw(0.1, mask=mask)


def test_a_pair_and_a_rule_in_a_chain():
    tx = door.chain((lambda params: (), lambda u, s, p=None: (jax.tree.map(jnp.negative, u), s)), door.scale(2.0))
    updates, _ = tx.update(GRADS[0], tx.init(START))
    chex.assert_trees_all_equal(updates, jax.tree.map(lambda g: -2 * g, GRADS[0]))
    with pytest.raises(TypeError, match=r"chain: argument 0 is the function adam; call it: adam\(...\)"):
        door.chain(door.adam)


# One name at a time


@pytest.mark.slow
def test_jadam_among_them():
    ours = door.chain(door.clip_by_global_norm(0.5), jadam.adam(0.01))
    params, state = train(ours)
    assert isinstance(state[1], jadam.OptState)
    assert distance(params, train(door.chain(door.clip_by_global_norm(0.5), door.adam(0.01)))[0]) < 1e-6
    inside = jadam.chain(jadam.clip_by_global_norm(0.5), door.adam(0.01))
    assert distance(train(inside)[0], params) < 1e-6
    wrapped = [
        door.masked(jadam.adam(0.01), True),
        door.inject_hyperparams(jadam.adam)(learning_rate=0.01),
        door.MultiSteps(jadam.adam(0.01), 1),
        door.multi_transform({"a": jadam.adam(0.01), "b": door.adam(0.01)}, labels),
        door.apply_if_finite(jadam.adam(0.01), 3),
    ]
    for tx in wrapped:
        assert distance(train(tx)[0], train(door.adam(0.01))[0]) < 1e-5
    assert distance(train(door.adam(0.011))[0], params) > 1e-3


@pytest.mark.slow
def test_multi_steps_in_a_chain():
    tx, theirs = (o.chain(o.clip(0.5), o.MultiSteps(o.adam(0.1), 2)) for o in (door, optax))
    assert distance(train(tx)[0], train(theirs)[0]) < 1e-5
