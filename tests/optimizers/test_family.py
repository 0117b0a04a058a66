"""What the papers say of the Adam family: identities between its members, and the properties that Adam claims."""

from math import inf, pi, sqrt

import golden
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support import EACH, OPTIMIZERS, at, cast, distance, run, stack

import jadam
from jadam._optimizers.newton_schulz import orthogonalize

RNG = np.random.default_rng(3)
START = {"w": RNG.standard_normal((3, 4)), "b": RNG.standard_normal(4)}
NOISY = {name: RNG.standard_normal((40, *p.shape)) * 0.3 + 0.1 for name, p in START.items()}
COUNT = (1 + np.arange(40.0)).reshape(40, 1)
GROWING = {name: COUNT.reshape(40, *(1,) * START[name].ndim) * np.sign(g[0]) for name, g in NOISY.items()}
CONSTANT = {name: np.broadcast_to(g[0], g.shape) for name, g in NOISY.items()}


def path(tx, grads=NOISY, dtype="float64"):
    """The parameters and the states after each step, stacked."""
    params, grads = cast({name: START[name] for name in grads}, dtype), cast(dict(grads), dtype)
    carry, reached = (params, tx.init(params)), []
    if (length := len(jax.tree.leaves(grads)[0])) <= 40:  # step by step, which compiles once for all tests
        for t in range(length):
            carry = tx.step(at(grads, t), carry[1], carry[0])
            reached.append(carry)
        return jax.tree.map(np.asarray, stack(reached))

    def body(carry, g):
        new = tx.step(g, carry[1], carry[0])
        return new, new

    return jax.tree.map(np.asarray, jax.jit(lambda carry, grads: jax.lax.scan(body, carry, grads)[1])(carry, grads))


def apart(one, two, grads=NOISY):
    """The distance of the paths of two transformations, on which every parameter moves."""
    (one, _), (two, _) = path(one, grads), path(two, grads)
    assert all(np.max(np.abs(p - START[name])) > 1e-6 for name, p in two.items())
    return distance(one, two, START)


def scaled(direction, learning_rate=0.01):
    return jadam.chain(direction, jadam.scale_by_learning_rate(learning_rate))


def without_bias(count):
    """The learning rate that takes the bias correction of the squares off again, for b2 = 0.999."""
    return 0.01 / jnp.sqrt(1 - 0.999 ** (count.astype(float) + 1))


IDENTITIES = {
    "AdEMAMix with alpha = 0 is Adam": (jadam.ademamix(0.01, alpha=0.0), jadam.adam(0.01)),
    "LaProp with b1 = 0 is RMSProp, with the bias correction of Adam": (
        jadam.laprop(0.01, b1=0.0, eps=1e-3),
        scaled(jadam.scale_by_rms(0.999, 1e-3, bias_correction=True)),
    ),
    "and without eps it is RMSProp with a learning rate divided by the root of that correction": (
        scaled(jadam.scale_by_laprop(b1=0.0, eps=0.0), without_bias),
        jadam.rmsprop(0.01, decay=0.999, eps=0.0),
    ),
    "RMSProp with bias correction is Adam with b1 = 0": (
        scaled(jadam.scale_by_rms(0.999, bias_correction=True)),
        jadam.adam(0.01, b1=0.0),
    ),
    "AdaBound between 0 and infinity is Adam, with eps at the uncorrected root": (
        jadam.adabound(0.01, eps=1e-3, final_learning_rate=1e12, gamma=1e-30),
        jadam.adam(0.01, eps=1e-3, eps_form="eps_hat"),
    ),
    "AMSGrad is Adam where v does not decrease": (jadam.amsgrad(0.01), jadam.adam(0.01), GROWING),
    "Adam-atan2 of small angles is Adam": (jadam.adam_atan2(0.01, a=1e5, b=1e5, b2=0.999), jadam.adam(0.01, eps=0.0)),
    "AdamW without weight decay is Adam": (jadam.adamw(0.01, weight_decay=0.0), jadam.adam(0.01)),
    "Lion with equal betas is the sign of the momentum": (
        jadam.lion(0.01, b1=0.9, b2=0.9),
        scaled(jadam.chain(jadam.ema(0.9, debias=False), jadam.scale_by_lion(b1=0.0))),
    ),
    "NAdam and NAdamW without momentum are one": (jadam.nadam(0.01, b1=0.0), jadam.nadamw(0.01, b1=0.0, weight_decay=0.0)),
    "Adan without differences is Adam": (jadam.adan(0.01, b1=0.9, b2=0.0, b3=0.999), jadam.adam(0.01)),
    "AdaMax without memory is the sign": (jadam.adamax(0.01, b1=0.0, b2=0.0, eps=0.0), jadam.lion(0.01, b1=0.0)),
    "MARS with gamma = 0 is AdamW after a clip of each array": (
        jadam.mars_adamw(0.01, gamma=0.0, weight_decay=0.1),
        jadam.chain(
            *(jadam.masked(jadam.clip_by_global_norm(1.0), jadam.match(leaf)) for leaf in "wb"),
            jadam.adamw(0.01, b1=0.95, b2=0.99, weight_decay=0.1),
        ),
    ),
    "StableAdamW is AdamW where v has caught up": (
        jadam.stable_adamw(0.01, weight_decay=0.1),
        jadam.adamw(0.01, b2=0.99, eps=1e-6, weight_decay=0.1),
        CONSTANT,
    ),
    "Adam-mini with a block for every weight is AdamW": (
        jadam.adam_mini(0.01, weight_decay=0.1, blocks={"w": (3, 4), "b": (4,)}),
        jadam.adamw(0.01, weight_decay=0.1),
    ),
    "a direction that is the gradient's is not masked": (
        jadam.cautious(jadam.adamw(0.01, b1=0.0, weight_decay=0.1)),
        jadam.adamw(0.01, b1=0.0, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("name", IDENTITIES)
@pytest.mark.usefixtures("x64")
def test_identity(name):
    assert apart(*IDENTITIES[name]) <= (1e-9 if "angles" in name else 1e-12)


@pytest.mark.usefixtures("x64")
def test_what_is_not_the_same():
    """Negative controls: each identity needs its condition."""
    for other in (jadam.ademamix(0.01), jadam.amsgrad(0.01), jadam.adabound(0.01, gamma=0.1), jadam.cautious(jadam.adam(0.01))):
        assert apart(other, jadam.adam(0.01)) > 1e-6, other


@pytest.mark.usefixtures("x64")
def test_soap_that_turns_no_axis_is_adam_from_the_second_gradient_on():
    soap = path(jadam.soap(0.01, b1=0.9, b2=0.99, eps=1e-3, weight_decay=0.0, max_precondition_size=1))[0]
    later = {name: g[1:] for name, g in NOISY.items()}
    adam = path(jadam.adam(0.01, b2=0.99, eps=1e-3, eps_form="eps_hat"), later)[0]
    assert distance({name: p[1:] for name, p in soap.items()}, adam, START) <= 1e-12


@pytest.mark.usefixtures("x64")
def test_schedule_free_sgd_averages_the_iterates_of_sgd():
    params, states = path(jadam.schedule_free(jadam.sgd(0.1), b1=0.7, weight_lr_power=0.0))
    iterates = path(jadam.sgd(0.1))[0]
    averaged = jax.vmap(jadam.schedule_free_params)(states, params)["b"]
    np.testing.assert_allclose(states.slots["schedule_free"]["z"]["b"], iterates["b"], rtol=1e-12)
    np.testing.assert_allclose(averaged, np.cumsum(iterates["b"], axis=0) / COUNT, rtol=1e-10)
    np.testing.assert_allclose(params["b"], 0.7 * averaged + 0.3 * iterates["b"], rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_the_rectifier_tends_to_one():
    """RAdam's step is a share of Adam's that rises to all of it."""
    grads = {"b": np.broadcast_to(RNG.standard_normal((3000, 1)) + 1.0, (3000, 4))}
    steps = [np.diff(path(tx, grads)[0]["b"][:, 0]) for tx in (jadam.radam(1e-3, b2=0.99), jadam.adam(1e-3, b2=0.99))]
    share = (steps[0] / steps[1])[5:]
    assert share[0] < 0.3
    assert np.all(np.diff(share[:500]) > -1e-9)
    assert share[-1] == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("shape", [(8, 8), (5, 20), (20, 5), (3, 6, 4)])
def test_muon_makes_singular_values_near_one(shape):
    x = jnp.asarray(RNG.standard_normal(shape) * 10.0 ** RNG.uniform(-3, 3), jnp.float32)
    found = jnp.linalg.svd(orthogonalize(x), compute_uv=False)
    assert jnp.all((found > 0.6) & (found < 1.3))
    assert jnp.ptp(jnp.linalg.svd(x / jnp.linalg.norm(x, axis=(-2, -1), keepdims=True), compute_uv=False)) > 0.2


# Kingma & Ba 2015, section 2.1: what Adam claims, for all of the family that it holds for.

INVARIANT = ["adam", "adamw", "adamax", "amsgrad", "nadam", "nadamw", "lamb", "adan", "ademamix", "adopt", "laprop", "rmsprop"]
INVARIANT += ["adagrad", "stable_adamw", "adabelief", "schedule_free_adamw", "lion", "adam_atan2"]
VARYING = ["sgd", "adadelta", "yogi"]


@pytest.mark.parametrize("name", [*INVARIANT, *VARYING])
@pytest.mark.usefixtures("x64")
def test_invariant_to_a_diagonal_rescaling(name):
    """Each coordinate's gradients times any positive number: the parameters take the same path; not in every algorithm."""
    tx = OPTIMIZERS[name](0.01, **({} if name in ("lion", "adam_atan2", *VARYING) else {"eps": 0.0}))
    factors = {leaf: 10.0 if name in VARYING else 10.0 ** RNG.uniform(-4, 4, p.shape) for leaf, p in START.items()}
    apart = distance(path(tx, {leaf: g * factors[leaf] for leaf, g in NOISY.items()})[0], path(tx)[0], START)
    assert apart > 1e-3 if name in VARYING else apart <= 1e-9


STEADY = {name: {} for name in ("adam", "amsgrad", "adamax", "laprop", "lion", "adan")}
STEADY |= {"ademamix": {"alpha": 0.0}, "adam_mini": {"blocks": ()}}
STEADY |= {"stable_adamw": {"weight_decay": 0.0}, "mars_adamw": {"gamma": 0.0}}


@pytest.mark.parametrize("name", STEADY)
@pytest.mark.usefixtures("x64")
def test_a_steady_gradient_moves_by_the_learning_rate(name):
    """|step| = learning_rate without noise, at every step, whatever the size of the gradient."""
    for size in (1e-2, 1e2):
        params, _ = path(OPTIMIZERS[name](1e-3, **STEADY[name]), {leaf: size * np.sign(g) for leaf, g in CONSTANT.items()})
        steps = np.diff(params["w"], axis=0, prepend=START["w"][None])
        np.testing.assert_allclose(np.abs(steps), 1e-3, rtol=2e-4)  # eps


CAUCHY_SCHWARZ = (1 - 0.9) / sqrt(1 - 0.999) / sqrt(1 - 0.9**2 / 0.999)
BOUNDS = {
    "adam": lambda t: CAUCHY_SCHWARZ * np.sqrt(1 - 0.999**t) / (1 - 0.9**t),
    "amsgrad": lambda t: CAUCHY_SCHWARZ * np.sqrt(1 - 0.999**t) / (1 - 0.9**t),
    "adamax": lambda t: (1 - 0.9) / (1 - 0.9 / 0.999) / (1 - 0.9**t),
    "rmsprop": lambda t: 1 / sqrt(1 - 0.99),
    "adagrad": lambda t: 1.0,
    "lion": lambda t: 1.0,
    "adam_atan2": lambda t: 1.27 * pi / 2,
    "adopt": lambda t: (t - 1) ** 0.25,
}
"""The largest step in learning rates, by the inequality of Cauchy and Schwarz or by construction."""


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.usefixtures("x64")
def test_steps_are_bounded(name):
    """By gradients of any size: heavy tails, and single ones after a thousand zeros."""
    heavy = RNG.standard_cauchy((2400, 4)) * 10.0 ** RNG.uniform(-5, 5, (2400, 1))
    heavy[200:1200] = 0.0
    heavy[1201:2200] = 0.0
    params, _ = path(OPTIMIZERS[name](1e-3), {"b": heavy})
    steps = np.abs(np.diff(params["b"], axis=0, prepend=START["b"][None])) / 1e-3
    bounds = BOUNDS[name](1.0 + np.arange(len(heavy)))
    assert np.all(np.max(steps, axis=1) <= bounds * (1 + 1e-9))
    assert np.max(steps) > 0.5


@pytest.mark.usefixtures("x64")
def test_the_step_in_the_sparsest_case():
    """After only zeros: learning_rate (1-b1) / sqrt(1-b2), the most severe case of the paper; where that is below 1, less."""
    for b1, b2 in ((0.9, 0.999), (0.5, 0.99), (0.9, 0.9)):
        grads = {"b": np.zeros((20_000, 4))}
        grads["b"][-1] = [1e-3, 1.0, 1e3, -7.0]
        params = path(jadam.adam(0.01, b1=b1, b2=b2, eps=1e-15), grads)[0]["b"]
        np.testing.assert_allclose(np.abs(params[-1] - params[-2]), 0.01 * (1 - b1) / sqrt(1 - b2), rtol=1e-4)


DECAYING = ("adamw", "nadamw", "lamb", "stable_adamw", "soap")


def undecayed(name, learning_rate):
    """The optimizer without weight decay; Prodigy with an estimate that does not stand at its start."""
    own = {"weight_decay": 0.0} if name in DECAYING else {"d0": 1e-2} if name == "prodigy" else {}
    return OPTIMIZERS[name](1.0 if name == "prodigy" else learning_rate, **own)


STILL = set(OPTIMIZERS) - {"yogi"}  # whose first moment begins above zero, as in the authors' code


@pytest.mark.parametrize("name", sorted(STILL))
def test_coordinates_without_gradient_stay(name):
    """A coordinate whose gradient is always zero is not moved, except by weight decay and by what mixes coordinates."""
    grads = {"b": np.array(NOISY["b"])}
    grads["b"][:, 2] = 0.0
    params, _ = path(undecayed(name, 0.01), grads, "float32")
    assert np.all(params["b"][:, 2] == np.float32(START["b"][2]))
    assert np.all(np.abs(params["b"][-1, [0, 1, 3]] - START["b"][[0, 1, 3]]) > 0)


@pytest.mark.parametrize("name", EACH)
def test_zero_gradients_for_long(name):
    """After some gradients, 5,000 zero ones: nothing blows up as the averages die out, and what comes then is finite."""
    grads = np.zeros((5_060, 4))
    grads[:40], grads[-20:] = NOISY["b"], NOISY["b"][:20]
    params = np.asarray(path(undecayed(name, 1e-3), {"b": grads}, "float32")[0]["b"])
    steps = np.abs(np.diff(params, axis=0))
    assert np.all(np.isfinite(params))
    slow = {"ademamix": 2.0, "yogi": 1.0, "lion": 1.0, "schedule_free_adamw": 1.0}.get(name, 0.05)
    assert np.max(steps[4_000:5_030]) <= slow * np.max(steps[:60]) < inf
    assert np.max(steps[5_040:]) > 0


@pytest.mark.usefixtures("x64")
def test_a_quadratic_by_hand():
    """Adam on theta^2 in plain Python: a hundred steps, and each number of the first two steps of another run."""

    def begin(run):
        tx, theta = jadam.adam(run["learning_rate"], b1=run["b1"], b2=run["b2"], eps=run["eps"]), jnp.asarray(run["theta0"])
        return tx, theta, tx.init(theta)

    run = golden.INDEX["properties"]["quadratic"]
    tx, theta, state = begin(run)
    for expected in run["theta"][1:]:
        theta, state = tx.step(2 * theta, state, theta)
        assert float(theta) == pytest.approx(expected, abs=1e-12)
    run = golden.INDEX["properties"]["walkthrough"]
    tx, theta, state = begin(run)
    for step in run["steps"]:
        delta, state = tx.update(jnp.asarray(step["g"]), state, theta)
        theta = theta + delta
        found = (state.slots["adam"]["mu"], state.slots["adam"]["nu"], delta, theta)
        assert list(map(float, found)) == pytest.approx([step["m"], step["v"], step["delta"], step["theta"]], rel=1e-12)


@pytest.mark.parametrize("optimizer", [jadam.schedule_free_adamw, lambda rate: jadam.schedule_free(jadam.sgd(rate))])
def test_schedule_free_in_bfloat16(optimizer):
    """Steps of y below its resolution do not derail the average: it is kept, and not taken back from the parameters."""
    target, noise = jnp.asarray(RNG.standard_normal(64), jnp.float32), RNG.standard_normal((2000, 64)).astype(np.float32)
    errors = {}
    for dtype in ("float32", "bfloat16"):
        tx, params = optimizer(0.003), jnp.zeros(64, dtype)

        def body(carry, z, tx=tx, dtype=dtype):
            g = (carry[0].astype(jnp.float32) - target + 0.1 * z).astype(dtype)
            return tx.step(g, carry[1], carry[0]), None

        (params, state), _ = jax.lax.scan(body, (params, tx.init(params)), jnp.asarray(noise))
        x = jadam.schedule_free_params(state, params).astype(jnp.float32)
        errors[dtype] = float(jnp.sqrt(jnp.mean((x - target) ** 2)))
    assert errors["bfloat16"] < 1.2 * errors["float32"] + 0.005


def test_the_average_survives_another_b1():
    tx = jadam.schedule_free(jadam.sgd(0.1))
    params = {"w": jnp.ones(2)}
    params, state = tx.step(params, tx.init(params), params)
    before = jadam.schedule_free_params(state, params)
    after = jadam.schedule_free_params(tx.set_hyperparams(state, b1=0.5), params)
    np.testing.assert_array_equal(before["w"], after["w"])


def test_muon_takes_stacked_layers_one_by_one():
    stack, g = (jnp.asarray(RNG.standard_normal((3, 6, 4)), jnp.float32) for _ in range(2))
    tx = jadam.muon(0.02, matrices=True)
    together, _ = tx.step(g, tx.init(stack), stack)
    apart = [tx.step(one, tx.init(p), p)[0] for one, p in zip(g, stack, strict=True)]
    np.testing.assert_allclose(together, jnp.stack(apart), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("optimizer", [jadam.muon, jadam.normuon])
def test_the_others_have_a_rate_and_a_decay_of_their_own(optimizer):
    """They take the path of AdamW at that rate, whatever the rate of the matrices is set to."""
    schedule = jadam.linear_schedule(0.0, 1e-2, 3)
    tx = optimizer(0.02, weight_decay=0.1, adam_learning_rate=schedule, adam_weight_decay=0.5)
    adamw = jadam.adamw(schedule, b2=0.95, eps=1e-10, weight_decay=0.5)
    params = {"kernel": jnp.linspace(-1.0, 1.0, 12).reshape(4, 3), "bias": jnp.asarray([1.0, -2.0, 3.0])}
    state, alone = tx.init(params), adamw.init(params)
    assert {name for name in jadam.hyperparams(state) if "rate" in name} == {"matrices.learning_rate", "others.learning_rate"}
    state = tx.set_hyperparams(state, **{"matrices.learning_rate": 0.0})
    found = expected = params
    for _ in range(4):
        found, state = tx.step(params, state, found)
        expected, alone = adamw.step(params, alone, expected)
    np.testing.assert_allclose(found["bias"], expected["bias"], rtol=1e-6)
    assert not np.allclose(expected["bias"], params["bias"], rtol=1e-3)
    np.testing.assert_array_equal(found["kernel"], params["kernel"])


@pytest.mark.usefixtures("x64")
def test_neurons_of_normuon_make_steps_of_one_size():
    """Of a tall matrix the outputs that Muon moves differ in length; the norm of the whole update is Muon's."""
    g = {"w": np.asarray(RNG.standard_normal((4, 40)) * np.exp(RNG.standard_normal(40)))}
    params = {"w": np.zeros((4, 40))}
    lengths, norms = {}, {}
    for optimizer in (jadam.muon, jadam.normuon):
        new, _ = (tx := optimizer(1.0)).step(g, tx.init(params), params)
        lengths[optimizer], norms[optimizer] = np.linalg.norm(new["w"], axis=0), np.linalg.norm(new["w"])
    assert np.ptp(lengths[jadam.normuon]) < 1e-6 * lengths[jadam.normuon].max()
    assert np.ptp(lengths[jadam.muon]) > 0.5 * lengths[jadam.muon].max()
    assert norms[jadam.normuon] == pytest.approx(norms[jadam.muon], rel=1e-6)


@pytest.mark.parametrize("optimizer", [jadam.muon, jadam.normuon])
@pytest.mark.usefixtures("x64")
def test_fused_heads_are_matrices_side_by_side(optimizer):
    """A kernel (6, 3, 4) with `split=3` takes the path of three kernels (6, 4), and without it that of one (6, 12)."""
    p, g = (jnp.asarray(RNG.standard_normal((6, 3, 4))) for _ in range(2))

    def moved(p, g, matrices):
        tx = optimizer(0.1, matrices=matrices)
        return run(tx, p, [g, g * g - 1])[0]

    def fused(split):
        return moved(p, g, [(True, jadam.axes(inputs=0, outputs=(1, 2), split=split))])

    apart = jnp.stack([moved(p[:, head], g[:, head], True) for head in range(3)], axis=1)
    np.testing.assert_allclose(fused(3), apart, rtol=1e-12)
    np.testing.assert_allclose(fused(1), moved(p.reshape(6, 12), g.reshape(6, 12), True).reshape(6, 3, 4), rtol=1e-12)
    assert not np.allclose(fused(3), fused(1), rtol=1e-3)


def test_muon_leaves_the_others_to_adam():
    params = {"kernel": jnp.ones((4, 3)), "embed": jnp.ones((9, 4)), "bias": jnp.ones(3)}
    state = jadam.muon(0.02).init(params)
    assert [name for name, slot in state.slots["muon"]["mu"].items() if slot is not None] == ["kernel"]
    assert state.slots["adam"]["nu"]["kernel"] is None
    assert state.slots["adam"]["nu"]["embed"].shape == (9, 4)


@pytest.mark.parametrize("blocks", [{"w": (1, 2), "b": ()}, lambda p: {"w": (1, 2), "b": (1,)}])
def test_blocks_of_adam_mini(blocks):
    """Two blocks of two columns, and one for the vector: the first step divides by the root mean square of a block."""
    tx = jadam.adam_mini(1.0, eps=0.0, blocks=blocks)
    params, grads = cast(START, "float32"), cast(at(NOISY, 0), "float32")
    updates, state = tx.update(grads, tx.init(params), params)
    assert state.slots["adam_mini"]["nu"]["w"].shape == (1, 2)
    root = np.sqrt(np.mean(np.square(grads["w"]).reshape(3, 2, 2), axis=(0, 2)))
    np.testing.assert_allclose(updates["w"], -grads["w"] / np.repeat(root, 2)[None], rtol=1e-5)
    np.testing.assert_allclose(updates["b"], -grads["b"] / np.sqrt(np.mean(np.square(grads["b"]))), rtol=1e-5)


def test_averaged_parameters_are_found_anywhere():
    """In groups, in 16 bits, and beside what is not schedule-free."""
    params = {"w": jnp.ones(3, jnp.bfloat16), "b": jnp.ones(2)}
    tx = jadam.partition([(jadam.match("w"), jadam.schedule_free_adamw(0.1)), (True, jadam.sgd(0.1))])
    params, state = tx.step(params, tx.init(params), params)
    averaged = jadam.schedule_free_params({"optimizer": (state, 3)}, params)
    assert averaged["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(averaged["b"], params["b"])
    np.testing.assert_allclose(averaged["w"].astype(jnp.float32), 0.9, atol=5e-3)  # the first iterate has all the weight
