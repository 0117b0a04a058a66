"""What a step costs on eight devices: bytes of state on each, and what they send each other, by optimizer.

    JAX_PLATFORMS=cpu python tests/bench/pods.py [NAME ...] [--target "8 h100"]
    JAX_PLATFORMS=cpu python tests/bench/pods.py --muon "8 h100" "256 v5e"

Prints a Markdown table; with --muon, of Muon on the matrices of a transformer with 12 layers beside optax's, with the processor
time of the compiler. XLA compiles for the devices without having them (see `tests/compilers.py`), so that the numbers are
the same on every run. Gradients are placed like the parameters, which are those of one layer of a transformer, of 512 x 512,
512 x 2,048 and a vector, in float32. "State" is in bytes a parameter on one device. What is sent are the results of collectives
on a device, and how many there are: a vector and two matrices gathered are 3.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

sys.path.insert(0, str(Path(__file__).parent.parent))

import compilers
from support import OPTIMIZERS

import jadam

SHAPES = {"attention": (512, 512), "up": (512, 2048), "bias": (2048,)}
Shapes = dict[str, tuple[int, ...]]
WAYS = {"whole": (PartitionSpec(), None), "ZeRO-1": (PartitionSpec(), "data"), "fully sharded": (PartitionSpec("data"), None)}
CLIPPED = 1.0


def step_on(target: str, tx: Any, way: str, shapes: Shapes = SHAPES, dtype: str = "float32") -> tuple[Any, Any]:
    """A step compiled for all devices of a target, and the shapes of its state with their shardings."""
    lowered, state = lowered_on(target, tx, way, shapes, dtype)
    return lowered.compile(), state


def lowered_on(target: str, tx: Any, way: str, shapes: Shapes, dtype: str = "float32") -> tuple[Any, Any]:
    spec, data = WAYS[way]
    mesh = Mesh(np.array(compilers.devices(target)), ("data",))
    placed = NamedSharding(mesh, spec)
    params = {name: jax.ShapeDtypeStruct(shape, dtype, sharding=placed) for name, shape in shapes.items()}
    where = jadam.state_shardings(tx, params, data=data)
    state = jax.tree.map(
        lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), jax.eval_shape(tx.init, params), where
    )
    return jax.jit(tx.step, donate_argnums=(1, 2)).lower(params, state, params), state


def bytes_a_device(state: Any) -> int:
    return sum(np.prod(x.sharding.shard_shape(x.shape), dtype=int) * x.dtype.itemsize for x in jax.tree.leaves(state.slots))


def row(name: str, target: str = "8 h100") -> list[str]:
    """Of the table: for each way the bytes of state a parameter, and what is sent."""
    tx = jadam.chain(jadam.clip_by_global_norm(CLIPPED), OPTIMIZERS[name](1e-3))
    cells = [f"`{name}`"]
    for way in WAYS:
        program, state = step_on(target, tx, way)
        count = sum(np.prod(shape) for shape in SHAPES.values())
        cells += [f"{bytes_a_device(state) / count:.3f}", said(compilers.sent(program))]
    return cells


def said(sent: dict[str, tuple[int, int]]) -> str:
    """Collectives in words: how many, and their bytes."""
    parts = [f"{count} {kind}, {size:,} B" for kind, (count, size) in sorted(sent.items())]
    return "; ".join(parts) or "nothing"


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *rows])


LAYER = {**dict.fromkeys("qkvo", (768, 768)), "up": (768, 3072), "down": (3072, 768)}
TRANSFORMER = {f"{name}{layer}": shape for layer in range(12) for name, shape in LAYER.items()}


def muon_of_optax(target: str) -> Any:
    """Its step on a transformer, with parameters and momentum spread over all devices, before it is compiled."""
    mesh, tx = Mesh(np.array(compilers.devices(target)), ("data",)), optax.contrib.muon(0.02)

    def spread(x: Any) -> jax.ShapeDtypeStruct:
        spec = PartitionSpec(*["data"] * (x.ndim == 2))  # its coefficients are whole
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec))

    def step(params: Any, state: Any, grads: Any) -> Any:
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = {name: spread(jax.ShapeDtypeStruct(shape, "float32")) for name, shape in TRANSFORMER.items()}
    state = jax.tree.map(spread, jax.eval_shape(tx.init, params))
    places = jax.tree.map(lambda x: x.sharding, (params, state))
    with jax.numpy_dtype_promotion("standard"):
        return jax.jit(step, donate_argnums=(0, 1), out_shardings=places).lower(params, state, params)


def muon_row(target: str) -> list[str]:
    cells = [target]
    lower = {
        "optax": lambda: muon_of_optax(target),
        "jadam": lambda: lowered_on(target, jadam.muon(0.02), "fully sharded", TRANSFORMER)[0],
    }
    for step in lower.values():
        program = step()
        started = time.process_time()
        sent = compilers.sent(program.compile())
        cells += [
            f"{sum(size for _, size in sent.values()) / 1e6:,.1f} MB: {said(sent)}",
            f"{time.process_time() - started:.1f} s",
        ]
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=sorted(OPTIMIZERS))
    parser.add_argument("--target", default="8 h100")
    parser.add_argument("--muon", nargs="+", metavar="TARGET", default=[])
    args = parser.parse_args()
    if args.muon:
        head = ["devices", *(f"{lib}: {what}" for lib in ("optax", "jadam") for what in ("sent", "compiled in"))]
        print(table(head, map(muon_row, args.muon)))
    else:
        head = ["optimizer", *(f"{way}: {what}" for way in WAYS for what in ("state", "sent"))]
        print(table(head, (row(name, args.target) for name in args.names or sorted(OPTIMIZERS))))


if __name__ == "__main__":
    main()
