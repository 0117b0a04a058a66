"""Some rows of one table, wherever the table is: on every device, or each on the device that owns it.

Where types say that rows are spread over devices, each device reads and writes its own. Ids and gradients go to every device;
an all-to-all would have to leave room for a batch of which one device owns all rows, and be as large. Each sums the rows that
it owns, and none leaves it from there on. Where XLA chooses, it sends the gathered rows of the parameter and of every slot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jadam._engine.placement import on_automatic_axes
from jadam._rows import Rows
from jadam._tables import LOST, Summands, gather, scatter, summed


def summed_rows(table: Array, rows: Rows) -> Rows:
    """The rows of a step, sorted and distinct: those of all, or of one owner after the other."""
    length, dtype, sharding = table.shape[0], table.dtype, jax.typeof(table).sharding
    of_values, ids = PartitionSpec(None, *sharding.spec[1:]), rows.narrowed(length)
    if not _owned(table):
        on_mesh = tuple(NamedSharding(sharding.mesh, spec) for spec in (PartitionSpec(None), of_values))
        own = on_automatic_axes(lambda ids, values: summed(ids, values, rows.distinct, length, dtype), table, lambda: on_mesh)
        return Rows.of(*own(ids, rows.values), distinct=True)

    def part(table: Array, ids: Array, values: Array) -> tuple[Array, Array]:
        first, own = _first(table, sharding.spec[0]), table.shape[0]
        ids = jnp.where(ids < 0, ids + length, ids)
        here = jnp.where((ids >= first) & (ids < first + own), ids - first, own)
        here = jnp.where((ids < 0).any(), LOST, here)
        here, values = summed(here, values, False, own, dtype)
        return here + jnp.where(here < own, first, length), values

    placed = PartitionSpec(None), of_values
    result = PartitionSpec(sharding.spec[0]), sharding.spec
    return Rows.of(*_on_devices(part, table, placed, result)(table, ids, rows.values))


def gathered(table: Array, ids: Array) -> Array:
    """The rows of the ids that `summed_rows` returns."""
    if _owned(table):
        return _on_owners(gather, table, ids)
    sharding = jax.typeof(table).sharding
    rows = PartitionSpec(None, *sharding.spec[1:])
    return on_automatic_axes(gather, table, lambda: NamedSharding(sharding.mesh, rows))(table, ids)


def scattered(table: Array, ids: Array, rows: Array) -> Array:
    """The table with these in their place."""
    if _owned(table):
        return _on_owners(scatter, table, ids, rows)
    return on_automatic_axes(scatter, table, lambda: jax.typeof(table).sharding)(table, ids, rows)


Slots = dict[str, dict[str, Array]]
"""Of a leaf, by part and name."""


class Table(NamedTuple):
    """A table as it was before a step: for a kernel that finds rows itself.

    Attributes:
        p: the parameter.
        slots: of what keeps a row for each of its rows, by part and name.
        residue: what is stored beside the parameter.
        summands: of the gradient.
    """

    p: Array
    slots: Slots
    residue: dict[str, Array]
    summands: Summands


class Collected(NamedTuple):
    """A table of which a wrapper collects rows.

    Attributes:
        by: the wrapper, in its place.
        p: the parameter.
        slots: of what is inside the wrapper and has the rows of the table, by part and name.
        residue: what is stored beside the parameter.
        none: as many rows as the inside has, all of them padding, without a gradient.
    """

    by: Any
    p: Array
    slots: Slots
    residue: dict[str, Array]
    none: Rows

    def at(self, ids: Array) -> tuple[Array, Slots, dict[str, Array]]:
        """These rows of the parameter, of the slots and of the residue; of padding, zeros."""
        slots = {key: {name: gathered(x, ids) for name, x in own.items()} for key, own in self.slots.items()}
        return gathered(self.p, ids), slots, {name: gathered(x, ids) for name, x in self.residue.items()}


def _owned(table: Array) -> bool:
    """Whether its type says over which devices its rows are spread: where all axes of the mesh are explicit."""
    sharding = jax.typeof(table).sharding
    return set(sharding.mesh.axis_types) == {AxisType.Explicit} and sharding.spec[0] is not None


def _on_owners(f: Callable[..., Array], table: Array, ids: Array, *rows: Array) -> Array:
    """`f` of the part of a table that a device owns, and of ids that count in it."""
    spec = jax.typeof(table).sharding.spec

    def part(table: Array, ids: Array, *rows: Array) -> Array:
        own, here = table.shape[0], ids - _first(table, spec[0])
        return f(table, jnp.where(here < own, here, own + lax.iota(jnp.int32, ids.size)), *rows)

    return _on_devices(part, table, (PartitionSpec(spec[0]), *(spec for _ in rows)), spec)(table, ids, *rows)


def _first(table: Array, axes: Any) -> Array:
    """The number of the first row of a device's part."""
    return lax.axis_index(axes).astype(jnp.int32) * table.shape[0]


def _on_devices(part: Callable[..., Any], table: Array, given: tuple[Any, ...], result: Any) -> Callable[..., Any]:
    """`part` of the table and of arrays that are placed like these, on each device."""
    own = jax.typeof(table).sharding

    def call(table: Array, *arrays: Array) -> Any:
        placed = [jax.sharding.reshard(x, NamedSharding(own.mesh, spec)) for x, spec in zip(arrays, given, strict=True)]
        return jax.shard_map(part, mesh=own.mesh, in_specs=(own.spec, *given), out_specs=result)(table, *placed)

    return call
