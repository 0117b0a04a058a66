"""The size that optimizers of the family of Muon give to a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jax import Array
from jax.core import max_dim

from jadam._authoring import ALL, FixedPositive, MatricesLike, Rule, Slots, cast, sides
from jadam._optimizers import newton_schulz
from jadam._optimizers.orthogonal import Precision

Scaling = Literal["keller", "moonlight", "unit_rms"]


@dataclass(frozen=True)
class ScaleByShape(Rule):
    """Multiplies matrices by a number that depends on their inputs and outputs, and rounds them to `dtype`."""

    scale: Scaling = "keller"
    scale_factor: FixedPositive | None = None
    dtype: Precision | None = None
    matrices: MatricesLike = ALL

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        inputs, outputs = sides(self.matrices, g.shape)
        larger = max_dim(outputs, inputs)  # of symbolic shapes too
        size = {"keller": larger / inputs, "moonlight": larger, "unit_rms": outputs / inputs}[self.scale] ** 0.5
        factor = self.scale_factor or (0.2 if self.scale == "moonlight" else 1)
        return cast(newton_schulz.rounded((size if factor == 1 else factor * size) * g, self.dtype), g.dtype), slots
