"""The tables of README.md and docs/coming-from-optax.md: what optax does, and what jadam does, side by side."""

import inspect
from types import SimpleNamespace

import golden
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib
from support import ROOT, cast, compilations, distance, run

import jadam

pytestmark = pytest.mark.usefixtures("lenient")
BOTH = (optax, jadam)
FACTORED = optax.scale_by_factored_rms(min_dim_size_to_factor=2), optax.ema(0.9, debias=False), optax.scale(-0.01)


def test_moments_of_bfloat16_parameters():
    params = {"w": jnp.ones(3, jnp.bfloat16)}
    assert optax.adam(1e-3).init(params)[0].nu["w"].dtype == jnp.bfloat16
    assert jadam.adam(1e-3).init(params).slots["adam"]["nu"]["w"].dtype == jnp.float32


def test_the_learning_rate_is_in_the_state():
    params = {"w": jnp.ones(3)}
    assert not [x for x in jax.tree.leaves(optax.adamw(0.125).init(params)) if x.ndim == 0 and x == 0.125]
    assert jadam.hyperparams(jadam.adamw(0.125).init(params))["learning_rate"] == 0.125


def test_a_number_and_a_schedule_have_one_structure():
    params = {"w": jnp.ones(3)}
    for lib in BOTH:
        one, other = (jax.tree.structure(lib.adamw(rate).init(params)) for rate in (0.1, lib.constant_schedule(0.1)))
        assert (one == other) == (lib is jadam)


def test_a_second_equal_optimizer_compiles_nothing():
    params = {"w": jnp.ones(17)}

    def train(lib):
        tx = lib.adamw(1e-3)
        jax.jit(tx.update)(params, tx.init(params), params)  # as a notebook does when a cell is run again

    for lib in BOTH:
        train(lib)
        assert bool(compilations(lambda lib=lib: train(lib))) == (lib is optax)


def test_global_norms():
    for size, expected in ((1e-30, 0.0), (1e20, np.inf)):
        tree = [jnp.full(4, size, jnp.float32)]
        assert optax.tree.norm(tree) == expected
        assert float(jadam.global_norm(tree)) == pytest.approx(2 * size, rel=1e-6)


def test_a_frozen_gradient_in_a_clip():
    """100 beside 0.01: in optax the trained parameter hardly moves, and with a NaN not at all."""
    params = {"frozen": jnp.ones(8), "w": jnp.ones(4)}
    optax_groups = optax.partition({"no": optax.set_to_zero(), "yes": optax.sgd(1.0)}, {"frozen": "no", "w": "yes"})
    groups = jadam.partition([(jadam.match("frozen"), jadam.freeze()), (True, jadam.sgd(1.0))])
    for lib, inner in ((optax, optax_groups), (jadam, groups)):
        tx = lib.chain(lib.clip_by_global_norm(1.0), inner)
        for size in (100.0, np.nan):
            grads = {"frozen": jnp.full(8, size), "w": jnp.full(4, 0.01)}
            moved = tx.update(grads, tx.init(params), params)[0]["w"][0]
            assert (abs(moved + 0.01) < 1e-8) == (lib is jadam)


def test_one_huge_gradient():
    params, huge, ordinary = jnp.ones(1), jnp.full(1, 1e20), jnp.ones(1)
    for lib in BOTH:
        tx = lib.adam(1e-3)
        _, state = tx.update(huge, tx.init(params), params)
        _, state = tx.update(ordinary, state, params)
        nu = state[0].nu if lib is optax else state.slots["adam"]["nu"]
        assert bool(jnp.isfinite(nu[0])) == (lib is jadam)


def test_a_gradient_of_the_wrong_shape():
    params, grads = jnp.ones((3, 1)), jnp.ones(3)
    updates, _ = optax.sgd(0.1).update(grads, optax.sgd(0.1).init(params), params)
    assert optax.apply_updates(params, updates).shape == (3, 3)  # the parameter has another shape now
    with pytest.raises(ValueError, match=r"has shape \(3,\), its parameter \(3, 1\)"):
        jadam.sgd(0.1).update(grads, jadam.sgd(0.1).init(params), params)


def test_default_weight_decay():
    defaults = [inspect.signature(lib.adamw).parameters["weight_decay"].default for lib in BOTH]
    assert defaults == [1e-4, 1e-2]  # torch.optim.AdamW has 1e-2


def test_a_decay_of_the_wrong_size_is_refused():
    params = jnp.ones(1)
    theirs = optax.adam(1e-3, b2=1.5)
    theirs.update(params, theirs.init(params), params)  # no error
    with pytest.raises(ValueError, match=r"adam\(b2=1.5\): b2 must be in \[0, 1\)"):
        jadam.adam(1e-3, b2=1.5)


def test_moments_in_bfloat16_freeze():
    """2,000 steps of g = 1: the average of squares is 0.865; nearest rounding stops it where its steps get too small."""
    params = jnp.ones(1, jnp.bfloat16)

    def second_moment(lib):
        tx = lib.scale_by_adam()
        state, _ = jax.lax.scan(lambda s, _: (tx.update(params, s, params)[1], None), tx.init(params), length=2000)
        return float(jax.tree.leaves(state.nu if lib is optax else state.slots["adam"]["nu"])[0][0])

    assert second_moment(optax) < 0.6
    assert second_moment(jadam) == pytest.approx(1 - 0.999**2000, rel=1e-5)


def test_integers_are_not_trained():
    params, grads = {"w": jnp.ones(2), "step": jnp.arange(2)}, {"w": jnp.ones(2), "step": jnp.ones(2, jnp.int32)}
    for lib in BOTH:
        tx = lib.adam(1.5)
        moved = lib.apply_updates(params, tx.update(grads, tx.init(params), params)[0])
        assert bool((moved["step"] == params["step"]).all()) == (lib is jadam)


def test_complex_numbers():
    """By optax, with the square of the magnitude; by torch and jadam, as two parameters."""
    params = grads = jnp.array([3 + 4j])
    steps = {lib: lib.adam(1.0).update(grads, lib.adam(1.0).init(params), params)[0][0] for lib in BOTH}
    assert complex(steps[optax]) == pytest.approx(-0.6 - 0.8j, rel=1e-4)
    assert complex(steps[jadam]) == pytest.approx(-1 - 1j, rel=1e-4)


def test_one_step_count():
    params = {"w": jnp.ones(2)}
    for lib, expected in ((optax, 2), (jadam, 1)):
        leaves = jax.tree.leaves(lib.adamw(lib.constant_schedule(0.1)).init(params))
        assert sum(x.dtype == jnp.int32 for x in leaves) == expected


def test_schedules_with_impossible_arguments():
    assert optax.linear_schedule(0.0, 1.0, -5)(3) == 0.0  # no error
    with pytest.raises(ValueError, match=r"transition_steps must be a number in \[0"):
        jadam.linear_schedule(0.0, 1.0, -5)
    assert optax.warmup_constant_schedule(0.0, 1.0, 0)(5) == 0.0  # no warm-up, and never at the peak
    assert jadam.warmup_constant_schedule(0.0, 1.0, 0)(5) == 1.0


def measured(name, tx):
    """How far a transformation goes from the trajectory of the authors' code, as a share of the distance moved."""

    def step(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    case, pair = golden.CASES[name] | {"eval_params": False}, SimpleNamespace(init=tx.init, step=step)
    with jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64():
        return golden.distance(case, pair, "float64")


def kwargs_of(name, *others):
    return {key: value for key, value in golden.CASES[name]["kwargs"].items() if key not in others}


FREE = {"learning_rate": 0.0025, "warmup_steps": 10, "b1": 0.9, "weight_decay": 0.1}
MATRIX, ADOPT = {"w": contrib.MuonDimensionNumbers(1, 0)}, contrib.scale_by_adopt(b1=0.9, b2=0.999, eps=1e-6)
FURTHER = {
    "prodigy": ("100 %", "prodigy_default", contrib.prodigy(1.0, estim_lr0=1e-6)),
    "adan": ("91 %", "adan_default", optax.adan(**kwargs_of("adan_default"), eps_root=0.0)),
    "adan, decay": ("94 %", "adan_wd", optax.adan(**kwargs_of("adan_wd"), eps_root=0.0)),
    "nadam": ("37 %", "nadam_default", optax.nadam(**kwargs_of("nadam_default", "momentum_decay"))),
    "amsgrad": ("31 %", "amsgrad_default", optax.amsgrad(**kwargs_of("amsgrad_default"))),
    "nadamw": ("11 %", "nadamw_default", optax.nadamw(**kwargs_of("nadamw_default"))),
    "schedule_free_adamw": ("5.8 %", "schedule_free_adamw_warmup", contrib.schedule_free_adamw(**FREE)),
    "rmsprop": ("0.8 %", "rmsprop_default", optax.rmsprop(0.01, decay=0.99, eps=1e-8)),
    "muon": ("0.4 %", "muon_keller_default", contrib.muon(0.02, eps=1e-7, muon_weight_dimension_numbers=MATRIX)),
    "muon, moonlight": ("0.5 %", "muon_moonlight_default", contrib.muon(1e-3, eps=1e-7, weight_decay=0.1, consistent_rms=0.2)),
    "adopt": ("0.9 %", "adopt_wd", optax.chain(ADOPT, optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(0.002))),
    "adagrad": ("1e-6", "adagrad_default", optax.adagrad(0.01, initial_accumulator_value=0.0, eps=1e-10)),
    "adafactor": ("2e-7", "adafactor_default", optax.adafactor(0.01, min_dim_size_to_factor=1)),
    "radam": ("3e-8", "radam_default", optax.radam(**kwargs_of("radam_default"))),
}


BY_DEFAULT = {
    "adagrad": ("81 %", "adagrad_default", optax.adagrad(0.01)),
    "adafactor": ("74 %", "adafactor_default", optax.adafactor(0.01)),
    "rmsprop": ("60 %", "rmsprop_default", optax.rmsprop(0.01)),
    "nadamw": ("11 %", "nadamw_default", optax.nadamw(1e-3)),
    "adamw": ("10 %", "adamw_default", optax.adamw(1e-3)),
    "lamb": ("8 %", "lamb_default", optax.lamb(1e-3)),
    "contrib.ademamix": ("1.7 %", "ademamix_default", contrib.ademamix(1e-3)),
    "lion": ("0.4 %", "lion_default", optax.lion(1e-4)),
}


def check_the_page(start, share, case, tx):
    """One line of docs/coming-from-optax.md begins so and has this number, which is what is measured."""
    page = (ROOT / "docs" / "coming-from-optax.md").read_text()
    assert sum(line.startswith(start) and share in line for line in page.splitlines()) == 1
    expected = float(share.removesuffix(" %")) / (100 if share.endswith("%") else 1)
    assert measured(case, tx) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("name", BY_DEFAULT)
def test_distance_that_defaults_make(name):
    """The second table of "Other numbers" in docs/coming-from-optax.md."""
    check_the_page(f"| `{name}(", *BY_DEFAULT[name])


@pytest.mark.parametrize("name", FURTHER)
def test_distance_from_the_authors(name):
    """The numbers of "Other numbers" in docs/coming-from-optax.md; they are rounded there."""
    check_the_page(f"| `{name.split(',')[0]}`", *FURTHER[name])


THE_SAME = {
    "sgd_momentum": optax.sgd(0.01, momentum=0.9),
    "adam_default": optax.adam(1e-3),
    "adamw_default": optax.adamw(1e-3, weight_decay=0.01),
    "adadelta_default": optax.adadelta(**kwargs_of("adadelta_default")),
    "adamax_default": optax.adamax(**kwargs_of("adamax_default")),
    "adabelief_default": optax.adabelief(**kwargs_of("adabelief_default", "weight_decay")),
    "yogi_default": optax.yogi(**kwargs_of("yogi_default", "initial_accumulator_value")),
    "lion_default": optax.lion(1e-4, weight_decay=0.0),
    "lamb_default": optax.lamb(**kwargs_of("lamb_default")),
    "adopt_default": contrib.adopt(**kwargs_of("adopt_default", "weight_decay")),
    "ademamix_default": contrib.ademamix(**kwargs_of("ademamix_default")),
    "schedule_free_adamw_default": contrib.schedule_free_adamw(0.0025, b1=0.9, b2=0.999, eps=1e-8),
    "prodigy_bias_correction": contrib.prodigy(1.0, estim_lr0=1e-4, weight_decay=0.01),
    "rmsprop_default": optax.rmsprop(0.01, decay=0.99, eps=1e-8, eps_in_sqrt=False),
}


@pytest.mark.parametrize("case", THE_SAME)
def test_as_near_as_the_authors(case):
    """Where optax has the authors' algorithm, the measure says so."""
    assert measured(case, THE_SAME[case]) < 1e-12


STILL = {"adam_learning_rate": 0.0}  # optax's other parameters have Nesterov's momentum too


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (jadam.amsgrad(0.01, maximum="corrected"), optax.amsgrad(0.01)),
        (jadam.prodigy(use_bias_correction=True, d0=1e-3, weight_decay=0.1), contrib.prodigy(estim_lr0=1e-3, weight_decay=0.1)),
        pytest.param(
            jadam.muon(0.02, momentum_form="bias_corrected", ns_eps=1e-8, scale_factor=0.3, scale="moonlight", **STILL),
            contrib.muon(0.02, consistent_rms=0.3, **STILL),
            marks=pytest.mark.slow,
        ),
        (jadam.big_vision_adafactor(0.01, beta2_cap=0.9999, min_dim_size_to_factor=2), optax.chain(*FACTORED)),
    ],
    ids=["amsgrad", "prodigy", "muon", "big_vision_adafactor"],
)
def test_options_that_give_the_numbers_of_optax(ours, theirs):
    rng = np.random.default_rng(0)
    params = cast({"w": rng.standard_normal((4, 3)), "b": rng.standard_normal(3)}, "float32")
    grads = [{"w": rng.standard_normal((4, 3)) + 0.5, "b": rng.standard_normal(3) + 0.5} for _ in range(20)]
    one, other = (run(tx, params, cast(grads, "float32"), by="update")[0] for tx in (ours, theirs))
    assert distance(one, other, params) < 1e-4  # optax in float32
