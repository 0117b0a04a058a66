"""What few bits cost: averages, weights, training, memory, step and compile time of `jadam.with_precision`.

    python tests/bench/precision.py [--data mnist.npz] [--only NAME] [--figure FILE]

Prints a Markdown table: measure, bar, what was measured and whether that meets the bar; rows without one are there to compare.
The rows of `mnist` need the data as Keras stores it; `--figure` draws their losses. Exits non-zero if a bar is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from training import LANDED, Digits, advance, draw, last, load, losses, runs, spelled

import jadam
from jadam._storage.params import PARAM_STORAGE
from jadam._storage.slots import decode_slot, together

SHAPE = (64, 64)  # 4,096 elements: no slot is so small that it stays float32
B2 = 0.999


class Row(NamedTuple):
    """A line of the table; `met` is None where there is no bar."""

    measure: str
    measured: str
    bar: str = ""
    met: bool | None = None

    def __str__(self) -> str:
        verdict = {None: "", True: "yes", False: "**no**"}[self.met]
        return f"| {self.measure} | {self.bar} | {self.measured} | {verdict} |"


def stored(state: str, rounding: str = "stochastic", **adam: Any) -> jadam.GradientTransformation:
    return jadam.with_precision(jadam.scale_by_adam(**adam), state=state, rounding=rounding)


def second_moment(tx: Any, gradient: Callable[[jax.Array], jax.Array], steps: int, dtype: Any = jnp.float32) -> jax.Array:
    """Adam's `nu` of a single array after the gradients `gradient(count)`, in float32."""
    params = jnp.zeros(SHAPE, dtype)

    def step(state: Any, count: jax.Array) -> tuple[Any, None]:
        return tx.update(gradient(count), state, params)[1], None

    state = jax.jit(lambda: jax.lax.scan(step, tx.init(params), jnp.arange(steps))[0])()
    return decode_slot(
        state.nu if isinstance(state, optax.ScaleByAdamState) else together(state.slots["adam"])["nu"], "float32"
    )


# An average whose target falls


def averages() -> Iterator[Row]:
    work, kept = "mean of nu after 2,000 gradients of 1, and 2,000 of 0.01", B2**2000
    exact = 1 - kept, (1 - kept) * kept + 1e-4 * (1 - kept)
    yield Row(f"{work}: exact", f"{exact[0]:.4f}, {exact[1]:.4f}")
    for name, tx, dtype, judged in (
        ('state="bfloat16"', stored("bfloat16"), jnp.float32, True),
        ('the same, rounding="nearest"', stored("bfloat16", "nearest"), jnp.float32, False),
        ("optax, bfloat16 parameters", optax.scale_by_adam(), jnp.bfloat16, False),
    ):

        def gradient(count: jax.Array, dtype: Any = dtype) -> jax.Array:
            return jnp.full(SHAPE, jnp.where(count < 2000, 1, 0.01), dtype)

        found = [float(jnp.mean(second_moment(tx, gradient, steps, dtype))) for steps in (2000, 4000)]
        shown, error = f"{found[0]:.4f}, {found[1]:.4f}", max(abs(a / b - 1) for a, b in zip(found, exact, strict=True))
        bar = (f"{shown} ({error:.2%})", "within 2 %", error <= 0.02) if judged else (shown,)
        yield Row(f"{work}: {name}", *bar)


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
    for params, bound in (("stochastic", 2e-3), ("kahan", 1e-3), ("remainder", 1e-3)):
        for by, way in (("step", "step"), ("update", "update, params + updates")):
            alone, whole = weight(jadam.with_precision(jadam.adam(1e-4), params=params), by)
            if params == "stochastic":
                bar, measured, met = f"mean within {bound:g}", f"{alone:.5f}", abs(alone - 0.9) <= bound
            else:  # alone, a bfloat16 below 1 is right to half of its spacing, 2^-9
                bar = f"with what is kept within {bound:g}, alone within 2^-9 of that"
                met = abs(whole - 0.9) <= bound and abs(alone - whole) <= 2**-9
                measured = f"{whole:.5f}, alone {alone:.4f}"
            yield Row(f'{work}: params="{params}", {way}', measured, bar, met)
    for name, tx in (('params="nearest"', jadam.adam(1e-4)), ("optax", optax.adam(1e-4))):
        yield Row(f"{work}: {name}", f"{weight(tx, 'update')[0]:.5f}")


# Training


def mnist(data: Digits, curves: dict[str, np.ndarray], seeds: int = 3, **sizes: Any) -> Iterator[Row]:
    """Trains each of the runs; `curves` is filled with their losses, arrays of shape (seeds, steps)."""
    for name, (tx, dtype, yardstick) in runs().items():
        curves[name] = np.stack([losses(tx, dtype, data, np.int32(seed), **sizes) for seed in range(seeds)])
        work, loss = f"MNIST, mean of the last 100 losses: {name}", last(curves[name])
        excess = loss / last(curves[yardstick]) - 1 if yardstick else 0.0
        bar = (f"{loss:.4f} ({excess:+.1%})", "within 2 % of float32", abs(excess) <= 0.02) if yardstick else (f"{loss:.4f}",)
        yield Row(work, *bar)


# Gradients of very different sizes in a block


def tails(
    rounding: str, zeros: str, spread: float = 2, steps: int = 2000, shape: tuple[int, int] = (64, 128)
) -> tuple[float, float]:
    """The largest |update| of int8 slots, and the mean square of its difference to float32's, as a share of theirs.

    On normal gradients of sizes e^(spread z); half of them zero, "always" or "by chance".
    """
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
    return float(largest), float(off / total)


def blocks() -> Iterator[Row]:
    for zeros in ("always", "by chance"):
        for rounding in ("stochastic", "nearest"):
            largest, error = tails(rounding, zeros)
            work = f"int8, gradients of sizes e^(2 z), half of them zero {zeros}, 2,000 steps, {rounding}"
            yield Row(f"{work}: largest update", f"{largest:.2f}", "<= 8", largest <= 8)
            yield Row(f"{work}: mean square error of updates", f"{error:.2%}", "<= 5 %", error <= 0.05)


# A second moment that has to fall 100-fold


def falling(count: jax.Array) -> jax.Array:
    """Noise that becomes 100 times smaller after 3,000 steps."""
    noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), count), SHAPE, jnp.float32)
    return noise * jnp.where(count < 3000, np.float32(1), np.float32(0.01))


def falls() -> Iterator[Row]:
    work = "sqrt(v) 5,000 steps after gradients fell 100-fold, of float64's"
    v = np.zeros(SHAPE)
    for g in jax.jit(lambda: jax.lax.map(falling, jnp.arange(8000)))():
        v += (1 - B2) * (np.square(np.asarray(g, np.float64)) - v)
    for name in ("float32", "bfloat16, stochastic", "int8, stochastic", "int8, nearest", "bfloat16, nearest"):
        found = second_moment(stored(*name.split(", ")), falling, 8000)
        ratio = float(jnp.mean(jnp.sqrt(found))) / float(np.mean(np.sqrt(v)))
        bar = () if name == "bfloat16, nearest" else ("0.97 to 1.03", 0.97 <= ratio <= 1.03)
        yield Row(f"{work}: {name}", f"{ratio:.3f}", *bar)


# Memory, float16, time


def memory() -> Iterator[Row]:
    params = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
    for state, bound in (("float32", 8), ("bfloat16", 4), ("int8", 2.3)):
        slots = jax.eval_shape(jadam.with_precision(jadam.adamw(1e-3), state=state).init, params).slots
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(slots)) / params.size
        yield Row(f'state of AdamW, state="{state}"', f"{size:g} B/param", f"<= {bound:g} B/param", size <= bound)


def float16() -> Iterator[Row]:
    work = "float16 parameters, gradients 0, 1e-8, 1e-4, 6e4: first update of Adam"
    g, tx, params = np.array([0, 1e-8, 1e-4, 6e4]), jadam.adam(1e-3), jnp.zeros(4, jnp.float16)
    updates, _ = tx.update(jnp.asarray(g, jnp.float32), tx.init(params), params)
    expected = -1e-3 * g / (np.abs(g) + 1e-8)
    error = np.max(np.abs(np.asarray(updates, np.float64) - expected) / np.where(g == 0, 1, np.abs(expected)))
    yield Row(work, f"{error:.2%}", "within 1 %", bool(error <= 0.01))


def step_times(reps: int = 15) -> Iterator[Row]:
    from speed import milliseconds  # here, since only times need it

    adamw, shape = jadam.adamw(1e-3), (4096, 2048)
    works = {"float32": (adamw, jnp.float32)}
    nearest = {"rounding": "nearest"}
    for kwargs in ({"state": "bfloat16"}, {"state": "bfloat16"} | nearest, {"state": "int8"}, {"state": "int8"} | nearest):
        works[spelled(kwargs)] = jadam.with_precision(adamw, **kwargs), jnp.float32
    works["bfloat16 parameters"] = adamw, jnp.bfloat16
    for kwargs in (*({"params": params} for params in LANDED), {"params": "stochastic", "state": "int8"}):
        works[f"bfloat16 parameters, {spelled(kwargs)}"] = jadam.with_precision(adamw, **kwargs), jnp.bfloat16
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
        yield Row(f"step of AdamW, one leaf of 8.4 M: {name}", f"{value:.1f} ms, {value / times['float32']:.2f} of float32")


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
        yield Row(work, f"{chance:.2f} s against {near:.2f} s, {chance / near:.2f}", "<= 1.5", chance / near <= 1.5)


MEASURES = (averages, landing, mnist, blocks, falls, memory, float16, step_times, compile_times)
GROUPS = {measure.__name__: measure for measure in MEASURES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=GROUPS, metavar="NAME", help=f"some of: {', '.join(GROUPS)}")
    parser.add_argument("--data", type=Path, help="mnist.npz as Keras stores it")
    parser.add_argument("--figure", type=Path, help="write the losses on MNIST to this file")
    options = parser.parse_args()
    if options.figure and not options.data:
        parser.error("--figure draws what --data trains.")
    chosen, missed = options.only or list(GROUPS), 0
    curves: dict[str, np.ndarray] = {}
    print("| measure | bar | measured | met |\n|---|---|---|---|")
    for name in chosen:
        if name == "mnist" and not options.data:
            continue
        for row in mnist(load(options.data), curves) if name == "mnist" else GROUPS[name]():
            print(row, flush=True)
            missed += row.met is False
    if "mnist" in chosen and not options.data:
        print("\nThe rows of MNIST are missing: they need --data.")
    if options.figure and curves:
        draw(curves, options.figure)
    sys.exit(missed > 0)


if __name__ == "__main__":
    main()
