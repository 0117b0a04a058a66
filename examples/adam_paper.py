"""The experiments of the paper on Adam (Kingma & Ba 2015, section 6), in small: ten optimizers, each at its best rate.

    python examples/adam_paper.py                          # on what packages ship
    python examples/adam_paper.py logistic mlp             # two of them
    python examples/adam_paper.py --data FOLDER --figures docs/paper --formats png    # the figures of docs/adam-paper.md

With `--data` the experiments are on the paper's own data, MNIST, IMDB and CIFAR-10; `_paper_data.py` says which files, and what
stands for them without. It prints a table for each experiment: for every optimizer the best of a grid of learning rates, the
last training loss with its deviation over three seeds, and how many rates of the grid are nearly as good. Beside it goes a
figure, as PNG and SVG, and a JSON of all numbers. All rates and seeds of an optimizer train in one program, by `vmap` over its
state.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from _grids import Task, grid, train, windows
from _paper_compare import OPTIMIZERS, compare
from _paper_data import Data, documents, images, photographs
from _paper_figures import bias_figure, curves_figure, generalisation_figure
from _paper_models import Model, accuracy, auto_encoder, classifier_loss, convolutional, perceptron
from _report import STYLE, Part, aligned, plain, write
from tqdm import tqdm
from walkthrough import UncorrectedAdam

import jadam


class Sizes(NamedTuple):
    """Of an experiment: steps, examples a batch, learning rates of a grid, seeds; and where its data are."""

    steps: int
    batch: int
    rates: int
    seeds: int = 3
    folder: Path | None = None


# The experiments of the paper


def logistic(sizes: Sizes) -> Part:
    """Logistic regression on images, rates divided by sqrt(t) (the paper's figure 1, left)."""
    data = images(sizes.folder)
    model = perceptron([data.x[0].size, 10])
    return comparison("logistic", "Logistic regression", {"plain": (data, model)}, sizes, DECAYS)


def imdb(sizes: Sizes) -> Part:
    """Logistic regression on bags of 10,000 words, most of them rare, with and without dropout (figure 1, right)."""
    data = documents(sizes.folder, 10_000)
    variants = {
        "no dropout": (data, perceptron([data.x.shape[1], 2])),
        "dropout": (data, perceptron([data.x.shape[1], 2], on_input=0.5)),
    }
    return comparison("imdb", "Logistic regression on bags of words", variants, sizes, DECAYS)


def mlp(sizes: Sizes) -> Part:
    """Two hidden layers of 1,000 ReLU units with dropout, on images (figure 2)."""
    data = images(sizes.folder)
    model = perceptron([data.x[0].size, 1000, 1000, 10], dropout=0.5)
    return comparison("mlp", "A 1000-1000 ReLU network with dropout", {"dropout": (data, model)}, sizes)


def cnn(sizes: Sizes) -> Part:
    """Three convolutions of 5 by 5 with poolings and a dense layer with dropout, on photographs (figure 3)."""
    data = photographs(sizes.folder)
    return comparison("cnn", "A convolutional network", {"dropout": (data, small_cnn(data, 0.5))}, sizes)


def small_cnn(data: Data, dropout: float) -> Model:
    """8, 8 and 16 channels and 64 hidden units, where the paper has 64, 64, 128 and 1,000."""
    return convolutional(data.x.shape[1:], (8, 8, 16), 64, 10, dropout)


# The paper divides the rates of logistic regression by sqrt(t). AdaGrad does so by itself.
DECAY = jadam.scale_by_schedule(lambda count: 1 / jnp.sqrt(count + 1.0))
DECAYS = {name: DECAY for name in OPTIMIZERS if name != "adagrad"}


def comparison(
    name: str, title: str, variants: dict[str, tuple[Data, Model]], sizes: Sizes, then: dict[str, Any] | None = None
) -> Part:
    """The ten optimizers on each variant of a classifier."""
    found, numbers = {}, {}
    for variant, (data, (init, predict)) in variants.items():
        task = Task(init, classifier_loss(predict), data.x, data.y, sizes.batch)
        found[variant] = compare(f"{name}, {variant}", task, sizes.steps, sizes.seeds, sizes.rates, then)
        numbers = {"data": data.name, "examples": len(data.y), "sizes": sizes[:-1]}
    figure = curves_figure(found, sizes.steps, f"{title}: {numbers['data']}")
    return Part(numbers | found, table_of(found), {name: figure})


def table_of(found: dict[str, dict[str, Any]]) -> list[list[Any]]:
    """A row for each optimizer of each variant."""
    rows: list[list[Any]] = [["", "rate", "loss", "deviation", "rates within 10 %"]]
    for variant, methods in found.items():
        for method, row in methods.items():
            deviation = np.std(row["of seeds"], ddof=1) if len(row["of seeds"]) > 1 else None
            within = f"{row['rates within 10 %']} of {len(row['rates'])}" + " (at an edge)" * row["at the edge"]
            rows.append([method if len(found) == 1 else f"{variant}: {method}", row["rate"], row["loss"], deviation, within])
    return rows


def vae(sizes: Sizes) -> Part:
    """A variational auto-encoder: ten optimizers; then Adam with and without bias correction (figure 4)."""
    data = images(sizes.folder)
    task = Task(*auto_encoder(data.x[0].size, 100, 10), data.x, data.y, sizes.batch)
    # The loss is a sum over the pixels, so that its gradients are large: SGD's rates must be small.
    found = {"plain": compare("vae", task, sizes.steps, sizes.seeds, sizes.rates, middles={"sgd, Nesterov": 3e-4})}

    pairs = [(b1, b2) for b1 in (0.0, 0.9) for b2 in (0.99, 0.999, 0.9999)]
    b1, b2, rates = np.array([(*pair, rate) for pair in pairs for rate in grid(10**-2.5, 7)]).T
    uncorrected = jadam.chain(UncorrectedAdam(), jadam.scale_by_learning_rate(1e-3))
    study: dict[str, Any] = {"b1": b1, "b2": b2, "rates": rates}
    for name, tx in (("corrected", jadam.adam(1e-3)), ("not corrected", uncorrected)):
        curves = windows(train(tx, task, sizes.steps, sizes.seeds, learning_rate=rates, b1=b1, b2=b2)[0]).mean(1)
        study[name] = {"early": curves[:, curves.shape[-1] // 10], "late": curves[:, -1]}  # in the paper epochs 10 and 100
    columns = [(kind, when) for when in ("early", "late") for kind in ("corrected", "not corrected")]
    table: list[list[Any]] = [["lowest loss of the rates", *(f"{kind}, {when}" for kind, when in columns)]]
    for pair in pairs:
        these = (b1 == pair[0]) & (b2 == pair[1])
        table.append(["b1 = {:g}, b2 = {:g}".format(*pair), *(study[kind][when][these].min() for kind, when in columns)])
    figures = {
        "vae": curves_figure(found, sizes.steps, f"A variational auto-encoder: {data.name}", logarithmic=False),
        "vae_bias": bias_figure(study),
    }
    numbers = {"data": data.name, "examples": len(data.y), "sizes": sizes[:-1], **found, "bias correction": study}
    return Part(numbers, [*table_of(found), [""] * 5, *table], figures)


def generalisation(sizes: Sizes) -> Part:
    """The convolutional network trained by SGD with momentum, by Adam and by AdamW: accuracy on the test set.

    Rates fall to zero along a cosine. The rate and the weight decay of each are those with the best accuracy on a fifth of the
    training set, on which no run trains.
    """
    data = photographs(sizes.folder)
    init, predict = small_cnn(data, 0.0)
    held = len(data.y) // 5
    task = Task(init, classifier_loss(predict), data.x[held:], data.y[held:], sizes.batch)
    fall = jadam.scale_by_schedule(jadam.cosine_decay_schedule(1.0, sizes.steps))

    @jax.jit
    def accuracies(params: Any, x: Any, y: Any) -> Any:
        """Of every setting and seed; setting by setting, for the memory of all would be large."""
        return jax.lax.map(jax.vmap(lambda params: accuracy(predict(params, x, None), y)), params)

    optimizers = {
        "sgd, Nesterov": (jadam.sgd(3e-2, momentum=0.9, nesterov=True, weight_decay=0.0), 3e-2, 2e-3),
        "adam": (jadam.chain(jadam.add_decayed_weights(0.0), jadam.adam(1e-3)), 1e-3, 2e-3),
        "adamw": (jadam.adamw(1e-3), 1e-3, 0.3),
    }
    found = {}
    for name, (tx, middle, some) in tqdm(optimizers.items(), desc="generalisation", unit="optimizer"):
        rates, decays = np.array([(rate, decay) for rate in grid(middle, sizes.rates) for decay in (0.0, some)]).T
        tx = jadam.chain(tx, fall)
        losses, params, _ = train(tx, task, sizes.steps, sizes.seeds, learning_rate=rates, weight_decay=decays)
        validation = np.asarray(accuracies(params, data.x[:held], data.y[:held]))
        test = np.asarray(accuracies(params, data.x_test, data.y_test))
        best = int(validation.mean(1).argmax())
        found[name] = {
            "rate": rates[best],
            "weight decay": decays[best],
            "training loss": windows(losses)[best, :, -1].mean(),
            "validation": validation[best].mean(),
            "test": test[best].mean(),
            "deviation": test[best].std(ddof=1) if sizes.seeds > 1 else None,
            "of seeds": test[best],
            "rates": rates,
            "weight decays": decays,
            "test of settings": test.mean(1),
        }
    shown = ("rate", "weight decay", "training loss", "validation", "test", "deviation")
    table = [["", *shown], *([name, *(row[key] for key in shown)] for name, row in found.items())]
    numbers = {"data": data.name, "examples": len(task.y), "sizes": sizes[:-1], **found}
    return Part(numbers, table, {"generalisation": generalisation_figure(found, f"A convolutional network: {data.name}")})


# What runs by default: small enough for a figure to be drawn in minutes on two cores
PARTS = (logistic, imdb, mlp, cnn, vae, generalisation)
SIZES = {
    "logistic": Sizes(1000, 128, 7),
    "imdb": Sizes(300, 128, 7),
    "mlp": Sizes(300, 32, 5),
    "cnn": Sizes(250, 32, 5),
    "vae": Sizes(400, 32, 7),
    "generalisation": Sizes(1000, 32, 6),
}


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the experiments; returns their numbers."""
    named = {part.__name__: part for part in PARTS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiments", nargs="*", help=f"of {', '.join(named)}; by default all")
    parser.add_argument("--data", type=Path, help="a folder with mnist.npz, cifar10_subset.npz and imdb5k.tsv.gz")
    parser.add_argument(
        "--steps",
        type=int,
        help="the length of the runs; by default " + ", ".join(f"{name} {sizes.steps}" for name, sizes in SIZES.items()),
    )
    parser.add_argument("--rates", type=int, help="the size of a grid of learning rates; by default 4 to 7")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figures", type=Path, default=Path("figures"), help="their folder; by default figures")
    parser.add_argument("--formats", nargs="+", choices=("png", "svg"), default=("png", "svg"))
    options = parser.parse_args(arguments)
    if unknown := set(options.experiments) - set(named):
        parser.error(f"there is no experiment {', '.join(sorted(unknown))}; choose from {', '.join(named)}")

    options.figures.mkdir(parents=True, exist_ok=True)
    numbers = {}
    with mpl.rc_context(STYLE):
        for name in options.experiments or named:
            usual = SIZES[name]
            sizes = Sizes(options.steps or usual.steps, usual.batch, options.rates or usual.rates, options.seeds, options.data)
            begun = time.process_time()
            part = named[name](sizes)
            numbers[name] = plain(part.numbers)
            print(f"\n{name}: {(named[name].__doc__ or '').splitlines()[0]}")
            print(
                f"{numbers[name]['data']}, {numbers[name]['examples']} examples; {sizes.steps} steps of {sizes.batch}, "
                f"{sizes.rates} rates and {sizes.seeds} seeds an optimizer; {time.process_time() - begun:.0f} s of a processor"
            )
            print(aligned(part.table))
            for figure, drawn in part.figures.items():
                write(drawn, options.figures / figure, options.formats)
            (options.figures / f"{name}.json").write_text(json.dumps(numbers[name], indent=1, allow_nan=False))
    print(f"\nfigures and numbers: {options.figures}")
    return numbers


if __name__ == "__main__":
    main()
