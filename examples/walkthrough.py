"""Adam step by step: every idea behind it computed with jadam, and again by hand.

    python examples/walkthrough.py                # all parts, in seconds
    python examples/walkthrough.py --only trace   # one of them
    python examples/walkthrough.py --figures docs/figures --formats png    # the figures of docs/understanding-adam.md

It prints a table for each part (the moments of theta^2 from 0.5, the weights of past gradients, bias correction on and off,
gradients of uneven size, the bounds of a step, and so on), and writes a figure for most of them, as PNG and SVG; `--json FILE`
writes all numbers. Where numbers can be computed by hand they are, in plain Python, and both are in the file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from _report import Part, report
from _runs import first, quickest, run, sweep
from jax import Array

import jadam

B1, B2, EPS = 0.9, 0.999, 1e-8  # the paper's
NAMES = ("g", "m", "v", "m_hat", "v_hat", "theta")


# Adam by hand, and by jadam: the same rows


def by_hand(
    gradient: Callable[..., Any],
    theta: Any,
    steps: int,
    rate: float,
    b1: float = B1,
    b2: float = B2,
    eps: float = EPS,
    corrected: bool = True,
) -> dict[str, np.ndarray]:
    """Adam in plain Python; `gradient(theta, t)` at the steps t = 1, 2, ..."""
    m, v, rows = 0.0, 0.0, []
    for t in range(1, steps + 1):
        g = gradient(theta, t)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        m_hat = m / (1 - b1**t) if corrected else m
        v_hat = v / (1 - b2**t) if corrected else v
        theta = theta - rate * m_hat / (v_hat**0.5 + eps)
        rows.append((g, m, v, m_hat, v_hat, theta))
    return {name: np.array(column, np.float64) for name, column in zip(NAMES, zip(*rows, strict=True), strict=True)}


def by_jadam(gradient: Callable[..., Any], theta: Any, steps: int, rate: float) -> dict[str, Array]:
    """The rows of `by_hand` from `jadam.adam`: both moments are in its state."""
    g, theta, state = run(jadam.adam(rate), gradient, theta, steps)
    m, v = (state.slots["adam"][slot] for slot in ("mu", "nu"))
    corrected = jax.jit(jax.vmap(jadam.bias_correction, in_axes=(0, None, 0)), static_argnums=1)
    return dict(zip(NAMES, (g, m, v, corrected(m, B1, state.count), corrected(v, B2, state.count), theta), strict=True))


def at(rows: dict[str, Any], steps: Any) -> list[list[Any]]:
    """Rows of a table: t, then the numbers of that step."""
    return [[str(t), *(float(rows[name][t - 1]) for name in NAMES)] for t in steps]


# The algorithm


def quadratic(steps: int) -> Part:
    """Adam on theta^2 from 0.5 with a learning rate of 0.1: every number of every step."""

    def gradient(theta: Any, t: Any) -> Any:
        return 2 * theta

    rows, hand = by_jadam(gradient, 0.5, steps, 0.1), by_hand(gradient, 0.5, steps, 0.1)
    figure, (top, bottom) = plt.subplots(2, sharex=True, figsize=(4.5, 4.4))
    t = np.arange(steps + 1)
    top.plot(t, [0.5, *rows["theta"]])
    top.set(ylabel=r"parameter $\theta$", title=r"Adam on $\theta^2$, learning rate 0.1")
    bottom.plot(t[1:], rows["m_hat"], label=r"$\hat m$: average gradient")
    bottom.plot(t[1:], np.sqrt(rows["v_hat"]), "--", label=r"$\sqrt{\hat v}$: typical size")
    bottom.set(xlabel="step")
    bottom.legend()
    shown = [t for t in (1, 2, 3, 4, 5, 6, 10, 20, 50, 100) if t <= steps]
    return Part({"jadam": rows, "by hand": hand}, [["t", *NAMES], *at(rows, shown)], {"quadratic": figure})


def trace(steps: int) -> Part:
    """Two gradients, 2.0 and then 1.8, with a learning rate of 0.001: the moments to the last digit."""
    grads = (2.0, 1.8)
    rows = by_jadam(lambda theta, t: jnp.asarray(grads)[t - 1], 0.0, 2, 0.001)
    hand = by_hand(lambda theta, t: grads[t - 1], 0.0, 2, 0.001)
    return Part({"jadam": rows, "by hand": hand}, [["t", *NAMES], *at(rows, (1, 2))], {})


def moments(steps: int) -> Part:
    """Gradients of mean 0.5 and deviation 1: what the first and the second moment measure."""
    length = 50 * steps
    grads = 0.5 + np.random.default_rng(0).standard_normal(length)
    rows = by_jadam(lambda theta, t: jnp.asarray(grads)[t - 1], 0.0, length, 1e-3)
    hand = by_hand(lambda theta, t: grads[t - 1], 0.0, length, 1e-3)
    late = slice(length // 2, None)
    found = {
        "mean of the gradients": float(grads[late].mean()),
        "mean of m_hat": float(rows["m_hat"][late].mean()),
        "mean square of the gradients": float((grads[late] ** 2).mean()),
        "mean of v_hat": float(rows["v_hat"][late].mean()),
        "variance of the gradients": float(grads[late].var()),
    }
    figure, (top, bottom) = plt.subplots(2, sharex=True, figsize=(4.5, 4.6))
    shown = np.arange(1, min(length, 400) + 1)
    top.plot(shown, grads[: len(shown)], ".", ms=2.5, color="0.6", label="gradient $g$")
    top.plot(shown, rows["m_hat"][: len(shown)], label=r"$\hat m$")
    top.axhline(0.5, color="k", ls="--", lw=1, label="mean, 0.5")
    bottom.plot(shown, grads[: len(shown)] ** 2, ".", ms=2.5, color="0.6", label="$g^2$")
    bottom.plot(shown, rows["v_hat"][: len(shown)], color="C1", label=r"$\hat v$")
    bottom.axhline(1.25, color="k", ls="--", lw=1, label="mean square, 1.25")
    bottom.axhline(1.0, color="C2", ls=":", lw=1.4, label="variance, 1")
    top.set(ylabel="first moment", title="Moments of noisy gradients")
    bottom.set(xlabel="step", ylabel="second moment", ylim=(0, 4))
    for axes in (top, bottom):
        axes.legend(ncols=2, loc="upper right")
    table = [["quantity", "value"], *([name, value] for name, value in found.items())]
    return Part({"jadam": rows, "by hand": hand, **found}, table, {"moments": figure})


def weights(steps: int) -> Part:
    """How much each past gradient counts in an average: beta^age (1 - beta)."""
    length, decays = 10 * steps, (0.9, 0.99, 0.999)

    def average(carry: Any, t: Array) -> Any:
        """The gradient of step i is 1 in coordinate i alone, whose average is then the weight of gradient i."""
        return [tx.update(jax.nn.one_hot(t, length), state)[1] for tx, state in zip(averages, carry, strict=True)], None

    averages = [jadam.ema(b, debias=False) for b in decays]
    states = jax.lax.scan(average, [tx.init(jnp.zeros(length)) for tx in averages], jnp.arange(length))[0]
    rows = {str(b): np.asarray(state.slots["ema"]["ema"]) for b, state in zip(decays, states, strict=True)}
    age = np.arange(length)[::-1]
    hand = {str(b): (1 - b) * b**age for b in decays}
    figure, axes = plt.subplots()
    for (b, found), style in zip(rows.items(), ("-", "--", ":"), strict=True):
        axes.semilogy(age, found, style, label=rf"$\beta$ = {b}")
    axes.set(xlabel="age of the gradient (steps)", ylabel="weight in the average", xlim=(-5, 400), ylim=(1e-6, 0.2))
    axes.set_title("Recent gradients count for more")
    axes.legend()
    table: list[list[Any]] = [["beta", "weight of the newest", "sum of all", "1 - beta^t", "half of it in the last"]]
    for b, found in rows.items():
        half = first(np.cumsum(found[::-1]) >= 0.5 * np.sum(found))
        table.append([b, found[-1], found.sum(), 1 - float(b) ** length, f"{half} steps"])
    return Part({"jadam": rows, "by hand": hand}, table, {"weights": figure})


@dataclass(frozen=True)
class UncorrectedAdam(jadam.Rule):
    """Adam without bias correction: `u = m / (sqrt(v) + eps)`."""

    b1: jadam.Decay = B1
    b2: jadam.Decay = B2
    eps: jadam.NonNegative = EPS

    def init(self, p):  # noqa: D102 (documented by Rule)
        return {"mu": jadam.zeros(p), "nu": jadam.zeros(p)}

    def update(self, g, slots, p, h):  # noqa: D102 (documented by Rule)
        m, v = h.b1.ema(slots["mu"], g), h.b2.ema(slots["nu"], g * g)
        return m / (jnp.sqrt(v) + h.eps), {"mu": m, "nu": v}


def bias_correction(steps: int) -> Part:
    """What starting at zero does to the averages, and what the correction of it changes."""
    length, decays = 50 * steps, (0.99, 0.999, 0.9999)
    t = np.arange(1, length + 1)
    uncorrected = jadam.chain(UncorrectedAdam(), jadam.scale_by_learning_rate(0.1))
    path = run(uncorrected, lambda theta, t: 2 * theta, 0.5, steps)[1]
    hand_path = by_hand(lambda theta, t: 2 * theta, 0.5, steps, 0.1, corrected=False)["theta"]

    # A steady gradient of 1, for which Adam's own step is the learning rate.
    steady = sweep(uncorrected, lambda theta, t: jnp.ones_like(theta), 0.0, length, b2=decays)
    ratios = dict(zip(map(str, decays), -np.diff(steady, prepend=0) / 0.1, strict=True))
    hand_ratios = {str(b2): (1 - B1**t) / np.sqrt(1 - b2**t) for b2 in decays}

    # Noise with a mean square of 1: its average over a thousand coordinates is nearly the expectation.
    noise = by_jadam(lambda theta, t: jax.random.normal(jax.random.key(t), (1000,)), jnp.zeros(1000), length // 2, 1e-3)
    v, v_hat = (np.mean(noise[name], axis=1) for name in ("v", "v_hat"))
    bias = 1 - B2 ** t[: len(v)]

    figure, (top, bottom) = plt.subplots(2, figsize=(4.5, 5.2))
    top.plot(t[: len(v)], v, label="$v$")
    top.plot(t[: len(v)], bias, "k:", label=r"$1-\beta_2^t$")
    top.plot(t[: len(v)], v_hat, "C1--", label=r"$\hat v = v\,/\,(1-\beta_2^t)$")
    top.set(xlabel="step", ylabel="second moment", title="Gradients with a mean square of 1", ylim=(0, 1.15))
    top.legend(loc="lower right")
    for (b2, ratio), style in zip(ratios.items(), ("-", "--", ":"), strict=True):
        bottom.loglog(t, ratio, style, label=rf"$\beta_2$ = {b2}")
    bottom.set(xlabel="step", ylabel="step / learning rate", title="Without correction, early steps are too long")
    bottom.legend()
    table = [["b2", "first step", "longest step", "at step", f"above 1.1 until (of {length})"]]
    for b2, ratio in ratios.items():
        table.append([b2, ratio[0], ratio.max(), str(ratio.argmax() + 1), str(np.flatnonzero(ratio > 1.1)[-1] + 1)])
    numbers = {
        "jadam": {"theta": path, "steps": ratios},
        "by hand": {"theta": hand_path, "steps": hand_ratios},
        "v of noise": v,
        "v_hat of noise": v_hat,
        "1 - b2^t": bias,
    }
    return Part(numbers, table, {"bias_correction": figure})


# Scales


def uneven(steps: int) -> Part:
    """Gradients of 100 and of 0.01: no learning rate of gradient descent suits both, every one of Adam does."""
    curvature, start, t = np.array([100.0, 0.01]), np.ones(2), np.arange(steps + 1)

    def gradient(theta: Any, t: Any) -> Any:
        return jnp.asarray(curvature) * theta

    safe, bold = sweep(jadam.sgd(1.0), gradient, start, steps, learning_rate=(0.01, 100.0))
    rows = {
        "sgd, rate 0.01": safe[:8],
        "sgd, rate 100": bold[:8],
        "adam, rate 0.01": run(jadam.adam(0.01), gradient, start, steps)[1],
    }
    hand = {name: (1 - rate * curvature) ** t[1:9, None] for name, rate in zip(rows, (0.01, 100.0), strict=False)}
    hand["adam, rate 0.01"] = by_hand(lambda theta, t: curvature * theta, start, steps, 0.01)["theta"]

    figure, axes = plt.subplots(figsize=(4.5, 3.4))
    for name, path, color in (("gradient descent", safe, "C1"), ("Adam", rows["adam, rate 0.01"], "C0")):
        for index, style, width, label in ((0, "-", 3.5, "gradient 100"), (1, "--", 1.4, "gradient 0.01")):
            axes.plot(
                t, [1.0, *path[:, index]], style, color=color, alpha=1 if index else 0.45, lw=width, label=f"{name}, {label}"
            )
    axes.set(xlabel="step", ylabel="parameter (minimum: 0)", title="Gradients of 100 and of 0.01, learning rate 0.01")
    axes.legend(loc="upper right", bbox_to_anchor=(1, 0.93))
    table = [["optimizer", "t", "theta_1", "theta_2"]]
    table += [[name, str(k), *path[k - 1]] for name, path in rows.items() for k in (1, 2, 8)]
    return Part({"jadam": rows, "by hand": hand}, table, {"uneven": figure})


def invariance(steps: int) -> Part:
    """All gradients times a constant: Adam's path stays the same, that of gradient descent grows with it."""
    grads, factors = 0.3 + np.random.default_rng(1).standard_normal(steps), np.array([1e-6, 1e-3, 1.0, 1e3, 1e6])

    def gradient(theta: Any, t: Any) -> Any:
        return jnp.asarray(grads)[t - 1] * jnp.asarray(factors)

    zeros = np.zeros(len(factors))
    rows = {"sgd": run(jadam.sgd(0.01), gradient, zeros, steps)[1][-1]}
    hand = {"sgd": -0.01 * factors * grads.sum()}
    paths = sweep(jadam.adam(0.01), gradient, zeros, steps, eps=(EPS, 0.0))
    for name, eps, path in zip(("adam", "adam, eps=0"), (EPS, 0.0), paths, strict=True):
        rows[name] = path[-1]
        hand[name] = by_hand(lambda theta, t: factors * grads[t - 1], zeros, steps, 0.01, eps=eps)["theta"][-1]
    table = [["moved after all steps; gradients times", *(f"{c:g}" for c in factors)]]
    return Part({"jadam": rows, "by hand": hand}, [*table, *([name, *x] for name, x in rows.items())], {})


def inputs(steps: int) -> Part:
    """A linear model of raw, of scaled and of normalised features: steps to a loss near the least, at the best rate."""
    rng, length = np.random.default_rng(2), 20 * steps
    raw = np.array([1.0, 12.0, 2e4, 0.3]) * rng.standard_normal((200, 4)) + [3.0, 40.0, 5e4, 0.5]  # rooms, age, income, share
    normalised = (raw - raw.mean(0)) / raw.std(0)
    target = normalised @ np.array([1.0, -0.5, 0.8, 0.3]) + 2 + 0.1 * rng.standard_normal(200)
    kinds = {"raw": raw, "divided by deviation": raw / raw.std(0), "normalised": normalised}
    x = np.stack([np.column_stack([features, np.ones(200)]) for features in kinds.values()])
    least = np.mean((np.linalg.lstsq(x[-1], target)[0] @ x[-1].T - target) ** 2)

    def losses(w: Array) -> Array:
        """Of the three models side by side: `w` has a row for each."""
        return jnp.mean((jnp.einsum("kni,ki->kn", jnp.asarray(x), w) - jnp.asarray(target)) ** 2, axis=1)

    found, curves = {}, {}
    for name, tx in (("gradient descent", jadam.sgd(0.1)), ("Adam", jadam.adam(0.1))):
        rates = np.logspace(-10, 0, 31)
        paths = sweep(tx, lambda w, t: jax.grad(lambda w: losses(w).sum())(w), np.zeros((3, 5)), length, learning_rate=rates)
        tried = np.asarray(jax.jit(jax.vmap(jax.vmap(losses)))(paths)) / least
        for index, kind in enumerate(kinds):
            ratios = tried[:, :, index]
            best, arrived = quickest(ratios, 1.5)
            found[f"{name}, {kind}"] = {"rate": rates[best], "steps": arrived, "last loss / least": ratios[best, -1]}
            curves[f"{name}, {kind}"] = ratios[best]

    figure, axes = plt.subplots(figsize=(4.5, 4.0))
    for (name, curve), style in zip(curves.items(), ("C1:", "C1--", "C1-", "C0:", "C0--", "C0-"), strict=True):
        axes.loglog(np.arange(1, length + 1), curve, style, label=name)
    axes.set(xlabel="step", ylabel="loss / least loss", title="Normalised inputs help Adam, too")
    figure.legend(loc="outside lower center", ncols=2, fontsize=7)
    table = [["", "rate", "steps until below 1.5 times the least", "last loss / least"]]
    return Part(found, [*table, *([name, *row.values()] for name, row in found.items())], {"inputs": figure})


# The length of a step


def bounds(steps: int) -> Part:
    """Steps in learning rates: of a steady gradient, of one after only zeros, and the longest that there can be."""
    pairs = np.array([(0.9, 0.999), (0.9, 0.99), (0.9, 0.95), (0.5, 0.999), (0.99, 0.999)])
    b1, b2, length = *pairs.T, 200 * steps

    def gradient(theta: Any, t: Any) -> Any:
        """Steady; one after zeros; and for each pair a growing one, by Cauchy and Schwarz the worst."""
        return jnp.concatenate([jnp.stack([jnp.ones(()), 1.0 * (t == length)]), jnp.asarray(b1 / b2) ** (length - t)])

    paths = sweep(jadam.adam(1.0, eps=1e-20), gradient, np.zeros(7), length, b1=b1, b2=b2)
    last = np.abs(paths[:, -1] - paths[:, -2])
    rows = {"steady": last[:, 0], "after zeros": last[:, 1], "longest": np.diagonal(last[:, 2:])}
    corrections = np.sqrt(1 - b2**length) / (1 - b1**length)
    after_zeros = (1 - b1) / np.sqrt(1 - b2) * corrections
    hand = {"steady": np.ones(5), "after zeros": after_zeros, "longest": after_zeros / np.sqrt(1 - b1 * b1 / b2)}

    figure, axes = plt.subplots(figsize=(4.5, 4.0))
    rest1, rest2 = np.meshgrid(np.logspace(0, -3, 120), np.logspace(0, -4.5, 120))
    levels = 10.0 ** np.arange(-3, 4)
    shades = axes.contourf(rest1, rest2, rest1 / np.sqrt(rest2), levels, norm="log", cmap="RdBu_r", alpha=0.75)
    figure.colorbar(shades, label="step after zeros / learning rate", ticks=levels, format="%g")
    axes.plot([1, 10**-2.25], [1, 10**-4.5], "k-", lw=2)
    axes.annotate(r"$1-\beta_1=\sqrt{1-\beta_2}$", (0.4, 0.16), (0.12, 0.4), arrowprops={"arrowstyle": "->"}, fontsize=8)
    for pair in pairs:
        axes.plot(*1 - pair, "ko", ms=4)
        axes.annotate(
            "({:g}, {:g})".format(*pair),
            1 - pair,
            (-10, 6) if 1 - pair[0] > (1 - pair[1]) ** 0.4 else (5, -9),
            textcoords="offset points",
            fontsize=7,
        )
    axes.set(xscale="log", yscale="log", xlim=(1, 1e-3), ylim=(1, 10**-4.5))
    axes.set_xticks([1, 0.1, 0.01, 1e-3], ["0", "0.9", "0.99", "0.999"])
    axes.set_yticks([1, 0.1, 0.01, 1e-3, 1e-4], ["0", "0.9", "0.99", "0.999", "0.9999"])
    axes.set(xlabel=r"$\beta_1$", ylabel=r"$\beta_2$", title="Red: a rare gradient moves by more than the rate")
    table = [["b1, b2", *rows], *(["{:g}, {:g}".format(*pair), *x] for pair, *x in zip(pairs, *rows.values(), strict=True))]
    return Part({"pairs": pairs, "jadam": rows, "by hand": hand}, table, {"bounds": figure})


def annealing(steps: int) -> Part:
    """Less and less signal in the noise: steps become shorter by themselves, but not without end."""
    length, copies, signal = 30 * steps, 200, np.logspace(-2, 1, 13)

    def gradient(theta: Any, t: Any) -> Any:
        return jnp.asarray(signal)[:, None] + jax.random.normal(jax.random.key(t), theta.shape)

    theta = np.asarray(run(jadam.adam(1.0), gradient, jnp.zeros((len(signal), copies)), length)[1], np.float64)
    taken = np.diff(theta[length // 2 :], axis=0)
    found = {
        "signal to noise": signal,
        "length": np.sqrt((taken**2).mean(axis=(0, 2))),
        "length by the formula": np.sqrt((signal**2 + (1 - B1) / (1 + B1)) / (signal**2 + 1)),
        "progress": -taken.mean(axis=(0, 2)),
    }
    figure, axes = plt.subplots()
    axes.loglog(signal, found["length"], "o", ms=4, label="length of a step (root mean square)")
    axes.loglog(signal, found["length by the formula"], "C0-", lw=1, label="the same, by the formula")
    axes.loglog(signal, found["progress"], "s--", color="C1", ms=4, label="progress (mean step)")
    axes.set(xlabel="signal to noise: mean / deviation of the gradient", ylabel="step / learning rate")
    axes.set_title("Steps become shorter where noise prevails")
    axes.legend()
    table = [[*found], *([f"{s:.3g}", *row] for s, *row in zip(*found.values(), strict=True))]
    return Part(found, table, {"annealing": figure})


def distance(steps: int) -> Part:
    """From 0 to a minimum 10 away: with a steady gradient a rate of 10 / N takes N steps."""
    goal, counts = 10.0, (10, 100, 10 * steps)

    def gradient(theta: Any, t: Any) -> Any:
        """Of |theta - 10| and of (theta - 10)^2 / 2."""
        return jnp.stack([jnp.sign(theta[0] - goal), theta[1] - goal])

    rates = [goal / count for count in counts]
    paths = sweep(jadam.adam(1.0), gradient, np.zeros(2), 20 * steps, learning_rate=rates)
    found = {
        str(count): {
            "rate": rate,
            "steps to the tip of |theta - 10|": first(path[:, 0] >= goal - rate / 2),
            "share of the way on (theta - 10)^2 after N": path[count - 1, 1] / goal,
        }
        for count, rate, path in zip(counts, rates, paths, strict=True)
    }
    return Part(found, [["N", *found["10"]], *([n, *row.values()] for n, row in found.items())], {})


# Changing and rare gradients


def moving_target(steps: int) -> Part:
    """A minimum that jumps, in a loss that is ten times steeper at first: AdaGrad remembers, averages forget."""
    length, every, places = 40 * steps, 10 * steps, np.array([0.0, 3.0, -2.0, 2.0])
    target = np.repeat(places, every)

    def gradient(theta: Any, t: Any) -> Any:
        size = jnp.where(t <= every, 10.0, 1.0)
        return size * (theta - jnp.asarray(target)[t - 1] + 0.5 * jax.random.normal(jax.random.key(t)))

    rates, found, paths = np.logspace(-2, 1.5, 15), {}, {}
    for name, tx in {"adagrad": jadam.adagrad(1.0), "rmsprop": jadam.rmsprop(1.0), "adam": jadam.adam(1.0, b2=0.99)}.items():
        tried = sweep(tx, gradient, 1.0, length, learning_rate=rates)
        errors = ((tried - target) ** 2).mean(axis=1)
        best = int(errors.argmin())
        paths[name] = tried[best]
        found[name] = {"rate": rates[best], "mean square error": errors[best]}
        for jump in (1, 2, 3):
            near = np.abs(paths[name][jump * every :] - places[jump]) < np.abs(places[jump] - places[jump - 1]) / 10
            found[name][f"steps to follow jump {jump}"] = first(near)
    figure, axes = plt.subplots()
    for name, style in (("adagrad", "C1-"), ("adam", "C0-")):
        axes.plot(paths[name], style, lw=1, label=f"{name}, rate {found[name]['rate']:.2g}")
    axes.plot(target, "k--", lw=1.2, label="minimum")
    axes.set(xlabel="step", ylabel=r"parameter $\theta$", title="A minimum that jumps", ylim=(-4, 4))
    axes.legend(loc="lower left")
    return Part(
        found, [["", *found["adam"]], *([name, *row.values()] for name, row in found.items())], {"moving_target": figure}
    )


def sparse(steps: int) -> Part:
    """Features seen in every step, in one of 10 and in one of 100: how far each weight has come to its goal of 1."""
    every = np.array([1, 10, 100])

    def gradient(theta: Any, t: Any) -> Any:
        return jnp.where(t % jnp.asarray(every) == 0, theta - 1, 0)

    optimizers = {"sgd": jadam.sgd(0.01), "adagrad": jadam.adagrad(0.1), "adam": jadam.adam(0.01)}
    rows = {name: run(tx, gradient, np.zeros(3), 10 * steps)[1][-1] for name, tx in optimizers.items()}
    hand = {"sgd": 1 - 0.99 ** (10 * steps // every)}

    def rare(theta: Any, t: int) -> Any:
        return np.where(t % every == 0, theta - 1, 0)

    hand["adam"] = by_hand(rare, np.zeros(3), 10 * steps, 0.01)["theta"][-1]
    table = [["optimizer", *(f"1 of {n}" for n in every)], *([name, *x] for name, x in rows.items())]
    return Part({"jadam": rows, "by hand": hand}, table, {})


# Hyperparameters


def knobs(steps: int) -> Part:
    """What high and low learning rates, b1, b2 and eps do on a noisy, oblong quadratic."""
    curvature, length = np.array([1.0, 0.05]), 4 * steps
    usual = {"learning_rate": 0.03, "b1": 0.9, "b2": 0.99, "eps": 1e-8}
    tried = {"learning_rate": (1e-3, 0.03, 1.0), "b1": (0.0, 0.9, 0.99), "b2": (0.5, 0.99, 0.9999), "eps": (1e-8, 1.0, 100.0)}
    settings = [usual | {name: value} for name, values in tried.items() for value in values]

    def gradient(theta: Any, t: Any) -> Any:
        """Of twenty runs with noise of their own, for a curve that shows what is typical."""
        return jnp.asarray(curvature) * theta + 0.3 * jax.random.normal(jax.random.key(t), theta.shape)

    columns = {name: [setting[name] for setting in settings] for name in usual}
    paths = sweep(jadam.adam(0.03), gradient, 2 * np.ones((20, 2)), length, **columns)
    losses = 0.5 * (curvature * paths**2).sum(-1).mean(-1)
    late = np.sqrt((np.diff(paths, axis=1)[:, length // 2 :] ** 2).mean((1, 2, 3)))

    figure, places = plt.subplots(4, sharex=True, figsize=(4.5, 8.0))
    found = {}
    for index, (name, values) in enumerate(tried.items()):
        for value, style in zip(values, ("--", "-", ":"), strict=True):
            row = settings.index(usual | {name: value})
            curve = losses[row]
            reached = first(curve < 0.02)
            found[f"{name}={value:g}"] = {
                "loss below 0.02 at step": reached,
                "last": curve[-steps:].mean(),
                "late step": late[row],
            }
            places[index].semilogy(np.arange(1, length + 1), curve, style, label=f"{value:g}")
        places[index].set(
            ylabel="loss", title=name.replace("_", " ").replace("b", r"$\beta_") + ("$" if name[0] == "b" else "")
        )
        places[index].legend(loc="lower left")
    places[-1].set(xlabel="step")
    table = [["", "loss below 0.02 at step", "last loss", "late step (root mean square)"]]
    return Part(found, [*table, *([name, *row.values()] for name, row in found.items())], {"knobs": figure})


def large_eps(steps: int) -> Part:
    """With an eps above all gradients Adam is momentum, at the learning rate divided by eps."""
    grads, sizes = np.random.default_rng(3).standard_normal(steps) + 0.3, np.array([1e-2, 1.0, 1e2, 1e4])

    def gradient(theta: Any, t: Any) -> Any:
        return theta + jnp.asarray(grads)[t - 1]

    momentum = jadam.chain(jadam.ema(B1), jadam.scale_by_learning_rate(0.1))
    expected = run(momentum, gradient, 1.0, steps)[1]
    paths = sweep(jadam.adam(0.1), gradient, 1.0, steps, learning_rate=0.1 * sizes, eps=sizes)
    far = {f"{eps:g}": np.max(np.abs(path - expected)) for eps, path in zip(sizes, paths, strict=True)}
    return Part(far, [["eps", "largest distance from momentum"], *far.items()], {})


def decoupled(steps: int) -> Part:
    """Weight decay in the gradient (L2) and beside it (AdamW), for gradients that are noise of three sizes."""
    sizes, length, rate = np.array([100.0, 1.0, 0.01]), 10 * steps, 0.001

    def gradient(theta: Any, t: Any) -> Any:
        """Up and down, so that nothing but the decay moves a weight for long."""
        return jnp.asarray(sizes) * (1.0 - 2.0 * (t % 2))

    adamw = jadam.adamw(rate, weight_decay=1.0)
    l2 = jadam.chain(jadam.add_decayed_weights(1.0), jadam.adam(rate))
    rows = {name: run(tx, gradient, np.ones(3), length)[1][-1] for name, tx in (("adamw", adamw), ("L2, then adam", l2))}

    hand_l2 = by_hand(lambda theta, t: sizes * (1 - 2 * (t % 2)) + theta, np.ones(3), length, rate)["theta"][-1]
    moves = np.diff(by_hand(lambda theta, t: sizes * (1 - 2 * (t % 2)), np.zeros(3), length, rate)["theta"], axis=0, prepend=0)
    hand_w = np.ones(3)
    for move in moves:
        hand_w = (1 - rate) * hand_w + move
    table = [["a weight of 1 after all steps; size of its gradients", *(f"{s:g}" for s in sizes)]]
    numbers = {"jadam": rows, "by hand": {"adamw": hand_w, "L2, then adam": hand_l2}, "decay alone": (1 - rate) ** length}
    return Part(numbers, [*table, *([name, *x] for name, x in rows.items())], {})


def relatives(steps: int) -> Part:
    """The theta of the first part again, by Adam's relatives."""
    names = ("adam", "adamax", "nadam", "radam", "adabound", "amsgrad")
    rows = {name: run(getattr(jadam, name)(0.1), lambda theta, t: 2 * theta, 0.5, steps)[1] for name in names}
    figure, axes = plt.subplots()
    for name, style in zip(names[:4], ("C0-", "C1--", "C2-.", "C3:"), strict=True):
        axes.plot([0.5, *rows[name]], style, label=name)
    axes.set(xlabel="step", ylabel=r"parameter $\theta$", title=r"$\theta^2$ by Adam's relatives, learning rate 0.1")
    axes.legend()
    shown = [t for t in (1, 2, 3, 5, 6, 10, 20, 50, 100) if t <= steps]
    table = [["t", *map(str, shown)], *([name, *(path[t - 1] for t in shown)] for name, path in rows.items())]
    return Part(rows, table, {"relatives": figure})


def outlier(steps: int) -> Part:
    """One gradient far too large: the loss before it, at worst in the next steps, and ten times as many later."""
    length, moment = 20 * steps, 5 * steps

    def gradient(theta: Any, t: Any) -> Any:
        """Of twenty runs with noise of their own."""
        g = theta + 0.3 * jax.random.normal(jax.random.key(t), theta.shape)
        return jnp.where(t == moment, 1000.0, g)

    clipped = jadam.chain(jadam.clip(1.0), jadam.adam(0.03))
    found, figure, axes = {}, *plt.subplots()
    optimizers = {"adam": jadam.adam(0.03), "adam, b2=0.95": jadam.adam(0.03, b2=0.95), "clip, then adam": clipped}
    for (name, tx), style in zip(optimizers.items(), ("C0-", "C1--", "C2-"), strict=True):
        theta = np.asarray(run(tx, gradient, jnp.full(20, 2.0), length)[1])
        losses = 0.5 * (theta**2).mean(axis=1)
        found[name] = {
            "loss before": losses[moment // 2 : moment - 1].mean(),
            "worst soon after": losses[moment : moment + steps].max(),
            "long after": losses[moment + 9 * steps : moment + 10 * steps].mean(),
        }
        axes.semilogy(np.arange(1, length + 1), losses, style, lw=1, label=name)
    axes.set(xlabel="step", ylabel="loss", title=f"One gradient of 1000 at step {moment}")
    axes.legend()
    return Part(found, [["", *found["adam"]], *([name, *row.values()] for name, row in found.items())], {"outlier": figure})


def mistakes(steps: int) -> Part:
    """Four mistakes in an Adam of one's own, what each does, and jadam's number beside it."""

    def step(tx: jadam.GradientTransformation, size: Sequence[float]) -> Array:
        """The length of the first step in learning rates."""
        g = jnp.asarray(size)
        return jnp.abs(tx.update(g, tx.init(g), g)[0])

    length = 50 * steps
    fall = np.where(np.arange(length) < length // 5, 1.0, 1e-3)

    def rounded(v: Array, g: Array) -> tuple[Array, None]:
        return (B2 * v.astype(g.dtype) + (1 - B2) * g * g).astype(jnp.bfloat16), None

    exact = by_hand(lambda theta, t: fall[t - 1], 0.0, length, 0.1)["v"][-1]
    narrow = jax.lax.scan(rounded, jnp.zeros((), jnp.bfloat16), jnp.asarray(fall))[0]
    kept = {
        dtype: run(jadam.with_precision(jadam.adam(0.1), state=dtype), lambda theta, t: jnp.asarray(fall)[t - 1], 0.0, length)[
            2
        ]
        for dtype in ("float32", "bfloat16")
    }
    kept = {dtype: float(state.slots["adam"]["nu"][-1]) for dtype, state in kept.items()}
    uneven, adam = [100.0, 0.01], jadam.adam(1.0)
    alone = jadam.chain(UncorrectedAdam(), jadam.scale_by_learning_rate(1.0))
    pairs = {
        "one v for the whole array: step of a gradient of 0.01": (
            step(jadam.adam_mini(1.0, blocks=()), uneven),
            step(adam, uneven),
        ),
        "no bias correction: first step": (step(alone, uneven), step(adam, uneven)),
        "eps under the root: step of a gradient of 1e-5": (
            step(jadam.adam(1.0, eps=0.0, eps_root=1e-8), [1e-5]),
            step(adam, [1e-5]),
        ),
    }
    found = {name: {"mistaken": float(bad[-1]), "jadam": float(good[-1])} for name, (bad, good) in pairs.items()}
    found["v rounded to bfloat16, after gradients fell"] = {"mistaken": float(narrow), "jadam": kept["float32"]}
    table = [["", "mistaken", "jadam"], *([name, *row.values()] for name, row in found.items())]
    return Part({**found, "v": {"exact": exact, "rounded": float(narrow)} | kept}, table, {})


PARTS = (
    *(quadratic, trace, moments, weights, bias_correction, uneven, invariance, inputs, bounds, annealing, distance),
    *(moving_target, sparse, knobs, large_eps, decoupled, relatives, outlier, mistakes),
)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Runs the parts; returns their numbers."""
    return report(__doc__, PARTS, arguments, steps=100)


if __name__ == "__main__":
    main()
