"""Laws of wrappers, for every optimizer and storage."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import EACH, OPTIMIZERS, assert_differ, counted, eight_devices

import jadam

STORAGES = [
    {},
    {"state": "bfloat16", "params": "stochastic", "min_size": 0},
    {"state": "int8", "params": "remainder", "min_size": 0},
    {"params": "kahan"},
]
STEPS = 3


def identities(tx):
    """The gradient of a linear loss is the same everywhere, a value that falls is an improvement, and a way back is none."""
    tx = jadam.chain(jadam.sam(tx, rho=0.5), jadam.reduce_on_plateau(patience=1))
    return jadam.average(jadam.lookahead(tx, sync_period=1, slow_step_size=1.0), 0.9)


def trained(tx, dtype):
    """The parameters, and the state without what wrappers keep, after some steps."""
    rng = np.random.default_rng(0)
    params, grads = (jnp.asarray(rng.standard_normal(shape), dtype) for shape in ((6, 8), (STEPS, 6, 8)))

    @jax.jit
    def train(params, grads):
        def body(carry, given):
            g, value = given
            return tx.step(g, carry[1], carry[0], value=value, grad_fn=lambda _: g), None

        return jax.lax.scan(body, (params, tx.init(params)), (grads, -jnp.arange(float(STEPS))))[0]

    params, state = train(params, grads)
    return params, {key: slots for key, slots in state.slots.items() if key not in ("lookahead", "average")}


def check(name, storage):
    plain = jadam.with_precision(OPTIMIZERS[name](0.1), **storage)
    dtype = jnp.bfloat16 if storage else jnp.float32
    chex.assert_trees_all_equal(trained(identities(plain), dtype), trained(plain, dtype))


def test_what_changes_something_is_seen():
    """The negative control: each with other arguments."""
    adam = jadam.adam(0.1)
    expected = trained(adam, jnp.float32)
    for tx in (
        jadam.lookahead(adam, 1, 0.9),
        jadam.chain(adam, jadam.reduce_on_plateau(patience=1, atol=2.0)),
        jadam.chain(jadam.average(adam), jadam.scale(0.9)),
    ):
        assert_differ(trained(tx, jnp.float32), expected)


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_on_eight_devices(kind):
    """The numbers of one device, placed as the parameters are; the second step compiles nothing."""
    loss = lambda params: jnp.sum(jnp.cos(params["w"]) ** 2)  # noqa: E731
    tx = jadam.chain(jadam.sam(jadam.adamw(0.1), rho=0.1, adaptive=True), jadam.reduce_on_plateau(patience=1))
    tx = jadam.average(jadam.lookahead(tx, 2, 0.5, reset_state=True), "uniform")
    alone = {"w": jnp.linspace(-1.0, 1.0, 64).reshape(8, 8)}

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        return tx.step(grads, state, params, value=value, grad_fn=jax.grad(loss))

    def trained(params):
        params, state = step(params, tx.init(params))
        for _ in range(3):
            compiled, (params, state) = counted(lambda: step(params, state))  # noqa: B023
            assert compiled == 0
        return params, jadam.averaged_params(state, params), state

    mesh = eight_devices(kind)
    with jax.set_mesh(mesh):
        placed = NamedSharding(mesh, PartitionSpec("data", "model"))
        found = trained(jax.device_put(alone, placed))
    for leaf in jax.tree.leaves((*found[:2], found[2].slots)):
        assert leaf.sharding.is_equivalent_to(placed, 2)
    chex.assert_trees_all_close(found, trained(alone), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EACH)
def test_what_changes_nothing_changes_no_bit(name):
    check(name, STORAGES[sorted(OPTIMIZERS).index(name) % len(STORAGES)])


@pytest.mark.slow
@pytest.mark.parametrize("storage", STORAGES, ids=str)
@pytest.mark.parametrize("name", EACH)
def test_in_every_storage(name, storage):
    check(name, storage)
