"""New arrays stay where the old ones were: on the same devices, spread alike, in the same memory.

A program under `jit` does not know how XLA spreads arrays over the automatic axes of a mesh, and XLA places new ones as the
arithmetic suggests: parameters beside a state that is spread over more devices would come back in parts, and the second step
would be compiled again. So the program says which arrays belong together, and XLA does with the new what the caller did with
the old.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax import Array, lax
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jadam._tree import PyTree


def placed_alike(new: PyTree, old: PyTree) -> PyTree:
    """New arrays where the old ones are; what has no partner of its shape stays where it is."""
    leaves, structure = jax.tree.flatten(new)
    partners, before = jax.tree.flatten(old)
    if structure != before:
        return new
    return structure.unflatten([_placed_alike(x, like) for x, like in zip(leaves, partners, strict=True)])


def _placed_alike(x: Any, like: Any) -> Any:
    if x is like or not (is_placed(x) and is_placed(like)) or x.shape != like.shape:
        return x
    if not isinstance(x, Tracer):
        alike = not like.committed or x.sharding.is_equivalent_to(like.sharding, x.ndim)
        return x if alike else jax.device_put(x, like.sharding)
    mesh = jax.typeof(like).sharding.mesh
    if x.ndim and mesh.size > 1 and set(mesh.axis_types) == {AxisType.Auto}:
        from jadam._engine.sharding_group import in_a_group

        # An array of its own for the parts: a parameter in 16 bits is gathered, and not its update in 32.
        x = lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*(PartitionSpec.UNCONSTRAINED,) * x.ndim)))
        x = in_a_group(x, like)
    return jax.device_put(x, jax.memory.Space.Host) if on_host(like) else x


def is_placed(x: Any) -> bool:
    return isinstance(x, Array) and isinstance(x.dtype, np.dtype)  # which that of a key is not; asked for every array


def on_host(x: Array) -> bool:
    """Whether an array is in the memory of the host, where no device computes."""
    return jax.typeof(x).memory_space == jax.memory.Space.Host


def on_device(x: Any) -> Any:
    """An array where it can be computed with."""
    if not is_placed(x) or not on_host(x):
        return x
    return jax.device_put(x, jax.memory.Space.Device if isinstance(x, Tracer) else x.sharding.with_memory_kind("device"))
