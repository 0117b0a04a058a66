"""The rule on whole matrices that optimizers of the family of Muon share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jax import Array

from jadam._authoring import (
    ALL,
    BadValue,
    Count,
    FixedPositive,
    MatricesLike,
    NonNegative,
    Rule,
    Slots,
    cast,
    from_matrices,
    to_matrices,
)
from jadam._optimizers import newton_schulz

Precision = Literal["bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class Orthogonalize(Rule):
    """Makes the singular values of each matrix equal, roughly. Arguments as in `muon`."""

    ns_coeffs: newton_schulz.Coefficients = "quintic"
    ns_steps: Count | None = None
    ns_dtype: Precision | None = None
    ns_eps: NonNegative = 1e-7
    ns_eps_form: newton_schulz.EpsForm = "add"
    ns_safety: FixedPositive | None = None
    matrices: MatricesLike = ALL
    elementwise: ClassVar[bool] = False
    on_matrices: ClassVar[tuple[str, ...]] = ()

    @property
    def exchanged(self) -> str | None:
        return self.ns_dtype

    def init(self, p: Array) -> Slots:
        if self.matrices is None:
            raise BadValue(f"an array of shape {p.shape} cannot be orthogonalised; say with matrices= what can.")
        return {}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        options = {"eps": h.ns_eps, "eps_form": self.ns_eps_form, "safety": self.ns_safety, "dtype": self.ns_dtype}
        matrices = to_matrices(g, self.matrices.in_order)
        matrices = newton_schulz.orthogonalize(matrices, self.ns_coeffs, self.ns_steps, **options)
        return from_matrices(cast(matrices, g.dtype), self.matrices.in_order, g.shape), slots
