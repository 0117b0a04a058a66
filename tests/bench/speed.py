"""Speed, memory and import time of jadam beside optax's, in one process and interleaved.

    python tests/bench/speed.py [--quick] [--out FILE]

Prints a Markdown table: work, optax, jadam, their ratio, the goal and whether it is met; `--out` writes it to a file too.
`--quick` is a smoke test with small sizes, whose numbers mean little. Where steps are timed, the parameters that the two
libraries have reached are compared; the script exits non-zero if they differ by more than 1e-4 of the distance moved.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
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

TOLERANCE = 1e-4  # of the distance moved; optax's bias correction in float32 makes 1e-5 of it (see accuracy.py)
FORMS = {"optax": "optax", "update": "update + apply_updates", "step": "step"}  # the first is the yardstick

Shapes = dict[str, tuple[int, ...]]
Recipe = Callable[[ModuleType], Any]


@dataclass(frozen=True)
class Sizes:
    reps: int = 15
    imports: int = 7
    one_leaf: tuple[int, int] = (8192, 4096)
    gpt2: tuple[int, int, int] = (768, 12, 50257)  # width, layers, vocabulary
    eager: tuple[int, int] = (148, 100)  # leaves, of the clipped step and of AdamW alone


QUICK = Sizes(reps=2, imports=1, one_leaf=(256, 128), gpt2=(32, 1, 500), eager=(12, 8))


def row(work: str, unit: str, theirs: float, mine: float, goal: float, absolute: bool = False) -> str:
    """A line of the table; the goal is for the ratio, or for jadam's own number if `absolute`. Judged as it is shown."""
    shown = [f"{x:.4g}" for x in (theirs, mine, mine / theirs)]
    met = float(shown[1 if absolute else 2]) <= goal
    bound = f"<= {goal:g}{' ' + unit if absolute else ''}"
    return f"| {work} | {shown[0]} {unit} | {shown[1]} {unit} | {shown[2]} | {bound} | {'yes' if met else '**no**'} |"


def gpt2(width: int, layers: int, vocabulary: int) -> Shapes:
    """The shapes of GPT-2 in 4 + 12 `layers` leaves; 124 M parameters by default."""
    shapes = {"wte": (vocabulary, width), "wpe": (1024, width), "ln_f/scale": (width,), "ln_f/bias": (width,)}
    for layer in range(layers):
        for norm in ("ln_1", "ln_2"):
            shapes |= {f"h{layer}/{norm}/scale": (width,), f"h{layer}/{norm}/bias": (width,)}
        for name, rows, columns in (("qkv", 1, 3), ("proj", 1, 1), ("fc", 1, 4), ("out", 4, 1)):
            shapes[f"h{layer}/{name}/kernel"] = (rows * width, columns * width)
            shapes[f"h{layer}/{name}/bias"] = (columns * width,)
    return shapes


def normal(shapes: Shapes, scale: float, seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {name: scale * jnp.asarray(rng.standard_normal(shape, np.float32)) for name, shape in shapes.items()}


def abstract(shapes: Shapes) -> dict[str, jax.ShapeDtypeStruct]:
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}


def count(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def clipped(lib: ModuleType) -> Any:
    schedule = lib.warmup_cosine_decay_schedule(0.0, 1e-2, 5, 1000)
    return lib.chain(lib.clip_by_global_norm(1.0), lib.adamw(schedule, weight_decay=0.01))


def alone(lib: ModuleType) -> Any:
    return lib.adamw(1e-3, weight_decay=0.01)


def train_step(form: str, recipe: Recipe) -> tuple[Any, Callable[..., Any]]:
    """A transformation, and the function that users write around it."""
    lib = optax if form == "optax" else jadam
    tx = recipe(lib)

    # Results in the order of the arguments: XLA pairs donated buffers of one shape with results in order, and copies where
    # the pairs cross.
    def step(params: Any, state: Any, grads: Any) -> tuple[Any, Any]:
        if form == "step":
            return tx.step(grads, state, params)
        updates, state = tx.update(grads, state, params)
        return lib.apply_updates(params, updates), state

    return tx, step


def milliseconds(works: dict[Any, Callable[[int], Callable[[], Any]]], reps: int, repeats: int = 1) -> dict[Any, float]:
    """The median time of each work, done in turn, to and fro. `work(rep)` makes it ready, untimed, as is a first rep."""
    times: dict[Any, list[float]] = {name: [] for name in works}
    for rep in range(reps + 1):
        for name in list(works)[:: 1 if rep % 2 else -1]:
            call = works[name](rep)
            gc.collect()
            gc.disable()
            start = time.perf_counter()
            for _ in range(repeats):
                jax.block_until_ready(call())
            times[name].append(1e3 * (time.perf_counter() - start) / repeats)
            gc.enable()
    return {name: median(values[1:]) for name, values in times.items()}


def steps(work: str, shapes: Shapes, recipe: Recipe, reps: int, goal: float, eager: bool = False) -> Iterator[str]:
    """Time of a step and, where it clips and is compiled, the memory it takes beside its arguments and results."""
    params = normal(shapes, 0.02, seed=0)
    # Adam sees the scale of its gradients only where it changes: two sets in turn, so that a clip left out shows.
    grads = [normal(shapes, 1.0, seed=1), normal(shapes, 3.0, seed=2)]
    run, reached, temporary = {}, {}, {}
    for form in FORMS:
        tx, step = train_step(form, recipe)
        state = tx.init(params)
        if not eager:
            step = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads[0]).compile()
            temporary[form] = step.memory_analysis().temp_size_in_bytes / count(shapes)
        run[form], reached[form] = step, (jax.tree.map(jnp.copy, params), state)

    def advance(form: str, rep: int) -> Any:
        reached[form] = run[form](*reached[form], grads[rep % 2])
        return reached[form]

    # A loop, as in a notebook: the collection before it empties the caches, which one short eager step would feel.
    times = milliseconds({form: lambda rep, form=form: partial(advance, form, rep) for form in FORMS}, reps, 20 if eager else 1)

    def apart(one: dict[str, jax.Array], other: dict[str, jax.Array]) -> float:
        return max(float(jnp.max(jnp.abs(one[name] - other[name]))) for name in one)

    theirs = reached["optax"][0]
    for form in ("update", "step"):
        error = apart(reached[form][0], theirs) / apart(theirs, params)
        print(f"{work}, {FORMS[form]}: parameters differ by {error:.1e} of the distance moved", file=sys.stderr)
        if not error < TOLERANCE:
            sys.exit(f"That is more than {TOLERANCE:g}: the two libraries do not do the same.")
        yield row(f"{work}: {FORMS[form]}", "ms", times["optax"], times[form], goal)
        if recipe is clipped and not eager:
            name = f"{work}: {FORMS[form]}, temporary memory"
            yield row(name, "B/param", temporary["optax"], temporary[form], 0.02, absolute=True)


def micro_steps(work: str, shapes: Shapes, recipe: Recipe, reps: int, goal: float) -> Iterator[str]:
    """Time of a micro-step, which adds a gradient to the mean of its window, as a share of a step; the memory that it takes."""
    params, grads, run, reached, temporary = normal(shapes, 0.02, seed=0), normal(shapes, 1.0, seed=1), {}, {}, {}
    for lib, form, window in ((optax, "optax", optax.MultiSteps), (jadam, "step", jadam.accumulate)):
        for waits, of in ((True, lambda lib, window=window: window(recipe(lib), 2**20)), (False, recipe)):
            tx, step = train_step(form, of)
            state = tx.init(params)
            run[lib, waits] = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads).compile()
            reached[lib, waits] = jax.tree.map(jnp.copy, params), state
            temporary[lib, waits] = run[lib, waits].memory_analysis().temp_size_in_bytes / count(shapes)

    def advance(key: Any) -> Any:
        reached[key] = run[key](*reached[key], grads)
        return reached[key]

    times = milliseconds({key: lambda _, key=key: partial(advance, key) for key in run}, reps)
    shares = [times[lib, True] / times[lib, False] for lib in (optax, jadam)]
    yield row(f"{work}: micro-step / step", "", *shares, goal, absolute=True)
    yield row(f"{work}: micro-step, temporary memory", "B/param", *(temporary[lib, True] for lib in (optax, jadam)), 8, True)


def watched(shapes: Shapes, reps: int) -> Iterator[str]:
    """Time of a guarded and of a watched step; in the place of optax stands the same step without."""
    own = clipped(jadam)
    forms = {"": own, "guard": jadam.guard(own), "monitor": jadam.monitor(own)}
    grads, run, reached = normal(shapes, 1.0, seed=1), {}, {}
    for form, tx in forms.items():
        params = normal(shapes, 0.02, seed=0)
        run[form] = jax.jit(lambda params, state, grads, tx=tx: tx.step(grads, state, params), donate_argnums=(0, 1))
        reached[form] = params, tx.init(params)

    def advance(form: str) -> Any:
        reached[form] = run[form](*reached[form], grads)
        return reached[form]

    times = milliseconds({form: lambda rep, form=form: partial(advance, form) for form in forms}, reps)
    for form, goal in (("guard", 1.1), ("monitor", 1.05)):
        yield row(f"`{form}` around clip + AdamW + cosine, beside the same without: step", "ms", times[""], times[form], goal)


def traces(sizes: Sizes) -> Iterator[str]:
    """Time until the compiler starts. Each build has another width, so that JAX has seen none of its shapes."""

    def tracer(form: str, number: int) -> Callable[[], Any]:
        params = abstract(gpt2(sizes.gpt2[0] + 8 * number, *sizes.gpt2[1:]))
        tx, step = train_step(form, clipped)
        return partial(jax.jit(step).trace, params, jax.eval_shape(tx.init, params), params)

    def build(form: str, again: bool, rep: int) -> Callable[[], Any]:
        trace = tracer(form, 2 * rep + again)
        if not again:
            return lambda: trace().lower()
        trace()
        return tracer(form, 2 * rep + 1)

    builds = {(form, again): partial(build, form, again) for again in (False, True) for form in ("optax", "update")}
    times = milliseconds(builds, sizes.reps)
    for again, name, goal in (
        (False, "clip + AdamW + cosine, GPT-2: trace + lower", 0.5),
        (True, "the same, built again: trace", 0.15),
    ):
        yield row(name, "ms", times["optax", again], times["update", again], goal)


def states() -> Iterator[str]:
    low = optax.adamw(1e-3, mu_dtype="bfloat16"), jadam.with_precision(alone(jadam), state="bfloat16")
    for name, pair, goal in (("", (alone(optax), alone(jadam)), 8), (" in bfloat16 (optax: mu only)", low, 4)):
        trees = [jax.tree.leaves(jax.eval_shape(tx.init, abstract({"w": (4096, 4096)}))) for tx in pair]
        sizes = [sum(x.size * x.dtype.itemsize for x in leaves) / 4096**2 for leaves in trees]
        yield row(f"state of AdamW{name}", "B/param", *sizes, goal, absolute=True)


def imports(reps: int) -> Iterator[str]:
    """Of the library alone, and until it has built something: names of jadam's are imported when they are asked for."""

    def once(name: str, then: str) -> float:
        code = f"import time, jax, jax.numpy; t = time.perf_counter(); import {name}; {then}; print(time.perf_counter() - t)"
        return 1e3 * float(subprocess.check_output([sys.executable, "-c", code], env=environment))

    with tempfile.TemporaryDirectory() as cache:  # bytecode as pip leaves it, whatever this machine is set to
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": cache}
        for work, then in ("", "0"), (", and build clip + AdamW", "{0}.chain({0}.clip_by_global_norm(1.0), {0}.adamw(1e-3))"):
            times = [(once("optax", then.format("optax")), once("jadam", then.format("jadam"))) for _ in range(reps + 1)]
            theirs, mine = map(median, zip(*times[1:], strict=True))  # the first writes the bytecode
            yield row(f"import after jax{work}", "ms", theirs, mine, 60, absolute=True)


def rows(sizes: Sizes) -> Iterator[str]:
    # Outside jit first, as in a fresh notebook: after the large steps allocation is slower, for both libraries.
    for recipe, title, leaves in zip((clipped, alone), ("clip + AdamW + cosine", "AdamW"), sizes.eager, strict=True):
        shapes = {f"w{i}": (32, 32) for i in range(leaves)}
        yield from steps(f"eager, {title}, {leaves} leaves of 32x32", shapes, recipe, sizes.reps, 0.07, eager=True)
    trees = {"one leaf": {"w": sizes.one_leaf}, "GPT-2": gpt2(*sizes.gpt2)}
    for recipe, title, goals in ((clipped, "clip + AdamW + cosine", (0.55, 0.6)), (alone, "AdamW", (1.0, 1.0))):
        for (name, shapes), goal in zip(trees.items(), goals, strict=True):
            work = f"{title}, {name} ({count(shapes) / 1e6:.3g} M in {len(shapes)})"
            yield from steps(work, shapes, recipe, sizes.reps, goal)
    for recipe, title, goal in ((clipped, "clip + AdamW + cosine", 0.4), (alone, "AdamW", 0.5)):
        yield from micro_steps(f"accumulate({title}), one leaf", trees["one leaf"], recipe, sizes.reps, goal)
    yield from watched({"w": sizes.one_leaf}, sizes.reps)
    yield from traces(sizes)
    yield from states()
    yield from imports(sizes.imports)


def machine() -> str:
    cpus = Path("/proc/cpuinfo")
    models = [x.split(":")[1].strip() for x in cpus.read_text().splitlines() if "model name" in x] if cpus.exists() else []
    versions = ", ".join(f"{name} {version(name)}" for name in ("jax", "jaxlib", "optax", "jadam"))
    system = f"{platform.system()} {platform.machine()}, JAX on {jax.default_backend()}"
    cpu = models[0] if models else platform.processor()
    return f"{cpu}, {os.cpu_count()} cores, {system}; Python {platform.python_version()}, {versions}."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, 2 reps")
    parser.add_argument("--out", type=Path, help="write the Markdown to this file too")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    head = [
        f"# `python tests/bench/speed.py{' --quick' if options.quick else ''}`\n\n{machine()}\n",
        f"Medians of {sizes.reps} reps, interleaved; compiled steps have donated arguments.\n",
        "| work | optax | jadam | ratio | goal | met |\n|---|---|---|---|---|---|",
    ]
    print(text := "\n".join([*head, *rows(sizes)]))
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
