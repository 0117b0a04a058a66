"""What a run is watched by: norms against numpy, under names that stay."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jadam

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "b": jnp.ones(3)}
GRADS = jax.tree.map(lambda p: jnp.cos(7 * p), PARAMS)


def norm(tree):
    return float(np.sqrt(sum(np.sum(np.abs(np.asarray(x).astype(np.complex128)) ** 2) for x in jax.tree.leaves(tree))))


def change(new, old):
    return jax.tree.map(lambda a, b: np.asarray(a, np.float64) - np.asarray(b, np.float64), new, old)


def test_the_names_are_stable():
    """Of a logger's columns: what else is in the chain changes none."""
    tx = jadam.monitor(jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-3)))
    own = [f"clip_by_global_norm.{name}" for name in ("clipped_norm", "clipped_share", "measured_steps")]
    own += ["grad_norm", "learning_rate", "param_norm", "update_norm", "update_ratio"]
    found = jadam.metrics(tx.init(PARAMS))
    assert list(found) == own
    assert all(type(value) is float for value in found.values())
    more = jadam.loss_scale(jadam.guard(jadam.chain(tx, jadam.zclip()), backoff_factor=0.5))
    assert set(own) < set(jadam.metrics(more.init(PARAMS)))
    assert "guard.skipped" in jadam.metrics(more.init(PARAMS))
    assert jadam.metrics(optax.chain(tx).init(PARAMS)) == found
    twice = jadam.metrics([tx.init(PARAMS)] * 2)
    assert twice["grad_norm_1"] == twice["grad_norm"]
    with pytest.raises(TypeError, match=r"metrics: a dict has no state of jadam inside"):
        jadam.metrics(PARAMS)


@pytest.mark.parametrize("by", ["step", "update"])
@pytest.mark.parametrize("compiled", [True, False], ids=["jit", "eager"])
def test_norms_are_those_of_numpy(by, compiled):
    tx = jadam.monitor(jadam.chain(jadam.clip_by_global_norm(0.5), jadam.adamw(0.1)), by_leaf=True)
    function = jax.jit(getattr(tx, by)) if compiled else getattr(tx, by)
    found, state = function(GRADS, tx.init(PARAMS), PARAMS)
    moved = change(found, PARAMS) if by == "step" else found
    seen = jadam.metrics(state)
    expected = {
        **{"grad_norm": norm(GRADS), "update_norm": norm(moved), "param_norm": norm(PARAMS), "learning_rate": 0.1},
        **{"update_ratio": norm(moved) / norm(PARAMS), "clip_by_global_norm.clipped_norm": 0.5},
        **{"clip_by_global_norm.clipped_share": 1.0, "clip_by_global_norm.measured_steps": 1.0},
        **{f"grad_norm/{key}": norm(GRADS[key]) for key in PARAMS},
        **{f"update_norm/{key}": norm(moved[key]) for key in PARAMS},
        **{f"param_norm/{key}": norm(PARAMS[key]) for key in PARAMS},
    }
    assert set(seen) == set(expected)
    for name, value in expected.items():
        assert seen[name] == pytest.approx(value, rel=1e-5), name


@pytest.mark.parametrize("by", ["step", "update"])
@pytest.mark.parametrize("params", ["nearest", "stochastic", "kahan", "remainder"])
def test_of_16_bits_the_update_is_what_the_parameter_moves_by(params, by):
    """With what is kept beside it: an update below the last bit is not lost, and not missing from the norm."""
    start = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    tx = jadam.monitor(jadam.with_precision(jadam.sgd(1e-4), params=params, min_size=0))
    _, state = getattr(tx, by)(GRADS, tx.init(start), start)
    seen = jadam.metrics(state)
    assert seen["param_norm"] == pytest.approx(norm(start), rel=1e-5)
    if params in ("kahan", "remainder"):
        assert seen["update_norm"] == pytest.approx(1e-4 * norm(GRADS), rel=2e-2)


def test_the_share_of_clipped_steps():
    tx = jadam.monitor(jadam.chain(jadam.clip_by_global_norm(1.0), jadam.sgd(0.1)))
    params, state = jnp.ones(1), tx.init(jnp.ones(1))
    for size in (0.5, 2.0, 3.0, 0.1):
        _, state = tx.update(jnp.asarray([size]), state, params)
    assert jadam.metrics(state)["clip_by_global_norm.clipped_share"] == pytest.approx(0.5)
    assert jadam.metrics(state)["clip_by_global_norm.clipped_norm"] == pytest.approx(0.1)
    assert jadam.monitor(tx) == jadam.monitor(jadam.monitor(jadam.chain(jadam.clip_by_global_norm(1.0), jadam.sgd(0.1))))


@pytest.mark.parametrize("clip", [lambda: jadam.clip_by_global_norm(0.01), lambda: jadam.percentile_clip(percentile=0)])
def test_the_share_is_of_steps_since_the_monitor_is_there(clip):
    """It was divided by the count of the run: after 50 steps without a monitor, 5 clipped ones were a share of 0.09."""
    tx = jadam.chain(clip(), jadam.adam(1e-3))
    state = tx.init(PARAMS)
    for _ in range(3):
        _, state = tx.step(GRADS, state, PARAMS)
    tx = jadam.monitor(tx)
    state, _ = jadam.migrate(state, tx, PARAMS)
    for _ in range(5):
        _, state = tx.step(jax.tree.map(lambda g: 2 * g, GRADS), state, PARAMS)
    seen = jadam.metrics(state)
    (name,) = (name for name in seen if name.endswith(".clipped_share"))
    assert seen[name] == 1
    assert state.count == 8


def test_a_skipped_step_moves_nothing():
    tx = jadam.monitor(jadam.guard(jadam.sgd(0.1)))
    _, state = tx.step(GRADS | {"b": jnp.full(3, jnp.nan)}, tx.init(PARAMS), PARAMS)
    seen = jadam.metrics(state)
    assert (seen["update_norm"], seen["guard.skipped"]) == (0, 1)
    assert np.isnan(seen["grad_norm"])
    assert seen["param_norm"] == pytest.approx(norm(PARAMS), rel=1e-6)


def test_by_group_and_before_others():
    tx = jadam.partition(
        {"body": jadam.monitor(jadam.sgd(0.1)), "head": jadam.monitor(jadam.sgd(0.2))}, {"w": "body", "b": "head"}
    )
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    seen = jadam.metrics(state)
    assert seen["body.grad_norm"] == pytest.approx(norm(GRADS["w"]), rel=1e-6)
    assert seen["head.update_norm"] == pytest.approx(0.2 * norm(GRADS["b"]), rel=1e-6)
    assert seen["head.learning_rate"] == pytest.approx(0.2)
    chain = jadam.chain(jadam.monitor(jadam.scale_by_lion()), jadam.scale(0.5))
    _, state = chain.update(GRADS, chain.init(PARAMS), PARAMS)
    assert jadam.metrics(state)["update_norm"] == pytest.approx(np.sqrt(15), rel=1e-6)


def test_complex_parameters_and_an_empty_tree():
    params = {"c": jnp.asarray([3 + 4j, 0]), "n": jnp.arange(3)}
    tx = jadam.monitor(jadam.sgd(0.5))
    _, state = tx.step(params, tx.init(params), params)
    seen = jadam.metrics(state)
    assert (seen["grad_norm"], seen["param_norm"]) == (5, 5)
    assert seen["update_norm"] == pytest.approx(2.5)
    with pytest.raises(TypeError, match="monitor does not act on complex parameters, and c is complex64; mask it out"):
        jadam.monitor(jadam.sgd(0.5), by_leaf=True).init(params)
    _, state = tx.update({}, tx.init({}), {})
    assert jadam.metrics(state)["grad_norm"] == 0


@pytest.mark.parametrize("params", [{}, {"w": jnp.ones((0, 3))}], ids=["no leaves", "an empty one"])
def test_signal_to_noise_of_no_elements(params):
    """Of Adam, it said that no rule keeps mu and nu; of an array without elements, it was NaN."""
    tx = jadam.monitor(jadam.adam(1e-3), signal_to_noise=True)
    _, state = tx.step(params, tx.init(params), params)
    assert jadam.metrics(state)["signal_to_noise"] == 0
    tx = jadam.monitor(jadam.sgd(1e-3), signal_to_noise=True)
    with pytest.raises(ValueError, match="no rule inside monitor keeps mu and nu"):
        tx.step(params, tx.init(params), params)


def test_under_jit_and_of_many_models():
    tx = jadam.monitor(jadam.sgd(0.1))
    seen = jax.jit(lambda g, s, p: jadam.metrics(tx.step(g, s, p)[1]))(GRADS, tx.init(PARAMS), PARAMS)
    assert isinstance(seen["grad_norm"], jax.Array)
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), GRADS)
    _, states = jax.vmap(tx.update, in_axes=(0, None, None))(many, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(jadam.metrics(states)["grad_norm"], [norm(GRADS), 2 * norm(GRADS)], rtol=1e-6)


def test_norms_have_derivatives_where_they_are_zero():
    """The root of 0 has none; they were NaN."""
    tx = jadam.monitor(jadam.sgd(0.0))

    def norms(params):
        seen = jadam.metrics(tx.step(params, tx.init(params), params)[1])
        return seen["update_norm"] + seen["param_norm"]

    np.testing.assert_allclose(jax.grad(norms)(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)


def test_it_needs_the_parameters():
    tx = jadam.monitor(jadam.sgd(0.1))
    with pytest.raises(ValueError, match="monitor needs the parameters"):
        tx.update(GRADS, tx.init(PARAMS))


@pytest.mark.usefixtures("lenient")
def test_in_the_boxes_of_flax():
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, jadam.guard(jadam.monitor(jadam.sgd(0.1), by_leaf=True)), wrt=nnx.Param)
    grads = nnx.grad(lambda model: model(jnp.ones((1, 2))).sum())(model)
    optimizer.update(model, grads)
    seen = jadam.metrics(optimizer.opt_state)
    assert seen["grad_norm/kernel"] == pytest.approx(np.sqrt(6))
    assert seen["grad_norm"] == pytest.approx(3)
    assert not jadam.has_diverged(optimizer.opt_state)


@pytest.mark.parametrize("storage", ["float32", "int8"])
def test_signal_to_noise(storage):
    """Of gradients that do not change it is one, but for the bias; of signs that change, small."""
    tx = jadam.monitor(jadam.with_precision(jadam.adam(1e-3), storage, min_size=0), signal_to_noise=True)
    state = tx.init(PARAMS)
    for _ in range(3):
        _, state = tx.step(GRADS, state, PARAMS)
    bias = (1 - 0.9**3) / np.sqrt(1 - 0.999**3)
    assert jadam.metrics(state)["signal_to_noise"] == pytest.approx(bias, rel=1e-5 if storage == "float32" else 0.05)
    _, state = tx.step(jax.tree.map(jnp.negative, GRADS), state, PARAMS)
    assert jadam.metrics(state)["signal_to_noise"] < 0.75 * bias
    tx = jadam.monitor(jadam.lion(1e-3), signal_to_noise=True)
    with pytest.raises(ValueError, match="no rule inside monitor keeps mu and nu, which it reads"):
        tx.step(GRADS, tx.init(PARAMS), PARAMS)


def test_a_ratio_that_no_float_represents_counts_as_the_largest():
    tx, params = jadam.monitor(jadam.sgd(1.0)), {"w": jnp.full(2, 1e-3)}
    _, state = jax.jit(tx.update)({"w": jnp.full(2, 3e38)}, tx.init(params), params)
    assert jadam.metrics(state)["update_ratio"] == np.finfo(np.float32).max
