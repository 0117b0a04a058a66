"""The rows of a table that the micro-batches of a window touch, one behind the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jadam._annotations import is_integer
from jadam._by_leaf import ByLeaf
from jadam._dtypes import compute_dtype
from jadam._engine.placement import on_automatic_axes
from jadam._errors import BadType, BadValue
from jadam._masks import FirstMatch, MaskLike, as_mask
from jadam._rows import Rows
from jadam._rule import Slots
from jadam._tables import NOWHERE, appended, weighed

RoomLike = int | Sequence[tuple[MaskLike, int]] | None
"""For how many rows of which tables there is room."""
ROWS = ("ids", "values", "weights")


class Rooms:
    """As an annotation: a number of rows, or pairs of masks and such numbers."""

    def check(self, name: str, value: Any) -> Any:
        if value is None or isinstance(value, ByLeaf):
            return value
        pairs = [(True, value)] if is_integer(value) else value
        if not isinstance(pairs, list | tuple) or not all(type(pair) in (tuple, list) and len(pair) == 2 for pair in pairs):
            raise BadType("{name} must be a number of rows, or a list [(mask, number), ...].", **{name: value})
        for _, number in pairs:
            if not is_integer(number) or number < 1:
                raise BadValue("{name} must be an integer >= 1, or a list [(mask, number), ...] of such.", **{name: value})
        return FirstMatch(tuple((as_mask(mask), int(number)) for mask, number in pairs), 0)


def no_rows(p: Array, room: int) -> Slots:
    values, weights = (jnp.zeros((room, *shape), compute_dtype(p.dtype)) for shape in (p.shape[1:], ()))
    return {"ids": jnp.full(room, NOWHERE, jnp.int32), "values": values, "weights": weights}


def with_rows(
    own: dict[str, Array], ids: Array, values: Array, weight: Array, counts: Array, begins: Array
) -> dict[str, Array]:
    """The rows of a window with those of a micro-batch, where those before are of another window if this one begins."""

    def more(old: tuple[Array, ...], begins: Array, *micro_batch: Array) -> tuple[Array, ...]:
        ids, values, weights = old
        return appended((jnp.where(begins, NOWHERE, ids), values, weights), *micro_batch)

    old = tuple(own[name] for name in ROWS)
    places = tuple(jax.typeof(x).sharding for x in old)
    new = on_automatic_axes(more, own["values"], lambda: places)(old, begins, ids, values, weight, counts)
    return dict(zip(ROWS, new, strict=True))


def rows_of(own: Slots, total: Array) -> Rows:
    """Their gradient: each by its share of a total weight, so that no sum overflows."""
    values, shares = own["values"], own["weights"] / total.astype(own["weights"].dtype)
    return Rows.of(own["ids"], on_automatic_axes(weighed, values, lambda: jax.typeof(values).sharding)(values, shares))
