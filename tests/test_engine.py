"""What the engine does for every rule: dtypes, traces, what is passed over, constants, scalars, storage."""

import dataclasses

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

import jadam
from jadam import Decay, Hyper, Rule, ema, zeros


def probe():
    """A rule of a class of its own, so that no trace of it is cached, which keeps an average and logs what it is given."""

    @dataclasses.dataclass(frozen=True)
    class ScaleByProbe(Rule):
        b: Decay = 0.9
        gain: Hyper = 2.0
        log: list = dataclasses.field(default_factory=list, compare=False)

        def init(self, p):
            return {"mu": zeros(p)}

        def scalars(self):
            return {"largest": 0.5}

        def prepare(self, context):
            sizes = [jnp.max(jnp.abs(x)).astype(context.t.dtype) for x in context.updates]
            largest = jnp.maximum(context.scalars["largest"], jnp.max(jnp.stack(sizes)))
            assert {x.dtype for x in context.slot("mu") + context.params} <= {
                jnp.dtype("float32"),
                jnp.dtype("float64"),
            }
            return {"largest": largest, "twice_t": 2 * context.t, "loss": context.extra.get("value", jnp.float32(0))}

        def update(self, g, slots, p, h):
            self.log.append((g.shape, g.dtype, p.dtype, slots["mu"].dtype, h.gain.dtype))
            return h.gain * g + h.loss + h.twice_t, {"mu": ema(slots["mu"], g, h.b)}

    return ScaleByProbe()


def test_prepare_runs_once_and_its_scalars_stay():
    tx, params = jadam.chain(probe()), {"a": jnp.ones(2), "b": jnp.ones(3)}
    state = tx.init(params)
    assert state.scalars == {"probe": {"largest": 0.5}}
    grads = {"a": jnp.array([1.0, -4.0]), "b": jnp.ones(3)}
    updates, state = tx.update(grads, state, params, value=jnp.float32(7))
    np.testing.assert_allclose(updates["a"], 2 * grads["a"] + 7 + 2)  # the loss, and twice_t = 2 in the first step
    assert state.scalars["probe"]["largest"] == 4
    _, state = tx.update(params, state, params)
    assert state.scalars["probe"]["largest"] == 4
    assert state.count == 2


def test_each_leaf_type_is_traced_once():
    """A tree of 148 leaves with 6 shapes runs the Python of a rule 6 times, not 148 times."""
    rule = probe()
    tx, params = jadam.chain(rule), {f"{i}": jnp.ones(2 + i % 3) for i in range(30)}
    state = tx.init(params)
    jax.jit(tx.update).trace(params, state, params)
    assert sorted(entry[0] for entry in rule.log) == [(2,), (3,), (4,)]
    again = jadam.chain(type(rule)())
    jax.jit(again.update).trace(params, state, params)
    assert not again.parts[0].rule.log  # an equal transformation is not traced again


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_rules_compute_in_float32(dtype):
    rule = probe()
    params = {"w": jnp.ones(7, dtype)}
    tx = jadam.chain(rule)
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["w"].dtype == dtype
    assert set(rule.log[0][1:]) == {jnp.dtype("float32")}


@pytest.mark.usefixtures("x64")
def test_rules_compute_in_float64_where_the_parameter_is():
    rule = probe()
    params = {"a": jnp.ones(5, jnp.float32), "b": jnp.ones(6, jnp.float64)}
    tx = jadam.chain(rule)
    state = tx.init(params)
    assert {x.dtype for x in jax.tree.leaves(state.hyperparams)} == {jnp.dtype("float64")}
    updates, after = tx.update(params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, after), (params, state))
    assert {entry[0]: {*entry[1:]} for entry in rule.log} == {
        (5,): {jnp.dtype("float32")},
        (6,): {jnp.dtype("float64")},
    }


def test_mixed_precision_gradients():
    """bfloat16 gradients of float32 parameters, and the other way round: the update has the parameter's dtype."""
    params = {"a": jnp.ones(3), "b": jnp.ones(3, jnp.bfloat16)}
    grads = {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(3)}
    tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(0.1))
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.update(grads, tx.init(params), params)[0], params)


def test_what_is_no_float_is_passed_over():
    key = jax.random.key(0)
    params = {"w": jnp.ones(2), "n": jnp.arange(3), "flag": jnp.array(True), "key": key, "none": None, "step": 3}
    grads = {
        "w": jnp.ones(2),
        "n": np.zeros(3, jax.dtypes.float0),
        "flag": None,
        "key": np.zeros((), jax.dtypes.float0),
        "none": None,
        "step": None,
    }
    tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(0.1))
    state = tx.init(params)
    assert len(jax.tree.leaves(state.slots)) == 2
    updates, state = tx.update(grads, state, params)
    assert updates["none"] is None
    moved = jadam.apply_updates(params, updates)
    stepped, _ = tx.step(grads, tx.init(params), params)
    for after in (moved, stepped):
        assert after["w"][0] < 1
        assert (after["n"] == params["n"]).all()
        assert after["key"] == key
        assert after["flag"]
        assert after["step"] == 3
    integers = jadam.sgd(1.0).update(
        {"w": jnp.ones(2), "n": params["n"]}, jadam.sgd(1.0).init(params), {k: params[k] for k in "wn"}
    )
    assert integers[0]["n"].dtype == jnp.int32
    assert not integers[0]["n"].any()


def test_gradients_of_allow_int():
    params = {"w": jnp.ones(2), "n": jnp.arange(2)}
    grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2 * p["n"].astype(jnp.float32)), allow_int=True)(params)
    tx = jadam.adam(0.1)
    moved, _ = jax.jit(tx.step)(grads, tx.init(params), params)
    np.testing.assert_allclose(moved["w"], [1.0, 0.9], rtol=1e-6)


def test_odd_trees():
    """A bare array, an empty tree, empty arrays, scalars, numpy arrays, tuples: all are trees."""
    tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adam(0.1))
    for params in (
        jnp.ones(3),
        {},
        {"a": jnp.zeros((0, 3))},
        jnp.float32(2.0),
        np.ones((2, 2), np.float32),
        (jnp.ones(2), [jnp.ones(1)]),
    ):
        updates, state = tx.update(params, tx.init(params), params)
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, jax.tree.map(jnp.asarray, params))
        assert state.count == 1


def test_numbers_and_weak_types_cause_no_second_trace():
    rule = probe()
    tx, params = jadam.chain(rule), {"w": 1.0}
    state = tx.init(params)
    assert not any(x.weak_type for x in jax.tree.leaves(state))
    for grads in ({"w": 1.0}, {"w": jnp.asarray(2.0)}, {"w": jnp.float32(1)}):
        updates, state = tx.update(grads, state, params)
        params = jadam.apply_updates(params, updates)
    assert len(rule.log) == 1


def test_the_count_saturates():
    tx, params = jadam.adam(0.1), jnp.ones(2)
    state = tx.init(params)._replace(count=jnp.int32(2**31 - 1))
    updates, state = tx.update(params, state, params)
    assert state.count == 2**31 - 1
    assert jnp.isfinite(updates).all()


def test_without_parameters():
    """Rules that do not use the parameters need none; the update then has the gradient's dtype."""
    tx, grads = (
        jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adam(0.1)),
        {"w": jnp.ones(2, jnp.bfloat16), "n": jnp.arange(2)},
    )
    state = tx.init(grads)
    updates, _ = tx.update(grads, state)
    chex.assert_trees_all_equal(updates, tx.update(grads, state, grads)[0] | {"n": grads["n"]})


def test_a_rule_cannot_read_the_number_it_was_built_with():
    """`self.gain` for `h.gain` would bake the first number into the compiled step."""

    @dataclasses.dataclass(frozen=True)
    class Wrong(Rule):
        gain: Hyper = 2.0

        def update(self, g, slots, p, h):
            return self.gain * g, slots

    tx = jadam.chain(Wrong())
    with pytest.raises(TypeError, match="ReadItFromH"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))


def test_a_rule_must_keep_the_shape():
    @dataclasses.dataclass(frozen=True)
    class Wrong(Rule):
        def update(self, g, slots, p, h):
            return g.sum(), slots

    with pytest.raises(
        ValueError,
        match=r"Wrong\.update must keep the shapes of update and slots: of {'update': \(2,\)} it made {'update': \(\)}",
    ):
        jadam.chain(Wrong()).update(jnp.ones(2), jadam.chain(Wrong()).init(jnp.ones(2)), jnp.ones(2))


@pytest.mark.parametrize(("state", "slots"), [("bfloat16", {"mu", "nu"}), ({"mu": "bfloat16"}, {"mu"}), ("float32", set())])
def test_storage_of_slots(state, slots):
    params = {"w": jnp.linspace(-1, 1, 64)}
    tx = jadam.with_precision(jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(0.1)), state=state, min_size=0)
    stored = tx.init(params)
    grads = [jax.tree.map(lambda x, i=i: jnp.sin(7 * i + 3 * x), params) for i in range(5)]
    full, exact = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(0.1)), None
    exact = full.init(params)
    for g in grads:
        updates, stored = tx.update(g, stored, params)
        expected, exact = full.update(g, exact, params)
    found = {slot for slot, tree in stored.slots["adam"].items() if tree["w"].dtype == jnp.bfloat16}
    assert found == slots
    chex.assert_trees_all_close(updates, expected, rtol=0.03, atol=1e-3)  # of steps of 0.1
    assert bool((updates["w"] == expected["w"]).all()) == (not slots)


def test_bytes_of_state():
    params = {"w": jnp.ones((64, 64))}
    slots = lambda tx: sum(x.nbytes for x in jax.tree.leaves(tx.init(params).slots)) / 4096  # noqa: E731
    assert slots(jadam.adamw(0.1)) == 8
    assert slots(jadam.with_precision(jadam.adamw(0.1), state="bfloat16")) == 4
    assert slots(jadam.sgd(0.1)) == 0


def test_donated_buffers_are_reused():
    tx, params = jadam.adamw(0.1), {"w": jnp.ones((128, 128))}
    step = jax.jit(lambda p, s, g: tx.step(g, s, p), donate_argnums=(0, 1))
    memory = step.lower(params, tx.init(params), params).compile().memory_analysis()
    assert memory.alias_size_in_bytes >= 3 * params["w"].nbytes
    assert memory.temp_size_in_bytes < 0.02 * params["w"].nbytes


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_the_step_lowers_for(platform):
    tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(jadam.warmup_cosine_decay_schedule(0.0, 1e-3, 10, 100)))
    params = {"w": jax.ShapeDtypeStruct((8, 8), jnp.bfloat16), "b": jax.ShapeDtypeStruct((8,), jnp.float32)}
    state = jax.eval_shape(tx.init, params)
    exported = jax.export.export(jax.jit(tx.step), platforms=[platform])(params, state, params)
    assert exported.platforms == (platform,)
    assert "stablehlo" in exported.mlir_module()


def test_an_array_drives_its_hyperparameter():
    """An optimizer that is built anew inside `jit` with a traced rate uses that rate, not the first one in the state."""
    params = {"w": jnp.ones(3)}
    state = jadam.sgd(1.0).init(params)
    step = jax.jit(lambda rate, state: jadam.sgd(rate).step(params, state, params))
    for rate in (0.5, 0.25):
        moved, after = step(rate, state)
        assert float(moved["w"][0]) == 1 - rate
        assert jadam.hyperparams(after)["learning_rate"] == rate
    tx = jadam.adamw(jnp.float32(0.5), b2=jnp.float32(0.5))
    assert hash(tx) == hash(jadam.adamw(jnp.float32(0.5), b2=jnp.float32(0.5)))
    assert tx != jadam.adamw(0.5, b2=0.5)  # else `tx.update` could be that of the number, which reads the state
    _, after = tx.step(params, jadam.adamw(1.0).init(params), params)
    assert {name: float(jadam.hyperparams(after)[name]) for name in ("learning_rate", "b2")} == {
        "learning_rate": 0.5,
        "b2": 0.5,
    }
    with pytest.raises(
        ValueError, match=r"learning_rate is driven by np\.float32\(0\.5\); build the transformation with a number"
    ):
        tx.set_hyperparams(after, learning_rate=0.1)
