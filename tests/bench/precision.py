"""What few bits cost: averages, weights, training, memory, step and compile time of `jadam.with_precision`.

    python tests/bench/precision.py [--data mnist.npz] [--only NAME] [--figure FILE]

Prints a Markdown table: measure, bar, what was measured and whether that meets the bar; rows without one are there to compare.
The rows of `mnist` need the data as Keras stores it; `--figure` draws their losses. Exits non-zero if a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jadam
from jadam._landing import PARAM_STORAGE
from jadam._storage import decode

SHAPE = (64, 64)  # 4,096 elements: no slot is so small that it stays float32
B2 = 0.999


class Row(NamedTuple):
    """A line of the table; `met` is None where there is no bar."""

    measure: str
    bar: str
    measured: str
    met: bool | None = None

    def __str__(self) -> str:
        verdict = {None: "", True: "yes", False: "**no**"}[self.met]
        return f"| {self.measure} | {self.bar} | {self.measured} | {verdict} |"


def stored(state: str, rounding: str = "stochastic", **adam: Any) -> jadam.GradientTransformation:
    return jadam.with_precision(jadam.scale_by_adam(**adam), state=state, rounding=rounding)


def second_moment(state: Any) -> jax.Array:
    """Adam's `nu` of a single array, in float32."""
    nu = state.nu if isinstance(state, optax.ScaleByAdamState) else state.slots["adam"]["nu"]
    return decode(nu)


def advance(tx: Any, params: Any, state: Any, grads: Any, by: str = "step") -> tuple[Any, Any]:
    if by == "step":
        return tx.step(grads, state, params)
    updates, state = tx.update(grads, state, params)
    return jax.tree.map(jnp.add, params, updates), state


# An average whose target falls


def average(tx: Any, dtype: Any = jnp.float32, steps: int = 2000) -> tuple[float, float]:
    """The mean of `nu` after that many gradients of 1, and after as many of 0.01 more."""
    params = jnp.zeros(SHAPE, dtype)

    def step(state: Any, g: jax.Array) -> tuple[Any, None]:
        return tx.update(jnp.full(SHAPE, g), state, params)[1], None

    @jax.jit
    def run() -> tuple[jax.Array, jax.Array]:
        high, _ = jax.lax.scan(step, tx.init(params), jnp.full(steps, 1, dtype))
        low, _ = jax.lax.scan(step, high, jnp.full(steps, 0.01, dtype))
        return jnp.mean(second_moment(high)), jnp.mean(second_moment(low))

    high, low = run()
    return float(high), float(low)


def exact_average(steps: int = 2000) -> tuple[float, float]:
    high = 1 - B2**steps
    return high, high * B2**steps + 1e-4 * (1 - B2**steps)


def averages() -> Iterator[Row]:
    exact = exact_average()
    work = "mean of nu after 2,000 gradients of 1, and 2,000 of 0.01"
    yield Row(f"{work}: exact", "", f"{exact[0]:.4f}, {exact[1]:.4f}")
    judged = average(stored("bfloat16"))
    error = max(abs(a / b - 1) for a, b in zip(judged, exact, strict=True))
    yield Row(f'{work}: state="bfloat16"', "within 2 %", f"{judged[0]:.4f}, {judged[1]:.4f} ({error:.2%})", error <= 0.02)
    nearest = average(stored("bfloat16", "nearest"))
    yield Row(f'{work}: the same, rounding="nearest"', "", f"{nearest[0]:.4f}, {nearest[1]:.4f}")
    theirs = average(optax.scale_by_adam(), jnp.bfloat16)
    yield Row(f"{work}: optax, bfloat16 parameters", "", f"{theirs[0]:.4f}, {theirs[1]:.4f}")


# Steps that are smaller than what a weight resolves


def weight(tx: Any, by: str, steps: int = 1000) -> tuple[float, float]:
    """The mean of bfloat16 weights that begin at 1, after gradients of 1; alone, and with what is kept beside them."""
    params = jnp.ones(SHAPE, jnp.bfloat16)

    def step(carry: Any, _: None) -> tuple[Any, None]:
        return advance(tx, *carry, jnp.ones_like(params), by), None

    params, state = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), length=steps)[0])()
    whole = params.astype(jnp.float32)
    alone = float(jnp.mean(whole))
    for name in ("kahan", "remainder"):
        if isinstance(state, jadam.OptState) and name in state.slots:
            whole = PARAM_STORAGE[name]().decode(params, state.slots[name])
    return alone, float(jnp.mean(whole))


def landing() -> Iterator[Row]:
    work = "bfloat16 weights of 1.0 after 1,000 steps of 1e-4, exactly 0.9"
    ways = {"step": "step", "update": "update, params + updates"}
    for params, bound in (("stochastic", 2e-3), ("kahan", 1e-3), ("remainder", 1e-3)):
        for by, way in ways.items():
            alone, whole = weight(jadam.with_precision(jadam.adam(1e-4), params=params), by)
            if params == "stochastic":
                bar, measured, met = f"mean within {bound:g}", f"{alone:.5f}", abs(alone - 0.9) <= bound
            else:  # alone, a bfloat16 below 1 is right to half of its spacing, 2^-9
                bar = f"with what is kept within {bound:g}, alone within 2^-9 of that"
                met = abs(whole - 0.9) <= bound and abs(alone - whole) <= 2**-9
                measured = f"{whole:.5f}, alone {alone:.4f}"
            yield Row(f'{work}: params="{params}", {way}', bar, measured, met)
    for name, tx in (('params="nearest"', jadam.adam(1e-4)), ("optax", optax.adam(1e-4))):
        yield Row(f"{work}: {name}", "", f"{weight(tx, 'update')[0]:.5f}")


# Training


class Digits(NamedTuple):
    images: jax.Array  # uint8, (n, 784)
    labels: jax.Array  # int32, (n,)


def load(path: Path) -> Digits:
    with np.load(path) as data:
        images, labels = data["x_train"], data["y_train"]
    return Digits(jnp.asarray(images.reshape(len(images), -1)), jnp.asarray(labels, jnp.int32))


def layers(seed: jax.Array, widths: tuple[int, ...], dtype: Any) -> list[dict[str, jax.Array]]:
    """He-initialised weights and zero biases."""
    keys = jax.random.split(jax.random.key(seed), len(widths) - 1)
    shapes = zip(keys, widths[:-1], widths[1:], strict=True)
    kernels = [(2 / rows) ** 0.5 * jax.random.normal(key, (rows, columns), jnp.float32) for key, rows, columns in shapes]
    return [{"kernel": w.astype(dtype), "bias": jnp.zeros(w.shape[1:], dtype)} for w in kernels]


def cross_entropy(params: list[dict[str, jax.Array]], images: jax.Array, labels: jax.Array) -> jax.Array:
    """Of a multilayer perceptron that computes in the dtype of its weights; the logarithm in float32."""
    x = (images.astype(jnp.float32) / 255).astype(params[0]["kernel"].dtype)
    for number, layer in enumerate(params):
        x = jax.nn.relu(x) if number else x
        x = x @ layer["kernel"] + layer["bias"][None]
    log_p = jax.nn.log_softmax(x.astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


@partial(jax.jit, static_argnames=("tx", "dtype", "steps", "hidden", "batch"))
def losses(
    tx: Any, dtype: Any, data: Digits, seed: Any, steps: int = 1500, hidden: tuple[int, ...] = (256, 256), batch: int = 128
) -> jax.Array:
    """The loss at each step of training such a network, float32 of shape (steps,)."""
    params = layers(seed, (data.images.shape[1], *hidden, 10), dtype)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), steps)
    by = "step" if isinstance(tx, jadam.GradientTransformation) else "update"

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carry
        chosen = jax.random.randint(key, (batch,), 0, len(data.labels))
        loss, grads = jax.value_and_grad(cross_entropy)(params, data.images[chosen], data.labels[chosen])
        return advance(tx, params, state, grads, by), loss

    return jax.lax.scan(step, (params, tx.init(params)), keys)[1]


def last(curves: np.ndarray, steps: int = 100) -> float:
    """The mean loss of the last steps, of all seeds."""
    return float(np.mean(curves[:, -steps:]))


Runs = dict[str, tuple[Any, Any, str]]


def runs() -> Runs:
    """A transformation, the dtype of the weights, and with which run it is compared, if it has a bar; in order."""
    adam, wrap = jadam.adam, jadam.with_precision
    found: Runs = {
        "float32, lr 1e-4": (adam(1e-4), jnp.float32, ""),
        "bfloat16 weights, lr 1e-4, optax": (optax.adam(1e-4), jnp.bfloat16, ""),
        'bfloat16 weights, lr 1e-4, params="nearest"': (wrap(adam(1e-4), params="nearest"), jnp.bfloat16, ""),
    }
    for params in ("stochastic", "kahan", "remainder"):
        tx = wrap(adam(1e-4), params=params)
        found[f'bfloat16 weights, lr 1e-4, params="{params}"'] = tx, jnp.bfloat16, "float32, lr 1e-4"
    both = wrap(adam(1e-4), state="int8", params="stochastic")
    found['bfloat16 weights, lr 1e-4, params="stochastic", state="int8"'] = both, jnp.bfloat16, "float32, lr 1e-4"
    found["float32, lr 1e-3"] = adam(1e-3), jnp.float32, ""
    for rate, name in ((1e-4, "1e-4"), (1e-3, "1e-3")):
        for rounding in ("stochastic", "nearest"):
            tx = wrap(adam(rate), state="int8", rounding=rounding)
            found[f'float32 weights, lr {name}, state="int8", {rounding}'] = tx, jnp.float32, f"float32, lr {name}"
    return found


def mnist(data: Digits, curves: dict[str, np.ndarray], seeds: int = 3, **sizes: Any) -> Iterator[Row]:
    """Trains each of the runs; `curves` is filled with their losses, arrays of shape (seeds, steps)."""
    for name, (tx, dtype, yardstick) in runs().items():
        curves[name] = np.stack([losses(tx, dtype, data, np.int32(seed), **sizes) for seed in range(seeds)])
        work, loss = f"MNIST, mean of the last 100 losses: {name}", last(curves[name])
        if not yardstick:
            yield Row(work, "", f"{loss:.4f}")
            continue
        excess = loss / last(curves[yardstick]) - 1
        yield Row(work, "within 2 % of float32", f"{loss:.4f} ({excess:+.1%})", abs(excess) <= 0.02)


def draw(curves: dict[str, np.ndarray], path: Path, window: int = 100) -> None:
    """Moving averages of the losses, and their ratio to float32's."""
    import matplotlib as mpl  # here, since only figures need it

    mpl.use("agg")
    import matplotlib.pyplot as plt

    means = {name: np.convolve(np.mean(x, 0), np.ones(window) / window, "valid") for name, x in curves.items()}
    labels = list(dict.fromkeys(name.replace(", lr 1e-4", "").replace(", lr 1e-3", "") for name in means))
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), sharex=True, sharey="row", height_ratios=(3, 2), layout="constrained")
    for rate, (top, bottom) in zip(("lr 1e-4", "lr 1e-3"), axes.T, strict=True):
        base = means[f"float32, {rate}"]
        steps = np.arange(len(base)) + window
        names = [name for name in means if rate in name and name != f"float32, {rate}"]
        top.semilogy(steps, base, color="black", lw=3, label="float32")
        bottom.axhspan(0.98, 1.02, color="0.9", zorder=0)
        bottom.axhline(1, color="black", lw=1)
        for name in names:
            label = name.replace(f", {rate}", "")
            number = labels.index(label)
            style = {"color": f"C{number - 1}", "ls": ("-", "--")[number % 2], "label": label}
            top.semilogy(steps, means[name], **style)
            bottom.plot(steps, means[name] / base, **style)
        top.set_title(f"Adam, {rate}")
        top.legend(fontsize=9)
        bottom.set(xlabel="step", ylim=(0.95, 1.05))
        for axis in (top, bottom):
            axis.grid(alpha=0.3, which="both")
    axes[0, 0].set_ylabel(f"training loss, mean of {window} steps and {len(next(iter(curves.values())))} seeds")
    axes[1, 0].set_ylabel("loss / loss of float32 (grey: within 2 %)")
    figure.suptitle("784-256-256-10 on MNIST: weights and Adam's slots in few bits")
    figure.savefig(path, dpi=120)


# Gradients of very different sizes in a block


class Tails(NamedTuple):
    largest: float
    """|update| over all steps and elements."""
    error: float
    """The mean square of the difference to float32's updates, of theirs."""


def tails(rounding: str, zeros: str, spread: float = 2, steps: int = 2000, shape: tuple[int, int] = (64, 128)) -> Tails:
    """int8 slots beside float32 ones, on normal gradients of sizes e^(spread z); half of them zero, "always" or "by chance"."""
    precise = jadam.scale_by_adam(eps=1e-30)
    small = jadam.with_precision(precise, state="int8", rounding=rounding, min_size=0)
    params = jnp.zeros(shape, jnp.float32)
    key = jax.random.key(0)
    scale = jnp.exp(spread * jax.random.normal(jax.random.fold_in(key, 0), shape, jnp.float32))
    never = jax.random.bernoulli(jax.random.fold_in(key, 1), 0.5, shape)

    def step(carry: Any, own: jax.Array) -> tuple[Any, None]:
        exact, coarse, largest, off, total = carry
        noise, chance = jax.random.split(own)
        zero = never if zeros == "always" else jax.random.bernoulli(chance, 0.5, shape)
        g = jnp.where(zero, 0, scale * jax.random.normal(noise, shape, jnp.float32))
        u, exact = precise.update(g, exact, params)
        u8, coarse = small.update(g, coarse, params)
        largest = jnp.maximum(largest, jnp.max(jnp.abs(u8)))
        return (exact, coarse, largest, off + jnp.sum(jnp.square(u8 - u)), total + jnp.sum(jnp.square(u))), None

    begin = (precise.init(params), small.init(params), *(jnp.float32(0) for _ in range(3)))
    keys = jax.random.split(jax.random.fold_in(key, 2), steps)
    *_, largest, off, total = jax.jit(lambda: jax.lax.scan(step, begin, keys)[0])()
    return Tails(float(largest), float(off / total))


def blocks() -> Iterator[Row]:
    for zeros in ("always", "by chance"):
        for rounding in ("stochastic", "nearest"):
            found = tails(rounding, zeros)
            work = f"int8, gradients of sizes e^(2 z), half of them zero {zeros}, 2,000 steps, {rounding}"
            yield Row(f"{work}: largest update", "<= 8", f"{found.largest:.2f}", found.largest <= 8)
            yield Row(f"{work}: mean square error of updates", "<= 5 %", f"{found.error:.2%}", found.error <= 0.05)


# A second moment that has to fall 100-fold


def falling(seed: int, count: jax.Array, fall: int) -> jax.Array:
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(seed), count), SHAPE, jnp.float32)
    return noise * jnp.where(count < fall, np.float32(1), np.float32(0.01))


@cache
def exact_fall(seed: int, fall: int, steps: int) -> float:
    """The mean of sqrt(v) in float64."""
    gradients = jax.jit(lambda: jax.lax.map(lambda count: falling(seed, count, fall), jnp.arange(fall + steps)))()
    v = np.zeros(SHAPE)
    for g in gradients:
        v += (1 - B2) * (np.square(np.asarray(g, np.float64)) - v)
    return float(np.mean(np.sqrt(v)))


def fallen(tx: Any, seed: int = 0, fall: int = 3000, steps: int = 5000) -> float:
    """Noise becomes 100 times smaller after `fall` steps: the mean of sqrt(v) `steps` later, of the exact one."""
    params = jnp.zeros(SHAPE, jnp.float32)

    def step(state: Any, count: jax.Array) -> tuple[Any, None]:
        return tx.update(falling(seed, count, fall), state, params)[1], None

    state = jax.jit(lambda: jax.lax.scan(step, tx.init(params), jnp.arange(fall + steps))[0])()
    return float(jnp.mean(jnp.sqrt(second_moment(state)))) / exact_fall(seed, fall, steps)


def falls() -> Iterator[Row]:
    work = "sqrt(v) 5,000 steps after gradients fell 100-fold, of float64's"
    for state, rounding in (
        ("float32", "nearest"),
        ("bfloat16", "stochastic"),
        ("int8", "stochastic"),
        ("int8", "nearest"),
        ("bfloat16", "nearest"),
    ):
        ratio = fallen(stored(state, rounding))
        name = state if state == "float32" else f"{state}, {rounding}"
        if (state, rounding) == ("bfloat16", "nearest"):
            yield Row(f"{work}: {name}", "", f"{ratio:.3f}")
        else:
            yield Row(f"{work}: {name}", "0.97 to 1.03", f"{ratio:.3f}", 0.97 <= ratio <= 1.03)


# Memory, float16, time


def bytes_kept(tx: Any, dtype: Any = jnp.float32) -> float:
    """Of the slots, for each parameter of a matrix."""
    params = jax.ShapeDtypeStruct((1024, 1024), dtype)
    leaves = jax.tree.leaves(jax.eval_shape(tx.init, params).slots)
    return sum(x.size * x.dtype.itemsize for x in leaves) / params.size


def memory() -> Iterator[Row]:
    for state, bound in (("float32", 8), ("bfloat16", 4), ("int8", 2.3)):
        size = bytes_kept(jadam.with_precision(jadam.adamw(1e-3), state=state))
        yield Row(f'state of AdamW, state="{state}"', f"<= {bound:g} B/param", f"{size:g} B/param", size <= bound)


def first_step(gradients: np.ndarray) -> np.ndarray:
    """How far the first update of Adam is from float64's, for float16 parameters and float32 gradients."""
    params = jnp.zeros(gradients.shape, jnp.float16)
    tx = jadam.adam(1e-3)
    updates, _ = tx.update(jnp.asarray(gradients, jnp.float32), tx.init(params), params)
    g = gradients.astype(np.float64)
    expected = -1e-3 * g / (np.abs(g) + 1e-8)
    return np.abs(np.asarray(updates, np.float64) - expected) / np.where(g == 0, 1, np.abs(expected))


def float16() -> Iterator[Row]:
    error = float(np.max(first_step(np.array([0, 1e-8, 1e-4, 6e4]))))
    yield Row(
        "float16 parameters, gradients 0, 1e-8, 1e-4, 6e4: first update of Adam", "within 1 %", f"{error:.2%}", error <= 0.01
    )


def step_times(reps: int = 15) -> Iterator[Row]:
    from speed import milliseconds  # beside this script; the tests import neither

    adamw, shape = jadam.adamw(1e-3), (4096, 2048)
    wrap = partial(jadam.with_precision, adamw)
    works = {
        "float32": (adamw, jnp.float32),
        'state="bfloat16"': (wrap(state="bfloat16"), jnp.float32),
        'state="bfloat16", rounding="nearest"': (wrap(state="bfloat16", rounding="nearest"), jnp.float32),
        'state="int8"': (wrap(state="int8"), jnp.float32),
        'state="int8", rounding="nearest"': (wrap(state="int8", rounding="nearest"), jnp.float32),
        "bfloat16 parameters": (adamw, jnp.bfloat16),
        'bfloat16 parameters, params="stochastic"': (wrap(params="stochastic"), jnp.bfloat16),
        'bfloat16 parameters, params="kahan"': (wrap(params="kahan"), jnp.bfloat16),
        'bfloat16 parameters, params="remainder"': (wrap(params="remainder"), jnp.bfloat16),
        'bfloat16 parameters, params="stochastic", state="int8"': (wrap(params="stochastic", state="int8"), jnp.bfloat16),
    }
    noise = jax.random.normal(jax.random.key(0), shape, jnp.float32)
    grads = {dtype: noise.astype(dtype) for dtype in (jnp.float32, jnp.bfloat16)}
    run, reached = {}, {}
    for name, (tx, dtype) in works.items():
        reached[name] = jnp.ones(shape, dtype), tx.init(jnp.ones(shape, dtype))
        step = jax.jit(partial(advance, tx), donate_argnums=(0, 1))
        run[name] = step.lower(*reached[name], grads[dtype]).compile()

    def once(name: str) -> Any:
        reached[name] = run[name](*reached[name], grads[works[name][1]])
        return reached[name]

    times = milliseconds({name: lambda _, name=name: partial(once, name) for name in works}, reps)
    for name, value in times.items():
        yield Row(f"step of AdamW, one leaf of 8.4 M: {name}", "", f"{value:.1f} ms, {value / times['float32']:.2f} of float32")


def compile_times(reps: int = 5) -> Iterator[Row]:
    from speed import gpt2, milliseconds

    shapes = gpt2(width=768, layers=12, vocabulary=50257)
    wrap = partial(jadam.with_precision, jadam.adamw(1e-3))

    def kinds(rounding: str) -> dict[str, tuple[Any, Any]]:
        return {
            "bfloat16 parameters": (wrap(params=rounding), jnp.bfloat16),
            "bfloat16 slots": (wrap(state="bfloat16", rounding=rounding), jnp.float32),
            "int8 slots": (wrap(state="int8", rounding=rounding), jnp.float32),
            "bfloat16 parameters and slots": (wrap(state="bfloat16", params=rounding, rounding=rounding), jnp.bfloat16),
        }

    def prepare(tx: Any, dtype: Any, _: int) -> Any:
        params = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}
        arguments = params, jax.eval_shape(tx.init, params), params
        jax.clear_caches()
        # Not the compiled program: there is nothing to wait for.
        return lambda: jax.jit(tx.step).lower(*arguments).compile() and None

    works = {(name, way): partial(prepare, *kinds(way)[name]) for name in kinds("nearest") for way in ("nearest", "stochastic")}
    times = milliseconds(works, reps)
    for name in kinds("nearest"):
        near, chance = times[name, "nearest"] / 1e3, times[name, "stochastic"] / 1e3
        work = f"compiling a step of AdamW, GPT-2's 148 leaves: {name}, stochastic against nearest"
        yield Row(work, "<= 1.5", f"{chance:.2f} s against {near:.2f} s, {chance / near:.2f}", chance / near <= 1.5)


GROUPS = {
    "averages": averages,
    "landing": landing,
    "mnist": mnist,
    "blocks": blocks,
    "falls": falls,
    "memory": memory,
    "float16": float16,
    "step_times": step_times,
    "compile_times": compile_times,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=GROUPS, metavar="NAME", help=f"some of: {', '.join(GROUPS)}")
    parser.add_argument("--data", type=Path, help="mnist.npz as Keras stores it")
    parser.add_argument("--figure", type=Path, help="write the losses on MNIST to this file")
    options = parser.parse_args()
    if options.figure and not options.data:
        parser.error("--figure draws what --data trains.")
    chosen = options.only or list(GROUPS)
    curves: dict[str, np.ndarray] = {}
    missed = 0
    print("| measure | bar | measured | met |\n|---|---|---|---|")
    for name in chosen:
        if name == "mnist" and not options.data:
            continue
        for row in mnist(load(options.data), curves) if name == "mnist" else GROUPS[name]():
            print(row, flush=True)
            missed += row.met is False
    if "mnist" in chosen and not options.data:
        print("\nThe rows of MNIST are left out: they need --data.")
    if options.figure and curves:
        draw(curves, options.figure)
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
