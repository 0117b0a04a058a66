"""The state: flat hyperparameters that say what acts, runs that resume, and nothing that is kept for nobody."""

import gc
import pickle
import weakref
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import compilations

import jadam

PARAMS = {"w": jnp.linspace(-1.0, 1.0, 6), "b": jnp.ones(2)}
GRADS = jax.tree.map(lambda x: x * x - 0.35, PARAMS)
PINNED = np.load(Path(__file__).parent / "data" / "pinned_state.npz")


def test_hyperparameters_are_flat():
    """A rule's name before each, unless both are the same; the label first in groups; numbered where rules are alike."""
    assert set(jadam.adamw(1e-3).init(PARAMS).hyperparams) == {
        *("adam.one_minus_b1", "adam.one_minus_b2", "adam.eps", "adam.eps_root"),
        *("add_decayed_weights.weight_decay", "learning_rate"),
    }
    labelled = jadam.partition(
        {"matrix": jadam.sgd(0.1, momentum=0.9), "vector": jadam.sgd(1.0)}, {"w": "matrix", "b": "vector"}
    )
    state = labelled.init(PARAMS)
    rates = {"matrix.learning_rate", "vector.learning_rate"}
    assert set(state.hyperparams) == {"matrix.trace.one_minus_momentum", "matrix.trace.dampening", *rates}
    assert set(jadam.hyperparams(state)) == {"momentum", "dampening", *rates}
    twice = jadam.chain(jadam.sgd(0.1), jadam.sgd(1.0)).init(PARAMS)
    assert set(twice.hyperparams) == {"learning_rate", "learning_rate_1"}
    assert set(jadam.hyperparams(twice)) == {"learning_rate_0", "learning_rate_1"}  # none is called as both are


def test_assignment_and_the_tools_of_optax():
    tx = jadam.adamw(1e-3)
    _, state = tx.update(GRADS, tx.init(PARAMS), PARAMS)
    for value in (0.5, np.float64(0.5), jnp.asarray(0.5), jnp.float32(0.5)):
        own = state._replace(hyperparams=dict(state.hyperparams))

        def assign(own=own, value=value):
            own.hyperparams["learning_rate"] = value
            return tx.update(GRADS, own, PARAMS)

        assert compilations(assign) == 0
        updates, after = assign()
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        chex.assert_trees_all_equal(updates, tx.update(GRADS, tx.set_hyperparams(state, learning_rate=0.5), PARAMS)[0])
        assert tx.update(GRADS, after, PARAMS)[1].hyperparams["learning_rate"] == 0.5
    assert optax.tree.get(state, "learning_rate") == jadam.hyperparams(state)["learning_rate"]
    assert float(optax.tree.get((state, 1), "adam.one_minus_b2")) == pytest.approx(1e-3)
    assert optax.tree.set(state, learning_rate=0.25).hyperparams["learning_rate"] == 0.25


def test_the_code_holds_unless_somebody_set_the_state():
    """A finished cosine, a number that was edited: what acted before must not act for ever."""
    cosine = jadam.sgd(jadam.cosine_decay_schedule(0.1, 2))
    ended = cosine.init(PARAMS)
    for _ in range(4):
        _, ended = cosine.update(GRADS, ended, PARAMS)
    edited = jadam.sgd(0.2)
    for resumed in (ended, jadam.sgd(0.7).init(PARAMS)):
        updates, state = edited.update(GRADS, resumed, PARAMS)
        chex.assert_trees_all_close(updates, jax.tree.map(lambda g: -0.2 * g, GRADS))
        assert jadam.hyperparams(state)["learning_rate"] == np.float32(0.2)
        assert compilations(lambda state=state: jadam.sgd(0.3).update(GRADS, state, PARAMS)) == 0
    for value in (0.5, 0.2):  # also one that the code has already
        held = edited.set_hyperparams(ended, learning_rate=value)
        for code in (jadam.sgd(0.9), edited, jadam.sgd(0.9)):  # "restored" under other code, several times
            updates, held = code.update(GRADS, held, PARAMS)
            chex.assert_trees_all_close(updates, jax.tree.map(lambda g, v=value: -v * g, GRADS))
    _, driven = cosine.update(GRADS, held, PARAMS)  # a schedule drives, whatever was set
    assert float(jadam.hyperparams(driven)["learning_rate"]) < 0.2


def test_derivatives_go_through_the_state():
    tx = jadam.sgd(0.2)
    state = tx.init(PARAMS)

    def moved(rate):
        return tx.update(GRADS, state._replace(hyperparams={"learning_rate": rate}), PARAMS)[0]["b"].sum()

    for rate in (0.2, 0.3):  # the number of the code, and another
        assert jax.grad(moved)(jnp.float32(rate)) == pytest.approx(-float(GRADS["b"].sum()))


def recipes():
    cosine = jadam.warmup_cosine_decay_schedule(0.0, 1e-2, 4, 20)
    groups = {"matrix": jadam.muon(0.02), "vector": jadam.sgd(0.1, momentum=0.9)}
    return {
        "adamw": jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(cosine, b2=0.99)),
        "groups": jadam.partition(groups, {"w": "matrix", "b": "vector"}),
        "remainder": jadam.with_precision(jadam.adan(1e-2), params="remainder"),
        "prodigy": jadam.prodigy(),
        "schedule_free": jadam.schedule_free_adamw(0.1, warmup_steps=3),
        "loss_scale": jadam.loss_scale(jadam.lion(1e-3), growth_interval=3),
    }


@pytest.mark.parametrize("name", recipes())
def test_a_run_resumes_from_a_pinned_state(name):
    """States written by 0.1.0 at commit 6831ce6, whose hyperparameters were nested by rule: all else is as it was."""
    tx, dtype = recipes()[name], jnp.bfloat16 if name == "remainder" else jnp.float32

    def pinned(step, like, kind):
        def read(path, x):
            key = jax.tree_util.keystr(path, simple=True, separator="/")
            if key.startswith("hyperparams/"):
                key = key.replace("orthogonalize", "muon")  # of which it was a part
                rule = key.removeprefix("hyperparams/")
                key = f"hyperparams/{rule}/learning_rate" if rule.endswith("learning_rate") else "/".join(key.rsplit(".", 1))
            if key.endswith("/count"):  # of a group, which had none of its own
                key = "count"
            stored = PINNED[f"{name}/{step}/{kind}/{key}"]
            assert stored.shape == x.shape
            return jnp.asarray(stored.view(jnp.bfloat16) if x.dtype == jnp.bfloat16 else stored.astype(x.dtype))

        return jax.tree_util.tree_map_with_path(read, like)

    params = {"w": jnp.zeros((4, 3), dtype), "b": jnp.zeros(3, dtype)}
    first = tx.init(params)
    known = {key for key in PINNED.files if key.startswith(f"{name}/5/state/")}
    own_counts = [scalars for scalars in first.scalars.values() if "count" in scalars]
    assert len(known) == len(jax.tree.leaves(first._replace(given={}))) - len(own_counts)
    state = pinned(5, first._replace(given={}), "state")
    state, params = state._replace(given=first.given), pinned(5, params, "params")
    given = {key: state.hyperparams[key.removesuffix(".given")] for key in first.given}
    state = state._replace(given=given)
    for step in range(5, 10):
        grads = jax.tree.map(lambda p, n=step + 1.0: jnp.sin(n * p.astype(jnp.float32) + 0.3).astype(p.dtype), params)
        if name == "loss_scale":
            grads = jax.tree.map(lambda g, s=state: g * jadam.current_loss_scale(s), grads)
        params, state = tx.step(grads, state, params)
    found, wanted = state._replace(given={}), pinned(10, state._replace(given={}), "state")
    # The last bits of a float32, which differ by a few from one XLA to the next.
    ours, theirs = (s.slots.pop("remainder", {}) for s in (found, wanted))
    chex.assert_trees_all_close(ours, theirs, atol=16)
    chex.assert_trees_all_close(found, wanted, rtol=2e-5, atol=1e-9)
    chex.assert_trees_all_close(params, pinned(10, params, "params"), rtol=0 if name == "remainder" else 1e-6)


class Trial:
    """What a search builds anew for each trial, and drops."""

    def __init__(self):
        self.table = np.full(1000, 0.1, np.float32)

    def rate(self, count):
        return self.table[0] / (1 + jnp.asarray(count, jnp.float32))

    def mask(self, params):
        return jax.tree.map(lambda x: x.ndim > 0 and self.table is not None, params)

    def pair(self, updates, state, params=None):
        return jax.tree.map(lambda u: u * self.table[0], updates), state


USES = {
    "schedule": lambda trial: jadam.adam(trial.rate),
    "joined": lambda trial: jadam.sgd(jadam.join_schedules([trial.rate, jadam.constant_schedule(0.1)], [5])),
    "mask": lambda trial: jadam.adamw(1e-3, mask=trial.mask),
    "labels": lambda trial: jadam.partition({True: jadam.sgd(0.1), False: jadam.freeze()}, trial.mask),
    "pair": lambda trial: jadam.chain(jadam.clip_by_global_norm(1.0), jadam.GradientTransformation(lambda p: (), trial.pair)),
    "option": lambda trial: jadam.prodigy(mask=trial.mask),
    "wrapped": lambda trial: jadam.loss_scale(jadam.masked(jadam.adam(trial.rate), trial.mask)),
    "argument": lambda trial: jadam.sgd(0.1),
}


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("compiled", [True, False])
def test_nothing_is_kept_after_the_user_dropped_it(use, compiled):
    def run():
        trial = Trial()
        tx = USES[use](trial)
        state = tx.init(PARAMS)
        extra = {"value_fn": trial.rate} if use == "argument" else {}

        def update(grads, state):
            return tx.update(grads, state, PARAMS, **extra)

        jax.block_until_ready((jax.jit(update) if compiled else update)(GRADS, state))
        return weakref.ref(trial)

    alive = [run() for _ in range(3)]
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3


def test_equal_transformations_share_their_programs():
    """Whatever function built them: a name is for messages."""
    params = {"w": jnp.ones((3, 5)), "b": jnp.ones(5)}

    def train(tx):
        return tx.step(params, tx.init(params), params)

    train(jadam.adamw(1e-3))
    assert jadam.chain(jadam.adamw(1e-3)) == jadam.adamw(1e-3)
    assert compilations(lambda: train(jadam.chain(jadam.adamw(1e-3)))) == 0
    assert compilations(lambda: train(jadam.chain(jadam.scale_by_adam(), jadam.add_decayed_weights(0.5), jadam.sgd(1.0)))) == 0
    assert compilations(lambda: train(pickle.loads(pickle.dumps(jadam.adamw(1e-3))))) == 0
    one, two = jax.jit(jadam.adamw(1e-3).step), jax.jit(jadam.chain(jadam.adamw(1e-3)).step)
    state = jadam.adamw(1e-3).init(params)
    one(params, state, params)
    assert compilations(lambda: two(params, state, params)) == 0


def test_a_transformation_that_meets_many_trees_keeps_few_plans():
    tx = jadam.sgd(0.1)
    for n in range(1, 40):
        tx.init({str(i): np.ones(2, np.float32) for i in range(n)})
    assert len(tx.recipe.plans) <= 16
