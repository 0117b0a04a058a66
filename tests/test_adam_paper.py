"""The experiments of examples/adam_paper.py, in small, and what docs/adam-paper.md says of them."""

import gzip
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support import ROOT, counted, load_script

import jadam

PAPER = ROOT / "docs" / "paper"
script = load_script("examples/adam_paper.py")
_grids, _paper_compare, _paper_data, _paper_models = (
    sys.modules[name] for name in ("_grids", "_paper_compare", "_paper_data", "_paper_models")
)
pytestmark = pytest.mark.usefixtures("lenient")


# The grid


def tiny(batch=8):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, 3)).astype(np.float32)
    init, predict = _paper_models.perceptron([3, 4, 2], dropout=0.5)
    return _grids.Task(init, _paper_models.classifier_loss(predict), x, (x[:, 0] > 0).astype(np.int32), batch)


def test_a_run_of_the_grid_is_the_run_alone():
    """Each setting and seed as in a Python loop of its own, with its own rate, batches and dropout."""
    task, rates = tiny(), (0.01, 0.3)
    losses, params, states = _grids.train(jadam.adam(1.0), task, 5, 2, learning_rate=rates)
    assert losses.shape == (2, 2, 5)

    for i, rate in enumerate(rates):
        tx = jadam.adam(rate)

        @jax.jit
        def step(params, state, key, tx=tx):
            for_rows, for_loss = jax.random.split(key)
            rows = jax.random.randint(for_rows, (8,), 0, 50)
            loss, grads = jax.value_and_grad(task.loss)(params, jnp.asarray(task.x)[rows], jnp.asarray(task.y)[rows], for_loss)
            return *tx.step(grads, state, params), loss

        for seed in range(2):
            key = jax.random.key(seed)
            own = task.init(key)
            state = tx.init(own)
            for t in range(5):
                own, state, loss = step(own, state, jax.random.fold_in(key, t))
                assert losses[i, seed, t] == pytest.approx(float(loss), rel=1e-5)
            alone = jax.tree.map(lambda p, i=i, seed=seed: p[i, seed], params)
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), alone, own)
    assert np.ptp(losses[:, 0, -1]) > 1e-3
    assert np.ptp(losses[0, :, -1]) > 1e-3
    assert np.all(states.count == 5)


def test_a_larger_grid_compiles_no_more_programs():
    def compiled(rates):
        return counted(lambda: _grids.train(jadam.adam(1.0), tiny(batch=4), 3, 2, learning_rate=rates))[0]

    compiled((0.1,))  # what the sizes do not matter to
    assert compiled((0.1, 0.2)) == compiled(np.linspace(0.1, 0.2, 7)) >= 1


def test_windows_are_means_and_what_fails_is_infinite():
    losses = np.array([[4.0, 2.0, 1.0, 3.0, 9.0], [1.0, 1.0, 1.0, np.nan, 9.0]])
    np.testing.assert_array_equal(_grids.windows(losses, 2), [[3.0, 2.0], [1.0, np.inf]])
    np.testing.assert_allclose(_grids.grid(0.1, 5), [0.01, 0.1**1.5, 0.1, 0.1**0.5, 1.0])


# Models and data


def test_a_convolution_is_that_of_lax():
    x, kernel = (jax.random.normal(jax.random.key(seed), shape) for seed, shape in ((0, (2, 6, 8, 3)), (1, (5, 5, 3, 4))))
    found = _paper_models.patches(x) @ kernel.reshape(75, 4)
    expected = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_dropout_keeps_the_mean():
    x = _paper_models.dropped(jax.random.key(0), jnp.ones((1000, 100)), 0.25)
    assert set(np.unique(x)) == {np.float32(0), np.float32(1 / 0.75)}
    assert np.mean(x) == pytest.approx(1, abs=0.01)


def test_the_loss_of_an_auto_encoder_that_knows_nothing():
    """With zeros everywhere each pixel costs log 2, and the code is the prior; with a mean of 1 it costs 1/2 a dimension."""
    init, loss = _paper_models.auto_encoder(pixels=9, hidden=4, latent=2)
    params = jax.tree.map(jnp.zeros_like, init(jax.random.key(0)))
    x = jnp.asarray(np.random.default_rng(0).random((5, 3, 3, 1)), jnp.float32)
    assert loss(params, x, jnp.zeros(5), jax.random.key(1)) == pytest.approx(9 * np.log(2), rel=1e-5)
    params["code"]["bias"] = jnp.asarray([1.0, 1.0, 0.0, 0.0])
    assert loss(params, x, jnp.zeros(5), jax.random.key(1)) == pytest.approx(9 * np.log(2) + 1, rel=1e-5)


def test_data_of_a_folder(tmp_path):
    """MNIST and CIFAR-10 under the keys of Keras, reviews as lines; words are those of the training texts."""
    rng = np.random.default_rng(0)
    for name, shape in (("mnist", (28, 28)), ("cifar10_subset", (32, 32, 3))):
        x, y = rng.integers(0, 256, (30, *shape)).astype(np.uint8), rng.integers(0, 10, 30).astype(np.uint8)
        np.savez(tmp_path / f"{name}.npz", x_train=x[:20], y_train=y[:20], x_test=x[20:], y_test=y[20:])
    with gzip.open(tmp_path / "imdb5k.tsv.gz", "wt") as file:
        file.writelines(f"{i % 2}\t{'good' if i % 2 else 'bad'} film number{i}\n" for i in range(20))

    mnist, cifar = _paper_data.images(tmp_path), _paper_data.photographs(tmp_path)
    assert mnist.x.shape == (20, 28, 28, 1)
    assert mnist.x.max() == 1
    assert cifar.x_test.shape == (10, 16, 16, 3)
    assert cifar.x.mean((0, 1, 2)) == pytest.approx(0, abs=1e-5)
    assert cifar.x.std((0, 1, 2)) == pytest.approx(1, abs=1e-5)
    reviews = _paper_data.documents(tmp_path, 100)
    assert reviews.x.shape == (16, 3 + 16)
    assert np.all(reviews.x_test.sum(1) == 2)  # the number of a review of the test is not among the words
    assert (mnist.name, cifar.name, reviews.name) == ("MNIST", "CIFAR-10", "IMDB")


# The experiments


@pytest.fixture
def two_optimizers(monkeypatch):
    chosen = {name: _paper_compare.OPTIMIZERS[name] for name in ("adam", "adagrad")}
    monkeypatch.setattr(_paper_compare, "OPTIMIZERS", chosen)


def run(folder, *arguments):
    numbers = script.main([*arguments, "--figures", str(folder), "--formats", "png"])
    for name, part in numbers.items():
        assert json.loads((folder / f"{name}.json").read_text()) == part
        with Image.open(folder / f"{name}.png") as image:
            assert image.width > 800
    return numbers


@pytest.mark.usefixtures("two_optimizers")
def test_bags_of_words_in_small(tmp_path, capsys):
    """On Python's manual: both learn; the numbers in the file are those that are printed."""
    found = run(tmp_path, "imdb", "--steps", "60", "--rates", "3", "--seeds", "2")["imdb"]
    assert found["data"] == "Python's manual"
    out = capsys.readouterr().out
    for variant in ("no dropout", "dropout"):
        for name in ("adam", "adagrad"):
            row = found[variant][name]
            assert row["loss"] == min(row["loss of rates"]) < 0.45 < row["curve"][0]  # guessing costs log 2 = 0.69
            assert row["loss"] == pytest.approx(np.mean(row["of seeds"]))
            assert row["of seeds"][0] != row["of seeds"][1]
            assert re.search(rf"{variant}: {name} +{row['rate']:.6g} +{row['loss']:.6g}", out)


def test_an_unknown_experiment_is_refused(capsys):
    with pytest.raises(SystemExit):
        script.main(["logistics"])
    assert "choose from logistic, imdb" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("two_optimizers")
@pytest.mark.parametrize("name", ["logistic", "mlp", "cnn", "vae", "generalisation"])
def test_an_experiment_in_small(name, tmp_path):
    """On scikit-learn's digits, each learns."""
    found = run(tmp_path, name, "--steps", "60", "--rates", "3", "--seeds", "2")[name]
    assert found["data"] == "digits"
    if name == "generalisation":
        assert list(found)[3:] == ["sgd, Nesterov", "adam", "adamw"]
        assert all(row["test"] > 0.7 for row in list(found.values())[3:])
        return
    variant = list(found.values())[3]
    assert all(row["loss"] < 0.9 * row["curve"][0] for row in variant.values())
    if name == "vae":
        study = found["bias correction"]
        assert len(study["rates"]) == len(study["corrected"]["late"]) == 42
        assert (tmp_path / "vae_bias.png").exists()


@pytest.mark.slow
def test_ten_optimizers(tmp_path):
    found = run(tmp_path, "logistic", "--steps", "200", "--rates", "3", "--seeds", "1")["logistic"]["plain"]
    assert len(found) == 10
    assert all(row["loss"] < 1 for row in found.values())  # guessing costs log 10 = 2.3
