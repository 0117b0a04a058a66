"""How fast a step is on a GPU: against a copy of as many bytes, against optax, and with the numbers of the CPU.

    python tests/bench/gpu.py [--out FILE]

Prints Markdown tables, all of one process: time of a step, the share of the copy's bandwidth at which it moves its bytes
(every array of parameters, gradients and state once in, and once out if it changes; with a clip the gradients twice), and
its ratio to optax's. Then steps on the GPU are compared with those on the CPU; the script exits non-zero where they differ.
Without a GPU it is a smoke test of small sizes, whose times mean nothing.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from speed import Recipe, Shapes, alone, clipped, count, gpt2, machine, milliseconds, train_step

import jadam


@dataclass(frozen=True)
class Sizes:
    reps: int = 15
    repeats: int = 10  # steps between two looks at the clock, so that launching the next hides behind the last
    matrices: tuple[int, ...] = (2**24, 2**26, 2**28, 2**30)
    stored: int = 2**26
    gpt2: tuple[int, int, int] = (768, 12, 50257)
    small: int = 1000


QUICK = Sizes(reps=1, repeats=1, matrices=(2**14,), stored=2**14, gpt2=(32, 1, 500), small=3)
# Of the distance moved, as root mean squares. In 16 bits and 8, numbers that differ in the last bit of float32 may be rounded
# to neighbours, now and then; were the random bits others, it would be more (tests/test_accuracy.py).
TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-3}
AWKWARD: Shapes = {"matrix": (300, 257), "cube": (7, 5, 129), "vector": (1000,), "short": (3,), "scalar": ()}


def square(size: int) -> tuple[int, int]:
    rows = 2 ** (int(math.log2(size)) // 2)
    return rows, size // rows


@partial(jax.jit, static_argnums=(0, 1, 3))
def _normal(shapes: tuple[tuple[int, ...], ...], scale: float, seed: int, dtype: Any) -> list[jax.Array]:
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [scale * jax.random.normal(key, shape, dtype) for key, shape in zip(keys, shapes, strict=True)]


def normal(shapes: Shapes, scale: float, seed: int, dtype: Any) -> dict[str, jax.Array]:
    """Made on the device: a host takes longer to make a billion numbers than the rest of the page."""
    kinds = sorted(set(shapes.values()))  # a program for each kind of leaf, not for each tree
    made = {kind: iter(_normal((kind,) * list(shapes.values()).count(kind), scale, seed, dtype)) for kind in kinds}
    return {name: next(made[shape]) for name, shape in shapes.items()}


def nbytes(tree: Any) -> int:
    return sum(x.nbytes for x in jax.tree.leaves(tree))


def stored(**how: Any) -> Recipe:
    return lambda lib: alone(lib) if lib is optax else jadam.with_precision(alone(lib), **how)


def storages() -> dict[str, Recipe]:
    """Every storage of AdamW, by XLA's own kernels and by ours, by name."""
    found = {}
    for state in ("float32", "bfloat16", "int8"):
        for params in ("nearest", "stochastic", "kahan", "remainder"):
            for kernel in ("xla", "pallas"):
                how = {"state": state, "params": params, "kernel": kernel}
                found[", ".join(f"{key}={value!r}" for key, value in how.items())] = stored(**how)
    return found


def bandwidth(sizes: Sizes) -> float:
    """Bytes a millisecond, in and out, of the fastest thing that a kernel can do: to write an array negated over itself."""
    negate = jax.jit(lambda x: -x, donate_argnums=0)
    x = [jnp.ones(max(sizes.matrices) // 2, jnp.float32)]

    def run() -> Any:
        x[0] = negate(x[0])
        return x[0]

    return 2 * x[0].nbytes / milliseconds({"copy": lambda rep: run}, sizes.reps, sizes.repeats)["copy"]


def fits(shapes: Shapes, itemsize: int = 4) -> bool:
    """Whether both libraries' parameters and states, and the gradients, are there together."""
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit", math.inf)
    return 8 * itemsize * count(shapes) < limit


def line(work: str, shapes: Shapes, recipe: Recipe, sizes: Sizes, copy: float, dtype: Any = jnp.float32) -> str:
    """A line of the table: jadam's `step` of a recipe beside optax's `update` of the same."""
    if not fits(shapes):
        return f"| {work} | does not fit | | | |"
    grads = normal(shapes, 1.0, 1, dtype)
    runs, reached, moved = {}, {}, 0
    for form in ("optax", "step"):
        tx, step = train_step(form, recipe)
        params = normal(shapes, 0.02, 0, dtype)
        state = tx.init(params)
        moved = 2 * nbytes((params, state)) + (2 if recipe is clipped else 1) * nbytes(grads)  # in the end jadam's
        runs[form] = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, grads).compile()
        reached[form] = params, state

    def advance(form: str) -> Any:
        reached[form] = runs[form](*reached[form], grads)
        return reached[form][0]

    times = milliseconds({form: lambda rep, form=form: partial(advance, form) for form in runs}, sizes.reps, sizes.repeats)
    theirs, ours = times["optax"], times["step"]
    return f"| {work} | {theirs:.4g} ms | {ours:.4g} ms | {ours / theirs:.3f} | {moved / ours / copy:.0%} |"


def speeds(sizes: Sizes) -> Iterator[str]:
    copy = bandwidth(sizes)
    yield f"A copy moves {copy / 1e6:.1f} GB/s, in and out together.\n"
    yield "| work | optax | jadam | ratio | of the copy's bandwidth |\n|---|---|---|---|---|"
    trees = {f"one leaf of {size / 1e6:.4g} M": {"w": square(size)} for size in sizes.matrices}
    trees["GPT-2, 148 leaves"] = gpt2(*sizes.gpt2)
    trees[f"{sizes.small} leaves of 32x32"] = {f"w{i}": (32, 32) for i in range(sizes.small)}
    for tree, shapes in trees.items():
        for title, recipe in (("AdamW", alone), ("clip + AdamW + cosine", clipped)):
            yield line(f"float32, {tree}, {title}", shapes, recipe, sizes, copy)
    shapes = {"w": square(sizes.stored)}
    for name, recipe in storages().items():
        work = f"bfloat16, one leaf of {sizes.stored / 1e6:.4g} M, AdamW, {name} (optax: all bfloat16)"
        yield line(work, shapes, recipe, sizes, copy, jnp.bfloat16)


def reached(recipe: Recipe, dtype: Any, device: Any) -> tuple[Any, Any]:
    """Parameters at the start and after three steps on a device, in float32 of the host."""
    tx, step = train_step("step", recipe)
    start, *grads = jax.device_put([normal(AWKWARD, 0.02 if seed == 0 else 1.0, seed, dtype) for seed in range(4)], device)
    params, state, step = start, tx.init(start), jax.jit(step)
    for g in grads:
        params, state = step(params, state, g)
    return jax.tree.map(lambda x: np.asarray(x, np.float32), (start, params))


def rms(one: Any, other: Any) -> float:
    return math.sqrt(sum(float(np.sum((one[name] - other[name]) ** 2)) for name in one))


def comparisons() -> Iterator[tuple[str, float, float]]:
    """How far each recipe's parameters on the device are from those that XLA on the CPU reaches, and how far they may be."""
    works = {"float32, clip + AdamW + cosine": (clipped, jnp.float32)}
    works |= {f"bfloat16, AdamW, {name}": (recipe, jnp.bfloat16) for name, recipe in storages().items()}
    cpu, device = jax.devices("cpu")[0], jax.devices()[0]
    expected: dict[str, tuple[Any, Any]] = {}
    for name, (recipe, dtype) in works.items():
        plain = name.replace("pallas", "xla")
        if plain not in expected:
            expected[plain] = reached(works[plain][0], dtype, cpu)
        found = reached(recipe, dtype, device)[1] if device != cpu or plain != name else expected[plain][1]
        yield name, rms(found, expected[plain][1]) / rms(*expected[plain]), TOLERANCE[jnp.dtype(dtype).name]


def page(sizes: Sizes) -> Iterator[str]:
    yield f"# `python tests/bench/gpu.py`\n\n{jax.devices()[0].device_kind}; {machine()}\n"
    yield f"Medians of {sizes.reps} reps of {sizes.repeats} steps, interleaved; steps have donated arguments.\n"
    yield from speeds(sizes)
    yield "\n| three steps on awkward shapes, against the CPU | of the distance moved | may be | equal |\n|---|---|---|---|"
    for name, error, bound in comparisons():
        yield f"| {name} | {error:.1e} | {bound:.0e} | {'yes' if error <= bound else '**no**'} |"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the Markdown to this file too")
    options = parser.parse_args(arguments)
    sizes = Sizes() if jax.default_backend() == "gpu" else QUICK
    lines = []
    for text in page(sizes):
        print(text, flush=True)
        lines.append(text)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")
    if any("**no**" in text for text in lines):
        sys.exit("The steps on the device are not those of the CPU.")


if __name__ == "__main__":
    main()
