"""States that were restored, moved or made of shapes: the same numbers, or an error that names the field."""

import functools
import pickle
import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import EACH, OPTIMIZERS, compilations, run

import jadam
from jadam._errors import Misuse

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 128).reshape(2, 64), "b": jnp.asarray(0.5)}
GRADS = jax.tree.map(lambda x: x * x - 0.3, PARAMS)


def as_python(state):
    return jax.tree.map(lambda x: x.item() if x.ndim == 0 else x, jax.device_get(state))


def go(tx, state, params, times):
    for _ in range(times):
        params, state = tx.step(GRADS, state, params)
    return params, state


WAYS = {
    "numpy": jax.device_get,
    "pickle": lambda state: pickle.loads(pickle.dumps(jax.device_get(state))),
    "python": as_python,
    "lists of keys": lambda state: jadam.OptState(**state._asdict()),
}
TXS = {
    "adamw": jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-2)),
    "schedule": jadam.sgd(jadam.cosine_decay_schedule(0.1, 10), momentum=0.9),
    "int8": jadam.with_precision(jadam.adam(1e-2), "int8", min_size=0, rounding="nearest"),
    "loss_scale": jadam.loss_scale(jadam.lion(1e-3)),
    "groups": jadam.partition({"a": jadam.prodigy(), "b": jadam.sgd(0.1)}, {"w": "a", "b": "b"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TXS)
def test_a_restored_state_goes_on_as_if_it_had_not_stopped(name, way):
    tx = TXS[name]
    params, state = run(tx, PARAMS, [GRADS])
    expected = go(tx, state, params, 2)
    chex.assert_trees_all_equal(go(tx, WAYS[way](state), params, 2), expected)
    jitted = jax.jit(tx.step)(GRADS, WAYS[way](state), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(jitted, expected)
    if not way.startswith("lists") and name != "schedule":
        held = tx.set_hyperparams(WAYS[way](state), **{next(iter(jadam.hyperparams(state))): 0.5})
        chex.assert_trees_all_equal_shapes_and_dtypes(go(tx, held, params, 1), expected)


@pytest.mark.parametrize("name", EACH)
@pytest.mark.parametrize("dtype", ["bfloat16", "int32", "float16"])
def test_slots_of_another_dtype_are_refused(name, dtype):
    """They were taken; integers cut every average at each load."""
    tx = OPTIMIZERS[name](1e-2)
    state = tx.init(PARAMS)
    if not jax.tree.leaves(state.slots):
        return
    other = state._replace(slots=jax.tree.map(lambda x: x.astype(dtype), state.slots))
    with pytest.raises(ValueError, match=rf"the state does not fit the parameter at (b|w): .* keeps .*float32.*{dtype}"):
        tx.update(GRADS, other, PARAMS)


@pytest.mark.parametrize("name", TXS)
def test_every_array_of_a_state_has_its_type(name):
    """One leaf at a time: of another dtype, of another shape, missing."""
    tx = TXS[name]
    state = tx.init(PARAMS)
    leaves, treedef = jax.tree.flatten(state)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_flatten_with_path(state)[0]]
    for n, leaf in enumerate(leaves):
        for wrong in (jnp.zeros((*leaf.shape, 2), leaf.dtype), leaf.astype(jnp.int16), None, "lost"):
            damaged = treedef.unflatten([*leaves[:n], wrong, *leaves[n + 1 :]])
            if paths[n].startswith(".hyperparams") and getattr(wrong, "shape", None) == ():
                continue  # assigned, which is allowed
            with pytest.raises(Misuse, match="state"):
                tx.update(GRADS, damaged, PARAMS)


SHAPES = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), PARAMS)


@pytest.mark.parametrize("name", EACH)
def test_init_of_shapes(name):
    """Arrays, as optax returns, where no slot begins as a copy of the parameter."""
    tx = OPTIMIZERS[name](1e-2)
    if any(part.rule.positions for part in tx.parts):
        with pytest.raises(TypeError, match=r"begins as a copy of the parameter, of which only the shape is given at (b|w)"):
            tx.init(SHAPES)
    else:
        chex.assert_trees_all_equal(tx.init(SHAPES), tx.init(jax.tree.map(jnp.zeros_like, PARAMS)))
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, SHAPES), tx.init(PARAMS))


def test_slots_of_8_bits_are_trees_like_the_parameters():
    """So that any box of a library around an array holds an array: flax takes a tuple in its box apart."""
    state = TXS["int8"].init(PARAMS)
    assert set(state.slots["adam"]) == {"mu", "mu.scales", "nu", "nu.scales"}
    assert {x.dtype.name for x in jax.tree.leaves(state.slots)} == {"int8", "float32"}
    for tree in state.slots["adam"].values():
        assert jax.tree.structure(PARAMS).flatten_up_to(tree)


@pytest.mark.slow
def test_numbers_in_float64_cause_no_warning():
    """scikit-learn's default; five warnings a step, once."""
    params = {"w": np.linspace(0.0, 1.0, 6).reshape(2, 3)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, build in OPTIMIZERS.items():
            tx = jadam.with_precision(build(1e-2), "bfloat16", min_size=0) if name not in ("muon", "normuon") else build(1e-2)
            state = tx.init(params)
            updates, state = tx.update(params, state, params)
            jadam.apply_updates(params, updates)
            tx.step(params, state, params)
        jadam.describe(tx, params)
        jadam.check_precision(tx, params)
        jadam.global_norm(params)


@pytest.mark.parametrize("storage", ["nearest", "kahan", "stochastic"])
def test_one_warning_where_steps_are_lost(storage):
    low = {"scale": jnp.ones(8, jnp.bfloat16), "other": jnp.ones((2, 2), jnp.bfloat16), "full": jnp.ones(3)}
    tx = jadam.with_precision(jadam.adamw(1e-4), params=storage)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        tx.init(low)
        jax.jit(tx.init)(low)
        jax.eval_shape(tx.init, low)
        jax.jit(lambda: tx.init(low))()
        jadam.adamw(1e-2).init(low)  # these steps move them
        jadam.partition([(jadam.match("full"), jadam.adam(1e-4)), (True, jadam.freeze())]).init(low)
    if storage != "nearest":
        assert caught == []
        return
    [warning] = caught
    assert warning.category is jadam.PrecisionWarning
    assert warning.filename == __file__
    assert str(warning.message) == (
        "other: steps of 0.0001 move 0% of its elements, which are bfloat16 rounded to nearest; use "
        "with_precision(tx, params=...) of 'stochastic' or 'kahan' or 'remainder'. And 1 more: see "
        "jadam.check_precision(tx, params)."
    )


def test_a_restored_state_compiles_nothing_new():
    tx = TXS["adamw"]
    params, state = run(tx, PARAMS, [GRADS])
    moved = functools.partial(tx.step, GRADS)
    moved(state, params)
    assert compilations(lambda: moved(jax.device_get(state), params)) == 0


def test_a_traced_state_of_a_step_is_not_looked_through(monkeypatch):
    """The names of its 300 arrays took a tenth of the time to trace an optimizer that is built again."""
    tx, params = jadam.adamw(1e-3), {"w": jnp.ones(3)}
    monkeypatch.setattr("jadam._engine.restored.flatten", None)
    state = jax.jit(tx.step)(params, tx.init(params), params)[1]
    assert int(state.count) == 1
    with pytest.raises(TypeError, match="'NoneType' object is not callable"):  # so that this test can fail
        jax.jit(tx.step)(
            params, state._replace(count=jnp.int32(1), hyperparams={**state.hyperparams, "learning_rate": 1}), params
        )
