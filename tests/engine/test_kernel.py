"""The Pallas kernel computes what XLA computes: interpreted here, compiled for H100 and TPU in `test_cost.py`."""

import dataclasses
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import ELEMENTWISE_RULES, OPTIMIZERS, assert_equal_but_for_rounding, eight_devices, kernels, run

import jadam

RNG = np.random.default_rng(0)
# Whole tiles; several, of which the last are cut in both directions; a stack; one block, not filled up; what XLA computes.
SHAPES = {"whole": (64, 256), "cut": (135, 290), "stack": (2, 3, 40, 5), "rest": (33, 1), "vector": (40,), "short": (5, 40)}
STATES = [("float32", "nearest"), *itertools.product(("bfloat16", "int8"), ("stochastic", "nearest"))]
PARAMS = [None, "nearest", "stochastic", "kahan", "remainder"]


def build(name, state, params, rounding, kernel="pallas", **kwargs):
    made = OPTIMIZERS[name](1e-2, **({"momentum": 0.9} if name == "sgd" else {}))
    return jadam.with_precision(made, state, params, rounding=rounding, min_size=0, kernel=kernel, **kwargs)


def numbers(dtype, shapes=SHAPES):
    return {name: jnp.asarray(RNG.standard_normal(shape), dtype) for name, shape in shapes.items()}


def check(name, state, rounding, params, by, shapes=SHAPES, steps=3):
    dtype = jnp.float32 if params is None else jnp.bfloat16
    start, *grads = [numbers(dtype, shapes) for _ in range(1 + steps)]
    with_kernel, without = (build(name, state, params, rounding, kernel) for kernel in ("pallas", "xla"))
    assert_equal_but_for_rounding(run(with_kernel, start, grads, by), run(without, start, grads, by))


def test_what_a_kernel_computes():
    """Matrices of 32 rows or more, one kernel each on each of three platforms; other leaves and other rules by XLA."""
    params = numbers(jnp.bfloat16)
    tx = build("adamw", "int8", "stochastic", "stochastic")
    assert kernels(tx.step, params, tx.init(params), params) == 3 * 4
    assert "kernel='pallas'" in repr(tx)
    assert tx != build("adamw", "int8", "stochastic", "stochastic", "xla")
    without = build("adamw", "int8", "stochastic", "stochastic", "xla")
    assert kernels(without.step, params, without.init(params), params) == 0
    for other in (jadam.with_precision(jadam.lamb(1e-2), kernel="pallas"), jadam.with_precision(without, kernel=None)):
        assert kernels(other.step, params, other.init(params), params) == 0
    half = {"w": jnp.ones((64, 64), jnp.float16)}
    assert kernels(tx.step, half, tx.init(half), half) == 0
    inner = jadam.with_precision(jadam.with_precision(jadam.adamw(1e-2), kernel="xla"), state="bfloat16", kernel="pallas")
    assert kernels(inner.step, half, inner.init(half), half) == 0


def test_what_triton_could_not_count():
    """Elements of 8 bits between 2 and 4 GiB: their places would be negative. Of more, Pallas counts in 64 bits."""
    tx = build("sgd", "int8", None, "nearest")
    for columns, count in ((30_000, 3), (40_000, 0), (70_000, 3)):
        params = {"w": jax.ShapeDtypeStruct((2**16, columns), jnp.float32)}
        assert kernels(tx.step, params, jax.eval_shape(tx.init, params), params) == count


@dataclasses.dataclass(frozen=True)
class TimesTheLast(jadam.Rule):
    """Reads a vector that all leaves share."""

    def prepare(self, context):
        return {"factors": jnp.arange(3.0)}

    def update(self, g, slots, p, h):
        return h.factors[2] * g, slots


def test_a_history_that_no_leaf_reads_is_no_obstacle():
    """Any shared array was: behind `percentile_clip`, which keeps the last norms, XLA computed all leaves."""
    params, grads = numbers(jnp.bfloat16, {"w": (64, 256)}), numbers(jnp.bfloat16, {"w": (64, 256)})
    clip, reads = jadam.percentile_clip(percentile=50, history=4), jadam.chain(TimesTheLast())
    ours, theirs = (build("adamw", "int8", "stochastic", "stochastic", kernel) for kernel in ("pallas", "xla"))
    found = {}
    for tx in (ours, theirs):
        chained = jadam.chain(clip, tx)
        assert kernels(chained.step, grads, chained.init(params), params) == (3 if tx is ours else 0)
        found[tx] = run(chained, params, [grads], "step")
    assert_equal_but_for_rounding(found[ours], found[theirs])
    chained = jadam.chain(reads, ours)
    assert kernels(chained.step, grads, chained.init(params), params) == 0


@pytest.mark.parametrize(("params", "by"), list(zip(PARAMS, itertools.cycle(["step", "update"]), strict=False)))
@pytest.mark.parametrize(
    ("state", "rounding"),
    [state if state == STATES[1] else pytest.param(*state, marks=pytest.mark.slow) for state in STATES],
)
def test_every_storage(state, rounding, params, by):
    check("adamw", state, rounding, params, by)


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(STATES)))
@pytest.mark.parametrize("name", ELEMENTWISE_RULES)
def test_every_elementwise_optimizer_in_every_storage(name, place):
    """Each storage of slots, each of parameters, and by turns all pairs of them; `adamw` has them all above."""
    (state, rounding), turn = STATES[place], ELEMENTWISE_RULES.index(name)
    check(name, state, rounding, PARAMS[(place + turn) % len(PARAMS)], "step", {"cut": (70, 290), "stack": (2, 33, 5)}, 2)


@pytest.mark.slow
def test_the_comparison_sees_other_bits():
    params, grads = numbers(jnp.bfloat16), [numbers(jnp.bfloat16)]
    one, two = (build("adamw", "int8", "stochastic", "stochastic", seed=seed) for seed in (0, 1))
    with pytest.raises(AssertionError):
        assert_equal_but_for_rounding(run(one, params, grads, "step"), run(two, params, grads, "step"))


@pytest.mark.slow
def test_before_and_after_other_rules():
    """A clip of the whole tree before it, and a rule of whole arrays after it: the kernel has what is between."""
    inner = [build("adam", "int8", "kahan", "stochastic", kernel) for kernel in ("pallas", "xla")]
    clip, after = jadam.clip_by_global_norm(0.1), jadam.clip_by_block_rms(1e-3)
    start, *grads = [numbers(jnp.bfloat16) for _ in range(3)]
    for chain in ((clip,), (), (clip, after)):
        rows = [jadam.chain(*chain[:1], tx, *chain[1:]) for tx in inner]
        assert kernels(rows[0].step, start, rows[0].init(start), start) == (3 * 4 if len(chain) < 2 else 0)
        assert_equal_but_for_rounding(*(run(tx, start, grads, "step") for tx in rows))


def test_many_models_and_derivatives_are_computed_by_xla():
    tx, without = (build("adam", "float32", None, "nearest", kernel) for kernel in ("pallas", "xla"))
    many = {"w": jnp.asarray(RNG.standard_normal((3, 64, 8)), jnp.float32)}
    stepped = [jax.vmap(lambda p, tx=tx: tx.step(p, tx.init(p), p)[0])(many) for tx in (tx, without)]
    chex.assert_trees_all_close(*stepped, rtol=1e-6)

    def loss(rate, tx):
        params = {"w": many["w"][0]}
        state = tx.init(params)
        state = state._replace(hyperparams=state.hyperparams | {"learning_rate": rate})
        return jnp.sum(jnp.square(tx.step(params, state, params)[0]["w"]))

    slopes = [jax.grad(loss)(jnp.float32(0.1), tx) for tx in (tx, without)]
    assert slopes[0] != 0
    np.testing.assert_allclose(*slopes, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
@pytest.mark.parametrize("spec", [("data", None), (None, "model"), ("data", "model"), (("data", "model"), None)], ids=str)
def test_each_device_computes_its_part(kind, spec):
    """The same numbers, with the same random bits, and nothing sent."""
    mesh = eight_devices(kind)
    place = NamedSharding(mesh, PartitionSpec(*spec))
    value, grad = (jnp.asarray(RNG.standard_normal((256, 80)), jnp.bfloat16) for _ in range(2))
    tx = build("adamw", "int8", "stochastic", "stochastic")
    alone = run(tx, {"w": value}, [{"w": grad}] * 2, "step")
    with jax.set_mesh(mesh):
        params, grads = ({"w": jax.device_put(x, place)} for x in (value, grad))
        step = jax.jit(tx.step)
        text = step.lower(grads, tx.init(params), params).compile().as_text()
        state = tx.init(params)
        for _ in range(2):
            params, state = step(grads, state, params)
        assert params["w"].sharding.is_equivalent_to(place, 2)
        assert state.slots["adam"]["mu.scales"]["w"].sharding.is_equivalent_to(place, 2)
    assert not any(word in text for word in ("all-gather", "all-to-all", "all-reduce", "collective-permute"))
    assert_equal_but_for_rounding((params, state), alone)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_blocks_that_devices_would_share_are_refused(kind):
    """Not gathered without a word."""
    mesh = eight_devices(kind)
    place = NamedSharding(mesh, PartitionSpec(("data", "model"), None))
    params = {"w": jax.device_put(jnp.ones((64, 32)), place)}
    tx = build("adamw", "int8", None, "nearest")
    words = "spread over 8 devices along its second last axis.* whole blocks on each"
    with jax.set_mesh(mesh), pytest.raises(Exception, match=words):
        tx.step(params, tx.init(params), params)
    rest = build("adamw", "bfloat16", None, "nearest")
    with jax.set_mesh(mesh):
        new, _ = rest.step(params, rest.init(params), params)
    assert new["w"].sharding.is_equivalent_to(place, 2)


def test_inside_shard_map():
    mesh = eight_devices(AxisType.Auto)
    params = {"w": jnp.asarray(RNG.standard_normal((256, 8)), jnp.float32)}
    tx = build("lion", "bfloat16", None, "nearest")
    spec = PartitionSpec(("data", "model"), None)
    step = jax.shard_map(lambda p: tx.step(p, tx.init(p), p)[0], mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    chex.assert_trees_all_close(jax.jit(step)(params), tx.step(params, tx.init(params), params)[0], rtol=1e-6)


@pytest.mark.slow
def test_tiles_of_other_platforms(monkeypatch):
    """What Triton and Mosaic would be given, interpreted: their tiles, and masks where there are any."""
    from jadam._engine import kernel

    start, *grads = [numbers(jnp.bfloat16) for _ in range(3)]
    expected = run(build("adamw", "int8", "remainder", "stochastic", "xla"), start, grads, "step")
    for platform in ("tpu", "cuda"):
        monkeypatch.setitem(kernel.TILES, "interpreted", kernel.TILES[platform])
        jax.clear_caches()
        found = run(build("adamw", "int8", "remainder", "stochastic"), start, grads, "step")
        assert_equal_but_for_rounding(found, expected)
