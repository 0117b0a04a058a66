"""Programs that stopped real projects when `import optax` became `import jadam as optax`; each says what was wanted.

A program runs through jadam itself, or jadam answers in words and `jadam.optax`, which has optax's defaults, state classes and
whole namespace, runs it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jadam

pytestmark = pytest.mark.usefixtures("lenient")
ONES = jnp.ones(3)


def first_update(tx, grads=ONES, params=ONES, **extra):
    return tx.update(grads, tx.init(params), params, **extra)[0]


def init_fn(params):
    return ()


def update_fn(updates, state, params=None):
    return jax.tree.map(lambda u: -u, updates), state


def constructor(lib):
    """Wanted: a transformation like chain((init, update)), usable at once, in a chain, printable."""
    tx = lib.GradientTransformation(init_fn, update_fn)
    assert repr(tx)
    assert repr(lib.chain(tx, lib.scale(0.1)).init(ONES))
    return first_update(lib.chain(tx, lib.scale(0.1)))


def extra_args(lib):
    """Wanted: exists, and `loss=` reaches an update with a keyword-only `loss`."""

    def update(updates, state, params=None, *, loss=None):
        return jax.tree.map(lambda u: u * loss, updates), state

    tx = lib.chain(lib.GradientTransformationExtraArgs(init_fn, update), lib.scale(1.0))
    return tx.update(ONES, tx.init(ONES), ONES, loss=3.0)[0]


def positional(lib):
    """Wanted: as optax: b1, b2, eps, momentum by position."""
    return [first_update(tx) for tx in (lib.sgd(0.1, 0.9), lib.adam(1e-3, 0.9, 0.95), lib.adam(1e-3, 0.9, 0.95, 1e-8))]


def neutral_keywords(lib):
    """Wanted: mu_dtype=None and nesterov=False accepted."""
    return [
        first_update(lib.adamw(1e-3, mu_dtype=None, weight_decay=0.1)),
        first_update(lib.adamw(1e-3, mu_dtype=jnp.float32, nesterov=False, weight_decay=0.1)),
        first_update(lib.scale_by_adam(0.9, 0.95, 1e-8, nesterov=False)),
        first_update(lib.sgd(0.1, momentum=0.9, nesterov=True, accumulator_dtype=None)),
    ]


def ema(lib):
    """Wanted: optax.ema(decay) as a transformation, which averages updates."""
    return first_update(lib.ema(0.9, debias=False))


def float_steps(lib):
    """Wanted: 50.0 is 50, and 48.5 is optax's 48.5: step counts come from yaml and `0.1 * num_updates`."""
    made = [lib.linear_schedule(1.0, 0.05, transition_steps=steps) for steps in (0.1 * 500, 48.5, np.float32(50))]
    return [float(schedule(count)) for schedule in made for count in (0, 20, 48, 49, 60)]


def traced_values(lib):
    """Wanted: a traced learning rate in a schedule (sweeps under vmap, agents whose fields are leaves)."""
    return jax.jit(lambda lr: lib.linear_schedule(lr, 0.0, 10)(3))(0.1)


def not_an_array(lib):
    """Wanted: passed over (the frozen-layer example of equinox calls init with the whole model)."""
    model = eqx.nn.MLP(1, 1, 8, 1, key=jax.random.key(0))
    tx = lib.sgd(1e-3)
    state, grads = tx.init(model), eqx.filter_grad(lambda m: jnp.sum(m(jnp.ones(1))))(model)
    return jax.tree.leaves(tx.update(grads, state, eqx.filter(model, eqx.is_array))[0])


def no_state(lib):
    """Wanted: these take any state (None, EmptyState()), as in optax."""
    bare = (lib.clip_by_global_norm(1.0), lib.clip(0.5), lib.scale(2.0), lib.set_to_zero(), lib.identity())
    return [tx.update(ONES, state)[0] for tx in bare for state in (None, lib.EmptyState())]


def injected(lib):
    """Wanted: works; eps=0.0 of clip_by_global_norm is a static float, which inject_hyperparams turns into an array."""
    tx = optax.inject_hyperparams(lib.clip_by_global_norm)(max_norm=1.0)
    return [update(ONES, tx.init(ONES), ONES)[0] for update in (tx.update, jax.jit(tx.update))]


def multi_steps(lib):
    """Wanted: anything with .init and .update."""
    tx = lib.chain(lib.clip_by_global_norm(1.0), optax.MultiSteps(lib.adam(1e-3), 2))
    state, updates = tx.init(ONES), []
    for _ in range(2):
        update, state = tx.update(ONES, state, ONES)
        updates.append(update)
    return updates


def integers(lib):
    """Wanted: 5: a norm of zero is a wrong number."""
    return lib.global_norm({"a": jnp.asarray([3, 4])})


def python_if(lib):
    """Wanted: works outside jit."""
    return first_update(lib.sgd(lambda count: 0.1 if count < 5 else 0.01))


def no_clip(lib):
    """Wanted: max_norm=inf means no clipping."""
    return first_update(lib.clip_by_global_norm(float("inf")), 100 * ONES)


def extra_boundary(lib):
    """Wanted: the end of training may stand among the boundaries."""
    schedule = lib.join_schedules([lib.linear_schedule(0.0, 1.0, 5), lib.cosine_decay_schedule(1.0, 35)], [5, 40])
    return [float(schedule(count)) for count in (0, 4, 20, 39, 45)]


def target_network(lib):
    """Wanted: thin names for helpers."""
    counts = [lib.safe_increment(jnp.int32(3)), lib.safe_int32_increment(jnp.int32(2**31 - 1))]
    return [lib.incremental_update(ONES, 0 * ONES, 0.005), lib.periodic_update(ONES, 0 * ONES, jnp.int32(4), 2), counts]


THROUGH_JADAM = (constructor, extra_args, positional, neutral_keywords, ema, float_steps, traced_values, not_an_array, no_state)
THROUGH_JADAM += (injected, multi_steps, integers, python_if, no_clip, extra_boundary, target_network)


@pytest.mark.parametrize("program", THROUGH_JADAM, ids=lambda program: program.__name__)
@pytest.mark.filterwarnings("ignore:.*deprecated.*")
def test_it_runs_with_the_numbers_of_optax(program):
    ours, theirs = program(jadam), program(optax)
    assert jax.tree.leaves(ours)
    for found, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=1e-8)


def test_the_state_answers_as_optax_asks():
    """Wanted: 0.001, and a state that still works after `optax.tree.set`."""
    tx = jadam.adam(1e-3)
    state = optax.tree.set(tx.init(ONES), learning_rate=5e-4)
    assert float(optax.tree.get(state, "learning_rate")) == pytest.approx(5e-4)
    np.testing.assert_allclose(tx.update(ONES, state, ONES)[0], -5e-4 * ONES, rtol=1e-5)


THROUGH_JADAM_OPTAX = {
    "mu_dtype=bfloat16": (
        lambda: jadam.adamw(1e-3, mu_dtype=jnp.bfloat16),
        "jadam.with_precision(tx, state={'mu': 'bfloat16'})",
    ),
    "nesterov=True": (lambda: jadam.scale_by_adam(0.9, 0.95, 1e-8, nesterov=True), "jadam.nadamw"),
    "adafactor(momentum=)": (
        lambda: jadam.adafactor(1e-3, decay_rate=0.8, momentum=0.9, factored=True),
        "big_vision_adafactor",
    ),
    "adafactor(decay_rate=)": (lambda: jadam.adafactor(1e-3, decay_rate=0.9), "beta2_decay=..."),
    "ScaleByScheduleState": (lambda: jadam.ScaleByScheduleState, "state.count"),
    "ScaleByAdamState": (lambda: jadam.ScaleByAdamState, "state.slots['adam']['mu']"),
    "inject_hyperparams": (lambda: jadam.inject_hyperparams, "hyperparameters are always in the state"),
    "multi_transform": (lambda: jadam.multi_transform, "jadam.partition"),
    "MultiStepsState": (lambda: jadam.MultiStepsState, "jadam.has_updated(state)"),
    "apply_if_finite": (lambda: jadam.apply_if_finite, "jadam.guard"),
    "named_chain": (lambda: jadam.named_chain, "keyed by rule"),
    "with_extra_args_support": (lambda: jadam.with_extra_args_support, "accepts keyword arguments"),
    "losses": (lambda: jadam.softmax_cross_entropy_with_integer_labels, "optax.softmax_cross_entropy_with_integer_labels"),
    "tree_utils": (lambda: jadam.tree_utils, "optax.tree_utils works beside jadam"),
    "contrib": (lambda: jadam.contrib, "optax.contrib"),
    "schedules": (lambda: jadam.schedules, "jadam.linear_schedule"),
}


@pytest.mark.parametrize("name", THROUGH_JADAM_OPTAX)
def test_jadam_says_what_to_write(name):
    """Where jadam differs on purpose it is an error in words; `import jadam.optax as optax` runs the program as it is."""
    call, words = THROUGH_JADAM_OPTAX[name]
    with pytest.raises((TypeError, AttributeError)) as error:
        call()
    assert words in str(error.value)


def test_the_part_of_a_chain():
    """Wanted: state[i] is the part's state, which is `jadam.optax`'s; here the number is where it is without a chain."""
    tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adam(1e-3))
    assert tx.init(ONES).hyperparams["learning_rate"] == np.float32(1e-3)


def test_defaults_that_differ():
    """Wanted: one line that gives optax's numbers, `import jadam.optax`; here the argument, as the page's table says."""
    for ours, theirs in (
        (jadam.adamw(1e-3, weight_decay=1e-4), optax.adamw(1e-3)),
        (jadam.lion(1e-3, weight_decay=1e-3), optax.lion(1e-3)),
        (jadam.adagrad(0.1, initial_accumulator_value=0.1, eps=1e-7), optax.adagrad(0.1)),
        (jadam.rmsprop(1e-3, decay=0.9), optax.rmsprop(1e-3)),
    ):
        np.testing.assert_allclose(first_update(ours), first_update(theirs), rtol=1e-5)
    assert not np.allclose(first_update(jadam.adamw(1e-3)), first_update(optax.adamw(1e-3)), rtol=1e-5)
