"""Formats in which slots are stored.

The engine decodes before a rule and encodes after it; a new format is a class here, and every algorithm has it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jadam._dtypes import cast, compute_dtype, decode, encode, full_dtype, holds_integers, is_complex
from jadam._storage.blocks import Int8Blocks, Tile, block_axis, scales_of
from jadam._storage.rounding import Noise, round_stochastically

Rounding = Literal["stochastic", "nearest"]


@dataclass(frozen=True)
class Storage:
    """A format by its name in `with_precision`, and its options."""

    draws: ClassVar[bool] = False
    """Whether it needs random bits."""

    @property
    def key(self) -> str:
        return type(self).__name__.lower()

    @property
    def options(self) -> list[str]:
        """The options that are not the defaults, as arguments."""
        values = ((field.name, getattr(self, field.name), field.default) for field in fields(self))
        return [f"{name}={value!r}" for name, value, default in values if value != default]


@dataclass(frozen=True)
class SlotStorage(Storage, ABC):
    """A format of slots, and the rounding that goes with it.

    Attributes:
        rounding: "stochastic", or "nearest".
        min_size: slots with fewer elements stay in the dtype of the arithmetic.
        seed: of the random bits.
    """

    rounding: Rounding = "stochastic"
    min_size: int = 4096
    seed: int = 0

    @property
    def draws(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.rounding == "stochastic"

    def compresses(self, shape: tuple[int, ...], dtype: DTypeLike) -> bool:
        """Whether it stores a slot of this shape in fewer bits. Small slots have little to save."""
        return not is_complex(dtype) and math.prod(shape) >= self.min_size

    def encode(
        self, x: Array, dtype: DTypeLike, noise: Noise | None = None, tile: Tile | None = None, scales: Array | None = None
    ) -> Any:
        """The stored form, for `decode_slot`, of a slot of a parameter of this dtype; without noise, rounded to nearest.

        Integers stay as they are.

        Args:
            x: the slot; or, if there is a tile, its blocks.
            dtype: of the parameter.
            noise: random bits.
            tile: what `x` is of the slot.
            scales: of the blocks, where they are known.
        """
        if holds_integers(x):
            return x
        if not self.compresses(x.shape if tile is None else tile.shape, dtype):
            return encode(x, full_dtype(dtype))
        return self.compress(cast(x, compute_dtype(dtype)), noise if self.draws else None, tile, scales)

    @abstractmethod
    def compress(self, x: Array, noise: Noise | None, tile: Tile | None, scales: Array | None) -> Any:
        """The stored form of an array in the dtype of the arithmetic."""


class Float32(SlotStorage):
    """Slots in the dtype of the arithmetic: 4 bytes an element, 8 for float64 parameters."""

    @property
    def draws(self) -> bool:
        return False

    def compresses(self, shape: tuple[int, ...], dtype: DTypeLike) -> bool:
        return False  # of any size: `jax.export` has shapes whose size is not known

    def compress(self, x: Array, noise: Noise | None, tile: Tile | None, scales: Array | None) -> Array:
        return x


class BFloat16(SlotStorage):
    """Slots in bfloat16: 2 bytes an element. Rounded to nearest, an average of decay 0.999 freezes."""

    def compress(self, x: Array, noise: Noise | None, tile: Tile | None, scales: Array | None) -> Array:
        if noise is None:
            return cast(x, jnp.bfloat16)
        return round_stochastically(cast(x, jnp.float32), jnp.bfloat16, noise.bits(x.shape, self.seed))


class Int8(SlotStorage):
    """Slots in 8 bits and a scale for each 32: 1.125 bytes an element. Where blocks would be shorter than 4, as they are."""

    def compresses(self, shape: tuple[int, ...], dtype: DTypeLike) -> bool:
        # Of so few elements the scale would be the most.
        return super().compresses(shape, dtype) and len(shape) > 0 and shape[block_axis(shape)] >= 4

    def compress(self, x: Array, noise: Noise | None, tile: Tile | None, scales: Array | None) -> Int8Blocks:
        chance = None if noise is None else noise.uniform(x.shape, self.seed)
        if scales is not None:
            return Int8Blocks.encode(x, chance, scales)
        if tile is not None:
            return Int8Blocks.encode(x, chance, scales_of(x, tile.inside, tile.in_kernel))
        return Int8Blocks.of(x, chance)


FLOAT32 = Float32()
SLOT_STORAGE: dict[str, type[SlotStorage]] = {kind().key: kind for kind in (Float32, BFloat16, Int8)}


SCALES = ".scales"


def decode_slot(stored: Any, dtype: DTypeLike) -> Array:
    """A slot of a parameter of this dtype in that of the arithmetic, whatever its format; integers as they are."""
    if not isinstance(stored, Int8Blocks) and holds_integers(stored):
        return stored
    return cast(stored.decode() if isinstance(stored, Int8Blocks) else decode(stored), compute_dtype(dtype))


def apart(slots: Mapping[str, Any]) -> dict[str, Array]:
    """The slots of a leaf as the state keeps them: each an array, and the scales of blocks under a name of their own.

    So every tree of a state has the structure of the parameters, whatever box a library puts around each of its leaves.
    """
    arrays = {}
    for name, stored in slots.items():
        arrays |= {name: stored.codes, name + SCALES: stored.scales} if isinstance(stored, Int8Blocks) else {name: stored}
    return arrays


def together(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `apart`."""
    return {
        name: Int8Blocks(x, arrays[name + SCALES]) if name + SCALES in arrays else x
        for name, x in arrays.items()
        if not name.endswith(SCALES)
    }
