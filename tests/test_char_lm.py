"""The language model of examples/char_lm.py, in small, and what docs/language-model.md says of it."""

import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support import OPTIMIZERS, ROOT, load_script

PAGE = ROOT / "docs" / "language-model.md"
script = load_script("examples/char_lm.py")
_transformer = sys.modules["_transformer"]
pytestmark = pytest.mark.usefixtures("lenient")


@pytest.fixture
def sizes():
    return script.Sizes(characters=7, width=16, blocks=2, heads=4, context=12)


@pytest.fixture
def params(sizes):
    """Weights of which none is zero, so that every character could matter."""
    shapes = script.init(jax.random.key(0), sizes)
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([jax.random.normal(key, p.shape) / 4 for key, p in zip(keys, leaves, strict=True)])


def test_a_text_is_numbers_and_its_last_tenth_is_held_back(tmp_path):
    path = tmp_path / "text"
    path.write_text("abcä" * 25, encoding="utf-8")
    text = script.read(path)
    assert text.characters == "abcä"
    assert [*text.train[:5], len(text.train), len(text.held)] == [0, 1, 2, 3, 0, 90, 10]
    x, y = script.windows(text.held, 4)
    assert x.shape == y.shape == (6, 4)
    assert np.all(x[:, 1:] == y[:, :-1])


def test_at_first_every_character_is_equally_likely(sizes):
    x = np.zeros((3, 12), np.uint8)
    assert script.cross_entropy(script.init(jax.random.key(0), sizes), x, x, sizes.heads) == pytest.approx(np.log(7), rel=1e-6)


def test_a_prediction_sees_nothing_that_follows(sizes, params):
    text = np.random.default_rng(0).integers(0, 7, (1, 12))
    other = text.copy()
    other[0, 8] = (text[0, 8] + 1) % 7
    before, after = (np.asarray(_transformer.predict(params, x, sizes.heads))[0] for x in (text, other))
    np.testing.assert_allclose(before[:8], after[:8], atol=1e-6)
    assert np.all(np.abs(before[8:] - after[8:]).max(axis=1) > 1e-4)


def test_weights_of_bfloat16_predict_in_float32(sizes, params):
    text = np.random.default_rng(0).integers(0, 7, (2, 12))
    narrow = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    exact, rounded = (_transformer.predict(weights, text, sizes.heads) for weights in (params, narrow))
    assert rounded.dtype == jnp.float32
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


def test_samples_follow_the_probabilities(sizes, params):
    """At a low temperature each character is the likeliest after the window before it."""
    start = np.random.default_rng(0).integers(0, 7, 12)
    drawn = np.asarray(script.sample(params, start, jax.random.key(0), sizes.heads, 5, temperature=1e-4))
    text = np.concatenate([start, drawn])
    for i in range(5):
        assert drawn[i] == np.argmax(_transformer.predict(params, text[None, i : i + 12], sizes.heads)[0, -1])


def test_every_optimizer_is_compared():
    """Add a rate for a new one to `TUNED` in examples/char_lm.py: `--tune` finds it."""
    assert set(script.TUNED) == set(OPTIMIZERS)


def test_optimizers_are_compared_at_their_rates(tmp_path, capsys):
    arguments = ["--compare", "adamw", "schedule_free_adamw", "--steps", "40", "--seeds", "2", "--figures", str(tmp_path)]
    found = script.main(arguments)
    assert json.loads((tmp_path / "char_lm_optimizers.json").read_text()) == found
    out = capsys.readouterr().out
    for name, row in found["optimizers"].items():
        assert row["rate"] == script.TUNED[name][1]
        assert row["loss"] == pytest.approx(np.mean(row["of seeds"]))
        assert row["loss"] < 3.6  # guessing costs the logarithm of 103 characters, 4.63
        assert row["of seeds"][0] != row["of seeds"][1]
        assert re.search(rf"^{name} +{row['rate']:.6g} +{row['loss']:.6g} ", out, re.MULTILINE)


@pytest.mark.slow
def test_rates_are_tuned(tmp_path, capsys):
    found = script.main(["--tune", "adamw", "--steps", "40", "--figures", str(tmp_path)])["adamw"]
    assert found["rates"][2] == script.TUNED["adamw"][1]
    assert f"adamw, best at {found['rates'][int(np.argmin(found['losses']))]:.2g}" in capsys.readouterr().out


@pytest.mark.slow
def test_bfloat16_reaches_the_loss_of_float32(tmp_path, capsys):
    found = script.main(["--steps", "100", "--figures", str(tmp_path), "--formats", "png"])
    assert found["bfloat16"]["weights"] == pytest.approx(found["float32"]["weights"], rel=0.005)
    assert found["bfloat16"]["average"] == pytest.approx(found["float32"]["average"], rel=0.005)
    assert found["bfloat16"]["weights"] != found["float32"]["weights"]
    assert found["float32"]["weights"] < 3.0
    assert len(found["sample"]) == 300
    out = capsys.readouterr().out
    assert re.search(r"blocks/0/attention/qkv +\(64, 192\) +bfloat16 +matrices .*add_decayed_weights.*remainder", out)
    assert re.search(r"embed/character +\(103, 64\) +bfloat16 +embed +(?!.*add_decayed_weights)", out)
    with Image.open(tmp_path / "char_lm.png") as image:
        assert image.width > 800
