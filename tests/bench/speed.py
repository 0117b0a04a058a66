"""Speed, memory and import time of jadam beside optax's, in one process and interleaved.

    python tests/bench/speed.py [--quick] [--out FILE]

Prints a Markdown table: work, optax, jadam, their ratio, the goal and whether it is met; `--out` writes it to a file too.
`--quick` is a smoke test with small sizes, whose numbers mean little. Where steps are timed, the parameters that both libraries
have reached are compared; the script exits non-zero if they differ by more than 1e-4 of the distance moved.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jadam

TOLERANCE = 1e-4  # of the distance moved; optax's own float32 bias correction makes 2e-5 of it (see accuracy.py)
FORMS = {"optax": "optax", "update": "jadam, update + apply_updates", "step": "jadam, step"}


@dataclass(frozen=True)
class Sizes:
    """What is measured and how often."""

    reps: int = 9
    imports: int = 7
    one_leaf: tuple[int, int] = (8192, 4096)
    width: int = 768
    layers: int = 12
    vocabulary: int = 50257


QUICK = Sizes(reps=2, imports=1, one_leaf=(256, 128), width=32, layers=2, vocabulary=500)


@dataclass(frozen=True)
class Row:
    """A line of the table; the goal is for the ratio, or for jadam's own number if `absolute`."""

    work: str
    unit: str
    optax: float
    jadam: float
    goal: float
    absolute: bool = False

    def __str__(self) -> str:
        ratio = self.jadam / self.optax
        judged = round(self.jadam if self.absolute else ratio, 3)
        goal = f"{self.goal:g}{' ' + self.unit if self.absolute else ''}"
        numbers = f"{self.optax:.3f} {self.unit} | {self.jadam:.3f} {self.unit} | {ratio:.3f}"
        return f"| {self.work} | {numbers} | <= {goal} | {'yes' if judged <= self.goal else '**no**'} |"


def gpt2(width: int, layers: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """The shapes of GPT-2 with 4 + 12 `layers` leaves: 124 M parameters at width 768."""
    norm = {"scale": (width,), "bias": (width,)}
    shapes = {"wte": (vocabulary, width), "wpe": (1024, width)} | {f"ln_f/{k}": shape for k, shape in norm.items()}
    for layer in range(layers):
        shapes |= {f"h{layer}/{name}/{k}": shape for name in ("ln_1", "ln_2") for k, shape in norm.items()}
        for name, (rows, columns) in {"qkv": (1, 3), "proj": (1, 1), "fc": (1, 4), "out": (4, 1)}.items():
            shapes[f"h{layer}/{name}/kernel"] = (rows * width, columns * width)
            shapes[f"h{layer}/{name}/bias"] = (columns * width,)
    return shapes


def normal(shapes: dict[str, tuple[int, ...]], scale: float, seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {k: scale * jnp.asarray(rng.standard_normal(shape, np.float32)) for k, shape in shapes.items()}


def size(tree: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))


def clipped(lib: ModuleType) -> Any:
    schedule = lib.warmup_cosine_decay_schedule(0.0, 1e-2, 5, 1000)
    return lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(schedule, weight_decay=0.01))


def alone(lib: ModuleType) -> Any:
    return lib.adamw(1e-3, weight_decay=0.01)


def train_step(form: str, recipe: Callable[[ModuleType], Any]) -> tuple[Any, Callable[..., Any]]:
    """A transformation and the function that users write around it.

    Arguments and results stand in one order: XLA reuses a donated buffer for the result at the same place, and copies whole trees
    where `params` and `state` change places.
    """
    lib = optax if form == "optax" else jadam
    tx = recipe(lib)

    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        if form == "step":
            return tx.step(grads, state, params)
        updates, state = tx.update(grads, state, params)
        return lib.apply_updates(params, updates), state

    return tx, step


def seconds(calls: dict[str, Callable[[int], Callable[[], Any]]], reps: int) -> dict[str, float]:
    """The median time of each call. They run in turn; what makes them ready for a rep, and a first rep, are not timed."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for rep in range(reps + 1):
        for name, ready in calls.items():
            call = ready(rep)
            gc.collect()
            gc.disable()
            start = time.perf_counter()
            jax.block_until_ready(call())
            times[name].append(time.perf_counter() - start)
            gc.enable()
    return {name: median(values[1:]) for name, values in times.items()}


@dataclass
class Training:
    """A train step, and the parameters and state that it has reached."""

    step: Callable[..., Any]
    params: Any
    state: Any

    def advance(self, grads: Any) -> Any:
        self.params, self.state = self.step(self.params, self.state, grads)
        return self.params, self.state


def agree(start: Any, reached: Any, expected: Any) -> None:
    def largest(a: Any, b: Any) -> float:
        return max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))

    error = largest(reached, expected) / largest(expected, start)
    print(f"  difference of the parameters: {error:.1e} of the distance moved", file=sys.stderr)
    if not error < TOLERANCE:
        sys.exit(f"The two libraries differ by {error:.1e} of the distance moved; {TOLERANCE:g} is allowed.")


def steps(
    work: str,
    shapes: dict[str, tuple[int, ...]],
    recipe: Callable[[ModuleType], Any],
    reps: int,
    goal: float,
    eager: bool = False,
) -> Iterator[Row]:
    """Time of a step, and memory it needs beside its arguments and results."""
    print(work, file=sys.stderr)
    params = normal(shapes, 0.02, seed=0)
    # Adam does not see the scale of its gradients unless it changes: two sets, so that a clip left out shows.
    grads = [normal(shapes, 1.0, seed=1), normal(shapes, 3.0, seed=2)]
    trainings, temporary = {}, {}
    for form in FORMS:
        tx, step = train_step(form, recipe)
        state = tx.init(params)
        if not eager:
            step = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads[0]).compile()
            temporary[form] = step.memory_analysis().temp_size_in_bytes / size(params)
        trainings[form] = Training(step, jax.tree.map(jnp.copy, params), state)

    def ready(training: Training) -> Callable[[int], Callable[[], Any]]:
        return lambda rep: lambda: training.advance(grads[rep % 2])

    times = seconds({form: ready(training) for form, training in trainings.items()}, reps)
    for form in ("update", "step"):
        agree(params, trainings[form].params, trainings["optax"].params)
        yield Row(f"{work}: {FORMS[form]}", "ms", 1e3 * times["optax"], 1e3 * times[form], goal)
    if recipe is clipped and temporary:
        for form in ("update", "step"):
            text = f"{work}: temporary memory, {FORMS[form]}"
            yield Row(text, "B/param", temporary["optax"], temporary[form], 0.02, absolute=True)


def traces(sizes: Sizes) -> Iterator[Row]:
    """Time until the compiler starts. Each rep has another width, so that JAX has seen none of its shapes."""

    def ready(form: str, lower: bool) -> Callable[[int], Callable[[], None]]:
        def make(rep: int) -> Callable[[], None]:
            shapes = gpt2(sizes.width + 8 * rep, sizes.layers, sizes.vocabulary)
            params = {k: jax.ShapeDtypeStruct(shape, jnp.float32) for k, shape in shapes.items()}
            tx, step = train_step(form, clipped)
            arguments = params, jax.eval_shape(tx.init, params), params

            def call() -> None:
                traced = jax.jit(step).trace(*arguments)
                if lower:
                    traced.lower()

            return call

        return make

    print("trace", file=sys.stderr)
    calls = {f"{form} {lower}": ready(form, lower) for lower in (True, False) for form in ("optax", "update")}
    times = {name: 1e3 * value for name, value in seconds(calls, sizes.reps).items()}
    yield Row("clip + AdamW, GPT-2: trace + lower, first build", "ms", times["optax True"], times["update True"], 0.5)
    yield Row("the same built again: trace", "ms", times["optax False"], times["update False"], 0.15)


def memory() -> Iterator[Row]:
    params = {"w": jax.ShapeDtypeStruct((4096, 4096), jnp.float32)}

    def per_parameter(tx: Any) -> float:
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(tx.init, params))) / size(params)

    mine, theirs = alone(jadam), alone(optax)
    small = jadam.with_precision(mine, state="bfloat16"), optax.adamw(1e-3, mu_dtype="bfloat16")
    yield Row("state of AdamW", "B/param", per_parameter(theirs), per_parameter(mine), 8, absolute=True)
    text = 'state of AdamW: jadam `state="bfloat16"`, optax `mu_dtype="bfloat16"`'
    yield Row(text, "B/param", per_parameter(small[1]), per_parameter(small[0]), 4, absolute=True)


def imports(reps: int) -> Iterator[Row]:
    def once(name: str) -> float:
        code = f"import time, jax, jax.numpy; t = time.perf_counter(); import {name}; print(time.perf_counter() - t)"
        return 1e3 * float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True).stdout)

    print("import", file=sys.stderr)
    pairs = [(once("optax"), once("jadam")) for _ in range(reps)]
    theirs, mine = (median(column) for column in zip(*pairs, strict=True))
    yield Row("import after jax", "ms", theirs, mine, 60, absolute=True)


def rows(sizes: Sizes) -> Iterator[Row]:
    one_leaf, tree = {"w": sizes.one_leaf}, gpt2(sizes.width, sizes.layers, sizes.vocabulary)
    named = {"one leaf": one_leaf, "GPT-2": tree}
    for recipe, title, goals in ((clipped, "clip + AdamW + cosine", (0.55, 0.6)), (alone, "AdamW", (1.0, 1.0))):
        for (name, shapes), goal in zip(named.items(), goals, strict=True):
            millions = sum(int(np.prod(shape)) for shape in shapes.values()) / 1e6
            work = f"{title}, {name} ({millions:.3g} M in {len(shapes)})"
            yield from steps(work, shapes, recipe, sizes.reps, goal)
    yield from traces(sizes)
    leaves = {f"w{i}": (32, 32) for i in range(148)}
    yield from steps("eager, clip + AdamW + cosine, 148 small leaves", leaves, clipped, sizes.reps, 0.07, eager=True)
    leaves = dict(list(leaves.items())[:100])
    yield from steps("eager, AdamW, 100 small leaves", leaves, alone, sizes.reps, 0.07, eager=True)
    yield from memory()
    yield from imports(sizes.imports)


def machine() -> str:
    info = Path("/proc/cpuinfo")
    models = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line] if info.exists() else []
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "optax", "jadam"))
    return (
        f"{(models or [platform.processor()])[0]}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"JAX on {jax.default_backend()}; Python {platform.python_version()}, {versions}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, 2 reps")
    parser.add_argument("--out", type=Path, help="write the Markdown to this file too")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    text = "\n".join(
        [
            f"# `python tests/bench/speed.py{' --quick' if options.quick else ''}`\n",
            f"{machine()}\n",
            f"Medians of {sizes.reps} interleaved reps ({sizes.imports} imports); compiled steps with donated arguments.\n",
            "| work | optax | jadam | ratio | goal | met |\n|---|---|---|---|---|---|",
            *map(str, rows(sizes)),
        ]
    )
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
