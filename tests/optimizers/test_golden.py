"""Parity: jadam's parameters are those of the authors' own code, in float64 to 1e-11 of the distance moved."""

import golden
import numpy as np
import pytest

import jadam
from jadam._optimizers.newton_schulz import polynomials

CASES, SCHEDULES = golden.CASES, golden.INDEX["schedules"]
LOOSE = {"soap_float32": 1e-3}
"""References that worked in float32 themselves. Of `muon_keller_bf16` every rounding to bfloat16 is the same here."""


@pytest.mark.parametrize("name", CASES)
@pytest.mark.usefixtures("x64")
def test_equals_the_authors_code(name):
    case = CASES[name]
    assert golden.distance(case, golden.build(case, SCHEDULES), "float64") <= LOOSE.get(name, 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_float32_stays_near(name):
    """Within four times what the authors' own code loses in float32."""
    case = CASES[name]
    bar = max(4 * (case.get("f32_rel", 2.5e-5) or 0), 1e-5, LOOSE.get(name, 0))
    assert golden.distance(case, golden.build(case, SCHEDULES), "float32") <= bar


def test_every_argument_counts():
    """What `build` ignored could not fail: every number and switch among the arguments changes the transformation."""
    for case in CASES.values():
        tx = golden.build(case, SCHEDULES)
        for name, value in case["kwargs"].items() if case["factory"] != "chain" else ():
            if isinstance(value, bool | int | float):
                changed = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 0.99 + 1e-9
                other = case | {"kwargs": case["kwargs"] | {name: changed}}
                assert golden.build(other, SCHEDULES) != tx, (case["id"], name)


@pytest.mark.parametrize(
    ("name", "case"),
    [("quintic", "normuon_default"), ("polar_express", "muon_polar_amsel"), ("deepseek_v4", "muon_dsv4_eo")],
)
def test_a_set_is_that_of_the_authors_code(name, case):
    np.testing.assert_allclose(polynomials(name).rows, CASES[case]["options"]["ns_coeffs"], rtol=1e-13)
    assert polynomials(name).safety == CASES[case]["options"].get("ns_safety", 1.0)


@pytest.mark.usefixtures("x64")
def test_the_tolerance_can_tell():
    """Negative controls: eps elsewhere, another bias correction, a clip without torch's 1e-6, decay of a zero gradient."""
    moonlight, normuon = CASES["muon_moonlight_default"], CASES["normuon_dion_cautious"]
    wrong = {
        "adam_default": jadam.adam(1e-3, eps_form="eps_hat"),
        "amsgrad_default": jadam.amsgrad(1e-3, maximum="corrected"),
        "clip_adamw_default": jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(1e-3)),
        "muon_moonlight_default": golden.build(moonlight | {"options": {"momentum_form": "lerp"}}, SCHEDULES),
        "normuon_dion_cautious": golden.build(normuon | {"options": normuon["options"] | {"norm_eps_form": "add"}}, SCHEDULES),
        "adamw_cwd": jadam.adamw(1e-3, weight_decay=0.1),
    }
    for name, tx in wrong.items():
        assert golden.distance(CASES[name], tx, "float64") > 1e-10, name
