"""Random layouts against one device: a mesh of eight, how parameters are spread over it, an optimizer and how it stores.

    python tests/layouts.py [--cases 500] [--seed 0]

Prints each case that fails, and how many there were. A sample of them is in tests/engine/test_random_layouts.py.
"""

import argparse
import os
import random
import sys
from dataclasses import dataclass

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support import ELEMENTWISE_RULES, OPTIMIZERS
from tqdm import tqdm

import jadam

SHAPES = {"kernel": (64, 16), "twin": (64, 16), "heads": (8, 16, 8), "bias": (16,), "odd": (7, 5), "scale": ()}
MESHES = (("x", 8),), (("x", 4), ("y", 2)), (("x", 2), ("y", 2), ("z", 2))
STATES, PARAMS = (None, None, "bfloat16", "int8"), (None, None, "stochastic", "kahan", "remainder")
STEPS = 2


@dataclass(frozen=True)
class Layout:
    """What is drawn from a seed; its repr is a report."""

    optimizer: str
    mesh: tuple[tuple[str, int], ...]
    kind: AxisType
    specs: tuple[tuple[str, PartitionSpec], ...]
    state: str | None
    params: str | None
    clipped: bool
    data: str | None
    memory_kind: str | None
    by: str

    @property
    def tx(self):
        tx = OPTIMIZERS[self.optimizer](0.01)
        tx = jadam.chain(jadam.clip_by_global_norm(1.0), tx) if self.clipped else tx
        if self.state or self.params:
            tx = jadam.with_precision(tx, state=self.state, params=self.params, min_size=0)
        return tx

    @property
    def exact(self):
        """Whether no sum over devices is in it, so that every bit is the same."""
        return self.optimizer in ELEMENTWISE_RULES and not self.clipped and self.optimizer not in SUMMED


SUMMED = {"prodigy", "mars_adamw"}  # whose rules are elementwise, but for numbers that all leaves share


def drawn(seed):
    """A layout."""
    rng = random.Random(seed)
    mesh = rng.choice(MESHES)
    specs = {}
    for name, shape in SHAPES.items():
        free, spec = list(mesh), []
        rng.shuffle(free)
        for length in shape:
            names, parts = [], 1
            while free and rng.random() < 0.5 and length % (parts * free[-1][1]) == 0:
                axis, size = free.pop()
                names.append(axis)
                parts *= size
            spec.append(tuple(names) if len(names) > 1 else names[0] if names else None)
        specs[name] = PartitionSpec(*spec)
    optimizer = rng.choice(sorted(OPTIMIZERS))
    state = rng.choice(STATES)
    return Layout(
        optimizer,
        mesh,
        rng.choice([AxisType.Auto, AxisType.Explicit]),
        tuple(specs.items()),
        state,
        rng.choice(PARAMS),
        rng.random() < 0.3,
        rng.choice([None, "x"]),
        rng.choice([None, None, "pinned_host"]),
        rng.choice(["step", "update"]),
    )


def check(layout):
    """Runs it on eight devices and on one.

    Raises:
        AssertionError: numbers or places differ.
    """
    rng, dtype = np.random.default_rng(0), jnp.bfloat16 if layout.params else jnp.float32
    start, *grads = (
        {name: jnp.asarray(rng.standard_normal(shape), dtype) for name, shape in SHAPES.items()} for _ in range(1 + STEPS)
    )
    tx = layout.tx

    def step(g, state, params):
        if layout.by == "step":
            return tx.step(g, state, params)
        updates, state = tx.update(g, state, params)
        return jadam.apply_updates(params, updates), state

    mesh = jax.make_mesh(
        tuple(n for _, n in layout.mesh), tuple(name for name, _ in layout.mesh), axis_types=(layout.kind,) * len(layout.mesh)
    )
    places = {name: NamedSharding(mesh, spec) for name, spec in layout.specs}
    there = jax.device_put(start, places)
    where = jadam.state_shardings(tx, there, data=layout.data, memory_kind=layout.memory_kind)
    runs = []
    for params, state, placed in (
        (start, jax.jit(tx.init)(start), lambda g: g),
        (there, jax.jit(tx.init, out_shardings=where)(there), lambda g: jax.device_put(g, places)),
    ):
        run = jax.jit(step)
        for g in grads:
            params, state = run(placed(g), state, params)
        runs.append((params, state))
    (alone, state_alone), (params, state) = runs
    for name, place in places.items():
        assert params[name].sharding.is_equivalent_to(place, params[name].ndim), f"{name} came back at {params[name].sharding}"
    for (path, x), place in zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(where), strict=True):
        assert x.sharding.is_equivalent_to(place, x.ndim), f"{jax.tree_util.keystr(path)} came back at {x.sharding}"
        assert x.sharding.memory_kind == place.memory_kind, jax.tree_util.keystr(path)
    # Of two numbers on either side of a bound between codes or between two 16-bit numbers, rounding makes neighbours.
    stored = layout.state is not None or layout.params is not None
    limit = 0.0 if layout.exact else 2e-2 if stored else 2e-6
    if layout.optimizer in ("soap", "muon") and not layout.exact:
        limit = max(limit, 1e-3)  # which divide rounding by rounding in a null space
    compared = (alone, params) if stored and not layout.exact else ((alone, state_alone), (params, state))
    for x, y in zip(*map(jax.tree.leaves, compared), strict=True):
        apart = np.abs(np.asarray(x, np.float64) - np.asarray(y, np.float64)).max(initial=0)
        scale = max(1.0, np.abs(np.asarray(x, np.float64)).max(initial=0))
        assert apart <= limit * scale, f"apart by {apart:.1e} of {scale:.1e}"


def main():
    """Checks many."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    jax.config.update("jax_disable_most_optimizations", True)
    failed = 0
    for seed in tqdm(range(options.seed, options.seed + options.cases), unit="layout"):
        layout = drawn(seed)
        try:
            check(layout)
        except Exception as error:
            failed += 1
            tqdm.write(f"{seed}: {layout}\n    {type(error).__name__}: {str(error)[:300]}")
            sys.stdout.flush()
        jax.clear_caches()
    print(f"{options.cases} layouts, {failed} failed")


if __name__ == "__main__":
    main()
