"""Where the elements are that one program of a kernel on rows computes: in each of its arrays, and in the whole table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl


class View(NamedTuple):
    """How a kernel sees a device's part of a table.

    Attributes:
        shape: of that part.
        row: of each row: how many matrices, their height and width.
        tile: what a program of the grid computes: of how many rows, how high and wide.
        program: its number in the grid; asked once, since no loop may ask for it.
    """

    shape: tuple[int, ...]
    row: tuple[int, int, int]
    tile: tuple[int, int, int]
    program: Sequence[Any] = ()

    def _matrix(self) -> tuple[Any, Any]:
        """Of which matrix of its rows a tile is, and which of its parts."""
        parts = np.int32(-(-self.row[1] // self.tile[1]))
        return lax.div(self.program[1], parts), lax.rem(self.program[1], parts)

    def of(self, ref: Any, rows: int) -> tuple[tuple[Any, Any], Any]:
        """Where the tile is in each row of an array, and what of it is inside; scales have a row for each block."""
        (matrix, part), (matrices, height, _) = self._matrix(), self.row
        own = ref.shape[1] // matrices
        tile_height = self.tile[1] if own == height else 1
        size = rows, tile_height, self.tile[2]
        y = lax.broadcasted_iota(jnp.int32, size, 1) + part * tile_height
        x = lax.broadcasted_iota(jnp.int32, size, 2) + self.program[2] * self.tile[2]
        return (y + matrix * own, x), (y < own) & (x < self.row[2])

    def numbers(self, at: Array, whole: tuple[int, ...], first: Sequence[Array]) -> tuple[Array, Any]:
        """The number of each element of a tile in the whole table, uint32, and what of its blocks is not filled up."""
        (matrix, part), (_, height, width) = self._matrix(), self.row
        y = lax.broadcasted_iota(jnp.int32, self.tile, 1) + part * self.tile[1]
        x = lax.broadcasted_iota(jnp.int32, self.tile, 2) + self.program[2] * self.tile[2]
        element, index = (matrix * height + y) * width + x, spread(at, x).astype(jnp.uint32)
        for axis in range(1, len(whole)):
            here = lax.rem(lax.div(element, np.int32(math.prod(self.shape[axis + 1 :]))), np.int32(self.shape[axis]))
            index = index * np.uint32(whole[axis]) + (here + first[axis]).astype(jnp.uint32)
        return index, None if height % self.tile[1] == 0 else y < height


def whole(x: Any) -> pl.BlockSpec:
    return pl.BlockSpec(x.shape, lambda *_: (0,) * x.ndim)


def power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def spread(column: Array, like: Any) -> Array:
    """A number for each row, for each of its elements."""
    return lax.broadcast_in_dim(column, like.shape, (0, 1, 2))
