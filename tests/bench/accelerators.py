"""What steps cost on an H100 and on TPUs, told by their own compilers, without a device.

    pip install -e '.[test,accelerators]'
    JAX_PLATFORMS=cpu python tests/bench/accelerators.py [h100 v5e v5p v6e] [--figure docs/accelerators.png]

Prints Markdown tables: bytes moved between memory and chip, temporary memory and kernels, which are the same on every run;
and the time to compile against optax's, which is not. `--figure` draws the bytes of the first two targets.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

import compilers
import jax
import optax
from support import OPTIMIZERS
from test_cost import GPT2, MATRIX, clipped_adamw, measured

import jadam

KERNELS = "xla", "pallas"
NAMES = {"h100": "H100", "v5e": "TPU v5e", "v5p": "TPU v5p", "v6e": "TPU v6e"}
CLIPPED = "clip + AdamW, GPT-2"
EIGHT = "AdamW, bfloat16, int8"
DRAWN = (CLIPPED, EIGHT, "adamw", "adadelta", "adan", "lamb", "stable_adamw", "adafactor")
COLORS = {"limit": "#111111", "jadam": "#1f77b4", "optax": "#ff7f0e"}

Moved = dict[str, dict[str, float]]
"""Bytes a parameter of each work, by library, and the limit."""


def limit(tx, shapes, dtype="float32", again=0):
    """Parameters, gradients and state in, and parameters and state out; gradients as often again as they must be read."""
    params = jax.tree.map(lambda shape: jax.ShapeDtypeStruct(shape, dtype), shapes, is_leaf=lambda x: isinstance(x, tuple))
    held, state = (
        sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(x)) for x in (params, jax.eval_shape(tx.init, params))
    )
    return ((3 + again) * held + 2 * state) / sum(x.size for x in jax.tree.leaves(params))


def shown(found):
    return f"{found.moved:.2f} ({found.temporary:.2f})"


def clipped(target, reps=3):
    """GPT-2, by both libraries; the time until it is compiled is the median of some that start from nothing, in turns."""
    print(f"\n| {CLIPPED} | limit | bytes moved a parameter | temporary | kernels | branches | lowered and compiled |")
    print("|---|---|---|---|---|---|---|")
    seconds, found = {optax: [], jadam: []}, {}
    for _ in range(reps):
        for lib in seconds:
            jax.clear_caches()
            start = time.process_time()
            found[lib] = measured(target, clipped_adamw(lib), GPT2, lib=lib)
            seconds[lib].append(time.process_time() - start)
    least = limit(clipped_adamw(jadam), GPT2, again=1)
    for lib, one in found.items():
        columns = f"{least:.2f} | {one.moved:.2f} | {one.temporary:.3f} | {one.kernels} | {one.conditionals}"
        print(f"| {lib.__name__} | {columns} | {median(seconds[lib]) / median(seconds[optax]):.2f} of optax's |", flush=True)
    return {CLIPPED: {"limit": least} | {lib.__name__: one.moved for lib, one in found.items()}}


def storages(target):
    """Of AdamW, with the kernels that XLA makes and with ours."""
    columns = [f"{kernel} by `{by}`" for kernel in KERNELS for by in ("update", "step")]
    print(f"\n| AdamW of a bfloat16 matrix | limit | {' | '.join(columns)} |\n|---|---|{'---|' * len(columns)}")
    moved = {}
    for state in ("float32", "bfloat16", "int8"):
        for params in ("nearest", "stochastic", "kahan", "remainder"):
            made = [jadam.with_precision(jadam.adamw(1e-3), state=state, params=params, kernel=kernel) for kernel in KERNELS]
            found = [measured(target, tx, MATRIX, "bfloat16", by) for tx in made for by in ("update", "step")]
            least = limit(made[0], MATRIX, "bfloat16")
            print(f"| state={state!r}, params={params!r} | {least:.2f} | {' | '.join(map(shown, found))} |", flush=True)
            moved[state, params] = {"limit": least, "jadam": min(one.moved for one in found)}
    return {EIGHT: moved["int8", "stochastic"]}


def optimizers(target):
    """Of a matrix in float32; above the limit are norms, sums and products that need passes of their own."""
    print("\n| float32 matrix: bytes moved a parameter (temporary) | limit | optax | jadam |\n|---|---|---|---|")
    moved = {}
    for name, make in sorted(OPTIMIZERS.items()):
        if name == "soap" and target != "h100":
            continue  # compilers for TPU take more than five minutes for its decompositions
        theirs = getattr(optax, name, None) or getattr(optax.contrib, name, None)
        given = {"momentum": 0.9} if name == "sgd" else {}
        mine = make(1e-3, **given)
        found = {"optax": measured(target, theirs(1e-3, **given), MATRIX, lib=optax)} if theirs else {}
        found["jadam"] = measured(target, mine, MATRIX, passes=5)  # of Newton-Schulz, the only loop
        moved[name] = {"limit": limit(mine, MATRIX)} | {lib: one.moved for lib, one in found.items()}
        columns = " | ".join(shown(found[lib]) if lib in found else "" for lib in ("optax", "jadam"))
        print(f"| {name} | {moved[name]['limit']:.2f} | {columns} |", flush=True)
    return moved


def figure(found: dict[str, Moved], file: Path) -> None:
    """Bars of the bytes, for each target one panel above the other: a phone is narrow."""
    from matplotlib import lines, patches  # extras that only the figure needs
    from matplotlib import pyplot as plt

    targets = list(found)[:2]
    _, axes = plt.subplots(len(targets), figsize=(4.6, 3.9 * len(targets)), squeeze=False)
    for ax, target in zip(axes[:, 0], targets, strict=True):
        works = [work for work in DRAWN if work in found[target]]
        for at, work in enumerate(works):
            one = found[target][work]
            for lib, shift in (("optax", 0.2), ("jadam", -0.2)):
                if lib in one:
                    ax.barh(at + shift, one[lib], 0.38, color=COLORS[lib])
                    ax.text(
                        max(one[lib], one["limit"] if one[lib] > one["limit"] - 2 else 0) + 0.6,
                        at + shift,
                        f"{one[lib]:.1f}".removesuffix(".0"),
                        va="center",
                        fontsize=9,
                    )
            ax.plot([one["limit"]] * 2, [at - 0.45, at + 0.45], color=COLORS["limit"], lw=2)
        ax.set_yticks(range(len(works)), [work.replace(", ", ",\n", 1) for work in works], fontsize=9)
        ax.invert_yaxis()
        ax.set_xlim(0, 58)
        ax.set_title(f"{NAMES[target]}: bytes moved a parameter", fontsize=11, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    handles = [patches.Rectangle((0, 0), 1, 1, color=COLORS[lib]) for lib in ("jadam", "optax")]
    handles.append(lines.Line2D([0], [0], color=COLORS["limit"], lw=2))
    axes[0, 0].legend(handles, ["jadam", "optax", "limit"], fontsize=9, loc="lower right", frameon=False)
    plt.tight_layout()
    plt.savefig(file, dpi=180)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=["h100", "v5e"], metavar="target", help=" ".join(compilers.TARGETS))
    parser.add_argument("--figure", type=Path, help="draw the bytes of the first two targets to this file")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    found: dict[str, Moved] = {}
    for target in options.targets:
        print(f"\n### {NAMES[target]}")
        found[target] = clipped(target)
        found[target] |= storages(target) | optimizers(target)
    if options.figure:
        figure(found, options.figure)


if __name__ == "__main__":
    main()
