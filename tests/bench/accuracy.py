"""Accuracy of the float32 Adam update over many steps, beside optax's: the largest relative error at any step.

    python tests/bench/accuracy.py [--steps 100000]

Prints a Markdown table, for three values of b2: the error of the whole update, `|u - u_ref| / |u_ref|`, and of single
elements where `|u_ref| > 0.1`. The reference is the paper's algorithm in float64 numpy on the same float32 gradients. Exits
non-zero if jadam's whole update is ever off by more than 1e-5.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jadam

GOAL = 1e-5
SCALES = np.geomspace(1e-6, 1e2, 64, dtype=np.float32)  # of the gradients, coordinate by coordinate


class Errors(NamedTuple):
    """The largest relative error at any step: of the update as a vector, and of its elements above 0.1."""

    whole: float
    element: float


def trajectory(tx: Any, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The gradients and updates of each step, in float32."""
    params = jnp.zeros(SCALES.shape, jnp.float32)

    def step(state: Any, count: jax.Array) -> tuple[Any, tuple[jax.Array, jax.Array]]:
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), count), SCALES.shape, jnp.float32)
        g = SCALES * noise
        u, state = tx.update(g, state, params)
        return state, (g, u)

    _, (gradients, updates) = jax.jit(lambda: jax.lax.scan(step, tx.init(params), jnp.arange(steps)))()
    if not gradients.dtype == updates.dtype == jnp.float32:
        raise TypeError(f"gradients are {gradients.dtype}, updates {updates.dtype}; both must be float32.")
    return np.asarray(gradients), np.asarray(updates)


def reference(gradients: np.ndarray, b2: float, b1: float = 0.9, eps: float = 1e-8) -> Iterator[np.ndarray]:
    """Kingma & Ba 2015, Algorithm 1, in float64."""
    m = v = np.zeros(gradients.shape[1])
    for t, g in enumerate(gradients.astype(np.float64), start=1):
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g * g
        yield m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)


def errors(tx: Any, b2: float, steps: int) -> Errors:
    """How far the updates of `tx`, a `scale_by_adam` with this `b2`, are from float64."""
    gradients, updates = trajectory(tx, steps)
    expected = np.stack(list(reference(gradients, b2)))
    off = np.abs(updates - expected)
    whole = np.linalg.norm(off, axis=1) / np.linalg.norm(expected, axis=1)
    large = np.abs(expected) > 0.1
    return Errors(float(np.max(whole)), float(np.max(off[large] / np.abs(expected[large]))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    steps = parser.parse_args().steps
    print(f"# `python tests/bench/accuracy.py --steps {steps}`\n")
    print("| b2 | optax, update | optax, element | jadam, update | jadam, element | goal for jadam, update | met |")
    print("|---|---|---|---|---|---|---|")
    worst = 0.0
    for b2 in (0.999, 0.9999, 0.99999):
        theirs, mine = (errors(lib.scale_by_adam(b2=b2), b2, steps) for lib in (optax, jadam))
        numbers = " | ".join(f"{value:.1e}" for value in (*theirs, *mine))
        print(f"| {b2} | {numbers} | <= {GOAL:g} | {'yes' if mine.whole <= GOAL else '**no**'} |", flush=True)
        worst = max(worst, mine.whole)
    sys.exit(worst > GOAL)


if __name__ == "__main__":
    main()
