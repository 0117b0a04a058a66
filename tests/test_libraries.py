"""Other people's libraries: their transformations inside jadam, and jadam in their wrappers, training loops and checkpoints."""

import chex
import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from flax.training.train_state import TrainState

import jadam

pytestmark = pytest.mark.usefixtures("lenient")

RNG = np.random.default_rng(0)
VALUES = {
    "dense": {"kernel": RNG.standard_normal((3, 4)), "bias": RNG.standard_normal(4)},
    "scale": RNG.standard_normal(()),
}
GRADS = [jax.tree.map(lambda x: 3 * RNG.standard_normal(x.shape), VALUES) for _ in range(12)]
KERNEL, LABELS = jadam.match("**/kernel"), {"dense": {"kernel": "a", "bias": "b"}, "scale": "b"}
X = jnp.asarray(RNG.standard_normal((32, 3)), jnp.float32)
Y = jnp.tanh(X @ jnp.asarray([[1.0], [-2.0], [0.5]]) + 0.3)
ADAMW = jadam.adamw(jadam.cosine_decay_schedule(0.05, 40), weight_decay=0.1)
STEPS = 20


def cast(tree, dtype):
    return jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)


def run(tx, dtype="float32", grads=GRADS, grad_dtype="float32", apply_updates=jadam.apply_updates):
    """The parameters and the state after a scan over the gradients, which holds the state to its structure and dtypes."""
    params = cast(VALUES, dtype)

    def body(carry, g):
        updates, state = tx.update(g, carry[1], carry[0])
        return (apply_updates(carry[0], updates), state), None

    stacked = cast(jax.tree.map(lambda *x: np.stack(x), *grads), grad_dtype)
    return jax.lax.scan(body, (params, tx.init(params)), stacked)[0]


def distance(tree, other):
    """How far two runs are apart, as a fraction of how far they went."""
    apart, moved = (
        max(jnp.abs(x - y).max() for x, y in zip(*map(jax.tree.leaves, pair), strict=True))
        for pair in ((tree, other), (tree, cast(VALUES, "float32")))
    )
    return float(apart / moved)


ADAM, CLIP = jadam.adam(0.01), jadam.clip_by_global_norm(1.0)
SGD = jadam.sgd(0.02)

# name: (optax's inside jadam, the same of jadam alone, what it would be if optax's part did nothing or too much)
OPTAX_INSIDE = {
    "clip": (
        jadam.chain(optax.clip(0.1), jadam.sgd(0.01)),
        jadam.chain(jadam.clip(0.1), jadam.sgd(0.01)),
        jadam.sgd(0.01),
    ),
    "global clip": (jadam.chain(optax.clip_by_global_norm(1.0), SGD), jadam.chain(CLIP, SGD), SGD),
    "scale_by_adam": (jadam.chain(optax.scale_by_adam(), jadam.scale(-0.01)), ADAM, jadam.scale(-0.01)),
    "after a rule": (jadam.chain(CLIP, optax.trace(0.9), SGD), jadam.chain(CLIP, jadam.sgd(0.02, momentum=0.9)), SGD),
    "masked": (jadam.masked(optax.adam(0.01), KERNEL), jadam.masked(ADAM, KERNEL), ADAM),
    "partition": (
        jadam.partition([(KERNEL, optax.adam(0.01)), (True, SGD)]),
        jadam.partition([(KERNEL, ADAM), (True, SGD)]),
        jadam.partition([(KERNEL, SGD), (True, SGD)]),
    ),
}


@pytest.mark.parametrize("name", OPTAX_INSIDE)
def test_optax_inside_jadam(name):
    tx, same, other = (run(tx)[0] for tx in OPTAX_INSIDE[name])
    assert distance(tx, same) < 2e-5  # optax's bias correction in float32 is off by 1e-5 for b2=0.999
    assert distance(tx, other) > 1e-2


@pytest.mark.parametrize("name", OPTAX_INSIDE)
def test_optax_inside_jadam_keeps_its_dtypes(name):
    """Float32 gradients of bfloat16 parameters: optax's Adam alone turns its moments into float32, and a scan fails."""
    params, state = run(OPTAX_INSIDE[name][0], "bfloat16")
    chex.assert_trees_all_equal_shapes_and_dtypes(params, cast(VALUES, "bfloat16"))
    assert state.count == len(GRADS)
    if name == "scale_by_adam":
        assert state.slots["scale_by_adam"].mu["scale"].dtype == jnp.bfloat16
        with pytest.raises(TypeError, match="carry"):
            run(optax.adam(0.01), "bfloat16", apply_updates=optax.apply_updates)


def test_values_reach_the_optax_transformations_that_take_them():
    """`value=` makes reduce_on_plateau shrink the step; optax.clip, which takes no such argument, does not get it."""
    settings = {"factor": 0.5, "patience": 1, "accumulation_size": 1}
    ours = jadam.chain(optax.clip(10.0), jadam.sgd(1.0), optax.contrib.reduce_on_plateau(**settings))
    theirs = optax.chain(optax.clip(10.0), optax.sgd(1.0), optax.contrib.reduce_on_plateau(**settings))
    params = cast(VALUES, "float32")
    step = jax.jit(lambda tx, state, value: tx.update(params, state, params, value=value), static_argnums=0)

    def scales(tx, values):
        state, found = tx.init(params), []
        for value in values:
            updates, state = step(tx, state, value)
            found.append(float(-updates["scale"] / params["scale"]))
        return found

    assert scales(ours, [2.0, 3.0, 4.0, 5.0]) == scales(theirs, [2.0, 3.0, 4.0, 5.0])
    assert scales(ours, [2.0, 3.0, 4.0, 5.0])[-1] < 1
    assert scales(ours, [5.0, 4.0, 3.0, 2.0]) == [1.0] * 4
    with pytest.raises(TypeError, match="value"):
        ours.update(params, ours.init(params), params)


def test_a_line_search_gets_its_function():
    def loss(params):
        return sum(jnp.sum((x - 1.0) ** 4 + x**2) for x in jax.tree.leaves(params))

    def minimum(tx, steps=4):
        def body(carry, _):
            value, grad = jax.value_and_grad(loss)(carry[0])
            updates, state = tx.update(grad, carry[1], carry[0], value=value, grad=grad, value_fn=loss)
            return (jadam.apply_updates(carry[0], updates), state), None

        params = cast(VALUES, "float32")
        return jax.lax.scan(body, (params, tx.init(params)), length=steps)[0][0]

    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=30)
    ours, theirs = jadam.chain(jadam.sgd(1.0), search), optax.chain(optax.sgd(1.0), search)
    assert distance(minimum(ours), minimum(theirs)) < 1e-5
    assert distance(minimum(ours), minimum(jadam.sgd(1.0), steps=1)) > 1e-2  # a whole step is too long
    assert loss(minimum(ours)) < 0.5 * loss(cast(VALUES, "float32"))


MEANS = [jax.tree.map(lambda x, y: (x + y) / 2, *GRADS[i : i + 2]) for i in range(0, len(GRADS), 2)]

# name: (jadam inside optax, the same of jadam alone, its gradients, what it must not be)
OPTAX_OUTSIDE = {
    "chain": (optax.chain(optax.clip(0.5), ADAM), jadam.chain(jadam.clip(0.5), ADAM), GRADS, ADAM),
    "masked": (optax.masked(ADAM, KERNEL), jadam.masked(ADAM, KERNEL), GRADS, ADAM),
    "mask": (
        optax.adamw(0.01, weight_decay=5.0, mask=KERNEL),
        jadam.adamw(0.01, weight_decay=5.0, mask=KERNEL),
        GRADS,
        ADAM,
    ),
    "multi_transform": (
        optax.multi_transform({"a": ADAM, "b": jadam.chain(CLIP, SGD)}, LABELS),
        jadam.partition({"a": ADAM, "b": jadam.chain(CLIP, SGD)}, LABELS),
        GRADS,
        jadam.chain(CLIP, jadam.partition({"a": ADAM, "b": SGD}, LABELS)),  # the clip within its group, not outside
    ),
    "partition": (
        optax.partition({"a": ADAM, "b": optax.set_to_zero()}, LABELS),
        jadam.partition([(KERNEL, ADAM), (True, jadam.freeze())]),
        GRADS,
        ADAM,
    ),
    "MultiSteps": (optax.MultiSteps(ADAM, 2), ADAM, MEANS, jadam.chain(CLIP, SGD)),
    "apply_if_finite": (optax.apply_if_finite(ADAM, 3), ADAM, GRADS, SGD),
    "flatten": (optax.flatten(ADAM), ADAM, GRADS, SGD),
}


@pytest.mark.parametrize("name", OPTAX_OUTSIDE)
def test_jadam_inside_optax(name):
    tx, same, grads, other = OPTAX_OUTSIDE[name]
    params, _ = run(tx, apply_updates=optax.apply_updates)
    assert distance(params, run(same, grads=grads)[0]) < 2e-5
    assert distance(params, run(other, grads=grads)[0]) > 1e-2
    low, _ = run(tx, "bfloat16", grad_dtype="bfloat16", apply_updates=optax.apply_updates)
    chex.assert_trees_all_equal_shapes_and_dtypes(low, cast(VALUES, "bfloat16"))


def test_apply_if_finite_leaves_the_state_of_jadam_alone():
    tx, params = optax.apply_if_finite(ADAM, 3), cast(VALUES, "float32")
    bad = jax.tree.map(lambda x: x * jnp.nan, params)
    (_, clean), (_, spoilt) = run(tx), run(tx, grads=[*GRADS[:5], bad, *GRADS[5:]])
    chex.assert_trees_all_equal(clean.inner_state, spoilt.inner_state)
    assert spoilt.total_notfinite == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_apply_updates_of_both_are_one(dtype):
    params, grads = cast(VALUES, dtype), cast(GRADS[0], dtype)
    updates, _ = ADAMW.update(grads, ADAMW.init(params), params)
    chex.assert_trees_all_equal(jadam.apply_updates(params, updates), optax.apply_updates(params, updates))
    assert float(jnp.abs(updates["dense"]["kernel"]).min()) > 0


def test_schedules_of_both_are_one():
    numbers = {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 4, "decay_steps": 12, "end_value": 0.01}
    ours, theirs = jadam.warmup_cosine_decay_schedule(**numbers), optax.warmup_cosine_decay_schedule(**numbers)
    params, state = run(jadam.adam(theirs))
    assert distance(params, run(jadam.adam(ours))[0]) < 1e-6
    assert jadam.hyperparams(state)["learning_rate"] == pytest.approx(float(theirs(len(GRADS) - 1)), rel=1e-6)
    by_optax = [run(optax.adam(s), apply_updates=optax.apply_updates)[0] for s in (ours, theirs, 0.1)]
    assert distance(*by_optax[:2]) < 1e-6
    assert distance(by_optax[0], by_optax[2]) > 1e-2


@pytest.mark.parametrize("name", ["chain", "masked", "MultiSteps", "apply_if_finite", "partition"])
def test_hyperparameters_are_read_from_states_of_optax(name):
    values = jadam.hyperparams(OPTAX_OUTSIDE[name][0].init(cast(VALUES, "float32")))
    assert values["learning_rate"] == np.float32(0.01)
    assert values["b2"] == pytest.approx(0.999)


@pytest.mark.parametrize("jit", [True, False])
def test_inject_hyperparams_drives_jadam(jit):
    """The numbers in jadam's state hid those that inject_hyperparams gave: a warm-up from zero never moved."""
    tx = optax.inject_hyperparams(jadam.sgd)(learning_rate=optax.linear_schedule(0.0, 1.0, 2))
    params = cast(VALUES, "float32")
    state, update, rates = tx.init(params), jax.jit(tx.update) if jit else tx.update, []
    for _ in range(3):
        updates, state = update(params, state, params)
        rates.append(float(-updates["scale"] / params["scale"]))
    assert rates == [0.0, 0.5, 1.0]


def plain(tx, loss, params):
    """Training without a library: what each of theirs must come to. Gives the parameters after every step, and the losses."""

    def body(carry, _):
        value, grads = jax.value_and_grad(loss)(carry[0])
        params, state = tx.step(grads, carry[1], carry[0])
        return (params, state), (params, value)

    return jax.lax.scan(body, (params, tx.init(params)), length=STEPS)[1]


def check_trained(params, losses, tx, loss, start):
    """Equal to the plain run up to what another fusion rounds, and not to one a step shorter; the loss fell."""
    path, expected_losses = plain(tx, loss, start)
    chex.assert_trees_all_close(params, jax.tree.map(lambda x: x[-1], path), rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(jnp.stack(losses), expected_losses, rtol=1e-4)
    assert losses[-1] < 0.3 * losses[0]
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(params, jax.tree.map(lambda x: x[-2], path), rtol=1e-4, atol=1e-5)


class NNXModel(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.hidden, self.out = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def squares(model):
    return jnp.mean((model(X) - Y) ** 2)


def train_nnx(tx):
    model = NNXModel()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        value, grads = nnx.value_and_grad(squares)(model)
        optimizer.update(model, grads)
        return value

    return model, optimizer, [step(model, optimizer) for _ in range(STEPS)]


@pytest.mark.parametrize(
    "tx",
    [
        ADAMW,
        jadam.chain(optax.clip_by_global_norm(0.1), jadam.adam(0.05)),
        jadam.adamw(0.05, weight_decay=1.0, mask=jadam.ndim_at_least(2)),
    ],
)
def test_nnx_optimizer(tx):
    model, optimizer, losses = train_nnx(tx)
    graph, start = nnx.split(NNXModel())
    check_trained(nnx.state(model), losses, tx, lambda params: squares(nnx.merge(graph, params)), start)
    assert float(jadam.hyperparams(optimizer.opt_state)["learning_rate"]) > 0
    assert int(optimizer.opt_state.count[...]) == STEPS


def test_nnx_paths_do_not_show_the_variables():
    """Nnx gives Variables to init (`hidden/kernel/value`) and arrays to update (`hidden/kernel`): no one glob matched both."""
    model, _, _ = train_nnx(jadam.adamw(0.05, weight_decay=1.0, mask=jadam.match("**/kernel")))
    same, _, _ = train_nnx(jadam.adamw(0.05, weight_decay=1.0, mask=jadam.ndim_at_least(2)))
    all_decay, _, _ = train_nnx(jadam.adamw(0.05, weight_decay=1.0))
    chex.assert_trees_all_equal(nnx.state(model), nnx.state(same))
    assert not np.array_equal(model.hidden.bias[...], all_decay.hidden.bias[...])


def test_nnx_hyperparameters_are_arrays_and_can_be_set():
    """They came as Variables, live views that change with the next step; setting one put an array in a Variable's place."""
    tx = jadam.adam(0.05)
    model, optimizer, _ = train_nnx(tx)
    values = jadam.hyperparams(optimizer.opt_state)
    assert {type(value) for value in values.values()} == {type(jnp.ones(()))}
    state = tx.set_hyperparams(optimizer.opt_state, learning_rate=0.0)
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.opt_state)
    optimizer.opt_state = nnx.data(state)
    before = jax.tree.map(jnp.copy, nnx.state(model))
    optimizer.update(model, nnx.grad(squares)(model))
    chex.assert_trees_all_equal(nnx.state(model), before)
    assert jadam.hyperparams(optimizer.opt_state)["learning_rate"] == 0.0


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x):
        boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        return nn.Dense(1)(jnp.tanh(nn.Dense(8, kernel_init=boxed)(x)))


def test_linen_train_state():
    model, tx = LinenModel(), jadam.adamw(0.05, weight_decay=0.3, mask=jadam.ndim_at_least(2))
    start = model.init(jax.random.key(0), X)["params"]
    state, losses = TrainState.create(apply_fn=model.apply, params=start, tx=tx), []

    @jax.jit
    def step(state):
        value, grads = jax.value_and_grad(lambda p: squares(lambda x: state.apply_fn({"params": p}, x)))(state.params)
        return state.apply_gradients(grads=grads), value

    for _ in range(STEPS):
        state, value = step(state)
        losses.append(value)
    check_trained(state.params, losses, tx, lambda p: squares(lambda x: model.apply({"params": p}, x)), start)
    assert jadam.hyperparams(state)["learning_rate"] == np.float32(0.05)


def test_linen_paths_do_not_show_the_boxes():
    """A kernel in a box of metadata was at `Dense_0/kernel/value`: a glob for all kernels missed it without a word."""
    params = jax.eval_shape(LinenModel().init, jax.random.key(0), X)["params"]
    assert jax.tree.leaves(jadam.match("*/kernel")(params)) == [False, True, False, True]
    assert jax.tree.leaves(jadam.match("**/bias")(params)) == [True, False, True, False]


class EquinoxModel(eqx.Module):
    mlp: eqx.nn.MLP
    order: jax.Array  # of integers
    name: str

    def __init__(self, dtype):
        self.mlp = eqx.nn.MLP(3, 1, 8, 1, activation=jnp.tanh, key=jax.random.key(0), dtype=dtype)
        self.order, self.name = jnp.asarray([2, 0, 1]), "a static field that is no array"

    def __call__(self, x):
        return jax.vmap(self.mlp)(x.astype(self.mlp.layers[0].weight.dtype)[:, self.order])


@eqx.filter_jit  # of the module, as a local one that is freed breaks the heap under JAX 0.7.0 and equinox 0.13.0, also with optax
def equinox_step(model, state, tx, trained):
    value, grads = eqx.filter_value_and_grad(squares)(model)
    params = eqx.filter(model, trained)
    updates, new_state = tx.update(grads, state, params)
    stepped = eqx.combine(tx.step(grads, state, params)[0], model)
    return eqx.apply_updates(model, updates), stepped, new_state, value


def train_equinox(tx, trained, dtype):
    """The trained model, the one that `tx.step` makes in the last step, and the losses."""
    model, losses = EquinoxModel(dtype), []
    state = tx.init(eqx.filter(model, trained))
    for _ in range(STEPS):
        model, stepped, state, value = equinox_step(model, state, tx, trained)
        losses.append(value)
    return model, stepped, losses


EQUINOX = [(eqx.is_array, jadam.match("mlp/layers/*/weight")), (eqx.is_inexact_array, None)]


@pytest.mark.parametrize(("trained", "mask"), EQUINOX)
def test_equinox(trained, mask):
    tx = jadam.adamw(0.05, weight_decay=0.3, mask=mask)
    model, _, losses = train_equinox(tx, trained, jnp.float32)
    start, rest = eqx.partition(EquinoxModel(jnp.float32), eqx.is_inexact_array)
    loss = lambda params: squares(eqx.combine(params, rest))  # noqa: E731
    check_trained(eqx.filter(model, eqx.is_inexact_array), losses, tx, loss, start)


@pytest.mark.parametrize(("trained", "mask"), EQUINOX)
def test_equinox_in_bfloat16_with_integers(trained, mask):
    """The dtypes stay, and the field of integers stays as it is, whichever filter says what is trained."""
    model, stepped, losses = train_equinox(jadam.adamw(0.05, mask=mask), trained, jnp.bfloat16)
    start, after, also = (eqx.filter(m, eqx.is_array) for m in (EquinoxModel(jnp.bfloat16), model, stepped))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, start)
    chex.assert_trees_all_equal(after, also)
    chex.assert_trees_all_equal(model.order, start.order)
    assert model.mlp.layers[0].weight.dtype == jnp.bfloat16
    assert losses[-1] < 0.3 * losses[0]


def test_haiku():
    net = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([8, 1], activation=jnp.tanh)(x)))
    start, tx = net.init(jax.random.key(0), X), jadam.adamw(0.05, weight_decay=0.3, mask=jadam.match("**/w"))
    loss = lambda params: squares(lambda x: net.apply(params, x))  # noqa: E731
    params, state, losses = start, tx.init(start), []

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        return *tx.step(grads, state, params), value

    for _ in range(STEPS):
        params, state, value = step(params, state)
        losses.append(value)
    check_trained(params, losses, tx, loss, start)


def test_orbax_continues_to_the_bit(tmp_path):
    """A state with a schedule, masks (None in its slots), bfloat16 parameters and an optax transformation in it."""
    groups = jadam.partition([(KERNEL, jadam.adamw(jadam.linear_schedule(0.1, 0.0, 20))), (True, optax.adam(0.1))])
    tx = jadam.chain(CLIP, groups)
    start = {**cast(VALUES, "float32"), "scale": jnp.ones((), jnp.bfloat16)}

    def steps(params, state, grads):
        for g in grads:
            params, state = tx.step(g, state, params)
        return params, state

    half = steps(start, tx.init(start), GRADS[:6])
    whole = steps(*half, GRADS[6:])
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", half)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: (start, tx.init(start))))
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, half)
    chex.assert_trees_all_equal(steps(*restored, GRADS[6:]), whole)
    with pytest.raises(AssertionError):
        chex.assert_trees_all_equal(steps(restored[0], tx.init(start), GRADS[6:])[0], whole[0])
