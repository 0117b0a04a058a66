"""Whether the best learning rate of a small network stays as it grows wider: with muP's rule by `scale_by_path`, and without.

    python tests/bench/mup.py [--quick] [--figure FILE]

Trains perceptrons of two hidden layers on scikit-learn's digits with Adam, at widths from 128 to 1,024 and rates a factor 2
apart. Prints a Markdown table of the best rate by width, and how far it moves. The script exits non-zero if muP's moves by more
than a factor 2, or the standard one by no more than that. `--quick` is a smoke test with small networks, whose numbers mean
little. It needs scikit-learn, and `--figure` matplotlib.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jadam

KINDS = ("standard", "muP")
BASE = 128
"""The width at which both have the same rates. The last layer of muP begins at zero."""
WIDTHS = (128, 256, 512, 1024)
RATES = tuple(2.0**power for power in range(-12, -4))
SEEDS, STEPS, BATCH = 2, 100, 64
GOAL = 2.0
"""By how much the best rate of muP may move, in steps of a factor 2; that of the standard parametrisation moves more."""


def transformation(kind: str, width: int, rate: Any) -> Any:
    """Adam; in muP, matrices whose inputs are hidden learn slower by the width, and all else as it was (table 3 for Adam)."""
    adam = jadam.adam(rate, b2=0.99)
    slower = jadam.scale_by_path([(jadam.match("1/kernel", "2/kernel"), BASE / width)])
    return jadam.chain(adam, slower) if kind == "muP" else adam


def network(kind: str, width: int, inputs: int, seed: Any) -> list[dict[str, jax.Array]]:
    """He-initialised weights and zero biases."""
    shapes = ((inputs, width), (width, width), (width, 10))
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    scales = [0.0 if kind == "muP" and shape == shapes[-1] else (2 / shape[0]) ** 0.5 for shape in shapes]
    return [
        {"kernel": scale * jax.random.normal(key, shape), "bias": jnp.zeros(shape[1])}
        for scale, key, shape in zip(scales, keys, shapes, strict=True)
    ]


def loss_of(params: list[dict[str, jax.Array]], images: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean cross entropy."""
    x = images
    for number, layer in enumerate(params):
        x = jax.nn.relu(x) if number else x
        x = x @ layer["kernel"] + layer["bias"][None]
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(x), labels[:, None], axis=1))


@partial(jax.jit, static_argnames=("kind", "width", "steps"))
def final_loss(kind: str, width: int, steps: int, rate: Any, seed: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
    """The mean loss of the last third of the steps."""
    tx = transformation(kind, width, rate)
    params = network(kind, width, images.shape[1], seed)

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carry
        chosen = jax.random.randint(key, (BATCH,), 0, len(labels))
        loss, grads = jax.value_and_grad(loss_of)(params, images[chosen], labels[chosen])
        return tx.step(grads, state, params), loss

    keys = jax.random.split(jax.random.fold_in(jax.random.key(1), seed), steps)
    losses = jax.lax.scan(step, (params, tx.init(params)), keys)[1]
    return jnp.mean(losses[-(steps // 3) :])


def measured(kind: str, width: int, steps: int, images: jax.Array, labels: jax.Array) -> np.ndarray:
    """The loss at each rate, a mean over seeds; inf where training diverges."""
    losses = [[float(final_loss(kind, width, steps, rate, seed, images, labels)) for seed in range(SEEDS)] for rate in RATES]
    return np.nan_to_num(np.mean(losses, axis=1), nan=np.inf)


def draw(curves: dict[str, dict[int, np.ndarray]], file: Path) -> None:
    """The losses over the rates, a line a width, with the best of each marked."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
    for ax, (kind, by_width) in zip(axes, curves.items(), strict=True):
        for number, (width, losses) in enumerate(by_width.items()):
            color = plt.get_cmap("viridis")(number / len(by_width))
            ax.loglog(RATES, losses, color=color, label=f"width {width:,}")
            ax.plot(RATES[int(np.argmin(losses))], losses.min(), "o", color=color)
        ax.set(xlabel="learning rate", title=kind, ylim=(None, 3))
    axes[0].set_ylabel("training loss (nats)")
    axes[1].legend(frameon=False)
    figure.savefig(file, dpi=120)


def main() -> int:
    from sklearn.datasets import load_digits

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    widths, steps = ((16, 32), 6) if options.quick else (WIDTHS, STEPS)
    images, labels = load_digits(return_X_y=True)
    images, labels = jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels, jnp.int32)

    print(f"| parametrisation | {' | '.join(f'best rate at {width:,}' for width in widths)} | moves by | goal | met |")
    print(f"|---|{'---|' * (len(widths) + 3)}")
    curves: dict[str, dict[int, np.ndarray]] = {}
    met = True
    for kind in KINDS:
        curves[kind] = {width: measured(kind, width, steps, images, labels) for width in widths}
        best = [RATES[int(np.argmin(losses))] for losses in curves[kind].values()]
        moves = max(best) / min(best)
        goal, own = (f"at most {GOAL:g}", moves <= GOAL) if kind == "muP" else (f"more than {GOAL:g}", moves > GOAL)
        met &= own
        row = [kind, *(f"{rate:.1e}" for rate in best), f"{moves:g}", goal, "yes" if own else "no"]
        print(f"| {' | '.join(row)} |", flush=True)
    if options.figure is not None:
        draw(curves, options.figure)
    return 0 if met or options.quick else 1


if __name__ == "__main__":
    sys.exit(main())
