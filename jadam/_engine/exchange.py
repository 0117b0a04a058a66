"""A stack over the devices of a mesh: each computes with its own part of it, as large as any other.

Devices exchange parts of matrices for whole ones, and back. XLA would do neither by itself: it gathers what it cannot divide,
such as decompositions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

Columns = list[Array]
"""What belongs to each of several matrices: they themselves, and what a rule keeps for each."""
Run = Callable[[Columns, dict[str, Any]], Columns]


def exchanged(mesh: Any, run: Run, stack: Columns, h: dict[str, Any]) -> Columns:
    """`run(stack, h)`, which treats each index of the stack for itself."""
    count, (few, over) = len(stack[0]), _few(mesh, len(stack[0]))
    devices = math.prod(few.shape[name] for name in over)
    stack = [_filled(x, devices) for x in stack]
    names: tuple[str, ...] = ()
    if over:  # in one exchange all devices get their copies
        names = tuple(name for name, size in mesh.shape.items() if size > 1)
        stack = [jnp.broadcast_to(x, (mesh.size // devices, *x.shape)).reshape(-1, *x.shape[1:]) for x in stack]
    for n in range(len(names) + 1):  # XLA exchanges along one axis of the mesh at a time
        stack = [placed(x, mesh, names[:n], whole=n == len(names)) for x in stack]
    given = PartitionSpec(few.axis_names if over else None), PartitionSpec()
    with jax.sharding.use_abstract_mesh(few):
        stack = jax.shard_map(run, in_specs=given, out_specs=PartitionSpec(over or None), check_vma=False)(stack, h)
    for n in range(len(over), 0, -1):  # of copies each device sends a share
        stack = [placed(x, few, over[:n], whole=n == len(over)) for x in stack]
    return [placed(x, mesh)[:count] for x in stack]


def placed(stack: Array, mesh: Any, names: tuple[str, ...] = (), whole: bool = False) -> Array:
    """A stack along these axes of the mesh; of its matrices XLA chooses what each device has, if they are not `whole`."""
    rest = None if whole else PartitionSpec.UNCONSTRAINED
    return lax.with_sharding_constraint(stack, NamedSharding(mesh, PartitionSpec(names or None, *(rest,) * (stack.ndim - 1))))


def _few(mesh: Any, count: int) -> tuple[Any, tuple[str, ...]]:
    """A mesh of the same devices, and the axes of it along which there are so many matrices, or a few more: what fills a stack
    up is sent too. Along its other axes devices have copies.
    """
    axes: dict[str, int] = {}
    over: list[str] = []
    for name, size in reversed(mesh.shape.items()):
        own = next(n for n in range(1, size + 1) if size % n == 0 and n >= min(count, size))
        count = -(-count // own)
        if own > 1:
            axes[name] = own
            over.insert(0, name)
        if own < size:
            axes[f"copies along {name}"] = size // own
    if all(axes.get(name) == size for name, size in mesh.shape.items() if size > 1):
        return mesh, tuple(over)
    shape = dict(reversed(axes.items()))
    return AbstractMesh(tuple(shape.values()), tuple(shape), axis_types=(AxisType.Auto,) * len(shape)), tuple(over)


def _filled(stack: Array, devices: int) -> Array:
    """A stack of as many for each device as for any other, filled up by ones, of which no norm is zero."""
    missing = -len(stack) % devices
    return lax.pad(stack, jnp.ones((), stack.dtype), [(0, missing, 0)] + [(0, 0, 0)] * (stack.ndim - 1)) if missing else stack
