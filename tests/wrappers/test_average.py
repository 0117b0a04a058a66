"""Averages of parameters: of those that landed, in float32, right from the first step, and without a trace in training."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from support import run, stack, wide

import jadam

RNG = np.random.default_rng(0)
PARAMS, *GRADS = [
    {"w": jnp.asarray(RNG.standard_normal((3, 4)), jnp.float32), "b": jnp.asarray(RNG.standard_normal(5), jnp.float32)}
    for _ in range(13)
]


def trained(tx, params=PARAMS, grads=GRADS):
    """The parameters and what `averaged_params` says after each step."""
    step, state, path, averages = jax.jit(tx.step), tx.init(params), [], []
    for g in grads:
        params, state = step(g, state, params)
        path.append(params)
        averages.append(jadam.averaged_params(state, params))
    return path, averages


def averaged(path, start, every):
    """The parameters that are averaged."""
    return [p for t, p in enumerate(path, 1) if t > start and (t - start) % every == 0]


@pytest.mark.parametrize(("start", "every"), [(0, 1), (3, 1), (0, 4), (4, 3), (100, 1)])
def test_uniform_is_the_mean(start, every):
    """As torch's AveragedModel, updated after these steps; until the first of them, the parameters as they are."""
    path, averages = trained(jadam.average(jadam.adamw(0.1), "uniform", start=start, every=every))
    for t, found in enumerate(averages, 1):
        chosen = averaged(path[:t], start, every)
        expected = jax.tree.map(lambda x: np.mean(x, axis=0), wide(stack(chosen))) if chosen else path[t - 1]
        chex.assert_trees_all_close(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(("start", "every"), [(0, 1), (4, 3)])
@pytest.mark.parametrize("decay", [0.0, 0.7, 0.99999])
def test_a_decay_is_optax_ema_without_its_bias(decay, start, every):
    path, averages = trained(jadam.average(jadam.sgd(0.1, momentum=0.9), decay, start=start, every=every))
    ema, n = jax.tree.map(np.zeros_like, wide(PARAMS)), 0
    for t, found in enumerate(averages, 1):
        if chosen := averaged(path[:t], start, every)[n:]:
            n += 1
            ema = jax.tree.map(lambda m, p: decay * m + (1 - decay) * np.asarray(p, np.float64), ema, chosen[0])
        expected = jax.tree.map(lambda m, n=n: m / (1 - decay**n), ema) if n else path[t - 1]
        chex.assert_trees_all_close(found, expected, rtol=2e-6, atol=1e-6)
        if n == 1 and chosen:
            chex.assert_trees_all_equal(found, path[t - 1])  # the first is the whole average, to the bit


@pytest.mark.usefixtures("lenient")  # for optax
def test_equals_optax_ema():
    path, averages = trained(jadam.average(jadam.sgd(0.1), 0.9))
    ema = optax.ema(0.9, debias=True)
    state = ema.init(PARAMS)
    for p, found in zip(path, averages, strict=True):
        expected, state = ema.update(p, state)
        chex.assert_trees_all_close(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("start", [0, 4])
@pytest.mark.parametrize(("decay", "share"), [(0.7, lambda n: 0.3), ("uniform", lambda n: 1 / (n + 1))])
def test_with_its_bias_it_begins_with_the_parameters_at_its_start(decay, share, start):
    path, averages = trained(jadam.average(jadam.adam(0.1), decay, start=start, debias=False))
    mean = wide([PARAMS, *path][start])
    for n, (p, found) in enumerate(zip(path[start:], averages[start:], strict=True), 1):
        mean = jax.tree.map(lambda m, x, n=n: m + share(n) * (np.asarray(x, np.float64) - m), mean, p)
        chex.assert_trees_all_close(found, mean, rtol=2e-6, atol=1e-6)


def test_a_schedule_of_decays_is_a_weighted_mean():
    """The bias is that of all decays so far, not of the last one to the power of the steps."""
    decay = lambda count: 1 - 1 / (count.astype(jnp.float32) + 1)  # noqa: E731
    _, averages = trained(jadam.average(jadam.adam(0.1), decay))
    _, uniform = trained(jadam.average(jadam.adam(0.1), "uniform"))
    chex.assert_trees_all_close(averages, uniform, rtol=2e-6, atol=1e-6)


def test_in_bfloat16_it_arrives():
    """Parameters that go from 0 to 1 and stay: optax's average of them, in bfloat16, stands still at a half."""
    one, start = jnp.ones(4, jnp.bfloat16), jnp.zeros(4, jnp.bfloat16)
    tx = jadam.average(jadam.sgd(1.0), 0.995, debias=False)

    def body(carry, g):
        params, state, theirs = carry
        params, state = tx.step(g, state, params)
        return (params, state, optax.incremental_update(params, theirs, 0.005)), None

    grads = jnp.zeros((1000, 4), jnp.bfloat16).at[0].set(-1)
    (params, state, theirs), _ = jax.lax.scan(body, (start, tx.init(start), start), grads)
    chex.assert_trees_all_equal(params, one)
    np.testing.assert_allclose(jadam.averaged_params(state, params.astype(jnp.float32)), 1 - 0.995**1000, rtol=1e-5)
    rounded = jadam.averaged_params(state, params)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(wide(rounded), 1 - 0.995**1000, atol=2**-9)
    assert (theirs <= 0.504).all()


@pytest.mark.parametrize("params", ["nearest", "stochastic", "kahan", "remainder"])
@pytest.mark.parametrize("by", ["step", "update"])
def test_it_is_of_what_landed(params, by):
    """In 16 bits a parameter is not where the update would have it: with steps too small to move it, so is its average."""
    tx = jadam.with_precision(jadam.average(jadam.sgd(1e-3), "uniform"), params=params)
    p = {"w": jnp.ones(64, jnp.bfloat16)}
    state, path, step, update = tx.init(p), [], jax.jit(tx.step), jax.jit(tx.update)
    for _ in range(6):
        if by == "step":
            p, state = step({"w": p["w"]}, state, p)
        else:
            updates, state = update({"w": p["w"]}, state, p)
            p = jadam.apply_updates(p, updates)
        residue = {slot: tree["w"] for slot, tree in state.slots.get(params, {}).items()}
        path.append(wide(tx.recipe.landings[0].storage.decode(p["w"], residue)))
    mean = np.mean(path[:-1], axis=0) * 5 / 6 + wide(p["w"]) / 6  # of the last, what lies beside it is not known
    found = wide(jadam.averaged_params(state, p)["w"])
    np.testing.assert_allclose(found, mean, atol=2**-8)
    kept = state.slots["uniform_average"]["average"]["w"]
    np.testing.assert_allclose(kept, np.mean(path[:-1], axis=0), rtol=1e-6)
    assert bool((kept == 1).all()) == (params == "nearest")


def test_it_survives_what_happens_between_steps():
    """Parameters that are clipped after each step enter the average as they are."""
    tx = jadam.average(jadam.sgd(1.0), "uniform")
    params, state = jnp.zeros(2), tx.init(jnp.zeros(2))
    for _ in range(3):
        params, state = tx.step(-jnp.ones(2), state, params)
        params = jnp.minimum(params, 1.5)
    np.testing.assert_allclose(jadam.averaged_params(state, params), (1 + 1.5 + 1.5) / 3, rtol=1e-6)


def test_in_groups_and_wrappers_and_beside_what_is_not_trained():
    params = PARAMS | {"steps": jnp.int32(3), "frozen": jnp.ones(2)}
    tx = jadam.partition(
        [
            (jadam.match("frozen"), jadam.freeze()),
            (jadam.match("w"), jadam.average(jadam.adam(0.1), "uniform")),
            (jadam.match("b"), jadam.average(jadam.sgd(0.1), 0.5)),
            (True, jadam.sgd(0.1)),
        ]
    )
    tx = jadam.loss_scale(jadam.chain(jadam.clip_by_global_norm(1.0), tx), init_scale=1.0)
    grads = [g | {"steps": jnp.int32(0), "frozen": jnp.ones(2)} for g in GRADS]
    path, averages = trained(tx, params, grads)
    chex.assert_trees_all_close(averages[-1]["w"], np.mean(wide(stack(path)["w"]), axis=0), rtol=2e-6, atol=1e-6)
    shares = 0.5 ** np.arange(len(path))[::-1]
    expected = np.tensordot(shares / shares.sum(), wide(stack(path)["b"]), 1)
    chex.assert_trees_all_close(averages[-1]["b"], expected, rtol=2e-6, atol=1e-6)
    for name in ("steps", "frozen"):
        assert averages[-1][name].dtype == params[name].dtype
        chex.assert_trees_all_equal(averages[-1][name], params[name])
    assert "average" not in str([key for key, x in tx.init(params).slots.items() if isinstance(x, dict) and "frozen" in key])


def test_it_is_found_in_any_tree():
    tx = jadam.average(jadam.adam(0.1), "uniform")
    params, state = run(tx, PARAMS, GRADS[:3])
    inside = optax.chain(tx.as_optax()).init(PARAMS)
    chex.assert_trees_all_equal(jadam.averaged_params({"opt": inside}, PARAMS), PARAMS)
    found = jadam.averaged_params({"opt": (state, 3)}, params)
    chex.assert_trees_all_equal(found, jadam.averaged_params(state, params))
    chex.assert_trees_all_close(jax.jit(jadam.averaged_params)(state, params), found, rtol=1e-6)


def test_with_flax():
    model = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, jadam.average(jadam.adam(0.1), "uniform"), wrt=nnx.Param)
    path = []
    for _ in range(3):
        optimizer.update(model, nnx.state(model, nnx.Param))
        path.append(nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    found = nnx.to_pure_dict(jadam.averaged_params(optimizer.opt_state, nnx.state(model, nnx.Param)))
    chex.assert_trees_all_close(found, jax.tree.map(lambda x: np.mean(x, axis=0), wide(stack(path))), rtol=2e-6, atol=1e-6)


def test_under_vmap():
    tx = jadam.average(jadam.adam(0.1), 0.9)
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)
    states = jax.vmap(tx.init)(many)
    for g in GRADS[:3]:
        many, states = jax.vmap(tx.step, in_axes=(None, 0, 0))(g, states, many)
    found = jax.vmap(jadam.averaged_params)(states, many)
    alone, state = run(tx, jax.tree.map(lambda x: 2 * x, PARAMS), GRADS[:3])
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[1], found), jadam.averaged_params(state, alone), rtol=1e-5, atol=1e-6)


def test_storage_and_placement():
    """All slots in 8 bits leave it in float32; by name it can be bfloat16. It is placed as its parameter."""
    params = {"w": jnp.ones((64, 64), jnp.bfloat16)}
    tx = jadam.average(jadam.adam(0.1))
    low = jadam.with_precision(tx, state="int8", params="remainder")
    assert low.init(params).slots["average"]["average"]["w"].dtype == jnp.float32
    named = jadam.with_precision(tx, state={"average": "bfloat16", "mu": "int8"})
    assert named.init(params).slots["average"]["average"]["w"].dtype == jnp.bfloat16
    p, state = run(named, params, [params] * 3)
    assert jadam.averaged_params(state, p)["w"].dtype == jnp.bfloat16
    placed = NamedSharding(jax.make_mesh((8,), ("x",)), PartitionSpec("x"))
    state = tx.init(jax.device_put(params, placed))
    assert state.slots["average"]["average"]["w"].sharding.is_equivalent_to(placed, 2)
    assert jadam.state_shardings(tx, jax.device_put(params, placed)).slots["average"]["average"]["w"] == placed


def test_it_is_seen_through():
    tx = jadam.average(jadam.adam(0.1), 0.9, start=5)
    assert repr(tx).endswith("average(start=5, decay=0.9))")
    assert "average" in jadam.describe(tx, PARAMS)
    state = tx.set_hyperparams(tx.init(PARAMS), decay=0.5, learning_rate=0.2)
    assert jadam.hyperparams(state)["decay"] == 0.5
    assert tx == jadam.average(jadam.adam(0.1), 0.9, start=5)


def test_huge_updates_pass():
    """Rules with slots see gradients that are cut, so that squares are finite; this one takes no squares."""
    huge = {"w": jnp.asarray([1e30, -1e30, jnp.inf])}
    params = {"w": jnp.zeros(3)}
    for tx in (jadam.average(jadam.sgd(1.0)), jadam.lookahead(jadam.sgd(1.0), 2, 0.5)):
        np.testing.assert_array_equal(tx.update(huge, tx.init(params), params)[0]["w"], -huge["w"])


def test_errors_are_in_words():
    plain, tx = jadam.adam(0.1), jadam.average(jadam.adam(0.1))
    with pytest.raises(ValueError, match="averaged_params: the state has no average; it must be of an `average`"):
        jadam.averaged_params(plain.init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="averaged_params: the parameter at b has two averages"):
        jadam.averaged_params(jadam.average(tx, "uniform").init(PARAMS), PARAMS)
    with pytest.raises(ValueError, match="averaged_params: the state has another structure than the parameters"):
        jadam.averaged_params(tx.init(PARAMS), {"w": jnp.ones(2)})
    with pytest.raises(ValueError, match="average needs the parameters"):
        tx.update(PARAMS, tx.init(PARAMS))
    for wrong in (1.0, "mean", None, -0.1):
        with pytest.raises((ValueError, TypeError), match=r"average\(decay=.*\): decay must be"):
            jadam.average(plain, wrong)
