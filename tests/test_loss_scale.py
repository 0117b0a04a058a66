"""Loss scaling: what float16 would lose, and steps that are left out whole."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jadam

PARAMS = {"w": jnp.linspace(-1, 1, 6, dtype=jnp.float16).reshape(3, 2), "b": jnp.ones(2, jnp.float32)}


def grads(value):
    return jax.tree.map(lambda p: jnp.full(p.shape, value, p.dtype), PARAMS)


def inner():
    return jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(jadam.linear_schedule(0.1, 0.0, 10)))


def test_gradients_below_float16_arrive():
    """Without a scale the gradient of this loss is zero in float16."""

    def loss(params, scale):
        return scale * 1e-8 * jnp.sum(params["w"].astype(jnp.float32))

    tx, plain = jadam.loss_scale(jadam.sgd(1e6)), jadam.sgd(1e6)
    state = tx.init(PARAMS)
    scaled, unscaled = (jax.grad(loss)(PARAMS, s) for s in (jadam.current_loss_scale(state), jnp.float32(1)))
    assert scaled["w"].dtype == jnp.float16
    updates, _ = tx.update(scaled, state, PARAMS)
    np.testing.assert_allclose(np.asarray(updates["w"], np.float64), -1e-2, rtol=2e-3)
    lost, _ = plain.update(unscaled, plain.init(PARAMS), PARAMS)
    assert not lost["w"].any()


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("run", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_a_bad_step_changes_the_scale_alone(bad, run):
    tx = jadam.loss_scale(inner(), init_scale=8.0)
    updates, state = run(tx.update)(grads(0.5), tx.init(PARAMS), PARAMS)
    assert all(x.any() for x in jax.tree.leaves(updates))
    spoiled = grads(0.5) | {"b": jnp.asarray([0.5, bad])}
    updates, after = run(tx.update)(spoiled, state, PARAMS)
    assert not any(x.any() for x in jax.tree.leaves(updates))
    new, stepped = run(tx.step)(spoiled, state, PARAMS)
    chex.assert_trees_all_equal(new, PARAMS)
    for left_out in (after, stepped):
        chex.assert_trees_all_equal(left_out._replace(scalars={}), state._replace(scalars={}))
        assert jadam.current_loss_scale(left_out) == 4
        assert left_out.scalars["loss_scale"]["skipped"] == 1
    _, good = run(tx.update)(grads(0.5), after, PARAMS)
    assert good.count == 2


def test_the_inner_optimizer_sees_only_good_steps():
    """With a bad step between them, two good ones give what two give without; the schedule does not move on either."""
    tx, plain = jadam.loss_scale(inner(), init_scale=4.0), inner()
    params, state = PARAMS, tx.init(PARAMS)
    for value in (2.0, jnp.inf, 1.0):  # the scale is 4, 4, 2
        params, state = tx.step(grads(value), state, params)
    expected, exact = PARAMS, plain.init(PARAMS)
    for value in (0.5, 0.5):
        expected, exact = plain.step(grads(value), exact, expected)
    chex.assert_trees_all_equal(params, expected)
    chex.assert_trees_all_equal(state.slots, exact.slots)
    assert state.count == exact.count == 2


def test_the_scale_grows_and_falls_within_its_limits():
    options = {"growth_interval": 3, "growth_factor": 4.0, "backoff_factor": 0.25, "min_scale": 0.5, "max_scale": 30.0}
    tx = jadam.loss_scale(jadam.sgd(0.1), init_scale=2.0, **options)
    state, seen = tx.init(PARAMS), []
    for value in [1.0] * 7 + [jnp.nan] * 4 + [1.0] * 2 + [jnp.nan] + [1.0] * 3:
        seen.append(float(jadam.current_loss_scale(state)))
        _, state = tx.update(grads(value), state, PARAMS)
    assert seen == [2, 2, 2, 8, 8, 8, 30, 30, 7.5, 1.875, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert jadam.current_loss_scale(state) == 2  # three good ones in a row; the two before the last NaN do not count


def test_scan_vmap_and_one_trace():
    tx = jadam.loss_scale(jadam.adam(0.1), init_scale=2.0, growth_interval=2)
    values = jnp.asarray([[1.0, jnp.inf], [1.0, 1.0], [1.0, 1.0]])
    each = lambda v, p: jax.tree.map(lambda x: jnp.full(x.shape, v).astype(x.dtype), p)  # noqa: E731

    @chex.assert_max_traces(1)
    def step(carry, v):
        params, state = carry
        return tx.step(each(v, params), state, params), jadam.current_loss_scale(state)

    start = (PARAMS, tx.init(PARAMS))
    run = lambda column: jax.lax.scan(step, start, column)  # noqa: E731
    (_, state), scales = jax.jit(jax.vmap(run, in_axes=1))(values)
    assert state.count.tolist() == [3, 2]
    assert scales.tolist() == [[2, 2, 4], [2, 1, 1]]


@pytest.mark.usefixtures("lenient")
def test_with_an_optimizer_from_elsewhere_and_low_precision():
    for tx in (optax.adam(0.1), jadam.with_precision(jadam.adam(0.1), state="int8", params="kahan", min_size=0)):
        scaled = jadam.loss_scale(jadam.chain(tx), init_scale=4.0)
        state = scaled.init(PARAMS)
        _, good = scaled.update(grads(1.0), state, PARAMS)
        updates, after = scaled.update(grads(jnp.nan), good, PARAMS)
        chex.assert_trees_all_equal(after.slots, good.slots)
        assert not any(x.any() for x in jax.tree.leaves(updates))


def test_it_must_be_around_all_else():
    """A clip before it saw scaled gradients, and another group was trained on them."""
    scaled = jadam.loss_scale(jadam.sgd(0.1))
    inside = jadam.partition([(jadam.match("b"), jadam.sgd(0.1)), (True, scaled)])
    for tx in (jadam.chain(jadam.clip_by_global_norm(1.0), scaled), inside, jadam.masked(scaled, jadam.match("b"))):
        with pytest.raises(ValueError, match=r"loss_scale leaves out whole steps; put it around all else, without a mask"):
            tx.update(grads(1.0), tx.init(PARAMS), PARAMS)


def test_reading_the_scale():
    tx = jadam.loss_scale(jadam.sgd(0.1))
    assert jadam.current_loss_scale({"opt": optax.chain(tx).init(PARAMS)}) == 2.0**15
    with pytest.raises(ValueError, match=r"current_loss_scale: the state has no loss scales"):
        jadam.current_loss_scale(jadam.sgd(0.1).init(PARAMS))
    with pytest.raises(ValueError, match=r"the state has 2 loss scales"):
        jadam.current_loss_scale(jadam.loss_scale(tx).init(PARAMS))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"init_scale": 0.25}, r"init_scale must lie between min_scale and max_scale: 1 <= 0.25 <= 1.67772e\+07 does not hold"),
        ({"init_scale": 0.0}, r"loss_scale\(init_scale=0.0\): init_scale must be a finite number > 0"),
        ({"growth_interval": 0}, r"growth_interval must be an integer >= 1"),
        ({"growth_factor": 1.0}, r"growth_factor must be a number > 1"),
        ({"backoff_factor": 1.0}, r"backoff_factor must be in \(0, 1\)"),
    ],
)
def test_options_out_of_range(option, words):
    with pytest.raises(ValueError, match=words):
        jadam.loss_scale(jadam.sgd(0.1), **option)


def test_check_precision():
    """Steps of 1e-4 leave a bfloat16 of 1.0 where it is, and move one of 0.001; kahan, float32 and small weights are well."""
    params = {"one": jnp.ones(8, jnp.bfloat16), "small": jnp.full(8, 1e-3, jnp.bfloat16), "full": jnp.ones(8)}
    tx = jadam.adam(1e-4)
    [words] = jadam.check_precision(tx, params, 1e-4)
    assert words.startswith("one: steps of 0.0001 move 0% of its elements, which are bfloat16 rounded to nearest")
    updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), tx.init(params), params)
    moved = jax.tree.map(lambda p, q: bool((p != q).all()), params, jadam.apply_updates(params, updates))
    assert moved == {"one": False, "small": True, "full": True}  # as it said
    assert jadam.check_precision(tx, params, 1e-2) == []
    assert jadam.check_precision(jadam.with_precision(tx, params="kahan"), params, 1e-4) == []
    assert len(jadam.check_precision(jadam.with_precision(tx, params="nearest"), params, 1e-4)) == 1
    assert jadam.check_precision(tx, {"half": jnp.ones(3, jnp.float16)}, 1e-4) != []
    schedule = jadam.warmup_cosine_decay_schedule(0.0, 1e-4, 10, 100)
    assert jadam.check_precision(tx, params, schedule) == [words]
    with pytest.raises(ValueError, match="a schedule with such a peak_value"):
        jadam.check_precision(tx, params, lambda count: 1e-4)


def test_check_precision_takes_each_its_own_rate():
    """Frozen weights do not move, and need not; a group is judged by its own learning rate."""
    params = {"a": jnp.ones(8, jnp.bfloat16), "b": jnp.ones(8)}
    groups = lambda tx: jadam.partition([(jadam.match("a"), tx), (True, jadam.adam(0.3))])  # noqa: E731
    assert jadam.check_precision(groups(jadam.freeze()), params) == []
    assert jadam.check_precision(groups(jadam.freeze()), params, 1e-5) == []
    [words] = jadam.check_precision(groups(jadam.adam(1e-5)), params)
    assert words.startswith("a: steps of 1e-05 move 0%")
    assert jadam.check_precision(jadam.adam(1e-4), {"h": jnp.ones(3, jnp.float16)})[0].endswith("'stochastic' or 'kahan'.")
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="must be a finite number >= 0"):
            jadam.check_precision(jadam.adam(1e-4), params, wrong)
    with pytest.raises(TypeError, match="check_precision: a GradientTransformationExtraArgs is no transformation of jadam"):
        jadam.check_precision(optax.adam(1e-4), params)


def test_describe_says_it_too():
    params = {"one": jnp.ones(8, jnp.bfloat16), "two": jnp.ones(8, jnp.bfloat16)}
    text = jadam.describe(jadam.adam(1e-4), params)
    assert "\none: steps of 0.0001 move 0% of its elements" in text
    assert text.endswith("... and 1 more: see check_precision")
    assert "steps of" not in jadam.describe(jadam.with_precision(jadam.adam(1e-4), params="stochastic"), params)
    assert "steps of" not in jadam.describe(jadam.adam(1e-4), jax.eval_shape(lambda: params))
