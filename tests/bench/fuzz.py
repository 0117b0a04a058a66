"""Draws transformations of trees and checks the laws of `tests/fuzzing.py`, for as long as one likes.

    python tests/bench/fuzz.py [--examples 10000] [--seed 0] [--minutes 90]
    python tests/bench/fuzz.py --repeat "Example(tree=..., tx=..., law=...)"
    python tests/bench/fuzz.py --fault "steps are 1.3 times too long"

Prints a Markdown table of what was checked, what jadam refused in words, and each failure with the smallest example that was
found for it, as text that `--repeat` runs again. `--fault` plants one of the faults of `fuzzing.FAULTS`, and stops where it is
found. Exits non-zero if a law fails.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"  # as in the suite
sys.path.insert(0, str(Path(__file__).parents[1]))

import fuzzing
import jax
from fuzzing import Example
from hypothesis import HealthCheck, Phase, given, seed, settings
from tqdm import tqdm


class Tally:
    """What became of the examples.

    Attributes:
        checked: by the law that was compiled.
        refused: how many, by the last words but for numbers and names.
        failed: the smallest example and its error, by where and how it failed.
    """

    def __init__(self, until: float, first: bool):
        self.checked: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.failed: dict[str, tuple[Example, str]] = {}
        self.until, self.first = until, first
        self.drawn = 0

    @property
    def done(self) -> bool:
        return time.monotonic() > self.until or (self.first and bool(self.failed))

    def check(self, example: Example) -> None:
        self.drawn += 1
        try:
            words = fuzzing.check(example)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind = f"{example.law or 'types'}: {type(error).__name__} in {Path(place.filename).name}:{place.name}"
            if kind not in self.failed or len(str(example)) < len(str(self.failed[kind][0])):
                self.failed[kind] = example, " ".join(str(error).split())[:200]
            return
        if words:
            self.refused[words.split("(")[0].split(":")[0].split(".")[0]] += 1
        else:
            self.checked[example.law or "no law that compiles"] += 1

    def show(self) -> None:
        print("| checked beside types, hashes and reads | examples |\n|---|---|")
        for law, times in sorted(self.checked.items()):
            print(f"| {law.replace('_', ' ')} | {times:,} |")
        print(f"| refused in words, by {len(self.refused)} functions | {self.refused.total():,} |")
        print(f"| **failures, of {len(self.failed)} kinds** | {self.drawn - self.checked.total() - self.refused.total():,} |")
        for kind, (example, words) in self.failed.items():
            print(f"\n{kind}: {words}\n\n    {example}")


def draw(tally: Tally, examples: int, number: int) -> None:
    """Examples until there are enough, or the time is over."""
    progress = tqdm(total=examples, disable=not sys.stderr.isatty())

    # Generated in rounds: Hypothesis keeps what it has drawn, and stops where it believes to have seen all.
    @settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
    @given(fuzzing.examples)
    def check(example: Example) -> None:
        if not tally.done and tally.drawn < examples:
            tally.check(example)
            progress.update()
            progress.set_postfix(failures=len(tally.failed))

    while not tally.done and tally.drawn < examples:
        seed(number)(check)()
        jax.clear_caches()  # JAX keeps what it compiled for each new shape outside `jit`
        number += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=90.0)
    parser.add_argument("--repeat", help="an example as text, as it was printed")
    parser.add_argument("--fault", choices=fuzzing.FAULTS)
    args = parser.parse_args()
    jax.config.update("jax_numpy_dtype_promotion", "strict")
    jax.config.update("jax_numpy_rank_promotion", "raise")
    warnings.filterwarnings("ignore", ".*rounded to nearest")
    if args.repeat:
        print(fuzzing.check(eval(args.repeat, {"Example": Example})) or "the laws hold")
        return
    tally = Tally(time.monotonic() + 60 * args.minutes, bool(args.fault))
    print(f"# `python tests/bench/fuzz.py --examples {args.examples} --seed {args.seed}`\n")
    with fuzzing.FAULTS[args.fault]() if args.fault else contextlib.nullcontext():
        begin = time.monotonic()
        draw(tally, args.examples, args.seed)
        print(f"{tally.drawn:,} examples in {(time.monotonic() - begin) / 60:.1f} minutes.\n")
    tally.show()
    sys.exit(bool(tally.failed))


if __name__ == "__main__":
    main()
