"""What optax's own functions do with jadam's transformations and states, and jadam with optax's objects."""

import builtins

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jadam

pytestmark = pytest.mark.usefixtures("lenient")
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6), "b": jnp.ones(2)}
GRADS = jax.tree.map(lambda x: x * x - 0.35, PARAMS)
OTHERS = {"w": jnp.zeros(6), "b": jnp.zeros(2)}


def losses(seen):
    """A pair whose `update` has a parameter for the loss."""

    def update(updates, state, params=None, *, loss):
        seen.append(loss)
        return updates, state

    return jadam.GradientTransformation(lambda params: (), update)


def test_an_instance_of_their_class():
    tx = jadam.adamw(1e-3)
    theirs = tx.as_optax()
    assert isinstance(theirs, optax.GradientTransformationExtraArgs)
    assert not isinstance(tx, optax.GradientTransformation)
    (ours, state), (same, other) = (each.update(GRADS, each.init(PARAMS), PARAMS) for each in (tx, theirs))
    chex.assert_trees_all_equal((ours, state), (same, other))
    assert jadam.chain(theirs) == tx  # its rules are seen again


WRAPPERS = {
    "chain": lambda tx: optax.chain(tx, optax.scale(1.0)),
    "named_chain": lambda tx: optax.named_chain(("one", tx)),
    "masked": lambda tx: optax.masked(tx, {"w": True, "b": True}),
    "multi_transform": lambda tx: optax.multi_transform({"all": tx}, {"w": "all", "b": "all"}),
    "MultiSteps": lambda tx: optax.MultiSteps(tx, 1),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_their_wrappers_hand_arguments_on(name):
    """Of what is no instance of their class they drop them without a word."""
    seen = []
    tx = WRAPPERS[name](losses(seen).as_optax())
    tx.update(GRADS, tx.init(PARAMS), PARAMS, loss=3.0)
    assert seen
    assert all(isinstance(x, jax.core.Tracer) or x == 3.0 for x in seen)


def test_inject_hyperparams_hands_arguments_on():
    seen = []
    tx = optax.inject_hyperparams(lambda learning_rate: jadam.chain(losses(seen), jadam.sgd(learning_rate)).as_optax())(0.5)
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, loss=3.0)
    assert seen == [3.0]
    chex.assert_trees_all_close(updates, jax.tree.map(lambda g: -0.5 * g, GRADS))


def test_without_optax_it_says_so(monkeypatch):
    real = builtins.__import__

    def no_optax(name, *args, **kwargs):
        if name == "optax":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_optax)
    with pytest.raises(ValueError, match=r"adam\.as_optax: optax is not installed"):
        jadam.adam(1e-3).as_optax()


@pytest.mark.parametrize(
    "tx",
    [
        jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-3)),
        jadam.chain(jadam.sgd(0.1, 0.9), jadam.ema(0.9)),
        jadam.loss_scale(jadam.adam(1e-3)),
        jadam.sgd(0.1),
    ],
    ids=repr,
)
def test_map_params(tx):
    """`optax.tree.map_params` found no trees of parameters in the state."""
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    for initable in (tx, tx.as_optax(), tx.init):
        doubled = optax.tree.map_params(initable, lambda x: 2 * x, state)
        chex.assert_trees_all_equal(doubled.slots, jax.tree.map(lambda x: 2 * x, state.slots))
        chex.assert_trees_all_equal(doubled._replace(slots={}), state._replace(slots={}))
        specs = optax.tree.map_params(initable, lambda _, x: x, state, {"w": "W", "b": "B"}, transform_non_params=lambda _: "-")
        expected = {key: {slot: {"w": "W", "b": "B"} for slot in slots} for key, slots in state.slots.items()}
        assert specs.slots == expected
        assert specs.count == "-"
    assert expected or not jax.tree.leaves(state.slots)


def test_get_and_set():
    tx = jadam.chain(jadam.clip(1.0), jadam.adam(1e-3))
    state = tx.init(PARAMS)
    assert optax.tree.get(state, "learning_rate") == np.float32(1e-3) == state.hyperparams["learning_rate"]
    assert optax.tree.get(state, "count") == 0
    chex.assert_trees_all_equal(optax.tree.get(state, "mu"), OTHERS)
    for edited in (
        optax.tree.set(state, learning_rate=5e-4),
        optax.tree_utils.tree_set(state, learning_rate=jnp.float32(5e-4)),
    ):
        expected = jadam.adam(5e-4)
        found, after = tx.update(GRADS, edited, PARAMS)
        chex.assert_trees_all_close(found, expected.update(GRADS, expected.init(PARAMS), PARAMS)[0], rtol=1e-6)
        assert optax.tree_utils.tree_get(after, "learning_rate") == np.float32(5e-4)


FACTORIES = {
    "clip_by_global_norm": {"max_norm": 1.0},
    "adagrad": {"learning_rate": 0.1},
    "yogi": {"learning_rate": 0.1},
    "scale_by_rss": {},
    "sgd": {"learning_rate": jadam.linear_schedule(0.1, 0.0, 5)},
}


@pytest.mark.parametrize("name", FACTORIES)
def test_inject_hyperparams_makes_arrays_of_static_numbers(name):
    """`eps=0.0` of a clip, which is no hyperparameter, became an array: not hashable, or traced and compared."""
    build, kwargs = getattr(jadam, name), FACTORIES[name]
    injected, plain = optax.inject_hyperparams(build)(**kwargs), build(**kwargs)
    theirs, states = [], [injected.init(PARAMS), injected.init(PARAMS), plain.init(PARAMS)]
    for _ in range(3):
        theirs = []
        for n, update in enumerate((injected.update, jax.jit(injected.update), plain.update)):
            updates, states[n] = update(GRADS, states[n], PARAMS)
            theirs.append(updates)
    chex.assert_trees_all_close(theirs[0], theirs[2], rtol=1e-5)
    chex.assert_trees_all_close(theirs[1], theirs[2], rtol=1e-5)


def test_an_object_with_init_and_update():
    ours = jadam.chain(jadam.clip_by_global_norm(1.0), optax.MultiSteps(jadam.adam(1e-3), 2))
    theirs = optax.chain(optax.clip_by_global_norm(1.0), optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation())
    states = [ours.init(PARAMS), theirs.init(PARAMS)]
    for step in range(4):
        found, states[0] = ours.update(GRADS, states[0], PARAMS)
        expected, states[1] = theirs.update(GRADS, states[1], PARAMS)
        chex.assert_trees_all_close(found, expected, rtol=1e-4)
        assert bool(found["w"].any()) == (step % 2 == 1)
    for wrap in (lambda tx: jadam.masked(tx, True), lambda tx: jadam.partition([(True, tx)]), jadam.loss_scale):
        assert wrap(optax.MultiSteps(jadam.adam(1e-3), 2)).init(PARAMS)


# What optax's transformations never look at


@pytest.mark.parametrize("state", [None, (), optax.EmptyState(), jadam.EmptyState()], ids=repr)
@pytest.mark.parametrize(
    "tx", [jadam.clip(0.5), jadam.clip_by_global_norm(1.0), jadam.scale(2.0), jadam.set_to_zero()], ids=repr
)
def test_no_state_where_none_is_kept(tx, state):
    expected, _ = tx.update(GRADS, tx.init(PARAMS))
    for update in (tx.update, jax.jit(lambda updates: tx.update(updates, state))):
        found, after = update(GRADS, state) if update is tx.update else update(GRADS)
        chex.assert_trees_all_equal(found, expected)
        assert after == state
        assert type(after) is type(state)
    chex.assert_trees_all_close(tx.step(GRADS, state, PARAMS)[0], jadam.apply_updates(PARAMS, expected), rtol=1e-6)
    chex.assert_trees_all_equal(jadam.identity().update(GRADS, state)[0], GRADS)


def test_who_counts_steps_needs_a_state():
    with pytest.raises(ValueError, match=r"hold_first\.update: hold_first counts steps; pass the state that init"):
        jadam.hold_first().update(GRADS, None)
    for tx in (jadam.adam(0.1), jadam.sgd(jadam.linear_schedule(1.0, 0.0, 5)), jadam.loss_scale(jadam.sgd(0.1))):
        with pytest.raises(TypeError, match="not the state that init returned"):
            tx.update(GRADS, None, PARAMS)


def squares(model):
    return jnp.sum(model(jnp.ones(2)) ** 2)


@pytest.mark.parametrize("tx", [jadam.sgd(0.1), jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(0.1))], ids=repr)
def test_a_model_with_functions_among_its_leaves(tx):
    """The frozen-layer example of equinox calls `init` with the whole model, of which a leaf is `jax.nn.relu`."""
    model = eqx.nn.MLP(2, 1, 4, 1, key=jax.random.key(0))
    assert any(callable(leaf) for leaf in jax.tree.leaves(model))
    grads = eqx.filter_grad(squares)(model)
    state = tx.init(model)
    updates, after = tx.update(grads, state, model)
    stepped, _ = tx.step(grads, state, model)
    arrays = eqx.filter(model, eqx.is_array)
    expected, _ = tx.update(grads, tx.init(arrays), arrays)
    chex.assert_trees_all_equal(updates, expected)
    for new in (jadam.apply_updates(model, updates), eqx.apply_updates(model, updates), stepped):
        assert new.activation is model.activation
        assert squares(new) < squares(model)

    @eqx.filter_jit
    def train(model, state):
        updates, state = tx.update(eqx.filter_grad(squares)(model), state, model)
        return eqx.apply_updates(model, updates), state

    chex.assert_trees_all_close(eqx.filter(train(model, state)[0], eqx.is_array), eqx.filter(stepped, eqx.is_array), rtol=1e-5)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_strings_among_the_leaves():
    tx, params = jadam.adam(0.1), {"w": jnp.ones(2), "name": "layer"}
    for given in ("layer", None):
        updates, _ = tx.update({"w": jnp.ones(2), "name": given}, tx.init(params), params)
        assert updates["name"] is given
        assert jadam.apply_updates(params, updates)["name"] == "layer"
    assert tx.step({"w": jnp.ones(2), "name": None}, tx.init(params), params)[0]["name"] == "layer"
    with pytest.raises(TypeError, match="nothing in params is trained"):
        tx.init({"name": "layer"})


@pytest.mark.parametrize("kind", [tuple, list, lambda state: state._asdict(), lambda s: jax.tree.map(np.asarray, s._asdict())])
def test_a_state_that_was_restored_without_its_type(kind):
    tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-3))
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    expected = tx.update(GRADS, state, PARAMS)
    found = tx.update(GRADS, kind(state), PARAMS)
    chex.assert_trees_all_equal(found, expected)
    assert isinstance(found[1], jadam.OptState)
    assert tx.set_hyperparams(kind(state), learning_rate=0.5).hyperparams["learning_rate"] == 0.5


def test_masks_of_any_bools():
    model = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    masks = [
        jax.tree.map(lambda x: x.ndim > 1, model),  # a module, which can be called
        jax.tree.map(lambda x: np.bool_(x.ndim > 1), model),
        jax.tree.map(lambda x: jnp.asarray(x.ndim > 1), model),
        lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
    ]
    expected = None
    for mask in masks:
        tx = jadam.adamw(1.0, weight_decay=0.5, mask=mask)
        updates, _ = tx.update(jax.tree.map(jnp.zeros_like, model), tx.init(model), model)
        assert not updates.bias.any()
        np.testing.assert_allclose(updates.weight, -0.5 * model.weight)
        expected = updates if expected is None else expected
        chex.assert_trees_all_equal(updates, expected)


@pytest.mark.parametrize("bound", [jadam.clip, jadam.clip_by_global_norm, jadam.clip_by_block_rms, jadam.adaptive_grad_clip])
def test_an_infinite_bound_bounds_nothing(bound):
    tx = jadam.chain(bound(float("inf")), jadam.scale(1.0))
    state = tx.init(PARAMS)
    for _ in range(2):
        updates, state = tx.update(GRADS, state, PARAMS)
        chex.assert_trees_all_equal(updates, GRADS)
    finite = jadam.chain(bound(1e-3), jadam.scale(1.0))
    updates, _ = finite.update(GRADS, finite.init(PARAMS), PARAMS)
    assert not np.allclose(updates["w"], GRADS["w"])
    name = next(name for name in jadam.hyperparams(state) if name not in ("step_size", "eps"))
    set_back = tx.set_hyperparams(state, **{name: 1e-3})
    chex.assert_trees_all_equal(tx.update(GRADS, set_back, PARAMS)[0], updates)


def test_a_negative_rate_ascends():
    for build in (jadam.adam, jadam.sgd, lambda rate: jadam.adamw(jadam.constant_schedule(rate), weight_decay=0.0)):
        up, down = (build(rate).update(GRADS, build(rate).init(PARAMS), PARAMS)[0] for rate in (-0.1, 0.1))
        chex.assert_trees_all_equal(up, jax.tree.map(jnp.negative, down))
        theirs = optax.sgd(-0.1).update(GRADS, optax.sgd(-0.1).init(PARAMS), PARAMS)[0]
    chex.assert_trees_all_close(jadam.sgd(-0.1).update(GRADS, jadam.sgd(-0.1).init(PARAMS), PARAMS)[0], theirs)
