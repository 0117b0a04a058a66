"""Rows of a table whose rows are spread over the devices of a mesh: each device reads and writes those that it owns.

Ids and gradients go to every device. An all-to-all would have to leave room for a batch of which one device owns all rows, and
be as large. Each device then sums the rows that it owns, and from there on none leaves it: gathered rows of parameter and
slots, which are three times as much in Adam, are not sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jadam._rows import LOST, Rows, narrow, summed


def owners(table: Array) -> Any:
    """The axes of the mesh over which the rows are spread, as far as types tell: where all axes are explicit. None if none."""
    sharding = jax.typeof(table).sharding
    return sharding.spec[0] if set(sharding.mesh.axis_types) == {AxisType.Explicit} else None


def summed_by_owner(table: Array, rows: Rows) -> Rows:
    """For each device the rows that it owns, one device after the other: sorted, distinct, and padded past the end."""
    length, dtype = table.shape[0], table.dtype
    spec = jax.typeof(table).sharding.spec

    def part(table: Array, ids: Array, values: Array) -> tuple[Array, Array]:
        first, own = _first(table, spec[0]), table.shape[0]
        ids = narrow(ids, length)
        ids = jnp.where(ids < 0, ids + length, ids)
        here = jnp.where((ids >= first) & (ids < first + own), ids - first, own)
        here = jnp.where((ids < 0).any(), LOST, here)
        found = summed(Rows.of(here, values), own, dtype)
        return jnp.where(found.ids < own, found.ids + first, found.ids + length), found.values

    by_owner = PartitionSpec(spec[0])
    rows_of = PartitionSpec(None, *spec[1:])
    return Rows.of(*_on_devices(part, table, (PartitionSpec(None), rows_of), (by_owner, spec))(table, rows.ids, rows.values))


def on_owners(f: Callable[..., Array], table: Array) -> Callable[..., Array]:
    """`f` of a table, the ids that `summed_by_owner` returns and what goes with these."""
    spec = jax.typeof(table).sharding.spec

    def part(table: Array, ids: Array, *rows: Array) -> Array:
        first, own = _first(table, spec[0]), table.shape[0]
        here = ids - first
        return f(table, jnp.where(here < own, here, own + lax.iota(jnp.int32, ids.size)), *rows)

    def call(table: Array, ids: Array, *rows: Array) -> Array:
        return _on_devices(part, table, (PartitionSpec(spec[0]), *(spec for _ in rows)), spec)(table, ids, *rows)

    return call


def _first(table: Array, axes: Any) -> Array:
    """The number of the first row of the device's part."""
    return lax.axis_index(axes).astype(jnp.int32) * table.shape[0]


def _on_devices(part: Callable[..., Any], table: Array, given: tuple[Any, ...], result: Any) -> Callable[..., Any]:
    """`part` on the table and arrays that are placed like these, on each device."""
    own = jax.typeof(table).sharding

    def call(table: Array, *arrays: Array) -> Any:
        placed = [jax.sharding.reshard(x, NamedSharding(own.mesh, spec)) for x, spec in zip(arrays, given, strict=True)]
        return jax.shard_map(part, mesh=own.mesh, in_specs=(own.spec, *given), out_specs=result)(table, *placed)

    return call
