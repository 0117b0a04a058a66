"""Some rows of a table by their ids: summed, gathered, scattered. Shapes do not depend on ids."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jadam._dtypes import cast, full_dtype

LOST = np.iinfo(np.int32).min
"""In place of all ids of which some did not fit. No table has such a row: the step is NaN, and not one without them."""

NOWHERE = np.iinfo(np.int32).max
"""In place of the id of no row: past the end of every table."""


def unique(ids: Array, rows: int, size: int) -> tuple[Array, Array]:
    """Distinct ids, and how many there are: where these are too many, or one is negative, all are `LOST`."""
    if not ids.size:
        return padding(rows, size), jnp.zeros((), jnp.int32)
    ordered = lax.sort(narrow(ids, rows))
    first = differs(ordered) & (ordered < rows)
    place = jnp.cumsum(first.astype(jnp.int32)) - 1
    count = place[-1] + 1
    found = padding(rows, size).at[jnp.where(first, place, size)].set(ordered, mode="drop")
    wrong = (count > size) | (ordered[0] < 0)
    return jnp.where(wrong, jnp.full_like(found, LOST), found), count


def narrow(ids: Array, length: int) -> Array:
    """Ids as int32. Those of a wider type that do not fit are padding, or before the first row."""
    if jnp.iinfo(ids.dtype).max > jnp.iinfo(jnp.int32).max:
        least = 0 if jnp.issubdtype(ids.dtype, jnp.unsignedinteger) else -length - 1
        ids = jnp.clip(ids, least, length)
    return cast(ids, jnp.int32)


def differs(ordered: Array) -> Array:
    """Whether each of some sorted ids is another than the one before."""
    return jnp.concatenate([jnp.ones(1, bool), ordered[1:] != ordered[:-1]])


def padding(length: int, size: int) -> Array:
    """Ids past the end, each another: a scatter may rely on that."""
    return length + lax.iota(jnp.int32, size)


def summed(ids: Array, values: Array, distinct: bool, length: int, dtype: Any) -> tuple[Array, Array]:
    """Rows with sorted, distinct ids, of int32 ones: one at least, and no more than a table of this length has.

    Values of one id are summed in the dtype of the arithmetic on a parameter of this dtype; those of padding are zeros.
    """
    n = ids.shape[0]
    if n == 0:
        return padding(length, 1), jnp.zeros((1, *values.shape[1:]), values.dtype)
    counting = lax.iota(jnp.int32, n)
    if distinct:
        found, lost = ids, ids[0] < 0
        values = without_padding(jnp.where(lost, jnp.full_like(values, jnp.nan), values), ids, length)
    else:
        ids = jnp.where(ids < 0, ids + length, ids)
        # On CPU, ids alone are sorted in a fifth of the time that they take with their order, and values stay where they are.
        ordered = lax.sort(ids, is_stable=False)
        place, lost = jnp.cumsum(differs(ordered).astype(jnp.int32)) - 1, ordered[0] < 0
        found = padding(length, n).at[place].set(ordered, indices_are_sorted=True)
        exact = cast(values, full_dtype(dtype))
        # Nowhere with padding, and from NaN where rows are lost: XLA for GPU would write sums once more to choose them.
        place = jnp.where(ids < length, place[jnp.searchsorted(ordered, ids)], n)
        start = jnp.where(lost, jnp.nan, 0).astype(exact.dtype)
        values = jnp.broadcast_to(start, exact.shape).at[place].add(exact, mode="drop")
    # What has no row makes the first rows NaN: a step without it would be another than the one that was asked for.
    found = jnp.where(lost, counting, jnp.where(found < length, found, length + counting))
    return found[:length], values[:length]


class Summands(NamedTuple):
    """What the values of some rows are summed from.

    Attributes:
        values: of rows, in any order.
        lost: whether all rows are NaN.
        order: which value follows which, so that those of an id stand together; None where each row has its own value.
        first: for each row, the place of its first value in that order.
        counts: for each row, how many there are.
    """

    values: Array
    lost: Array
    order: Array | None = None
    first: Array | None = None
    counts: Array | None = None


def summands(ids: Array, values: Array, distinct: bool, length: int) -> Summands:
    """Those of the rows that `summed` returns: a kernel sums them where it reads them, and no sum is written to memory."""
    n = ids.shape[0]
    if n == 0:
        return Summands(jnp.zeros((1, *values.shape[1:]), values.dtype), jnp.zeros((), bool))
    if distinct:
        return Summands(values[:length], ids[0] < 0)
    ordered, order = lax.sort((jnp.where(ids < 0, ids + length, ids), lax.iota(jnp.int32, n)), num_keys=1)
    starts = differs(ordered)
    place = jnp.cumsum(starts.astype(jnp.int32)) - 1
    first = jnp.full(n + 1, n, jnp.int32).at[jnp.where(starts, place, n + 1)].set(lax.iota(jnp.int32, n), mode="drop")
    return Summands(values, ordered[0] < 0, order, first[:-1][:length], (first[1:] - first[:-1])[:length])


Kept = tuple[Array, Array, Array]
"""Rows one behind the other, in a room for so many: ids, `NOWHERE` where there are none; values; and the weight of each."""


def appended(kept: Kept, ids: Array, values: Array, weight: Array, counts: Array) -> Kept:
    """With more rows of one weight, if these count and are somewhere. If there is no room for all, ids are `LOST`."""
    room = kept[0].size
    first = jnp.sum(kept[0] != NOWHERE, dtype=jnp.int32)
    more = (ids != NOWHERE) & counts
    place = first + jnp.cumsum(more.astype(jnp.int32)) - 1
    full = place[-1] >= room
    place = jnp.where(more, place, room + lax.iota(jnp.int32, ids.size))
    weights = jnp.broadcast_to(weight.astype(kept[2].dtype), ids.shape)
    new = [old.at[place].set(x, mode="drop", unique_indices=True) for old, x in zip(kept, (ids, values, weights), strict=True)]
    return jnp.where(full, LOST, new[0]), new[1], new[2]


def weighed(values: Array, weights: Array) -> Array:
    """Each row times its weight."""
    return values * lax.broadcast_in_dim(weights, values.shape, (0,))


def without_padding(values: Array, ids: Array, length: int) -> Array:
    """Rows, of which those of padding are zeros."""
    real = lax.broadcast_in_dim(ids < length, values.shape, (0,))
    return lax.select(real, values, jnp.zeros_like(values))


def numbered(ids: Array, shape: tuple[int, ...]) -> Array:
    """The number of each element of some rows in the table, uint32: by that, its random bits do not depend on other rows."""
    width = math.prod(shape[1:])
    first = lax.broadcast_in_dim(cast(ids, jnp.uint32) * np.uint32(width), shape, (0,))
    return first + lax.reshape(lax.iota(jnp.uint32, width), (1, *shape[1:]))


def gather(table: Array, ids: Array) -> Array:
    """The rows of sorted, distinct ids; zeros for padding."""
    return table.at[ids].get(mode="fill", fill_value=0, unique_indices=True, indices_are_sorted=True)


def scatter(table: Array, ids: Array, rows: Array) -> Array:
    """The table with these rows in their places: in its own memory, if it is donated."""
    return table.at[ids].set(rows, mode="drop", unique_indices=True, indices_are_sorted=True)
