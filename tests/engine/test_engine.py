"""What the engine does for every rule: dtypes, traces, what is passed over, constants, scalars, storage."""

import dataclasses

import chex
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from support import dtypes

import jadam
from jadam import Decay, Hyper, Rule, zeros

CLIP = jadam.clip_by_global_norm(1.0)


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
            assert dtypes(context.slot("mu") + context.params) <= {"float32", "float64"}
            return {"largest": largest, "twice_t": 2 * context.t, "loss": context.extra.get("value", jnp.float32(0))}

        def update(self, g, slots, p, h):
            self.log.append((g.shape, g.dtype, p.dtype, slots["mu"].dtype, h.gain.dtype))
            return h.gain * g + h.loss + h.twice_t, {"mu": h.b.ema(slots["mu"], g)}

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
    assert not again.recipe.parts[0].rule.log  # an equal transformation is not traced again


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_rules_compute_in_float32_or_in_float64_where_the_parameter_is(dtype, request):
    computed = "float64" if dtype == "float64" else "float32"
    if dtype == "float64":
        request.getfixturevalue("x64")
    rule = probe()
    tx, params = jadam.chain(rule), {"a": jnp.ones(5, jnp.float32), "b": jnp.ones(6, dtype)}
    state = tx.init(params)
    assert dtypes(state.hyperparams) == {computed}
    updates, after = tx.update(params, state, params)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, after), (params, state))
    assert {entry[0]: {*map(str, entry[1:])} for entry in rule.log} == {(5,): {"float32"}, (6,): {computed}}


def test_mixed_precision_gradients():
    """bfloat16 gradients of float32 parameters, and the other way round: the update has the parameter's dtype."""
    params, grads = {"a": jnp.ones(3), "b": jnp.ones(3, jnp.bfloat16)}, {"a": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(3)}
    tx = jadam.chain(CLIP, jadam.adamw(0.1))
    chex.assert_trees_all_equal_shapes_and_dtypes(tx.update(grads, tx.init(params), params)[0], params)


def test_what_is_not_a_float_is_passed_over():
    key = jax.random.key(0)
    params = {"w": jnp.ones(2), "n": jnp.arange(3), "flag": jnp.array(True), "key": key, "none": None, "step": 3}
    n, no_key = (np.zeros(shape, jax.dtypes.float0) for shape in (3, ()))
    grads = {"w": jnp.ones(2), "n": n, "flag": None, "key": no_key, "none": None, "step": None}
    tx = jadam.chain(CLIP, jadam.adamw(0.1))
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
    some = {"w": jnp.ones(2), "n": jnp.arange(2)}
    integers, _ = jadam.sgd(1.0).update(some, jadam.sgd(1.0).init(some), some)
    assert integers["n"].dtype == jnp.int32
    assert not integers["n"].any()
    grads = jax.grad(lambda p: jnp.sum(p["w"] ** 2 * p["n"].astype(jnp.float32)), allow_int=True)(some)
    moved, _ = jax.jit(jadam.adam(0.1).step)(grads, jadam.adam(0.1).init(some), some)
    np.testing.assert_allclose(moved["w"], [1.0, 0.9], rtol=1e-6)


def test_odd_trees():
    """A bare array, an empty tree, empty arrays, scalars, numpy arrays, tuples: all are trees."""
    tx = jadam.chain(CLIP, jadam.adam(0.1))
    arrays = (jnp.ones(3), jnp.float32(2.0), np.ones((2, 2), np.float32))
    for params in (*arrays, {}, {"a": jnp.zeros((0, 3))}, (jnp.ones(2), [jnp.ones(1)])):
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
    updates, state = tx.update(params, tx.init(params)._replace(count=jnp.int32(2**31 - 1)), params)
    assert state.count == 2**31 - 1
    assert jnp.isfinite(updates).all()


def test_without_parameters():
    """Rules that do not use the parameters need none; the update then has the gradient's dtype."""
    tx = jadam.chain(CLIP, jadam.adam(0.1))
    grads = {"w": jnp.ones(2, jnp.bfloat16), "n": jnp.arange(2)}
    updates, _ = tx.update(grads, state := tx.init(grads))
    chex.assert_trees_all_equal(updates, tx.update(grads, state, grads)[0] | {"n": grads["n"]})


def test_a_rule_cannot_read_the_number_it_was_built_with():
    """`self.gain` for `h.gain` would bake the first number into the compiled step."""

    @dataclasses.dataclass(frozen=True)
    class Wrong(Rule):
        gain: Hyper = 2.0

        def update(self, g, slots, p, h):
            return self.gain * g, slots

    tx = jadam.chain(Wrong())
    with pytest.raises(TypeError, match=r"chain.update: a rule used a hyperparameter of its own; write `h.b1` for `self.b1`"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)), jnp.ones(2))


def test_a_rule_must_keep_the_shape():
    @dataclasses.dataclass(frozen=True)
    class Wrong(Rule):
        def update(self, g, slots, p, h):
            return g.sum(), slots

    words = r"Wrong\.update must keep the shapes of update and slots: of {'update': \(2,\)} it made {'update': \(\)}"
    with pytest.raises(ValueError, match=words):
        jadam.chain(Wrong()).update(jnp.ones(2), jadam.chain(Wrong()).init(jnp.ones(2)), jnp.ones(2))


@pytest.mark.parametrize(("state", "slots"), [("bfloat16", {"mu", "nu"}), ({"mu": "bfloat16"}, {"mu"}), ("float32", set())])
def test_storage_of_slots(state, slots):
    params = {"w": jnp.linspace(-1, 1, 64)}
    full = jadam.chain(CLIP, jadam.adamw(0.1))
    tx = jadam.with_precision(full, state=state, min_size=0)
    stored, exact = tx.init(params), full.init(params)
    for i in range(5):
        g = jax.tree.map(lambda x, i=i: jnp.sin(7 * i + 3 * x), params)
        updates, stored = tx.update(g, stored, params)
        expected, exact = full.update(g, exact, params)
    found = {slot for slot, tree in stored.slots["adam"].items() if tree["w"].dtype == jnp.bfloat16}
    assert found == slots
    chex.assert_trees_all_close(updates, expected, rtol=0.03, atol=1e-3)  # of steps of 0.1
    assert bool((updates["w"] == expected["w"]).all()) == (not slots)


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
    assert [float(jadam.hyperparams(after)[name]) for name in ("learning_rate", "b2")] == [0.5, 0.5]
    words = r"learning_rate is driven by np\.float32\(0\.5\); build the transformation with a number"
    with pytest.raises(ValueError, match=words):
        tx.set_hyperparams(after, learning_rate=0.1)


def test_a_rule_with_fields_is_a_dataclass():
    """Without the line, its fields were ignored, and `h` had no such attribute."""

    class Forgetful(Rule):
        b: Decay = 0.9

        def update(self, g, slots, p, h):
            return h.b.value * g, slots

    for make in (Forgetful, lambda: Forgetful(0.5), lambda: jadam.block(Forgetful)(b=0.5)):
        with pytest.raises(TypeError, match=r"write @dataclass\(frozen=True\) above class Forgetful: .* b is not a field"):
            make()


@pytest.mark.parametrize("name", ["gain", "gradient"])
def test_a_constant_takes_no_other_name(name):
    """It replaced the hyperparameter of that name without an error."""

    @dataclasses.dataclass(frozen=True)
    class Shadow(Rule):
        gain: Hyper = 2.0

        def prepare(self, context):
            return {name: context.t}

        def update(self, g, slots, p, h):
            return h.gain * g, slots

    tx = jadam.chain(Shadow())
    with pytest.raises(ValueError, match=f"chain.update: shadow.prepare returns '{name}', which is the name of something else"):
        tx.update(jnp.ones(2), tx.init(jnp.ones(2)))


def test_a_field_called_mask_or_value_is_like_any_other():
    @dataclasses.dataclass(frozen=True)
    class Named(Rule):
        mask: float = 2.0
        value: Hyper = 3.0

        def update(self, g, slots, p, h):
            return self.mask * h.value * g, slots

    tx = jadam.chain(Named())
    assert tx.update(jnp.ones(2), tx.init(jnp.ones(2)))[0][0] == 6
    assert repr(Named()) == "named(value=3.0)"
