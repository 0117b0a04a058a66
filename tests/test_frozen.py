"""A parameter whose update is always zero takes no part in anything: norms, finite checks, sums, slots."""

import chex
import jax
import jax.numpy as jnp
import optax
import pytest
from support import EACH, OPTIMIZERS, eight_devices, run

import jadam

PARAMS = {"w": jnp.linspace(-1.0, 2.0, 12).reshape(4, 3), "b": jnp.linspace(0.1, 0.3, 3), "frozen": jnp.ones((2, 3))}
GRADS = {"w": jnp.full((4, 3), 0.02), "b": jnp.full(3, -0.01), "frozen": jnp.full((2, 3), 100.0)}
MASK = jadam.match("frozen")
ALONE = {name: value for name, value in PARAMS.items() if name != "frozen"}


def without(tree):
    return {name: value for name, value in tree.items() if name != "frozen"}


GROUPS = {  # how a user freezes: in a group, at the end, by label, before a rate, inside a wrapper
    "partition": lambda tx: jadam.partition([(MASK, jadam.freeze()), (True, tx)]),
    "labels": lambda tx: jadam.partition({"no": jadam.set_to_zero(), "yes": tx}, {"w": "yes", "b": "yes", "frozen": "no"}),
    "last": lambda tx: jadam.chain(tx, jadam.freeze(MASK)),
    "before a rate": lambda tx: jadam.chain(tx, jadam.masked(jadam.set_to_zero(), MASK), jadam.scale(1.0), jadam.clip(1e3)),
    "nested": lambda tx: jadam.masked(jadam.partition([(MASK, jadam.freeze()), (True, tx)]), True),
}


@pytest.mark.parametrize("how", GROUPS)
@pytest.mark.parametrize("gradient", [100.0, float("nan"), float("inf")])
def test_everything_is_as_if_it_were_not_there(how, gradient):
    """The norm of a clip was once that of all leaves: beside a frozen embedding the others hardly moved."""
    tx = jadam.chain(jadam.clip_by_global_norm(0.05), GROUPS[how](jadam.adamw(1e-2)))
    grads = GRADS | {"frozen": jnp.full((2, 3), gradient)}
    params, state = run(tx, PARAMS, [grads] * 3)
    alone, own = run(jadam.chain(jadam.clip_by_global_norm(0.05), jadam.adamw(1e-2)), ALONE, [without(GRADS)] * 3)
    chex.assert_trees_all_equal(without(params), alone)
    chex.assert_trees_all_equal(params["frozen"], PARAMS["frozen"])
    kept, alone_kept = jax.tree.leaves(state.slots), jax.tree.leaves(own.slots)
    assert sum(x.size for x in kept) == sum(x.size for x in alone_kept)


@pytest.mark.parametrize("name", EACH)
def test_of_every_optimizer(name):
    """Prodigy sums over all parameters, LAMB and Adafactor take norms: none sees what is frozen."""
    build = OPTIMIZERS[name]
    tx = jadam.partition([(MASK, jadam.freeze()), (True, build(1e-2))])
    nan = GRADS | {"frozen": jnp.full((2, 3), jnp.nan)}
    params, _ = run(tx, PARAMS, [nan] * 2)
    alone, _ = run(build(1e-2), ALONE, [without(GRADS)] * 2)
    chex.assert_trees_all_equal(without(params), alone)


def test_a_loss_scale_does_not_skip_for_it():
    tx = jadam.loss_scale(jadam.partition([(MASK, jadam.freeze()), (True, jadam.sgd(1.0))]), init_scale=2.0)
    nan = GRADS | {"frozen": jnp.full((2, 3), jnp.nan)}
    updates, state = tx.update(nan, tx.init(PARAMS), PARAMS)
    chex.assert_trees_all_close(without(updates), jax.tree.map(lambda g: -g / 2, without(GRADS)))
    assert state.scalars["loss_scale"]["skipped"] == 0
    assert not updates["frozen"].any()


def test_its_gradient_may_be_anything():
    tx = GROUPS["partition"](jadam.adam(1e-2))
    state, expected = tx.init(PARAMS), tx.update(GRADS, tx.init(PARAMS), PARAMS)
    for gradient in (None, jnp.ones(7), jnp.zeros((2, 3), jnp.int32), jnp.ones((2, 3), jnp.complex64)):
        chex.assert_trees_all_equal(tx.update(GRADS | {"frozen": gradient}, state, PARAMS), expected)
    rate = jadam.chain(jadam.sgd(0.1), jadam.freeze(MASK))
    updates, _ = rate.update(GRADS, rate.init(PARAMS))  # without parameters too
    assert not updates["frozen"].any()


def test_a_pair_from_elsewhere_does_not_see_it(lenient):
    tx = jadam.chain(optax.clip_by_global_norm(0.01), GROUPS["partition"](jadam.sgd(1.0)))
    params, _ = run(tx, PARAMS, [GRADS | {"frozen": jnp.full((2, 3), jnp.nan)}])
    alone, _ = run(jadam.chain(optax.clip_by_global_norm(0.01), jadam.sgd(1.0)), ALONE, [without(GRADS)])
    chex.assert_trees_all_close(without(params), alone)


def test_what_moves_after_it_is_not_frozen():
    """Decay, momentum, noise of a rule that does not keep zeros: the parameter moves, and counts."""
    tx = jadam.chain(jadam.masked(jadam.set_to_zero(), MASK), jadam.adamw(1e-2, weight_decay=0.5))
    params, state = run(tx, PARAMS, [GRADS])
    assert (params["frozen"] < 1).all()
    assert state.slots["adam"]["mu"]["frozen"] is not None
    assert "0 = match('frozen'): frozen" in jadam.describe(GROUPS["partition"](jadam.adam(1e-2)), PARAMS)


def test_frozen_on_a_mesh():
    mesh = eight_devices(jax.sharding.AxisType.Explicit)
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("model", None))
    params = PARAMS | {"frozen": jax.device_put(PARAMS["frozen"], sharding)}
    tx = GROUPS["last"](jadam.adam(1e-2))
    with jax.set_mesh(mesh):
        updates, _ = tx.update(params, tx.init(params), params)
    assert updates["frozen"].sharding.is_equivalent_to(sharding, 2)
