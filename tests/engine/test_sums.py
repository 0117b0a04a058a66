"""Sums before the parameters are written, as on CPU where a monitor asks for them: the same numbers as at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import OPTIMIZERS, eight_devices

import jadam
from jadam._engine import sums
from jadam._engine.rest import rest_of

SHAPE = (64, 12)  # 8 parts of 96


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    """As if arrays were larger."""
    monkeypatch.setattr(sums, "LEAST", 200)


def arrays(seed, shape=SHAPE):
    return {"w": jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32), "b": jnp.ones(3)}


def clipped(name="adamw"):
    return jadam.chain(jadam.clip_by_global_norm(1.0), OPTIMIZERS[name](1e-2))


def parted(function, *args):
    """For how many arrays the sums come first."""
    return str(jax.make_jaxpr(function)(*args)).count("dot_general")


PARTED = {"adamw": 1, "rmsprop": 1, "lion": 0, "lamb": 0}


@pytest.mark.parametrize("name", PARTED)
def test_the_same_steps_and_norms(name):
    """`lion` needs its old momentum, which the new one is written over, and `lamb` all of its update."""
    plain, params, grads = clipped(name), arrays(0), arrays(1)
    tx = jadam.monitor(plain, by_leaf=True)
    state, own = tx.init(params), plain.init(params)
    assert parted(tx.step, grads, state, params) == PARTED[name]
    assert parted(tx.update, grads, state, params) == parted(plain.step, grads, own, params) == 0
    for _ in range(3):
        (new, state), (expected, own) = tx.step(grads, state, params), plain.step(grads, own, params)
        np.testing.assert_array_equal(new["w"], expected["w"])
        seen, old = jadam.metrics(state), np.asarray(params["w"], np.float64)
        assert seen["update_norm/w"] == pytest.approx(np.linalg.norm(np.asarray(new["w"], np.float64) - old), rel=1e-5)
        assert seen["param_norm/w"] == pytest.approx(np.linalg.norm(old), rel=1e-5)
        params = new


@pytest.mark.parametrize(
    ("tx", "shape"),
    [
        (clipped(), (64, 13)),  # parts that are no whole lanes
        (jadam.guard(clipped()), SHAPE),  # a branch
        (jadam.with_precision(clipped(), state="bfloat16", min_size=0), SHAPE),
    ],
    ids=["odd", "guard", "bfloat16"],
)
def test_what_is_computed_at_once(tx, shape):
    tx, params = jadam.monitor(tx), arrays(0, shape)
    assert parted(tx.step, params, tx.init(params), params) == 0
    _, state = tx.step(params, tx.init(params), params)
    norm = np.sqrt(sum(np.sum(np.square(np.asarray(x, np.float64))) for x in params.values()))
    assert jadam.metrics(state)["param_norm"] == pytest.approx(norm, rel=1e-5)


MOMENTUM = jadam.sgd(0.1, momentum=0.9)


def test_derivatives():
    """They are those of the step at once, not of the sums that come first. Of norms there were none: an error."""
    tx, params, grads = jadam.monitor(MOMENTUM), arrays(0), arrays(1)

    def watched(grads):
        new, state = tx.step(grads, tx.init(params), params)
        return jnp.sum(jnp.sin(new["w"])) + state.scalars["monitor"]["update_norm"]

    def plain(grads):
        new, _ = MOMENTUM.step(grads, MOMENTUM.init(params), params)
        return jnp.sum(jnp.sin(new["w"])) + jnp.sqrt(sum(jnp.sum((new[name] - params[name]) ** 2) for name in params))

    assert parted(watched, grads) == 1
    one, other = (jax.grad(f)(grads)["w"] for f in (watched, plain))
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_models_side_by_side():
    tx, several = jadam.monitor(MOMENTUM), jax.tree.map(lambda *x: jnp.stack(x), *map(arrays, range(2)))
    found, state = jax.vmap(lambda x: tx.step(x, tx.init(x), x))(several)
    for n in range(2):
        np.testing.assert_allclose(found["w"][n], 0.9 * arrays(n)["w"], rtol=1e-6)
        norm = np.sqrt(sum(np.sum(np.square(x)) for x in arrays(n).values()))
        assert state.scalars["monitor"]["update_norm"][n] == pytest.approx(0.1 * norm, rel=1e-5)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_on_eight_devices(kind):
    mesh = eight_devices(kind)
    placed = {"w": NamedSharding(mesh, PartitionSpec("data", None)), "b": NamedSharding(mesh, PartitionSpec(None))}
    params, tx = arrays(0, (64, 7)), jadam.monitor(MOMENTUM)
    expected, state = tx.step(params, tx.init(params), params)
    spread = jax.device_put(params, placed)
    found, seen = tx.step(spread, tx.init(spread), spread)
    assert found["w"].sharding.is_equivalent_to(spread["w"].sharding, 2)
    np.testing.assert_allclose(found["w"], expected["w"], rtol=1e-6)
    assert jadam.metrics(seen)["update_norm"] == pytest.approx(jadam.metrics(state)["update_norm"], rel=1e-6)


def test_the_rest_of_a_computation():
    def function(operands):
        old, other = operands
        new = jnp.sin(old)
        return new * other + 1, [new]

    rest = rest_of(function, (jnp.ones(3), jnp.ones(3)), lost=[0])
    assert rest is not None
    assert "sin" not in str(jax.make_jaxpr(rest)((jnp.ones(3), jnp.ones(3)), [jnp.ones(3)]))
    np.testing.assert_array_equal(rest((jnp.full(3, jnp.nan), jnp.full(3, 2.0)), [jnp.full(3, 5.0)]), np.full(3, 11.0))
    assert rest_of(function, (jnp.ones(3), jnp.ones(3)), lost=[1]) is None
