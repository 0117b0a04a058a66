"""Parts of arrays: inside `jax.shard_map` each device sees its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jax.sharding import AxisType


def varying(x: Any) -> tuple[str, ...]:
    """The axes of the mesh along which devices see different arrays, in the order of the mesh, as far as the type says it.

    Types do not say it under `shard_map(..., check_vma=False)`, nor under `pmap`.
    """
    if not isinstance(x, Tracer):
        return ()
    kind = jax.typeof(x)
    mesh = kind.sharding.mesh
    if AxisType.Manual not in mesh.axis_types:
        return ()
    axes = kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying  # pyright: ignore (JAX 0.10 renamed it)
    return tuple(name for name in mesh.axis_names if name in axes)


def over_parts(sums: Sequence[Array]) -> list[Array]:
    """Sums over whole arrays, by those over the parts that devices have: one collective for all with the same axes."""
    whole, axes = list(sums), [varying(x) for x in sums]
    for own in filter(None, dict.fromkeys(axes)):
        at = [n for n, other in enumerate(axes) if other == own]
        for n, x in zip(at, lax.psum([sums[n] for n in at], own), strict=True):
            whole[n] = x
    return whole


def indices(x: Array) -> Array | None:
    """Which elements of the whole array these are, uint32, if parts follow each other along the first axis; None where it is
    whole.

    Of other parts these are numbers that no other device has, so that each element has random bits of its own.
    """
    axes = varying(x)
    if not axes:
        return None
    return jnp.arange(x.size, dtype=jnp.uint32).reshape(x.shape) + lax.axis_index(axes).astype(jnp.uint32) * jnp.uint32(x.size)


def varying_like(tree: Any, like: Any) -> Any:
    """Arrays that each device may change for itself, as it does those of `like`: the carry of a loop keeps its type."""
    axes = {name for x in jax.tree.leaves(like) for name in varying(x)}

    def changed(x: Array) -> Array:
        more = tuple(sorted(axes - set(varying(x))))
        if not more:
            return x
        return lax.pcast(x, more, to="varying") if hasattr(lax, "pcast") else lax.pvary(x, more)  # pyright: ignore

    return jax.tree.map(changed, tree) if axes else tree
