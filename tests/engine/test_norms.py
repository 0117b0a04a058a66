"""One reduction of each gradient for all who ask for its norm, wherever they stand."""

import re
from dataclasses import dataclass

import chex
import compilers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import EverySecond, compilations, eight_devices, run

import jadam
from jadam._engine.norms import Norms

pytestmark = pytest.mark.usefixtures("optimized")
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 143).reshape(13, 11), "v": jnp.ones((17, 19)), "b": jnp.ones(21)}
# Small: sums of larger arrays XLA for CPU splits, and the arrays of gradients are not those that are summed any more.
SHAPES = {",".join(map(str, p.shape)) for p in PARAMS.values()}
GROUPS = {"w": "matrix", "v": "matrix", "b": "vector"}
CLIP = jadam.clip_by_global_norm(1.0)
ADAM = jadam.adamw(1e-3)


def reductions(tx, dtype=jnp.float32, target="cpu"):
    """How many arrays of the shapes of gradients are summed up, in the optimized program of a step."""
    there = compilers.place(target)
    shapes = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, dtype, sharding=there), PARAMS)
    state = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there), jax.eval_shape(tx.init, shapes))
    text = jax.jit(lambda g, s, p: tx.step(g, s, p)).lower(shapes, state, shapes).compile().as_text()
    count = 0
    for operations in compilers._computations(text)[0].values():
        shapes = {one.name: re.findall(r"\[([\d,]*)\]", one.kind)[:1] for one in operations}
        count += sum(SHAPES.issuperset(shapes[one.operands[0]]) for one in operations if one.code == "reduce")
    return count


SHARED = {
    "a guard": jadam.guard(ADAM),
    "a guard and a clip": jadam.guard(jadam.chain(CLIP, ADAM)),
    "two guards and a clip": jadam.guard(jadam.guard(jadam.chain(CLIP, ADAM))),
    "a loss scale and a clip": jadam.loss_scale(jadam.chain(CLIP, ADAM)),
    "a loss scale, a guard and a clip": jadam.loss_scale(jadam.guard(jadam.chain(CLIP, ADAM))),
    "a guard and zclip": jadam.guard(jadam.chain(jadam.zclip(), ADAM)),
    "a guard in each group": jadam.partition({"matrix": jadam.guard(ADAM), "vector": jadam.guard(ADAM)}, GROUPS),
}


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize(
    "dtype", [pytest.param(jnp.float32, id="float32"), pytest.param(jnp.bfloat16, id="bfloat16", marks=pytest.mark.slow)]
)
def test_as_many_reductions_as_of_a_clip_alone(name, dtype):
    alone = reductions(jadam.chain(CLIP, ADAM), dtype)
    assert alone == 3
    assert reductions(SHARED[name], dtype) == alone


def test_what_would_be_counted():
    """A clip behind a clip sees other updates, and a wrapper that changes them hands on another norm."""

    @dataclass(frozen=True)
    class Doubled(jadam.Wrapper):
        def around(self, inside):
            norm = inside.norm
            return inside.run([u * norm for u in inside.updates]), {}, {}

    assert reductions(jadam.chain(CLIP, jadam.sgd(1.0), CLIP)) == 6
    assert reductions(jadam.wrap(Doubled(), CLIP)) == 6


@pytest.mark.skipif(bool(compilers.MISSING), reason="the compilers are not installed: pip install -e '.[accelerators]'")
@pytest.mark.parametrize("name", SHARED)
def test_on_a_tpu_too(name):
    """An H100 sums so small arrays twice rather than keep the sum; that it reads large ones once is seen in test_cost.py."""
    assert reductions(SHARED[name], target="v5e") == 3


@pytest.mark.parametrize("by", ["step", "update"])
def test_the_clip_of_a_group_in_a_guard_is_that_without_it(by):
    """To the bit, at every size: what the guard knows of all leaves may have a scale that loses those of the group."""
    clips = {"matrix": jadam.chain(jadam.clip_by_global_norm(1e-3), jadam.sgd(1.0)), "vector": jadam.sgd(1e-30)}
    plain = jadam.partition(clips, GROUPS)
    for small, large in ((1e-2, 1.0), (1e-2, 1e30), (1e-25, 1.0), (1e-25, 1e-28), (1e30, 1e30)):
        g = {"w": small * PARAMS["w"], "v": small * PARAMS["v"], "b": large * PARAMS["b"]}
        expected, _ = run(plain, PARAMS, [g], by)
        found, state = run(jadam.guard(plain), PARAMS, [g], by)
        assert state.scalars["guard"]["skipped"] == 0
        chex.assert_trees_all_equal(found, expected)


def test_norms_of_leaves_and_of_some_of_them():
    arrays = [jnp.asarray([3.0, 4.0]), jnp.asarray([[12.0]]), jnp.asarray([1e30, 0.0])]
    norms = Norms()
    total = norms.squares(arrays)
    assert np.sqrt(float(total.total)) / float(total.scale) == pytest.approx(1e30, rel=1e-6)
    some = norms.squares(arrays[:2])
    assert np.sqrt(float(some.total)) / float(some.scale) == pytest.approx(13, rel=1e-6)
    assert norms.squares(arrays) is total
    assert Norms(norms).squares(arrays) is total
    bad = Norms().squares([jnp.asarray([jnp.nan]), arrays[0]])
    assert not bad.finite
    assert Norms().squares([jnp.full(4, 3e38)]).finite


def test_what_a_branch_learns_stays_in_it():
    """A norm of what is outside a branch, first asked for in it, is of the branch's trace."""

    @dataclass(frozen=True)
    class InABranch(jadam.Wrapper):
        def around(self, inside):
            run = lambda before: inside.run(inside.updates, before)  # noqa: E731
            outcome = jax.lax.cond(inside.count < 9, run, run, inside.stay())
            return outcome, {}, {"norm": inside.norm}

        def scalars(self):
            return {"norm": 0.0}

    tx = jadam.wrap(InABranch(), jadam.chain(CLIP, ADAM))
    expected, _ = run(jadam.chain(CLIP, ADAM), PARAMS, [PARAMS])
    found, state = run(tx, PARAMS, [PARAMS])
    chex.assert_trees_all_close(found, expected, rtol=1e-6)
    assert state.scalars["in_a_branch"]["norm"] == pytest.approx(float(jadam.global_norm(PARAMS)), rel=1e-6)


def test_a_norm_is_differentiable_where_it_is_shared():
    def moved(scale, tx):
        params = {"w": jnp.asarray([0.3, -0.4])}
        updates, _ = tx.update({"w": scale * params["w"] ** 2}, tx.init(params), params)
        return jnp.sum(updates["w"] * params["w"])

    plain, guarded = jadam.chain(CLIP, jadam.sgd(1.0)), jadam.guard(jadam.chain(CLIP, jadam.sgd(1.0)))
    for scale in (0.1, 100.0):
        assert jax.grad(moved)(scale, guarded) == pytest.approx(float(jax.grad(moved)(scale, plain)), rel=1e-5)
    assert abs(jax.grad(moved)(0.1, plain)) > 1e-3


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_on_a_mesh_the_state_stays_where_it_is(kind):
    """An array that all leaves share moved to another sharding with explicit axes, and the second step compiled again."""
    placed = NamedSharding(eight_devices(kind), PartitionSpec("data", "model"))
    params = {"w": jax.device_put(jnp.ones((8, 4)), placed)}
    inside = jadam.chain(jadam.zclip(), jadam.percentile_clip(), ADAM)
    tx = jadam.monitor(jadam.guard(inside), by_leaf=True, signal_to_noise=True)
    step, state = jax.jit(tx.step), tx.init(params)
    params, state = step(params, state, params)
    assert compilations(lambda: step(params, state, params)) == 0
    places = jax.tree.map(lambda new, old: new.sharding == old.sharding, state, tx.init(params))
    assert all(jax.tree.leaves(places))
    assert jadam.metrics(state)["grad_norm"] == pytest.approx(np.sqrt(32), rel=0.01)


def test_the_inside_of_a_loop_has_norms_of_its_own():
    tx = jadam.wrap(EverySecond("loop"), jadam.guard(jadam.chain(CLIP, ADAM)))
    params, state = run(tx, PARAMS, [PARAMS] * 2)
    expected, _ = run(jadam.chain(CLIP, ADAM), PARAMS, [PARAMS])
    chex.assert_trees_all_close(params, expected, rtol=1e-6)
    assert state.scalars["guard"]["skipped"] == 0
