"""The measurements of `tests/bench/` other than times."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support import ROOT, load_script

import jadam


@pytest.mark.slow
@pytest.mark.parametrize("b2", [0.999, 0.9999, 0.99999])
def test_float32_stays_with_float64(b2):
    """100,000 steps: the update is within 1e-5 of float64 at every one of them."""
    errors = load_script("tests/bench/accuracy.py").errors
    assert errors(jadam.scale_by_adam(b2=b2), b2, 100_000).whole <= 1e-5


@pytest.mark.usefixtures("lenient")
def test_the_usual_formulas_do_not_stay_with_it():
    """What the measure shows of optax: off by its bias correction from the first steps on."""
    errors = load_script("tests/bench/accuracy.py").errors
    assert errors(optax.scale_by_adam(b2=0.99999), 0.99999, 1000).whole > 3e-4


@pytest.mark.slow
@pytest.mark.usefixtures("lenient", "optimized")
@pytest.mark.parametrize("measure", ["averages", "landing", "blocks", "memory", "float16"])
def test_few_bits_reach_their_bars(measure):
    """The rows of docs/precision.md that are neither times nor need data; among them, what optax and nearest rounding lose."""
    rows = list(load_script("tests/bench/precision.py").GROUPS[measure]())
    assert [row.met for row in rows].count(True) >= 1
    assert not [str(row) for row in rows if row.met is False]
    lost = [row.measured for row in rows if measure == "landing" and row.met is None]
    assert set(lost) <= {"1.00000"}, "the comparison lost its point: what rounds to nearest moves"


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_a_second_moment_that_falls_is_followed():
    """All but nearest rounding, whose row stands in the page as missed."""
    rows = list(load_script("tests/bench/precision.py").GROUPS["falls"]())
    assert [row.measure for row in rows if row.met is False] == [
        row.measure for row in rows if row.measure.endswith("int8, nearest")
    ]


def test_a_quadratic_in_double_steps():
    """Kingma & Ba's algorithm on theta^2 from 0.5, by hand: the first three steps."""
    params, tx = jnp.float32(0.5), jadam.adam(0.1)
    state = tx.init(params)
    for expected in (0.4, 0.30118742, 0.20487125):
        params, state = tx.step(2 * params, state, params)
        assert float(params) == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_the_speed_script_runs():
    """In small; it fails by itself if a fast path gives other numbers than optax."""
    command = [sys.executable, ROOT / "tests/bench/speed.py", "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("|") > 50


@pytest.mark.slow
def test_the_width_script_runs(tmp_path):
    """In small: training converges at a fair rate and not at a tiny one; and the figure is drawn."""
    mup = load_script("tests/bench/mup.py")
    images, labels = jnp.asarray(np.random.default_rng(0).standard_normal((64, 8)), jnp.float32), jnp.arange(64) % 4
    losses = mup.measured("muP", 256, 12, images, labels)
    assert losses.shape == (len(mup.RATES),)
    assert losses[0] > 1.2 * losses.min()
    slower = jadam.describe(mup.transformation("muP", 256, 0.1), mup.network("muP", 256, 8, 0))
    assert "path x0.5" in slower
    mup.draw({"standard": {256: losses}, "muP": {256: losses}}, tmp_path / "mup.png")
    assert (tmp_path / "mup.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_gpu_script_runs():
    """In small, on a CPU; it fails by itself if a kernel gives other numbers than XLA."""
    command = [sys.executable, ROOT / "tests/bench/gpu.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("| yes |") == 1 + 3 * 4 * 2  # storages of slots, of parameters, kernels


def test_other_roundings_would_show_on_the_gpu_page():
    """Negative control: what is rounded otherwise is further apart than the page allows."""
    gpu = load_script("tests/bench/gpu.py")
    nearest, stochastic = (gpu.stored(state="float32", params=how) for how in ("nearest", "stochastic"))
    (start, one), (_, other) = (gpu.reached(recipe, jnp.bfloat16, jax.devices()[0]) for recipe in (nearest, stochastic))
    assert gpu.rms(one, other) / gpu.rms(start, one) > 2 * gpu.TOLERANCE["bfloat16"]
