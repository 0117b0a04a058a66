"""Adam beside its ancestors, its descendants and Newton's method, on surfaces that can be drawn.

    python examples/landscapes.py                 # in a minute
    python examples/landscapes.py --figures docs/figures --formats png    # the figures of docs/understanding-adam.md

It prints how many steps each method needs on an oblong quadratic, Rosenbrock's valley, Beale's function, a saddle and a matrix,
at the best of a grid of learning rates; what a step of Adam and of Newton's method costs as the number of parameters grows; and
where Adam fails to converge and AMSGrad does not. It writes the paths as figures, PNG and SVG, and one race as an animation,
a GIF; `--json FILE` writes all numbers.
"""

import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from _report import Part, report
from _runs import quickest, run, sweep
from jax import Array
from jax.flatten_util import ravel_pytree
from PIL import Image

import jadam

# Surfaces


def quadratic(p: Array) -> Array:
    """Fifty times as steep along y as along x."""
    return 0.5 * (p[0] ** 2 + 50 * p[1] ** 2)


def rosenbrock(p: Array) -> Array:
    """A bent valley (Rosenbrock 1960)."""
    return (1 - p[0]) ** 2 + 100 * (p[1] - p[0] ** 2) ** 2


def beale(p: Array) -> Array:
    """Plateaus with steep walls (Beale 1958)."""
    return sum(((c - p[0] * (1 - p[1] ** k)) ** 2 for k, c in ((1, 1.5), (2, 2.25), (3, 2.625))), start=jnp.zeros(()))


def saddle(p: Array) -> Array:
    """A saddle at 0 between two minima, at y = -1 and y = 1."""
    return 0.5 * p[0] ** 2 - 0.5 * p[1] ** 2 + 0.25 * p[1] ** 4


def matrix(p: Array) -> Array:
    """A quadratic of a matrix of 8 by 6, whose rows and columns are mixed and 10 times as steep in some directions."""
    left, right = (jnp.asarray(mixing(n, seed)) for n, seed in ((8, 0), (6, 1)))
    return 0.5 * jnp.sum((left @ (p - jnp.asarray(GOAL)) @ right) ** 2)


def mixing(n: int, seed: int) -> np.ndarray:
    """A symmetric matrix with eigenvalues from 1 to 10^(1/2)."""
    turn = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]
    return (turn * np.geomspace(1, 10**0.5, n)) @ turn.T


GOAL = np.random.default_rng(2).standard_normal((8, 6))
LOSSES = {"quadratic": quadratic, "rosenbrock": rosenbrock, "beale": beale, "saddle": saddle, "matrix": matrix}
STARTS = {
    name: np.array(start)
    for name, start in {"quadratic": (4.0, 1.0), "rosenbrock": (-1.2, 1.0), "beale": (1.0, 1.0), "saddle": (1.5, 0.01)}.items()
}
STARTS["matrix"] = np.zeros((8, 6))
LEAST = {name: -0.25 if name == "saddle" else 0.0 for name in LOSSES}
MINIMA = {"quadratic": [(0, 0)], "rosenbrock": [(1, 1)], "beale": [(3, 0.5)], "saddle": [(0, -1), (0, 1)]}
WINDOWS = {
    "quadratic": (-1.5, 4.5, -1.3, 1.3),
    "rosenbrock": (-1.7, 1.7, -0.7, 2.2),
    "beale": (-0.5, 4.2, -1.5, 1.7),
    "saddle": (-1.7, 1.7, -1.5, 1.5),
}


# Methods


def newton_direction(losses: dict[str, Callable[[Array], Array]]) -> jadam.GradientTransformation:
    """The gradient divided by the Hessian, for each array: a pair of functions is a transformation."""

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def solved(loss: Callable[[Array], Array], g: Array, p: Array) -> Array:
            flat, shaped = ravel_pytree(p)
            hessian = jax.hessian(lambda flat: loss(shaped(flat)))(flat)
            return jnp.linalg.solve(hessian, g.ravel()).reshape(g.shape)

        return {name: solved(losses[name], g, params[name]) for name, g in updates.items()}, state

    return jadam.GradientTransformation(lambda params: (), update)


METHODS = {
    "gradient descent": jadam.sgd(1.0),
    "momentum": jadam.sgd(1.0, momentum=0.9),
    "AdaGrad": jadam.adagrad(1.0),
    "RMSProp": jadam.rmsprop(1.0),
    "Adam": jadam.adam(1.0),
    "AdamW": jadam.adamw(1.0),
    "Lion": jadam.lion(1.0),
    "Muon": jadam.muon(1.0, adam_ratio=1.0),
    "Newton": jadam.chain(newton_direction(LOSSES), jadam.scale_by_learning_rate(1.0)),
}
RATES = np.outer(10.0 ** np.arange(-5, 2), (1, 2, 5)).ravel()
TITLES = {
    "quadratic": "An oblong quadratic",
    "rosenbrock": "Rosenbrock's valley",
    "beale": "Beale's function",
    "saddle": "A saddle",
}


def paths_of(tx: jadam.GradientTransformation, steps: int) -> dict[str, np.ndarray]:
    """The paths on every surface at every rate, from the start on: one program, in which the surfaces are leaves of a tree."""

    def gradient(p: Any, t: Any) -> Any:
        return jax.grad(lambda p: sum((LOSSES[name](p[name]) for name in p), start=jnp.zeros(())))(p)

    paths = sweep(tx, gradient, STARTS, steps, learning_rate=RATES)
    return {
        name: np.concatenate([np.broadcast_to(STARTS[name], path[:, :1].shape), path], axis=1) for name, path in paths.items()
    }


def race(steps: int) -> Part:
    """Steps until the loss above its minimum is a ten thousandth of what it was, at the best of 21 learning rates."""
    found, best = {name: {} for name in LOSSES}, {name: {} for name in LOSSES}
    for method, tx in METHODS.items():
        for name, paths in paths_of(tx, steps).items():
            if method == "Muon" and paths.ndim != 4:
                continue  # is for matrices
            losses = np.asarray(jax.jit(jax.vmap(jax.vmap(LOSSES[name])))(paths))
            gaps = (losses[:, 1:] - LEAST[name]) / (losses[:, :1] - LEAST[name])
            chosen, arrived = quickest(gaps, 1e-4)
            found[name][method] = {"rate": RATES[chosen], "steps": arrived, "last gap": gaps[chosen, -1]}
            best[name][method] = paths[chosen]
    table = [["steps (learning rate)", *LOSSES]]
    for method in METHODS:
        rows = [found[name].get(method) for name in LOSSES]
        table.append([method, *("" if row is None else f"{row['steps'] or '-'} ({row['rate']:.2g})" for row in rows)])
    figures = {f"paths_{name}": draw(name, best[name], found[name]) for name in MINIMA}
    racing = {method: best["beale"][method] for method in ("gradient descent", "momentum", "AdaGrad", "Adam")}
    return Part(found, table, figures | {"race": animate("beale", racing)})


@cache
def heights(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """x, y and the height above the least, on a grid over the window."""
    left, right, low, high = WINDOWS[name]
    x, y = np.meshgrid(np.linspace(left, right, 100), np.linspace(low, high, 100))
    return x, y, np.asarray(jax.jit(jax.vmap(jax.vmap(LOSSES[name], 1), 2, 1))(jnp.stack([x, y]))) - LEAST[name]


def contours(axes: Any, name: str) -> None:
    """The surface from above, on a logarithmic scale, and its minima."""
    x, y, z = heights(name)
    left, right, low, high = WINDOWS[name]
    axes.contour(x, y, z, np.geomspace(0.01, z.max(), 10), colors="0.75", linewidths=0.5)
    axes.plot(*zip(*MINIMA[name], strict=True), "*", color="C2", ms=8, zorder=5)
    axes.set(xlim=(left, right), ylim=(low, high))
    axes.grid(visible=False)


def draw(name: str, paths: dict[str, np.ndarray], found: dict[str, Any]) -> Any:
    """The path of each method at its best rate until it has arrived, with a point a step, or for at most 300 of the steps."""
    figure, places = plt.subplots(4, 2, sharex=True, sharey=True, figsize=(4.5, 7.2))
    for axes, (method, path) in zip(places.flat, paths.items(), strict=True):
        steps = found[method]["steps"]
        contours(axes, name)
        walked = steps or len(path) - 1
        shown = path[: walked + 1][:: max(walked // 300, 1)]
        axes.plot(*shown.T, "-", color="C0" if steps else "C1", lw=0.8, marker=".", ms=3)
        axes.plot(*path[0], "ko", ms=4)
        axes.set_title(f"{method}: {steps or f'not in {walked}'} steps", fontsize=8)
    figure.suptitle(TITLES[name], fontsize=9)
    figure.supxlabel("x", fontsize=8.5)
    figure.supylabel("y", fontsize=8.5)
    return figure


def animate(name: str, paths: dict[str, np.ndarray]) -> list[Image.Image]:
    """A race: a point and a trail for each method, frame by frame."""
    figure, axes = plt.subplots(figsize=(4.4, 3.6), dpi=100)
    contours(axes, name)
    axes.set(xlabel="x", ylabel="y")
    lines, frames = {}, []
    for method, color in zip(paths, ("C6", "C4", "C1", "C0"), strict=True):
        lines[method] = axes.plot([], [], color=color, lw=1.2, marker="o", ms=5, markevery=[-1], label=method)[0]
    axes.legend(loc="upper left", ncols=2)
    for step in [*range(24), *range(24, 120, 4)]:
        for method, line in lines.items():
            line.set_data(*paths[method][: step + 1].T)
        axes.set_title(f"{TITLES[name]}, step {step}")
        figure.canvas.draw()
        frames.append(Image.fromarray(np.asarray(cast(Any, figure.canvas).buffer_rgba())).convert("RGB"))
        figure.set_layout_engine("none")  # found once
    plt.close(figure)
    return frames


# Cost


def seconds(function: Callable[..., Any], *arguments: Any) -> float:
    """Of the quickest of at least five calls and half a second of them, after one that compiles."""
    jax.block_until_ready(function(*arguments))
    taken = []
    while len(taken) < 5 or sum(taken) < 0.5:
        begun = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        taken.append(time.perf_counter() - begun)
    return min(taken)


def cost(steps: int) -> Part:
    """What a step costs for n parameters: with Adam in proportion to n, with Newton's method nearly to its cube."""
    sizes = {"Adam": 10 ** np.arange(3, 7), "Newton": 2 ** np.arange(6, 12)}

    def loss(p: Array) -> Array:
        """Rosenbrock's function of n parameters."""
        return jnp.sum((1 - p[:-1]) ** 2 + 100 * (p[1:] - p[:-1] ** 2) ** 2)

    newton = jadam.chain(newton_direction({"p": loss}), jadam.scale_by_learning_rate(1.0))
    found = {}
    for (method, counts), tx in zip(sizes.items(), (jadam.adam(1e-3), newton), strict=True):

        def step(params: Any, state: Any, tx: Any = tx) -> Any:
            return tx.step(jax.grad(lambda params: loss(params["p"]))(params), state, params)

        times = []
        for n in counts:
            params = {"p": jnp.linspace(0.4, 0.6, int(n))}
            times.append(seconds(jax.jit(step), params, tx.init(params)))
        found[method] = {"n": counts, "seconds": times}
    figure, axes = plt.subplots()
    for (method, row), marker, power in zip(found.items(), "os", (1, 3), strict=True):
        axes.loglog(row["n"], row["seconds"], marker + "-", label=method)
        law = row["seconds"][-1] * (row["n"] / row["n"][-1]) ** float(power)
        axes.loglog(row["n"], law, "k:", lw=1, label=f"proportional to $n^{power}$" if power > 1 else "proportional to $n$")
    axes.set(xlabel="number of parameters", ylabel="seconds a step", title="What a step costs", ylim=(3e-5, 1))
    axes.legend()
    table = [["method", "n", "seconds a step"]]
    table += [[method, str(n), s] for method, row in found.items() for n, s in zip(row["n"], row["seconds"], strict=True)]
    return Part(found, table, {"cost": figure})


# Where Adam fails


def counterexample(steps: int) -> Part:
    """Large rare gradients one way, small frequent ones the other: Adam goes to the worst point, AMSGrad to the best."""
    length = 50 * steps
    rate = partial(decaying, 0.5)

    def gradient(x: Any, t: Any) -> Any:
        """Of 1010 x in one step of 101, and of -10 x in the others: the sum is least at x = -1."""
        return jnp.where(t % 101 == 1, 1010.0, -10.0)

    optimizers = {
        "adam": jadam.adam(rate, b2=0.99),
        "amsgrad": jadam.amsgrad(rate, b2=0.99, maximum="paper"),
        "adam, b2=0.999": jadam.adam(rate),
    }
    paths = {
        name: np.asarray(run(tx, gradient, 0.0, length, project=lambda x: jnp.clip(x, -1, 1))[1])
        for name, tx in optimizers.items()
    }
    late = slice(length // 2, None)
    found = {name: {"last x": path[-1], "mean of the second half": path[late].mean()} for name, path in paths.items()}
    figure, axes = plt.subplots()
    for (name, path), color in zip(paths.items(), ("C0", "C1", "C2"), strict=True):
        axes.plot(
            np.arange(1, length + 1)[:: max(length // 2000, 1)], path[:: max(length // 2000, 1)], color=color, lw=1, label=name
        )
    axes.axhline(-1, color="k", ls="--", lw=1, label="best")
    axes.set(xlabel="step", ylabel="x", ylim=(-1.1, 1.1), title="Reddi et al. 2018: Adam goes the wrong way")
    axes.legend()
    table = [["", *found["adam"]], *([name, *row.values()] for name, row in found.items())]
    return Part(found, table, {"counterexample": figure})


def decaying(peak: float, count: Array) -> Array:
    """The learning rate of the proofs: peak / sqrt(t)."""
    return peak / jnp.sqrt(count + 1.0)


PARTS = (race, cost, counterexample)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the parts; returns their numbers."""
    return report(__doc__, PARTS, arguments, steps=2000)


if __name__ == "__main__":
    main()
