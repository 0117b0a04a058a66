"""Hyperball: the norm of each matrix stays, in every storage, and only the direction of an update counts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import assert_differ, eight_devices, run

import jadam

STORAGES = [
    ("float32", None, 1e-6),
    *(("bfloat16", how, 1e-3) for how in ("nearest", "stochastic", "kahan", "remainder")),
    *(("float16", how, 1e-3) for how in ("nearest", "stochastic", "kahan")),
]


def tree(dtype=jnp.float32, seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"stack": (2, 6, 4), "w": (6, 4), "b": (4,)}
    return {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in shapes.items()}


def norms(x):
    return np.sqrt(np.sum(np.asarray(x, np.float64) ** 2, (-2, -1)))


OPTIMIZERS = [(jadam.adamw, 3e-3), (jadam.lion, 3e-2), (jadam.sgd, 0.1)]


def drift(dtype, storage, steps, by="step", make=jadam.adam, rate=3e-3, **options):
    """How far, at any of the last 1,000 steps, the norms of four matrices are from those at the start, as a share."""
    tx = jadam.hyperball(make(rate), **options)
    tx = tx if storage is None else jadam.with_precision(tx, params=storage)
    params = jnp.asarray(np.random.default_rng(0).standard_normal((4, 16, 24)), dtype)
    phases = jnp.asarray(np.random.default_rng(1).standard_normal((4, 16, 24)), jnp.float32)

    def step(carry, t):
        params, state = carry
        g = (params.astype(jnp.float32) - phases + 3 * jnp.cos(jnp.float32(t) * (2 + phases**2))).astype(dtype)
        if by == "step":
            params, state = tx.step(g, state, params)
        else:
            updates, state = tx.update(g, state, params)
            params = jadam.apply_updates(params, updates)
        return (params, state), params

    @jax.jit
    def last(params):
        carry = jax.lax.fori_loop(0, steps - 1_000, lambda t, carry: step(carry, t)[0], (params, tx.init(params)))
        return jax.lax.scan(step, carry, jnp.arange(steps - 1_000, steps))[1]

    found = last(params)
    assert np.max(np.abs(np.asarray(found[-1] - params, np.float64))) > 0.1
    return float(np.max(np.abs(norms(found) / norms(params) - 1)))


@pytest.mark.parametrize(("make", "rate"), OPTIMIZERS, ids=lambda x: getattr(x, "__name__", x))
def test_norms_stay(make, rate):
    """A factor and two other ones in its place: those of Lion came to be 1.2e-3 off."""
    assert drift("bfloat16", "nearest", 3_000, make=make, rate=rate) < 1e-3


def test_norms_stay_in_float32():
    assert drift("float32", None, 3_000) < 1e-6


@pytest.mark.parametrize("start", [1.0, -3.0])
def test_norms_of_equal_elements_stay(start):
    """No factor brings their norm between two numbers of bfloat16."""
    params = jnp.full((4, 16, 24), start, jnp.bfloat16)
    grads = jnp.where(jnp.arange(24) < 12, params, -params)
    tx = jadam.with_precision(jadam.hyperball(jadam.lion(0.03)), params="nearest")
    for steps in (1, 2, 3, 20):
        found, _ = run(tx, params, [grads] * steps)
        np.testing.assert_allclose(norms(found), norms(params), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")  # in a quarter of the time
@pytest.mark.parametrize(("dtype", "storage", "bar"), STORAGES, ids=str)
def test_norms_stay_for_100000_steps(dtype, storage, bar):
    assert drift(dtype, storage, 100_000) < bar


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("by", ["step", "update"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("make", "rate"), OPTIMIZERS, ids=lambda x: getattr(x, "__name__", x))
def test_norms_stay_for_100000_steps_to_nearest(make, rate, dtype, by):
    assert drift(dtype, "nearest", 100_000, by, make, rate) < 1e-3


def test_without_a_radius_in_the_state_norms_drift():
    """The negative control, and what `radius="initial"` is for."""
    assert drift("bfloat16", "nearest", 5_000, radius="current") > 2e-3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("radius", ["initial", "current"])
def test_equations(radius):
    """Wen et al. 2026 in numpy, for Adam at its first step, whose direction is the sign."""
    params, grads = tree(jnp.float64), tree(jnp.float64, 1)
    found, state = run(jadam.hyperball(jadam.adam(0.1, eps=0.0), radius=radius), params, [grads])
    for name in ("stack", "w"):
        p, u = np.asarray(params[name]), np.sign(grads[name])
        length = norms(p)[..., None, None]
        q = p - 0.1 * length * u / norms(u)[..., None, None]
        np.testing.assert_allclose(found[name], q * length / norms(q)[..., None, None], rtol=1e-13)
    np.testing.assert_allclose(found["b"], params["b"] - 0.1 * np.sign(grads["b"]), rtol=1e-13)
    kept = state.slots.get("hyperball", {}).get("radius")
    assert (kept is not None) == (radius == "initial")
    if kept is not None:
        assert (kept["stack"].shape, kept["w"].shape, kept["b"]) == ((2, 1, 1), (1, 1), None)


def test_axes_of_a_matrix():
    """A kernel of a convolution is one matrix along all its axes, and a stack of them along two."""
    params = jnp.asarray(np.random.default_rng(0).standard_normal((3, 3, 4, 2)), jnp.float32)
    grads = params**3
    for axis in ((-2, -1), (0, 1, 2, 3), (0,)):
        found, _ = run(jadam.hyperball(jadam.adam(0.1), axis=axis), params, [grads] * 3)
        length = lambda x: np.sqrt(np.sum(np.asarray(x, np.float64) ** 2, axis))  # noqa: B023, E731
        np.testing.assert_allclose(length(found), length(params), rtol=1e-6)
        other = (0,) if axis != (0,) else (1,)
        length = lambda x: np.sqrt(np.sum(np.asarray(x, np.float64) ** 2, other))  # noqa: B023, E731
        assert not np.allclose(length(found), length(params), rtol=1e-4)


def test_decay_acts_where_the_norm_does_not_stay():
    decaying = lambda decay: jadam.chain(jadam.sgd(0.1, weight_decay=decay), jadam.decay_after_step(decay))  # noqa: E731
    params, grads = ({name: tree(seed=n)[name] for name in ("w", "b")} for n in range(2))
    found, plain, none = (
        run(tx, params, [grads])[0] for tx in (jadam.hyperball(decaying(0.5)), decaying(0.5), jadam.hyperball(decaying(0.0)))
    )
    chex.assert_trees_all_equal(found["b"], plain["b"])
    chex.assert_trees_all_equal(found["w"], none["w"])
    assert_differ(found["b"], none["b"])


def test_a_step_is_an_angle():
    """Where update and parameter are orthogonal, its tangent is the learning rate, whatever the sizes of both."""
    for size, slope, rate in ((1e-12, 1e6, 0.1), (1.0, 1e-3, 1e-3), (1e12, 1.0, 0.5)):
        p, g = size * jnp.asarray([[3.0, 4.0]]), slope * jnp.asarray([[-4.0, 3.0]])
        found, _ = run(jadam.hyperball(jadam.sgd(rate)), p, [g])
        cosine = float(jnp.sum((found / size) * (p / size))) / 25
        np.testing.assert_allclose(cosine, 1 / np.sqrt(1 + rate**2), rtol=1e-6)


def test_nothing_moves_without_a_direction():
    """No bit while micro-batches are collected, without gradients, at a rate of zero; and zeros stay zeros, not NaN."""
    params = {"p": tree("bfloat16")["w"], "zeros": jnp.zeros((3, 2))}
    grads = {"p": tree("bfloat16", 1)["w"], "zeros": jnp.ones((3, 2))}
    zeros = jax.tree.map(jnp.zeros_like, params)
    sgd = jadam.sgd(0.1)
    for tx, g in ((jadam.accumulate(sgd, 2), grads), (sgd, zeros), (jadam.sgd(0.0), grads)):
        found, _ = run(jadam.hyperball(jadam.with_precision(tx, params="stochastic")), params, [g])
        chex.assert_trees_all_equal(found, params)
    found, _ = run(jadam.hyperball(sgd), params, [grads])
    assert_differ(found["p"], params["p"])
    chex.assert_trees_all_equal(found["zeros"], params["zeros"])


@pytest.mark.parametrize(
    "around",
    [
        lambda tx: jadam.accumulate(jadam.average(tx), 2),
        pytest.param(lambda tx: tx, marks=pytest.mark.slow),
        pytest.param(jadam.guard, marks=pytest.mark.slow),
        pytest.param(jadam.monitor, marks=pytest.mark.slow),
    ],
)
def test_in_groups_and_inside_wrappers(around):
    params, grads = tree(), [tree(seed=n) for n in range(1, 3)]
    matrices = jadam.hyperball(jadam.sgd(0.1), True)
    groups = jadam.partition([(jadam.ndim_at_least(2), matrices, "matrices"), (True, jadam.sgd(0.1), "rest")])
    found, _ = run(around(groups), params, grads)
    for name in ("stack", "w"):
        np.testing.assert_allclose(norms(found[name]), norms(params[name]), rtol=1e-6)
        assert_differ(found[name], params[name])
    assert_differ(found["b"], params["b"])


@pytest.mark.slow
@pytest.mark.parametrize("storage", [{"state": "bfloat16"}, {"state": "int8"}], ids=str)
def test_the_radius_is_not_rounded(storage):
    tx = jadam.with_precision(jadam.hyperball(jadam.adam(0.1)), min_size=0, **storage)
    params = tree(jnp.bfloat16)
    state = tx.init(params)
    np.testing.assert_allclose(state.slots["hyperball"]["radius"]["w"], norms(params["w"])[None, None], rtol=1e-6)
    found, _ = run(tx, params, [tree(jnp.bfloat16, 1)])
    np.testing.assert_allclose(norms(found["w"]), norms(params["w"]), rtol=3e-3)


@pytest.mark.parametrize("kind", [pytest.param(AxisType.Auto, marks=pytest.mark.slow), AxisType.Explicit], ids=str)
def test_on_eight_devices(kind):
    params, grads = ({"w": jnp.tile(tree(seed=n)["stack"], (1, 4, 2))} for n in range(2))
    tx = jadam.hyperball(jadam.adam(0.1))
    step = jax.jit(lambda params: tx.step(grads, tx.init(params), params)[0])
    mesh = eight_devices(kind)
    with jax.set_mesh(mesh):
        placed = NamedSharding(mesh, PartitionSpec(None, "data", "model"))
        found = jax.jit(tx.step)(
            jax.device_put(grads, placed), tx.init(jax.device_put(params, placed)), jax.device_put(params, placed)
        )[0]
    assert found["w"].sharding.is_equivalent_to(placed, 3)
    chex.assert_trees_all_close(found, step(params), rtol=1e-6)


@pytest.mark.slow
def test_hypergradients_are_finite():
    def loss(rate):
        params = tree()
        found, _ = run(jadam.hyperball(jadam.sgd(rate)), params, [params | {"w": 0 * params["w"]}])
        return jnp.sum(found["stack"][0, 0]) + jnp.sum(found["w"])

    slope = jax.grad(loss)(0.1)
    near = (loss(0.1 + 1e-2) - loss(0.1 - 1e-2)) / 2e-2
    np.testing.assert_allclose(slope, near, atol=2e-3)
