"""Other people's libraries: their transformations inside jadam, and jadam in their wrappers, training loops and checkpoints."""

import functools

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
from support import assert_differ, at, cast, distance, dtypes

import jadam

pytestmark = pytest.mark.usefixtures("lenient")

RNG = np.random.default_rng(0)
VALUES = {"dense": {"kernel": RNG.standard_normal((3, 4)), "bias": RNG.standard_normal(4)}, "scale": RNG.standard_normal(())}
GRADS = jax.tree.map(lambda x: 3 * RNG.standard_normal((12, *x.shape)), VALUES)  # of twelve steps
MEANS = jax.tree.map(lambda x: (x[::2] + x[1::2]) / 2, GRADS)  # of every two
SPOILT = jax.tree.map(lambda x: np.insert(x, 5, np.nan, axis=0), GRADS)
KERNEL, LABELS = jadam.match("**/kernel"), {"dense": {"kernel": "a", "bias": "b"}, "scale": "b"}
START = cast(VALUES, "float32")
ADAM, SGD, CLIP = jadam.adam(0.01), jadam.sgd(0.02), jadam.clip_by_global_norm(1.0)


def train_by(tx, grads=GRADS, kinds=("float32", "float32"), apply_updates=jadam.apply_updates):
    """The parameters and the state after a scan over the gradients, which holds the state to its structure and dtypes."""

    def body(carry, g):
        updates, state = tx.update(g, carry[1], carry[0])
        return (apply_updates(carry[0], updates), state), None

    params = cast(VALUES, kinds[0])
    return jax.lax.scan(body, (params, tx.init(params)), cast(grads, kinds[1]))[0]


# name: (optax's inside jadam, the same of jadam alone, what it must not be)
OPTAX_INSIDE = {
    "global clip": (jadam.chain(optax.clip_by_global_norm(1.0), SGD), jadam.chain(CLIP, SGD), SGD),
    "scale_by_adam": (jadam.chain(optax.scale_by_adam(), jadam.scale(-0.01)), ADAM, jadam.scale(-0.01)),
    "between": (jadam.chain(CLIP, optax.trace(0.9), SGD), jadam.chain(CLIP, jadam.sgd(0.02, momentum=0.9)), SGD),
    "masked": (jadam.masked(optax.adam(0.01), KERNEL), jadam.masked(ADAM, KERNEL), ADAM),
    "partition": (*(jadam.partition([(KERNEL, adam), (True, SGD)]) for adam in (optax.adam(0.01), ADAM)), SGD),
}


@pytest.mark.parametrize("name", OPTAX_INSIDE)
def test_optax_inside_jadam(name):
    """Float32 gradients of bfloat16 parameters turn the moments of optax's Adam alone into float32, and a scan fails."""
    tx, same, other = OPTAX_INSIDE[name]
    params, state = train_by(tx)
    assert distance(params, train_by(same)[0], START) < 2e-5  # optax's bias correction in float32 is off by 1e-5 for b2=0.999
    assert distance(params, train_by(other)[0], START) > 1e-2
    assert state.count == 12
    params, state = jax.eval_shape(lambda: train_by(tx, kinds=("bfloat16", "float32")))
    assert dtypes(params) == {"bfloat16"}
    if name == "scale_by_adam":
        assert state.slots["scale_by_adam"].mu["scale"].dtype == jnp.bfloat16
        with pytest.raises(TypeError, match="carry"):
            jax.eval_shape(lambda: train_by(optax.adam(0.01), kinds=("bfloat16", "float32")))


def test_values_reach_the_optax_transformations_that_take_them():
    """`value=` makes reduce_on_plateau shrink the step; optax.clip, which takes no such argument, does not get it."""
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1, accumulation_size=1)
    ours, theirs = (lib.chain(optax.clip(10.0), lib.sgd(1.0), plateau) for lib in (jadam, optax))
    params = START
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

    def minimum(tx, length=4):
        def body(carry, _):
            value, grad = jax.value_and_grad(loss)(carry[0])
            updates, state = tx.update(grad, carry[1], carry[0], value=value, grad=grad, value_fn=loss)
            return (jadam.apply_updates(carry[0], updates), state), None

        return jax.lax.scan(body, (START, tx.init(START)), length=length)[0][0]

    search = optax.scale_by_backtracking_linesearch(max_backtracking_steps=30)
    found = minimum(jadam.chain(jadam.sgd(1.0), search))
    assert distance(found, minimum(optax.chain(optax.sgd(1.0), search)), START) < 1e-5
    assert loss(found) < 0.5 * loss(START)
    assert loss(minimum(jadam.sgd(1.0), length=1)) > loss(START)  # a whole step is too long


KERNELS = jadam.partition([(KERNEL, ADAM), (True, jadam.freeze())])
# name: (jadam inside optax, the same of jadam alone, its gradients, what it must not be)
OPTAX_OUTSIDE = {
    "chain": (optax.chain(optax.clip(0.5), ADAM), jadam.chain(jadam.clip(0.5), ADAM), GRADS, ADAM),
    "masked": (optax.masked(ADAM, KERNEL), jadam.masked(ADAM, KERNEL), GRADS, ADAM),
    "mask": (optax.adamw(0.01, weight_decay=5.0, mask=KERNEL), jadam.adamw(0.01, weight_decay=5.0, mask=KERNEL), GRADS, ADAM),
    "multi_transform": (
        *(
            partition({"a": ADAM, "b": jadam.chain(CLIP, SGD)}, LABELS)
            for partition in (optax.multi_transform, jadam.partition)
        ),
        GRADS,
        jadam.chain(CLIP, jadam.partition({"a": ADAM, "b": SGD}, LABELS)),  # the norm of all, not of the group
    ),
    "partition": (optax.partition({"a": ADAM, "b": optax.set_to_zero()}, LABELS), KERNELS, GRADS, ADAM),
    "MultiSteps": (optax.MultiSteps(ADAM, 2), ADAM, MEANS, SGD),
    "apply_if_finite": (optax.apply_if_finite(ADAM, 3), ADAM, GRADS, SGD),
    "flatten": (optax.flatten(ADAM), ADAM, GRADS, SGD),
}


@pytest.mark.parametrize("name", OPTAX_OUTSIDE)
def test_jadam_inside_optax(name):
    tx, same, grads, other = OPTAX_OUTSIDE[name]
    theirs = functools.partial(train_by, tx, apply_updates=optax.apply_updates)
    params, state = theirs()
    assert distance(params, train_by(same, grads)[0], START) < 2e-5
    assert distance(params, train_by(other, grads)[0], START) > 1e-2
    low, _ = jax.eval_shape(lambda: theirs(kinds=("bfloat16", "bfloat16")))
    assert dtypes(low) == {"bfloat16"}
    if name != "mask":  # the others have jadam's state inside
        several = name == "multi_transform"  # states of jadam, of which none has the bare name
        assert jadam.hyperparams(state)["learning_rate" + "_0" * several] == np.float32(0.01)
        assert "b2" in jadam.hyperparams(state)


def test_apply_if_finite_leaves_the_state_of_jadam_alone():
    (_, clean), (_, spoilt) = (train_by(optax.apply_if_finite(ADAM, 3), grads) for grads in (GRADS, SPOILT))
    chex.assert_trees_all_equal(clean.inner_state, spoilt.inner_state)
    assert spoilt.total_notfinite == 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_apply_updates_of_both_are_one(dtype):
    params = cast(VALUES, dtype)
    updates, _ = ADAM.update(params, ADAM.init(params), params)
    moved = jadam.apply_updates(params, updates)
    chex.assert_trees_all_equal(moved, optax.apply_updates(params, updates))
    assert_differ(moved["dense"]["kernel"], params["dense"]["kernel"])


def test_schedules_of_both_are_one():
    numbers = {"init_value": 0.0, "peak_value": 0.1, "warmup_steps": 4, "decay_steps": 12, "end_value": 0.01}
    ours, theirs = jadam.warmup_cosine_decay_schedule(**numbers), optax.warmup_cosine_decay_schedule(**numbers)
    params, state = train_by(jadam.adam(theirs))
    assert distance(params, train_by(jadam.adam(ours))[0], START) < 1e-6
    assert jadam.hyperparams(state)["learning_rate"] == pytest.approx(float(theirs(11)), rel=1e-6)
    by_ours, by_theirs, constant = (train_by(optax.adam(rate))[0] for rate in (ours, theirs, 0.1))
    assert distance(by_ours, by_theirs, START) < 1e-6
    assert distance(by_ours, constant, START) > 1e-2


@pytest.mark.parametrize("jit", [True, False])
def test_inject_hyperparams_drives_jadam(jit):
    """The numbers in jadam's state hid those that inject_hyperparams gave: a warm-up from zero never moved."""
    tx, params = optax.inject_hyperparams(jadam.sgd)(learning_rate=optax.linear_schedule(0.0, 1.0, 2)), START
    state, update, rates = tx.init(params), jax.jit(tx.update) if jit else tx.update, []
    for _ in range(3):
        updates, state = update(params, state, params)
        rates.append(float(-updates["scale"] / params["scale"]))
    assert rates == [0.0, 0.5, 1.0]


X = jnp.asarray(RNG.standard_normal((32, 3)), jnp.float32)
Y = jnp.tanh(jnp.sum(X * jnp.asarray([[1.0, -2.0, 0.5]]), axis=1, keepdims=True) + 0.3)
STEPS = 20


def squares(model):
    return jnp.mean((model(X) - Y) ** 2)


def train(step, *carry):
    """What a step makes of its carry, again and again, and the losses."""
    losses = []
    for _ in range(STEPS):
        *carry, value = step(*carry)
        losses.append(value)
    return *carry, losses


def check_trained(params, losses, tx, loss, start):
    """Equal to training without a library, up to what is fused otherwise, and not to a step less; the loss fell."""

    def body(carry, _):
        value, grads = jax.value_and_grad(loss)(carry[0])
        params, state = tx.step(grads, carry[1], carry[0])
        return (params, state), (params, value)

    path, expected = jax.lax.scan(body, (start, tx.init(start)), length=STEPS)[1]
    last, before = (at(path, n) for n in (-1, -2))
    chex.assert_trees_all_close(params, last, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(jnp.stack(losses), expected, rtol=1e-4)
    assert losses[-1] < 0.3 * losses[0]
    with pytest.raises(AssertionError):
        chex.assert_trees_all_close(params, before, rtol=1e-4, atol=1e-5)


class NNXModel(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.hidden, self.out = nnx.Linear(3, 8, rngs=rngs), nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


@nnx.jit
def nnx_step(model, optimizer):
    value, grads = nnx.value_and_grad(squares)(model)
    optimizer.update(model, grads)
    return value


def train_nnx(tx):
    model = NNXModel()
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    return model, optimizer, train(lambda: (nnx_step(model, optimizer),))[-1]


DECAY_KERNELS = jadam.adamw(0.05, weight_decay=1.0, mask=jadam.ndim_at_least(2))


@pytest.mark.parametrize("tx", [jadam.chain(optax.clip_by_global_norm(0.1), jadam.adam(0.05)), DECAY_KERNELS])
def test_nnx_optimizer(tx):
    model, optimizer, losses = train_nnx(tx)
    graph, start = nnx.split(NNXModel())
    check_trained(nnx.state(model), losses, tx, lambda params: squares(nnx.merge(graph, params)), start)
    assert int(optimizer.opt_state.count[...]) == STEPS


def test_nnx_paths_do_not_show_the_variables():
    """`nnx.Optimizer` gives Variables to init (`out/kernel/value`), arrays to update (`out/kernel`): no glob matched both."""
    model, _, _ = train_nnx(jadam.adamw(0.05, weight_decay=1.0, mask=jadam.match("**/kernel")))
    chex.assert_trees_all_equal(nnx.state(model), nnx.state(train_nnx(DECAY_KERNELS)[0]))


def test_nnx_hyperparameters_are_arrays_and_can_be_set():
    """They came as Variables, live views that change with the next step; setting one put an array in a Variable's place."""
    model, optimizer, _ = train_nnx(DECAY_KERNELS)
    assert all(isinstance(value, jax.Array) for value in jadam.hyperparams(optimizer.opt_state).values())
    state = DECAY_KERNELS.set_hyperparams(optimizer.opt_state, learning_rate=0.0)
    assert jax.tree.structure(state) == jax.tree.structure(optimizer.opt_state)
    optimizer.opt_state = nnx.data(state)
    before = jax.tree.map(jnp.copy, nnx.state(model))
    nnx_step(model, optimizer)
    chex.assert_trees_all_equal(nnx.state(model), before)
    assert jadam.hyperparams(optimizer.opt_state)["learning_rate"] == 0.0


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, x):
        boxed = nn.with_partitioning(nn.initializers.lecun_normal(), (None, "model"))
        return nn.Dense(1)(jnp.tanh(nn.Dense(8, kernel_init=boxed)(x)))


def test_linen_train_state():
    model = LinenModel()
    start = model.init(jax.random.key(0), X)["params"]

    @jax.jit
    def step(state):
        value, grads = jax.value_and_grad(lambda p: squares(lambda x: state.apply_fn({"params": p}, x)))(state.params)
        return state.apply_gradients(grads=grads), value

    state, losses = train(step, TrainState.create(apply_fn=model.apply, params=start, tx=DECAY_KERNELS))
    check_trained(state.params, losses, DECAY_KERNELS, lambda p: squares(lambda x: model.apply({"params": p}, x)), start)
    assert jadam.hyperparams(state)["learning_rate"] == np.float32(0.05)


def test_linen_paths_do_not_show_the_boxes():
    """A kernel in a box of metadata was at `Dense_0/kernel/value`: a glob for all kernels silently missed it."""
    params = jax.eval_shape(LinenModel().init, jax.random.key(0), X)["params"]
    assert jax.tree.leaves(jadam.match("*/kernel")(params)) == [False, True, False, True]
    assert jax.tree.leaves(jadam.match("**/bias")(params)) == [True, False, True, False]


class EquinoxModel(eqx.Module):
    mlp: eqx.nn.MLP
    order: jax.Array  # of integers
    name: str = "a field that is not an array"

    def __init__(self, dtype):
        self.mlp = eqx.nn.MLP(3, 1, 8, 1, activation=jnp.tanh, key=jax.random.key(0), dtype=dtype)
        self.order = jnp.asarray([2, 0, 1])

    def __call__(self, x):
        return jax.vmap(self.mlp)(x.astype(self.mlp.layers[0].weight.dtype)[:, self.order])


@eqx.filter_jit  # not local to a test: freed, it breaks the heap under JAX 0.7.0 and equinox 0.13.0, also with optax
def equinox_step(tx, trained, model, stepped, state):
    value, grads = eqx.filter_value_and_grad(squares)(model)
    params = eqx.filter(model, trained)
    updates, new_state = tx.update(grads, state, params)
    stepped = eqx.combine(tx.step(grads, state, params)[0], model)
    return eqx.apply_updates(model, updates), stepped, new_state, value


def train_equinox(tx, trained, dtype):
    """The trained model, what `tx.step` makes in the last step, and the losses."""
    model = EquinoxModel(dtype)
    step, state = functools.partial(equinox_step, tx, trained), tx.init(eqx.filter(model, trained))
    model, stepped, _, losses = train(step, model, model, state)
    return model, stepped, losses


EQUINOX = [(eqx.is_array, jadam.match("mlp/layers/*/weight")), (eqx.is_inexact_array, None)]


@pytest.mark.parametrize(("trained", "mask"), EQUINOX)
def test_equinox(trained, mask):
    tx = jadam.adamw(0.05, weight_decay=0.3, mask=mask)
    model, _, losses = train_equinox(tx, trained, jnp.float32)
    start, rest = eqx.partition(EquinoxModel(jnp.float32), eqx.is_inexact_array)
    params = eqx.filter(model, eqx.is_inexact_array)
    check_trained(params, losses, tx, lambda params: squares(eqx.combine(params, rest)), start)


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

    def loss(params):
        return squares(lambda x: net.apply(params, x))

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params)
        return jadam.apply_updates(params, updates), state, value

    params, _, losses = train(step, start, tx.init(start))
    check_trained(params, losses, tx, loss, start)


def test_orbax_continues_to_the_bit(tmp_path):
    """A state with a schedule, masks (None in its slots), bfloat16 parameters and an optax transformation in it."""
    groups = jadam.partition([(KERNEL, jadam.adamw(jadam.linear_schedule(0.1, 0.0, 20))), (True, optax.adam(0.1))])
    tx = jadam.chain(CLIP, groups)
    start = {**START, "scale": jnp.ones((), jnp.bfloat16)}

    def steps(params, state, numbers):
        for n in numbers:
            params, state = tx.step(at(GRADS, n), state, params)
        return params, state

    half = steps(start, tx.init(start), range(6))
    whole = steps(*half, range(6, 12))
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "state", half)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "state", jax.eval_shape(lambda: (start, tx.init(start))))
    chex.assert_trees_all_equal_shapes_and_dtypes(restored, half)
    chex.assert_trees_all_equal(steps(*restored, range(6, 12)), whole)
    assert_differ(steps(restored[0], tx.init(start), range(6, 12))[0], whole[0])
