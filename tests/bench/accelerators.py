"""What steps cost on an H100 and on TPUs, told by their own compilers, without a device.

    pip install -e '.[test,accelerators]'
    JAX_PLATFORMS=cpu python tests/bench/accelerators.py [h100 v5e v5p v6e]

Prints Markdown tables: bytes moved between memory and chip, temporary memory and kernels. All are the same on every run.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import compilers
import optax
from test_cost import GPT2, MATRIX, clipped_adamw, measured

import jadam

OPTIMIZERS = (
    *("sgd", "rmsprop", "adagrad", "adadelta", "adam", "adamw", "adamax", "amsgrad", "nadam", "nadamw", "radam", "adabound"),
    *("adabelief", "yogi", "adan", "adopt", "ademamix", "adam_atan2", "laprop", "mars_adamw", "stable_adamw", "lion", "lamb"),
    *("adafactor", "big_vision_adafactor", "adam_mini", "schedule_free_adamw", "prodigy", "muon"),
)


def shown(found):
    return f"{found.moved:.2f} ({found.temporary:.2f})"


def clipped(target):
    print("\n| clip + AdamW + cosine, GPT-2 | bytes moved a parameter | temporary | kernels | branches | lowered, compiled |")
    print("|---|---|---|---|---|---|")
    for lib in (optax, jadam):
        start = time.perf_counter()
        found = measured(target, clipped_adamw(lib), GPT2, lib=lib)
        seconds = time.perf_counter() - start
        columns = f"{found.moved:.2f} | {found.temporary:.3f} | {found.kernels} | {found.conditionals} | {seconds:.1f} s"
        print(f"| {lib.__name__} | {columns} |", flush=True)


def storages(target):
    print("\n| AdamW of a bfloat16 matrix: bytes moved a parameter (temporary) | by `update` | by `step` |\n|---|---|---|")
    for state in ("float32", "bfloat16", "int8"):
        for params in ("nearest", "stochastic", "kahan", "remainder"):
            tx = jadam.with_precision(jadam.adamw(1e-3), state=state, params=params)
            ways = [shown(measured(target, tx, MATRIX, "bfloat16", by)) for by in ("update", "step")]
            print(f"| state={state!r}, params={params!r} | {' | '.join(ways)} |", flush=True)


def optimizers(target):
    print("\n| float32 matrix: bytes moved a parameter (temporary) | optax | jadam |\n|---|---|---|")
    for name in OPTIMIZERS:
        theirs = getattr(optax, name, None) or getattr(optax.contrib, name, None)
        columns = [
            shown(measured(target, make(1e-3, **({"momentum": 0.9} if name == "sgd" else {})), MATRIX, lib=lib)) if make else ""
            for lib, make in ((optax, theirs), (jadam, getattr(jadam, name)))
        ]
        print(f"| {name} | {' | '.join(columns)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", default=["h100", "v5e"], metavar="target", help=" ".join(compilers.TARGETS))
    warnings.filterwarnings("ignore")
    for target in parser.parse_args().targets:
        print(f"\n### {target}")
        clipped(target)
        storages(target)
        optimizers(target)


if __name__ == "__main__":
    main()
