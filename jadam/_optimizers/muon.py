"""Muon: momentum, orthogonalised."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import jax.numpy as jnp
from jax import Array, lax
from jax.core import max_dim

from jadam._assembly import (
    GradientTransformation,
    Scale,
    add_decayed_weights,
    chain,
    masked,
    scale_by_learning_rate,
)
from jadam._authoring import (
    ALL,
    BadValue,
    Count,
    Decay,
    Hyper,
    MaskLike,
    MatricesLike,
    NonNegative,
    Rule,
    Slots,
    as_matrices,
    builder,
    cast,
    scaled_norm,
    sides,
    zeros,
)
from jadam._optimizers.adam import scale_by_adam


def orthogonalize(x: Array, steps: int = 5, eps: Any = 1e-7, dtype: str | None = None) -> Array:
    """The nearest matrix with orthonormal rows or columns, roughly: its singular values are mostly between 0.7 and 1.2.

    `steps` times `x = a x + (b A + c A A) x` with `A = x x^T`, on all leading axes at once, every result rounded to `dtype`.
    """
    a, b, c = 3.4445, -4.7750, 2.0315  # steepest at zero that stays near one (Jordan et al. 2024)
    r, tall = partial(rounded, dtype=dtype), x.shape[-2] > x.shape[-1]
    x = r(x.mT if tall else x)  # wide, so that x x^T is the smaller of the two Gram matrices
    # The Frobenius norm bounds all singular values; the iteration diverges from those above 1.26.
    x = r(x / r(r(scaled_norm(x, (x.ndim - 2, x.ndim - 1))) + jnp.asarray(eps, x.dtype)))

    def product(left: Array, right: Array) -> Array:
        factors = (cast(factor, dtype or x.dtype) for factor in (left, right))
        precision = "default" if dtype in ("bfloat16", "float16") else None
        return r(jnp.matmul(*factors, precision=precision, preferred_element_type=x.dtype))

    for _ in range(steps):
        gram = product(x, x.mT)
        x = r(r(a * x) + product(r(r(b * gram) + product(r(c * gram), gram)), x))
    return x.mT if tall else x


def rounded(x: Array, dtype: str | None) -> Array:
    """`x` at the precision of `dtype`, as torch's operations return it; XLA may drop a cast there and back."""
    if dtype is None:
        return x
    limits = jnp.finfo(dtype)
    return lax.reduce_precision(cast(x, jnp.float32), limits.nexp, limits.nmant)


@dataclass(frozen=True)
class ScaleByMuon(Rule):
    """The momentum of Muon: `m = momentum m + (1-momentum) g`, one step ahead with `nesterov`. Arguments as in `muon`."""

    momentum: Decay = 0.95
    nesterov: bool = True
    momentum_form: Literal["lerp", "sum"] = "lerp"

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        if self.momentum_form == "lerp":
            m = h.momentum.ema(slots["mu"], g)
            u = h.momentum.ema(m, g) if self.nesterov else m
        else:
            m = h.momentum.value * slots["mu"] + g
            u = g + h.momentum.value * m if self.nesterov else m
        return u, {"mu": m}


@dataclass(frozen=True)
class Orthogonalize(Rule):
    """Makes all singular values of a matrix equal, roughly. Arguments as in `muon`."""

    ns_steps: Count = 5
    ns_dtype: Literal["bfloat16", "float16", "float32"] | None = None
    ns_eps: NonNegative = 1e-7
    matrices: MatricesLike = ALL
    elementwise: ClassVar[bool] = False
    on_matrices: ClassVar[bool] = True

    @property
    def exchanged(self) -> str | None:
        return self.ns_dtype  # to which it rounds what it sees and what it returns

    def init(self, p: Array) -> Slots:
        if self.matrices is None:
            raise BadValue(f"an array of shape {p.shape} cannot be orthogonalised; say with matrices= what can.")
        return {}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return cast(orthogonalize(g, self.ns_steps, h.ns_eps, self.ns_dtype), g.dtype), slots


@dataclass(frozen=True)
class ScaleByShape(Rule):
    """Multiplies matrices by a factor that depends on how many inputs and outputs they have. Arguments as in `muon`."""

    scale: Literal["keller", "moonlight"] = "keller"
    ns_dtype: Literal["bfloat16", "float16", "float32"] | None = None
    matrices: MatricesLike = ALL

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        inputs, outputs = sides(self.matrices, g.shape)
        larger = max_dim(outputs, inputs)  # of symbolic shapes too
        size = (larger / inputs) ** 0.5 if self.scale == "keller" else 0.2 * larger**0.5
        # "keller" scales the matrix in the dtype of Newton-Schulz, "moonlight" the learning rate: where their authors do.
        scaled = rounded(size * g, self.ns_dtype) if self.scale == "keller" else size * g
        return cast(scaled, g.dtype), slots


@builder
def scale_by_muon(
    *,
    momentum: Decay = 0.95,
    nesterov: bool = True,
    ns_steps: Count = 5,
    scale: Literal["keller", "moonlight"] = "keller",
    ns_dtype: Literal["bfloat16", "float16", "float32"] | None = None,
    ns_eps: NonNegative = 1e-7,
    momentum_form: Literal["lerp", "sum"] = "lerp",
    matrices: MatricesLike = True,
) -> GradientTransformation:
    """Momentum with its singular values made equal: `m = momentum m + (1-momentum) g`, `u = orthogonalize(m)`.

    Arguments as in `muon`.
    """
    of_matrices = as_matrices(matrices)
    return chain(
        ScaleByMuon(momentum=momentum, nesterov=nesterov, momentum_form=momentum_form),
        Orthogonalize(ns_steps=ns_steps, ns_dtype=ns_dtype, ns_eps=ns_eps, matrices=of_matrices),
        ScaleByShape(scale=scale, ns_dtype=ns_dtype, matrices=of_matrices),
    )


@builder
def muon(
    learning_rate: Hyper,
    *,
    momentum: Decay = 0.95,
    nesterov: bool = True,
    ns_steps: Count = 5,
    scale: Literal["keller", "moonlight"] = "keller",
    ns_dtype: Literal["bfloat16", "float16", "float32"] | None = None,
    ns_eps: NonNegative = 1e-7,
    momentum_form: Literal["lerp", "sum"] = "lerp",
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
    matrices: MatricesLike = None,
    adam_b1: Decay = 0.9,
    adam_b2: Decay = 0.95,
    adam_eps: NonNegative = 1e-10,
    adam_ratio: NonNegative | None = None,
) -> GradientTransformation:
    """Muon for matrices, AdamW for the other parameters.

    Args:
        learning_rate: of the matrices, a number or a schedule; about 0.02 for "keller", as for AdamW for "moonlight".
        momentum: decay of the momentum, in [0, 1).
        nesterov: whether the momentum is that of one step ahead.
        ns_steps: iterations of Newton-Schulz, >= 1.
        scale: "keller" multiplies by `sqrt(max(1, outputs/inputs))`, "moonlight" by `0.2 sqrt(max(rows, columns))`, the size of
            an update of Adam.
        ns_dtype: precision of Newton-Schulz, "bfloat16" in the authors' code; None is that of the arithmetic.
        ns_eps: added to the norm by which Newton-Schulz divides at its start, >= 0.
        momentum_form: "lerp", or "sum" for `m = momentum m + g`, which differs only by `ns_eps`.
        weight_decay: decoupled, a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        matrices: which parameters are orthogonalised, along which axes: a mask, or pairs `(mask, axes(...))`, of which the
            first that selects a parameter counts. By default, and for the axes of a mask, the tree tells: `describe` shows what
            it told. Biases, scales, embeddings and heads are not orthogonalised by default; a last layer whose name does not
            say that it is one must be excluded.
        adam_b1: b1 of the other parameters, in [0, 1).
        adam_b2: b2 of the other parameters, in [0, 1).
        adam_eps: eps of the other parameters, >= 0.
        adam_ratio: learning rate of the other parameters, divided by that of the matrices, >= 0; None is 0.015 for "keller"
            (3e-4 for 0.02, as the authors have it) and 1 for "moonlight".

    Raises:
        ValueError: a parameter of `matrices` has fewer than two axes, or other axes than those given.

    Reference:
        Jordan et al. 2024, Muon: an optimizer for hidden layers; Liu et al. 2025, arXiv:2502.16982.
    """
    of_matrices = as_matrices(matrices)
    orthogonal = scale_by_muon(
        momentum=momentum,
        nesterov=nesterov,
        ns_steps=ns_steps,
        scale=scale,
        ns_dtype=ns_dtype,
        ns_eps=ns_eps,
        momentum_form=momentum_form,
        matrices=of_matrices,
    )
    ratio = adam_ratio if adam_ratio is not None else 0.015 if scale == "keller" else 1.0
    return chain(
        masked(orthogonal, of_matrices.mask),
        masked(scale_by_adam(b1=adam_b1, b2=adam_b2, eps=adam_eps), ~of_matrices.mask),
        add_decayed_weights(weight_decay, mask),
        masked(chain(Scale(ratio)), ~of_matrices.mask),  # after the decay, which the ratio scales too
        scale_by_learning_rate(learning_rate),
    )
