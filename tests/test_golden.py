"""Parity: jadam's parameters are those of the authors' own code, in float64 to 1e-11 of the distance moved."""

import golden
import jax
import numpy as np
import pytest

import jadam

STEPS = golden.INDEX["steps"]
LOOSE = {"soap_float32": 1e-3}
"""References that worked in float32 themselves. Of `muon_keller_bf16` every rounding to bfloat16 is the same here."""


def distance(case, tx, dtype):
    """The largest difference to the reference, over leaves and recorded steps, as a share of the distance moved."""
    params, grads = golden.problem(case, dtype)

    @jax.jit
    def trajectory(params, grads):
        def body(carry, g):
            params, state = tx.step(g, carry[1], carry[0])
            return (params, state), (params, golden.evaluate(case, params, state))

        return jax.lax.scan(body, (params, tx.init(params)), grads)[1]

    trained, evaluated = trajectory(params, grads)
    worst = 0.0
    for step in STEPS:
        for name, expected in golden.recorded(case, step).items():
            leaf = name.removeprefix("eval/")
            found = (evaluated if name.startswith("eval/") else trained)[leaf][step - 1]
            error = np.max(np.abs(np.asarray(found, np.float64) - expected)) / case["max_move"][leaf]
            worst = max(worst, np.inf if np.isnan(error) else float(error))
    return worst


@pytest.mark.parametrize("name", golden.CASES)
@pytest.mark.usefixtures("x64")
def test_equals_the_authors_code(name):
    case = golden.CASES[name]
    assert distance(case, golden.build(case, golden.INDEX["schedules"]), "float64") <= LOOSE.get(name, 1e-11)


@pytest.mark.parametrize("name", golden.CASES)
def test_float32_stays_near(name):
    """Within four times what the authors' own code loses in float32."""
    case = golden.CASES[name]
    bar = max(4 * (case["f32_rel"] or 0), 1e-5, LOOSE.get(name, 0))
    assert distance(case, golden.build(case, golden.INDEX["schedules"]), "float32") <= bar


def test_every_argument_counts():
    """What `build` ignored could not fail: every number and switch among the arguments changes the transformation."""
    for case in golden.CASES.values():
        tx = golden.build(case, golden.INDEX["schedules"])
        for name, value in case["kwargs"].items() if case["factory"] != "chain" else ():
            if isinstance(value, bool | int | float):
                changed = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 0.99 + 1e-9
                other = case | {"kwargs": case["kwargs"] | {name: changed}}
                assert golden.build(other, golden.INDEX["schedules"]) != tx, (case["id"], name)


@pytest.mark.usefixtures("x64")
def test_the_tolerance_can_tell():
    """Negative controls: eps elsewhere, another bias correction, a clip without torch's 1e-6."""
    cases, schedules = golden.CASES, golden.INDEX["schedules"]
    wrong = {
        "adam_default": jadam.adam(1e-3, eps_form="eps_hat"),
        "amsgrad_default": jadam.amsgrad(1e-3, maximum="corrected"),
        "clip_adamw_default": jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-3)),
        "muon_moonlight_default": golden.build(
            cases["muon_moonlight_default"] | {"options": {"momentum_form": "lerp"}}, schedules
        ),
    }
    for name, tx in wrong.items():
        assert distance(cases[name], tx, "float64") > 1e-10, name
