"""Every storage keeps the contract of a transformation, and every optimizer trains in it."""

import functools

import chex
import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import EACH, OPTIMIZERS, cast, counted, eight_devices, is_finite, master, run, scanned, stack, wide

import jadam

CHOICES = {
    "bfloat16": {"state": "bfloat16"},
    "int8": {"state": "int8"},
    "int8 nearest": {"state": "int8", "rounding": "nearest"},
    "by slot": {"state": {"mu": "bfloat16", "nu": "int8"}, "params": "stochastic"},
    "kahan": {"params": "kahan"},
    "remainder": {"state": "int8", "params": "remainder"},
}
RNG = np.random.default_rng(6)
PARAMS, *GRADS = [
    {"w": jnp.asarray(RNG.standard_normal((6, 40)), jnp.bfloat16), "b": jnp.asarray(RNG.standard_normal(5), jnp.bfloat16)}
    for _ in range(4)
]


def chosen(name):
    return jadam.with_precision(jadam.adamw(1e-2), **CHOICES[name], min_size=0)


@pytest.mark.parametrize("name", CHOICES)
def test_transformations_are_values(name):
    one = chosen(name)
    assert len({one, chosen(name)}) == 1  # equal, with equal hashes
    assert one != jadam.adamw(1e-2)
    assert one not in [chosen(another) for another in CHOICES if another != name]
    assert "with_precision(" in repr(one)
    for word in jax.tree.leaves(CHOICES[name]):
        assert word.lower() in repr(one).lower()


def test_seeds_and_sizes_count_where_they_matter():
    def make(**kwargs):
        return jadam.with_precision(jadam.adam(1e-3), **{"state": "int8", "params": "stochastic"} | kwargs)

    assert len({make(), make(seed=1), make(min_size=0), make(rounding="nearest"), make(state="bfloat16")}) == 5


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOICES)
def test_a_step_is_a_fixed_point_and_takes_donated_buffers(name):
    """A scan refuses another carry. The second step compiles nothing, and every buffer of the state is used again."""
    tx = chosen(name)
    state = tx.init(PARAMS)
    chex.assert_trees_all_equal_shapes_and_dtypes(jax.eval_shape(tx.init, PARAMS), state)
    chex.assert_trees_all_equal(jax.jit(tx.init)(PARAMS), state)
    carry = jax.eval_shape(functools.partial(scanned, tx), PARAMS, stack(GRADS))
    chex.assert_trees_all_equal_shapes_and_dtypes(carry, (PARAMS, state))
    assert not any(x.weak_type for x in jax.tree.leaves(carry))
    step = jax.jit(tx.step, donate_argnums=(1, 2))
    donated = jax.tree.map(jnp.copy, (state, PARAMS))
    params, after = step(GRADS[0], *donated)
    assert all(x.is_deleted() for x in jax.tree.leaves(donated))
    compiled, again = counted(lambda: step(GRADS[1], after, params))
    assert compiled == 0
    chex.assert_trees_all_equal(again, run(tx, PARAMS, GRADS[:2]))


ON_A_MESH = {  # of parameters: shape, placement, placement of their scales
    "whole": ((8, 128), ("data", "model"), ("data", "model")),
    "odd": ((8, 70), ("data", None), ("data", None)),
    "cut": ((8, 96), ("data", "model"), ("data", None)),  # 48 columns a device, a block and a half
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ON_A_MESH)
@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit], ids=str)
def test_storages_on_a_mesh(kind, name):
    """Codes and residues are placed like their parameter, scales too where a device has whole blocks; a step keeps that."""
    mesh = eight_devices(kind)
    shape, *specs = ON_A_MESH[name]
    own, scales = (NamedSharding(mesh, PartitionSpec(*spec)) for spec in specs)
    alone = {"w": jnp.ones(shape, jnp.bfloat16)}
    tx, params = chosen("remainder"), jax.device_put(alone, own)

    def check(state):
        for slot, tree in state.slots["adam"].items():
            assert slot.endswith(".scales") or tree["w"].shape == shape
            assert tree["w"].sharding.is_equivalent_to(scales if slot.endswith(".scales") else own, 2)
        assert state.slots["remainder"]["remainder"]["w"].sharding.is_equivalent_to(own, 2)
        assert state.count.sharding.is_equivalent_to(NamedSharding(mesh, PartitionSpec()), 0)

    with jax.set_mesh(mesh):
        eager = tx.init(params)
        check(eager)
        planned = jadam.state_shardings(tx, params)
        assert jax.tree.map(lambda x: x.sharding, eager) == planned
        inside = jax.jit(tx.init, out_shardings=planned)(params)
        check(inside)
        chex.assert_trees_all_equal(inside, eager)
        step = jax.jit(tx.step)
        moved, after = step(params, inside, params)
        compiled, later = counted(lambda: step(params, after, moved))
    chex.assert_trees_all_equal(later, run(tx, alone, [alone, alone]))
    check(after)
    check(later[1])
    assert compiled == 0


def test_models_side_by_side():
    """Under `vmap`, each learning rate as if it trained alone."""
    tx, rates = chosen("remainder"), jnp.asarray([1e-3, 1e-2, 0.1])

    def with_rate(rate):
        return tx.set_hyperparams(tx.init(PARAMS), learning_rate=rate)

    many = stack([PARAMS] * 3)
    states, step = jax.vmap(with_rate)(rates), jax.jit(jax.vmap(tx.step, in_axes=(None, 0, 0)))
    alone = jax.jit(tx.step)
    single = [(PARAMS, with_rate(rate)) for rate in rates]
    for g in GRADS[:2]:
        many, states = step(g, states, many)
        single = [alone(g, state, params) for params, state in single]
    chex.assert_trees_all_equal((many, states), stack(single))


# Every optimizer


@functools.cache
def golden_problem():
    """The recorded gradients of the authors' trajectories, twice over: 200 steps.

    Its four leaves as a matrix and a vector, so that a program has two: the scalar would stay float32 anyway. From
    parameters that bfloat16 holds.
    """
    params, grads = golden.problem(golden.CASES["adam_default"], "float32")

    def join(tree, *lead):
        return {"w": tree["w"], "v": jnp.concatenate([tree[leaf].reshape(*lead, -1) for leaf in ("b", "c", "s")], -1)}

    return cast(cast(join(params), "bfloat16"), "float32"), jax.tree.map(lambda x: jnp.concatenate([x, x]), join(grads, 100))


@functools.cache
def trained(name, state=None, rounding="stochastic", params=None):
    """All updates of a run, the parameters after each, and the last state; by `step` if they are stored otherwise."""
    tx, (start, grads) = OPTIMIZERS[name](1e-3), golden_problem()
    if state or params:
        tx = jadam.with_precision(tx, state=state, params=params, rounding=rounding, min_size=0)
    start = cast(start, "bfloat16") if params else start

    def body(carry, g):
        p, state = carry
        if params:
            p, state = tx.step(g, state, p)
            return (p, state), (p, p)
        updates, state = tx.update(g, state, p)
        p = jadam.apply_updates(p, updates)
        return (p, state), (updates, p)

    train = jax.jit(lambda p, grads: jax.lax.scan(body, (p, tx.init(p)), grads))
    (_, last), (updates, path) = train(start, grads)
    return wide(updates), path, last


@pytest.mark.parametrize(
    ("state", "rounding"),
    [("bfloat16", "stochastic"), ("int8", "stochastic"), pytest.param("int8", "nearest", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("name", EACH)
def test_every_optimizer_with_slots_in_fewer_bits(name, state, rounding):
    """The updates of 200 steps point where those of float32 slots do; a scan holds the state to its dtypes."""
    updates, _, last = trained(name, state, rounding)
    expected, _, full = trained(name)
    one, other = (np.concatenate([x.reshape(-1) for x in jax.tree.leaves(tree)]) for tree in (updates, expected))
    assert np.isfinite(one).all()
    assert is_finite(last)
    kept, most = (sum(x.nbytes for x in jax.tree.leaves(state.slots)) for state in (last, full))
    assert kept < most or most == 0, "nothing is stored in fewer bits"
    cosine = one @ other / np.sqrt((one @ one) * (other @ other))
    signs = name == "lion"  # an average within a rounding of zero may get the other sign, which is a full step
    assert cosine > {"bfloat16": 0.99 if signs else 0.999, "int8": 0.97 if signs else 0.99}[state]
    assert cosine < 1 or not most


@pytest.mark.parametrize("name", EACH)
def test_every_optimizer_with_parameters_in_16_bits(name):
    """After 200 steps as far from float32 as the storage can hold.

    The remainder: not at all. Kahan: 2^-16 of the parameter a step. Stochastic: five standard deviations of a walk in which
    a step of |u| on a grid of distance d has the variance |u| d.
    """
    full, start = wide(trained(name)[1]), wide(golden_problem()[0])
    steps = jax.tree.map(lambda x, p: np.abs(np.diff(x, axis=0, prepend=p[None])), full, start)
    for storage in ("stochastic", "kahan", "remainder"):
        _, low, last = trained(name, params=storage)
        assert is_finite((low, last))
        for leaf in ("w", "v"):
            p = low[leaf][-1]
            beside = {slot: tree[leaf] for slot, tree in last.slots.get(storage, {}).items()}
            error = np.abs(np.asarray(master(p, beside), np.float64) - full[leaf][-1])
            largest = np.abs(full[leaf]).max(0)
            gap = 2.0 ** (np.floor(np.log2(largest)) - 7)
            if storage == "remainder":
                np.testing.assert_array_equal(error, 0)
            elif storage == "kahan":
                assert (error <= 200 * 2.0**-16 * largest).all()
            else:
                assert (error <= 5 * np.sqrt(np.sum(np.minimum(steps[leaf] * gap, gap**2 / 4), 0)) + gap).all()


def test_nearest_loses_what_others_keep():
    """Negative control: the bars above can tell it."""
    full, low = wide(trained("adam")[1]), wide(trained("adam", params="nearest")[1])
    kahan = 200 * 2.0**-16 * np.abs(full["w"]).max(0)
    assert (np.abs(low["w"][-1] - full["w"][-1]) > kahan).mean() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    "choice",
    [
        {"state": "bfloat16"},
        {"state": "bfloat16", "rounding": "nearest"},
        {"params": "stochastic"},
        {"params": "kahan"},
        {"params": "remainder"},
        {"params": "nearest"},
    ],
    ids=lambda choice: " ".join(choice.values()),
)
def test_derivatives_pass_straight_through(choice):
    """As if nothing were rounded: the bits of a number have no derivative, and by the learning rate it was zero or half."""
    dtype = "bfloat16" if "params" in choice else "float32"
    start = cast({"w": RNG.standard_normal((6, 40))}, dtype)

    def final(tx, start, rate):
        state = tx.set_hyperparams(tx.init(start), learning_rate=rate)
        params = start
        for g in GRADS:
            params, state = tx.step({"w": params["w"] + g["w"].astype(params["w"].dtype)}, state, params)
        return jnp.sum(params["w"].astype("float32") ** 2)

    low = jadam.with_precision(jadam.adam(0.1), **choice, min_size=0)
    by_start, by_rate = jax.grad(functools.partial(final, low), (0, 1))(start, 0.1)
    full_start, full_rate = jax.grad(functools.partial(final, jadam.adam(0.1)), (0, 1))(cast(start, "float32"), 0.1)
    assert by_rate == pytest.approx(float(full_rate), rel=0.02)
    assert np.abs(wide(by_start)["w"] - wide(full_start)["w"]).max() < 0.1 * np.abs(wide(full_start)["w"]).max()
