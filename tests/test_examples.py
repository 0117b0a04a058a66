"""Every example runs, and reaches what it says."""

import re
import runpy

import matplotlib as mpl
import numpy as np
import pytest
from support import ROOT, load_script

EXAMPLES = sorted((ROOT / "examples").glob("[!_]*.py"))  # what begins with _ examples share
mpl.use("agg")


@pytest.mark.usefixtures("lenient")
def test_digits_reaches_97_percent(tmp_path, capsys):
    accuracy = load_script("examples/digits.py").main(["--figure", str(tmp_path / "digits.png")])
    assert accuracy >= 0.97
    out = capsys.readouterr().out
    groups = dict(re.findall(r"^(#\d): (.*)$", out, re.MULTILINE))
    group = {name: groups[re.search(rf"^layer0/{name} .* (#\d) ", out, re.MULTILINE)[1]] for name in ("kernel", "bias")}
    assert group["kernel"] == "clip_by_global_norm, adam, add_decayed_weights, learning_rate"
    assert group["bias"] == "clip_by_global_norm, adam, learning_rate"
    assert re.search(r"learning rate of the last step: \d", out)
    assert (tmp_path / "digits.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("lenient")
def test_digits_reads_an_mnist_file(tmp_path):
    """Keys, shapes and dtypes as in Keras' mnist.npz; the images show their label as a bright row."""
    rng = np.random.default_rng(0)
    data = {}
    for part, size in (("train", 600), ("test", 100)):
        labels = rng.integers(0, 10, size).astype(np.uint8)
        images = rng.integers(0, 100, (size, 28, 28)).astype(np.uint8)
        images[np.arange(size), 2 * labels] = 255
        data |= {f"x_{part}": images, f"y_{part}": labels}
    np.savez(tmp_path / "mnist.npz", **data)
    arguments = ["--data", str(tmp_path / "mnist.npz"), "--steps", "40", "--figure", str(tmp_path / "loss.png")]
    assert load_script("examples/digits.py").main(arguments) > 0.9


@pytest.mark.usefixtures("lenient")
def test_your_own_optimizer_takes_40_lines(capsys):
    path = next(path for path in EXAMPLES if path.stem == "your_own_optimizer")
    assert len(path.read_text().splitlines()) <= 40
    runpy.run_path(str(path))
    assert "loss 0.00000" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.usefixtures("lenient")
def test_four_programs_before_and_after_the_swap(capsys):
    losses = load_script("examples/swap.py").main(["--steps", "100"])
    assert list(losses) == ["purejaxrl", "flax", "equinox", "haiku"]
    for name, (before, after) in losses.items():
        assert after == pytest.approx(before, rel=1e-3), name
        assert after < 0.3
        assert re.search(rf"{name} +{before:.6f} +{after:.6f}", capsys.readouterr().out) or name != "purejaxrl"


@pytest.mark.slow
@pytest.mark.usefixtures("lenient")
def test_a_run_that_is_killed_twice(tmp_path, capfd):
    """NaN and spikes on the way; in processes of its own, which end by SIGKILL."""
    found = load_script("examples/robust_training.py").main(["--steps", "200", "--folder", str(tmp_path)])
    assert capfd.readouterr().out.count("the process ended with -9") == 2
    assert found["equal"]
    assert found["the weights"] > 0.95
    assert found["their average"] > 0.95
    assert found["dropped"] >= 3
    assert found["skipped"] >= 3
    header, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert header == "step,loss,gradient norm,update norm,skipped steps,dropped micro-batches,learning rate"
    assert [int(row.split(",")[0]) for row in rows] == list(range(200))
    assert (tmp_path / "robust.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_pod_of_one_two_and_four_processes(tmp_path, monkeypatch, capsys):
    """Each saves, and resumes what another number of processes saved. Sums are added up in another order, and no more."""
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # which take longer than the steps
    found = load_script("examples/pod.py").main(["--steps", "6", "--figure", str(tmp_path / "pod.png")])
    assert list(found) == [1, 2, 4]
    expected = found[1]["data parallel"]["losses"]
    assert expected[-1] < 0.6 * expected[0]
    for of_run in found.values():
        for of_layout in of_run.values():
            assert of_layout["losses"] == pytest.approx(expected, rel=1e-5)
            assert of_layout["resumed"] == pytest.approx(expected, rel=1e-5)
        assert of_run["ZeRO-1"]["bytes"] == of_run["fully sharded"]["bytes"] == of_run["data parallel"]["bytes"] / 4
        assert of_run["ZeRO-1"]["parts"] == found[1]["ZeRO-1"]["parts"]
    assert "fully sharded: 5,376 bytes of state on each device" in capsys.readouterr().out
    assert (tmp_path / "pod.png").read_bytes().startswith(b"\x89PNG")


def test_every_example_is_run():
    tested = {"digits", "pod", "robust_training", "swap", "your_own_optimizer"}
    tested |= {"walkthrough", "landscapes"}  # by tests/test_walkthrough.py
    tested |= {"word_vectors", "ratings"}  # by tests/test_table_examples.py
    tested |= {"adam_paper", "char_lm"}  # by tests/test_adam_paper.py and tests/test_char_lm.py
    assert {path.stem for path in EXAMPLES} == tested, "add a test for the new example"


def test_every_example_opens_with_its_command():
    for path in EXAMPLES:
        assert f"python examples/{path.name}" in path.read_text().split('"""')[1]
