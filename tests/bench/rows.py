"""How fast a step on some rows of a table is, beside optax's dense Adam, in one process and interleaved.

    python tests/bench/rows.py [--quick] [--reps N] [--out FILE]

Prints a Markdown table: rows of the table and rows touched, milliseconds of `optax.adam` on the dense gradient, of `tx.step` on
`Rows`, with ids that are distinct, with catching up, and on a GPU in one kernel; their ratio, the goal and whether it is met.
Parameters and states are donated. Then the time of 4,000,000 rows against that of 250,000. The script exits non-zero if touched
rows differ from optax's by more than 1e-4 of the distance moved. `--quick` is a smoke test with small tables, whose numbers
mean little.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from speed import machine

import jadam

WIDTH = 64
TOLERANCE = 1e-4  # of the distance moved
GOALS = {(1_000_000, 4096): 0.05}
SIZES = ((1_000_000, 4096), (1_000_000, 65_536), (100_000, 4096))
QUICK = ((20_000, 64),)
KINDS: dict[str, tuple[Any, bool]] = {
    "ids as they come": (jadam.adam(1e-3), False),
    "distinct": (jadam.adam(1e-3), True),
    "catch_up": (jadam.lazy(jadam.adam(1e-3), catch_up=True), True),
}
if jax.default_backend() == "gpu":  # elsewhere it is interpreted
    KERNEL = jadam.with_precision(jadam.adam(1e-3), kernel="pallas")
    KINDS |= {"one kernel": (KERNEL, False), "one kernel, distinct": (KERNEL, True)}


def dense(params: Any, state: Any, ids: Any, values: Any) -> tuple[Any, Any]:
    """What a gather's gradient costs in optax: a table of zeros, and a step over all of it."""
    updates, state = optax.adam(1e-3).update(jnp.zeros_like(params).at[ids].add(values), state, params)
    return optax.apply_updates(params, updates), state


def sparse(tx: Any, distinct: bool) -> Callable[..., tuple[Any, Any]]:
    return lambda params, state, ids, values: tx.step(jadam.Rows(ids, values, distinct=distinct), state, params)


class Timed:
    """A step that is run again and again on its own parameters."""

    def __init__(self, tx: Any, step: Callable[..., tuple[Any, Any]], length: int):
        self.params = jnp.zeros((length, WIDTH))
        self.state, self.step = tx.init(self.params), jax.jit(step, donate_argnums=(0, 1))
        self.times: list[float] = []

    def run(self, ids: Any, values: Any, timed: bool = True) -> None:
        """One step."""
        start = time.perf_counter()
        self.params, self.state = jax.block_until_ready(self.step(self.params, self.state, ids, values))
        if timed:
            self.times.append(1e3 * (time.perf_counter() - start))


def batches(length: int, touched: int, count: int) -> list[tuple[Any, Any]]:
    """Sorted, distinct ids, and a gradient for each."""
    rng = np.random.default_rng(0)
    ids = [np.sort(rng.choice(length, touched, replace=False)).astype(np.int32) for _ in range(count)]
    return [(jnp.asarray(x), jnp.asarray(rng.standard_normal((touched, WIDTH)), jnp.float32)) for x in ids]


def milliseconds(runs: list[Timed], length: int, touched: int, reps: int) -> None:
    """Times all of them, interleaved; the first step of each compiles."""
    for number, batch in enumerate(batches(length, touched, reps + 1)):
        for run in runs:
            run.run(*batch, timed=number > 0)


def lines(sizes: tuple[tuple[int, int], ...], reps: int) -> list[str]:
    """The rows of the table, after a comparison of the first step."""
    found = []
    for length, touched in sizes:
        [(ids, values)] = batches(length, touched, 1)
        theirs = Timed(optax.adam(1e-3), dense, length)
        ours = {kind: Timed(tx, sparse(tx, distinct), length) for kind, (tx, distinct) in KINDS.items()}
        for run in (theirs, *ours.values()):
            run.run(ids, values, timed=False)
        for kind, run in ours.items():
            apart = float(jnp.abs(run.params[ids] - theirs.params[ids]).max() / jnp.abs(theirs.params[ids]).max())
            if not apart <= TOLERANCE:
                sys.exit(f"{kind}: {apart:.1e} of the distance moved apart from optax")
        milliseconds([theirs, *ours.values()], length, touched, reps)
        base, goal = median(theirs.times), GOALS.get((length, touched))
        for kind, run in ours.items():
            ratio = median(run.times) / base
            met = "" if goal is None else f"<= {goal} | {'yes' if ratio <= goal else 'no'}"
            found.append(
                f"| {length:,} x {touched:,}, {kind} | {base:.3g} | {median(run.times):.3g} | {ratio:.3g} | {met or ' | '} |"
            )
    return found


def flatness(long: int, short: int, touched: int, reps: int) -> str:
    """The time of a long table against that of a short one, with as many rows touched."""
    tx, distinct = KINDS["ids as they come"]
    runs = {length: Timed(tx, sparse(tx, distinct), length) for length in (long, short)}
    for batch in zip(*(batches(length, touched, reps + 1) for length in runs), strict=True):
        for run, own in zip(runs.values(), batch, strict=True):
            run.run(*own)
    times = [median(run.times[1:]) for run in runs.values()]
    ratio = times[0] / times[1]
    met = "yes" if ratio <= 1.5 else "no"
    return f"| {long:,} rows against {short:,} | {times[1]:.3g} | {times[0]:.3g} | {ratio:.3g} | <= 1.5 | {met} |"


def main(arguments: list[str] | None = None) -> list[str]:
    """Prints the table, and returns its lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--reps", type=int, default=15)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    reps = 2 if options.quick else options.reps
    table = [
        f"{machine()}; rows of {WIDTH} float32, median of {reps} interleaved steps, ms.",
        "",
        "| table x rows touched | optax, dense | jadam, rows | ratio | goal | met |",
        "|---|---|---|---|---|---|",
        *lines(QUICK if options.quick else SIZES, reps),
        flatness(*((4000, 1000, 64) if options.quick else (4_000_000, 250_000, 4096)), reps),
    ]
    print("\n".join(table))
    if options.out:
        options.out.write_text("\n".join(table) + "\n")
    return table


if __name__ == "__main__":
    main()
