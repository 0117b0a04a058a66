"""Wrappers of a user's own: their inside works as outside, is seen through, and stays to the bit when it does not run."""

from dataclasses import dataclass
from typing import ClassVar

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support import EverySecond, compilations

import jadam


@dataclass(frozen=True)
class Sam(jadam.Wrapper):
    """Runs the inside on the gradient at the worst point nearby (Foret et al. 2021, arXiv:2010.01412)."""

    rho: jadam.Positive = 0.05

    def around(self, inside):
        scale = inside.h.rho / jadam.global_norm(inside.updates)
        worst = [p + scale * g for p, g in zip(inside.params, inside.updates, strict=True)]
        return inside.run(inside.leaves(inside.extra["grad_fn"](inside.tree(worst)))), {}, {}


HOW = ("cond", "loop", "select")
PARAMS = {
    "w": jnp.linspace(-1.0, 1.0, 2048).reshape(64, 32).astype(jnp.bfloat16),
    "b": jnp.linspace(0.5, 1.0, 5),
    "frozen": jnp.ones(3),
}


def loss(params):
    return sum(jnp.sum(jnp.cos(x.astype(jnp.float32)) ** 2) for x in jax.tree.leaves(params))


grad = jax.jit(jax.grad(loss))


def everything():
    """A clip, a partition, a schedule, slots in 8 bits and Kahan parameters."""
    groups = [(jadam.match("frozen"), jadam.freeze()), (jadam.match("b"), jadam.sgd(0.1, momentum=0.9))]
    rate = jadam.warmup_constant_schedule(0.01, 0.1, 3)
    tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.partition([*groups, (True, jadam.adamw(rate))]))
    return jadam.with_precision(tx, state="int8", params="kahan", min_size=0)


def inner_state(state):
    """What belongs to the inside, of a state of a wrapper alone in its chain."""
    strip = lambda kept: {key: value for key, value in kept.items() if not key.startswith(("every_second", "sam"))}  # noqa: E731
    return jadam.OptState(state.count, *(strip(field) for field in state[1:]))


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("compiled", [True, False])
def test_the_inside_stays_to_the_bit_or_runs_as_alone(how, compiled):
    inner, tx = everything(), jadam.wrap(EverySecond(how), everything())
    step, alone = (jax.jit(tx.step), jax.jit(inner.step)) if compiled else (tx.step, inner.step)
    params, state, expected, kept = PARAMS, tx.init(PARAMS), PARAMS, inner.init(PARAMS)
    for _ in range(3):
        grads, before = grad(params), inner_state(state)
        still, state = step(grads, state, params)
        chex.assert_trees_all_equal((still, inner_state(state)), (params, before))
        params, state = step(grads, state, still)
        expected, kept = alone(grads, kept, expected)
        # A select is fused into the loops of the inside, in which XLA may round the last bit of a product otherwise; and so it
        # may in the body of a loop (JAX 0.12).
        chex.assert_trees_all_close((params, inner_state(state)), (expected, kept), rtol=0 if how == "cond" else 2e-7)
    assert state.count == 3
    assert not bool((params["w"] == PARAMS["w"]).all())


@pytest.mark.parametrize("how", HOW)
def test_updates_are_zero_while_the_inside_waits(how):
    tx = jadam.wrap(EverySecond(how), everything())
    updates, state = tx.update(grad(PARAMS), tx.init(PARAMS), PARAMS)
    assert not any(bool(jnp.any(u)) for u in jax.tree.leaves(updates))
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, state), (PARAMS, tx.init(PARAMS)))


@pytest.mark.parametrize("how", [pytest.param(how, marks=[] if how == "loop" else pytest.mark.slow) for how in HOW])
def test_under_vmap_and_scan(how):
    """Each model waits for itself; the loop of models and the loop of steps are the plain one."""
    tx = jadam.wrap(EverySecond(how), everything())
    many = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), PARAMS)

    def train(params):
        def body(carry, _):
            return tx.step(grad(carry[0]), carry[1], carry[0])[::1], None

        return jax.lax.scan(body, (params, tx.init(params)), None, length=4)[0]

    params, states = jax.vmap(train)(many)
    assert (states.count == 2).all()
    for n in range(2):
        single, state = train(jax.tree.map(lambda x, n=n: x[n], many))
        chex.assert_trees_all_close(jax.tree.map(lambda x, n=n: x[n], params), single, rtol=1e-2)
        assert state.count == 2


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", [*map(EverySecond, HOW), Sam()], ids=[*HOW, "sam"])
def test_on_a_mesh(wrapper):
    """The same numbers, placed as the parameters are, and the second step compiles nothing."""
    mesh = jax.make_mesh((8,), ("x",))
    tx = jadam.wrap(wrapper, everything())
    specs = {"w": PartitionSpec("x"), "b": PartitionSpec(), "frozen": PartitionSpec()}
    params = {name: jax.device_put(PARAMS[name], NamedSharding(mesh, spec)) for name, spec in specs.items()}
    step = jax.jit(lambda g, s, p: tx.step(g, s, p, grad_fn=grad))
    alone, lone_state = step(grad(PARAMS), tx.init(PARAMS), PARAMS)
    state = tx.init(params)
    placed = jax.tree.map(lambda x, said: x.sharding.is_equivalent_to(said, x.ndim), state, jadam.state_shardings(tx, params))
    assert all(jax.tree.leaves(placed))
    new, state = step(grad(params), state, params)
    chex.assert_trees_all_close(new, alone, rtol=1e-2)
    assert new["w"].sharding.spec[0] == "x"
    assert state.slots["2.adam"]["mu"]["w"].sharding.spec[0] == "x"
    # JAX 0.7 spreads the scales of two blocks over some devices, though init replicated them: that is one program more.
    assert compilations(lambda: step(grad(new), state, new)) <= (jax.__version_info__ < (0, 8))
    chex.assert_trees_all_close(step(grad(new), state, new)[0], step(grad(alone), lone_state, alone)[0], rtol=1e-2)


@pytest.mark.parametrize("compiled", [True, False])
def test_sam_is_its_formula(compiled):
    tx = jadam.wrap(Sam(rho=0.1), jadam.sgd(0.5))
    params = {"w": jnp.linspace(-1.0, 1.0, 6), "b": jnp.ones(2)}
    update = lambda g, s, p: tx.update(g, s, p, grad_fn=grad)  # noqa: E731
    updates, state = (jax.jit(update) if compiled else update)(grad(params), tx.init(params), params)
    worst = jax.tree.map(lambda p, g: p + 0.1 * g / optax.tree.norm(grad(params)), params, grad(params))
    chex.assert_trees_all_close(updates, jax.tree.map(lambda g: -0.5 * g, grad(worst)), rtol=1e-6)
    assert state.count == 1


def test_beside_others_a_wrapper_counts_for_itself():
    """A schedule inside follows the steps of the inside, one beside it those of the chain; keys do not change."""
    line = lambda count: jnp.asarray(count, jnp.float32)  # noqa: E731
    tx = jadam.chain(jadam.wrap(EverySecond(), jadam.sgd(line)), jadam.scale(line))
    params, state = jnp.ones(2), tx.init(jnp.ones(2))
    for _ in range(5):
        _, state = tx.update(params, state, params)
    assert state.count == 5
    assert state.scalars["every_second"]["count"] == 2
    assert jadam.hyperparams(state) == {"learning_rate": 1.0, "step_size": 4.0}
    alone = jadam.wrap(EverySecond(), jadam.adamw(1e-3)).init(params)
    plain = jadam.adamw(1e-3).init(params)
    assert set(plain.slots) < set(alone.slots)
    assert set(alone.hyperparams) == set(plain.hyperparams)


def test_it_is_seen_through():
    params = {"w": jnp.ones((64, 64), jnp.bfloat16), "b": jnp.ones(2)}
    for wrapper in (EverySecond(), Sam()):
        inner = jadam.chain(lambda_pair(), jadam.adamw(1e-3, mask=jadam.match("w")))
        tx = jadam.wrap(wrapper, inner)
        described = jadam.describe(tx, params).splitlines()
        assert f"#1: {wrapper.key}, lambda_pair, adam, learning_rate" in described  # of b
        assert f"#2: {wrapper.key}, lambda_pair, adam, add_decayed_weights, learning_rate" in described
        assert jadam.check_precision(tx, params)[0].startswith("w: steps of 0.001")
        assert repr(tx).startswith(f"{wrapper.key}(chain(lambda_pair(...), scale_by_adam(")
        state = tx.set_hyperparams(tx.init(params), learning_rate=0.5)
        assert jadam.hyperparams(state)["learning_rate"] == 0.5
        low = jadam.with_precision(tx, state="int8", params="remainder")
        assert low.init(params).slots["adam"]["mu"]["w"].dtype == jnp.int8
        assert set(low.init(params).slots["remainder"]["remainder"]) == {"w", "b"}
        assert repr(low).endswith("state='int8', params='remainder')")
        assert "cautious_mask()" in repr(jadam.cautious(tx))
        assert jadam.cautious(tx) == jadam.wrap(wrapper, jadam.cautious(inner))
        assert "cautious=True" in repr(jadam.cautious_weight_decay(tx))


def lambda_pair():
    return jadam.GradientTransformation(lambda params: (), lambda updates, state, params=None: (updates, state))


def test_equal_wrappers_are_equal_and_share_programs():
    make = lambda rho=0.05: jadam.wrap(Sam(rho), jadam.adamw(1e-3))  # noqa: E731
    assert make() == make()
    assert make() != make(0.1)
    params = {"w": jnp.ones((3, 7))}
    run = lambda tx: tx.update(params, tx.init(params), params, value=jnp.float32(1))  # noqa: E731
    every = lambda: jadam.wrap(EverySecond("loop"), jadam.adamw(1e-3))  # noqa: E731
    run(every())
    assert compilations(lambda: run(every())) == 0


def test_what_stands_around_it_is_seen_and_written():
    tx = jadam.masked(jadam.wrap(EverySecond("loop"), jadam.sgd(0.1)), jadam.match("w"))
    assert repr(tx) == "masked(every_second(scale_by_learning_rate(learning_rate=0.1), how='loop'), match('w'))"
    params = {"w": jnp.ones(2), "b": jnp.ones(2)}
    updates, state = tx.update(params, tx.init(params), params)
    np.testing.assert_array_equal(updates["b"], params["b"])  # passed on: nothing acts on it
    assert state.slots["every_second"]["first"]["b"] is None


def test_what_is_not_a_wrapper_is_refused():
    with pytest.raises(TypeError, match=r"wrap: scale_by_lion\(.*\) is not a Wrapper; write a subclass of jadam.Wrapper"):
        jadam.wrap(jadam.scale_by_lion(), jadam.sgd(0.1))
    taken = type("Taken", (Sam,), {"scalars": lambda self: {"count": 0.0}})
    with pytest.raises(ValueError, match="wrap: a scalar of taken cannot be called 'count'"):
        jadam.wrap(taken(), jadam.sgd(0.1))
    tx = jadam.wrap(Sam(), jadam.sgd(0.1))
    with pytest.raises(ValueError, match=r"sam.update: sam needs the parameters"):
        tx.update(PARAMS, tx.init(PARAMS), grad_fn=grad)


@dataclass(frozen=True)
class Always(jadam.Wrapper):
    def around(self, inside):
        return inside.run(inside.updates), {}, {}


def test_cautious_finds_the_direction_on_either_side_of_a_wrapper():
    """It masked a clip, and compared an update with itself, since it looked into every wrapper and nowhere else."""
    clip, adam, rate = jadam.clip_by_global_norm(1.0), jadam.scale_by_adam(), jadam.scale_by_learning_rate(0.1)
    for tx in (
        jadam.chain(jadam.wrap(Always(), clip), adam, rate),
        jadam.chain(clip, adam, jadam.wrap(Always(), rate)),
        jadam.chain(clip, jadam.wrap(Always(), jadam.chain(adam, rate))),
    ):
        text = repr(jadam.cautious(tx))
        assert text.count("cautious_mask()") == 1
        assert text.index("scale_by_adam") < text.index("cautious_mask()") < text.index("scale_by_learning_rate")


def test_a_schedule_may_keep_the_array_that_it_returns():
    """The state had its very buffer, which a donated state takes away."""
    kept = jnp.float32(0.1)
    tx = jadam.wrap(EverySecond(), jadam.sgd(lambda count: kept))
    state, step = tx.init(PARAMS), jax.jit(tx.step, donate_argnames="state")
    for _ in range(3):
        _, state = step(grad(PARAMS), state, PARAMS)
    assert kept == jnp.float32(0.1)


def test_a_pair_inside_and_a_rule_behind():
    """In 16 bits: the pair sees its dtype, and what it returns goes on in float32, whether it runs or not."""
    params = {"w": jnp.ones(8, jnp.bfloat16)}
    pair = jadam.GradientTransformation(lambda p: (), lambda u, s, p=None: (jax.tree.map(lambda x: x + x, u), s))
    tx = jadam.chain(jadam.wrap(EverySecond(), pair), jadam.sgd(0.25))
    state = tx.init(params)
    for expected in (0.0, -0.5):
        updates, state = jax.jit(tx.update)(params, state, params)
        assert updates["w"].dtype == jnp.bfloat16
        assert (updates["w"] == expected).all()


def test_where_nothing_is_there():
    """No leaves for a wrapper with slots; a state without its scalars; a loss scale that is not around all else."""
    tx = jadam.wrap(EverySecond(), jadam.adam(0.1))
    assert tx.update({}, tx.init({}), {})[0] == {}
    plain, params = jadam.adam(0.1), {"w": jnp.ones(2)}
    for one, other in ((jadam.loss_scale(plain), plain), (plain, jadam.loss_scale(plain))):
        with pytest.raises(ValueError, match="the state belongs to another transformation"):
            one.update(params, other.init(params), params)
    for around in (lambda tx: jadam.wrap(Always(), tx), jadam.loss_scale):
        tx = around(jadam.loss_scale(plain))
        with pytest.raises(ValueError, match="loss_scale skips whole steps; put it around all else"):
            tx.update(params, tx.init(params), params)


@dataclass(frozen=True)
class Keeps(jadam.Wrapper):
    """Keeps a slot, a copy of the parameters, a scalar and a history."""

    positions: ClassVar[tuple[str, ...]] = ("copy",)

    def init(self, p):
        return {"mean": jadam.zeros(p), "copy": jnp.copy(p)}

    def scalars(self):
        return {"seen": 0.0, "history": jnp.zeros(4)}

    def around(self, inside):
        assert all(x.dtype == jnp.float32 for column in inside.slots.values() for x in column)
        return inside.run(inside.updates), dict(inside.slots), dict(inside.scalars)


def test_what_the_state_keeps():
    """What docs/adding-a-wrapper.md says, of a wrapper in a group, stored in 8 bits."""
    params = {"w": jnp.ones((64, 64)), "b": jnp.ones(2)}
    tx = jadam.partition([(jadam.match("w"), jadam.wrap(Keeps(), jadam.sgd(0.1)), "body"), (True, jadam.sgd(0.1))])
    for storage, dtype in (("float32", jnp.float32), ("int8", jnp.int8)):
        stored = jadam.with_precision(tx, state=storage)
        _, state = stored.step(params, stored.init(params), params)
        slots = state.slots["body.keeps"]
        assert slots["mean"]["b"] is None
        assert (slots["mean"]["w"].dtype, slots["copy"]["w"].dtype) == (dtype, jnp.float32)
        assert {name: x.shape for name, x in state.scalars["body.keeps"].items()} == {"count": (), "seen": (), "history": (4,)}
    named = jadam.with_precision(tx, state={"copy": "bfloat16"}).init(params)
    assert named.slots["body.keeps"]["copy"]["w"].dtype == jnp.bfloat16
