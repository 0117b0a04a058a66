"""Muon: momentum, orthogonalised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from jax import Array

from jadam._assembly import GradientTransformation, chain
from jadam._authoring import (
    Context,
    Count,
    Decay,
    FixedPositive,
    Hyper,
    MaskLike,
    MatricesLike,
    NonNegative,
    Rule,
    Slots,
    as_matrices,
    builder,
    zeros,
)
from jadam._optimizers import auxiliary_adam, newton_schulz, orthogonal, shaped

MomentumForm = Literal["lerp", "sum", "bias_corrected"]
DEFAULT_RATIO = {"keller": 0.015, "moonlight": 1.0, "unit_rms": 0.015}
"""The learning rate of the other parameters, divided by that of the matrices."""


@dataclass(frozen=True)
class ScaleByMuon(Rule):
    """The momentum of Muon: `m = momentum m + (1-momentum) g`, that of one step ahead with `nesterov`.

    Arguments as in `muon`.
    """

    momentum: Decay = 0.95
    nesterov: bool = True
    momentum_form: MomentumForm = "lerp"

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Array]:
        if self.momentum_form != "bias_corrected":
            return {}
        b, t = context.h.momentum, context.t
        return {"g_scale": 1 / b.debias(t), "m_scale": 1 / b.debias(t + 1 if self.nesterov else t)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        if self.momentum_form == "sum":
            m = h.momentum.value * slots["mu"] + g
            return (g + h.momentum.value * m if self.nesterov else m), {"mu": m}
        m = h.momentum.ema(slots["mu"], g)
        now, ahead = (h.g_scale * g, h.m_scale * m) if self.momentum_form == "bias_corrected" else (g, m)
        return (h.momentum.ema(ahead, now) if self.nesterov else ahead), {"mu": m}


@builder
def scale_by_muon(
    *,
    momentum: Decay = 0.95,
    nesterov: bool = True,
    ns_coeffs: newton_schulz.Coefficients = "quintic",
    ns_steps: Count | None = None,
    scale: shaped.Scaling = "keller",
    scale_factor: FixedPositive | None = None,
    ns_dtype: orthogonal.Precision | None = None,
    ns_eps: NonNegative = 1e-7,
    ns_eps_form: newton_schulz.EpsForm = "add",
    ns_safety: FixedPositive | None = None,
    momentum_form: MomentumForm = "lerp",
    matrices: MatricesLike = True,
) -> GradientTransformation:
    """Momentum with its singular values made equal: `m = momentum m + (1-momentum) g`, `u = orthogonalize(m)`.

    Arguments as in `muon`, but that by default all parameters are matrices.
    """
    of_matrices = as_matrices(matrices)
    # "keller" scales the matrix in the dtype of Newton-Schulz, the others the learning rate: where their authors do.
    dtype = ns_dtype if scale == "keller" else None
    return chain(
        ScaleByMuon(momentum, nesterov, momentum_form),
        orthogonal.Orthogonalize(ns_coeffs, ns_steps, ns_dtype, ns_eps, ns_eps_form, ns_safety, of_matrices),
        shaped.ScaleByShape(scale, scale_factor, dtype, of_matrices),
    )


@builder
def muon(
    learning_rate: Hyper,
    *,
    momentum: Decay = 0.95,
    nesterov: bool = True,
    ns_coeffs: newton_schulz.Coefficients = "quintic",
    ns_steps: Count | None = None,
    scale: shaped.Scaling = "keller",
    scale_factor: FixedPositive | None = None,
    ns_dtype: orthogonal.Precision | None = None,
    ns_eps: NonNegative = 1e-7,
    ns_eps_form: newton_schulz.EpsForm = "add",
    ns_safety: FixedPositive | None = None,
    momentum_form: MomentumForm = "lerp",
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
    matrices: MatricesLike = None,
    adam_b1: Decay = 0.9,
    adam_b2: Decay = 0.95,
    adam_eps: NonNegative = 1e-10,
    adam_ratio: NonNegative | None = None,
    adam_learning_rate: Hyper | None = None,
    adam_weight_decay: NonNegative | None = None,
) -> GradientTransformation:
    """Muon for matrices, AdamW for the other parameters.

    Args:
        learning_rate: of the matrices, a number or a schedule; about 0.02 for "keller", as for AdamW for "moonlight".
        momentum: decay of the momentum, in [0, 1).
        nesterov: whether the momentum is that of one step ahead.
        ns_coeffs: the polynomials of Newton-Schulz: "quintic" (Jordan), "polar_express" (Amsel et al.), "deepseek_v4", "cans"
            (Grishina et al.), or a tuple of `(a, b, c)`, one a step.
        ns_steps: iterations of Newton-Schulz, >= 1; None is 5, 10 for "deepseek_v4", and all that a tuple has. The last
            polynomial is repeated where there are more steps.
        scale: "keller" multiplies by `sqrt(max(1, outputs/inputs))`, "moonlight" by `0.2 sqrt(max(rows, columns))`, the size of
            an update of Adam, "unit_rms" by `sqrt(outputs/inputs)`, which keeps the root mean square of inputs.
        scale_factor: a factor of that, > 0; None is 0.2 for "moonlight" (DeepSeek V4 has 0.18), else 1.
        ns_dtype: precision of Newton-Schulz, "bfloat16" in the authors' code; None is that of the arithmetic.
        ns_eps: what keeps Newton-Schulz from dividing by zero at its start, >= 0.
        ns_eps_form: "add" adds it to the norm by which is divided, "max" is the least that this may be.
        ns_safety: factor of that norm, > 0; None is the set's own, 1.01 for "polar_express", else 1.
        momentum_form: "lerp", or "sum" for `m = momentum m + g`, which differs only by `ns_eps`, or "bias_corrected", which
            divides the average by `1 - momentum^t` as optax does: with `nesterov` that of t+1, and the gradient by that of t.
        weight_decay: decoupled, a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        matrices: which parameters are orthogonalised, along which axes: a mask, or pairs `(mask, axes(...))`, of which the
            first that selects a parameter counts. By default, and for the axes of a mask, the tree tells: `describe` shows what
            it told. Biases, scales, embeddings and heads are not orthogonalised by default; a last layer whose name does not
            say that it is one must be excluded.
        adam_b1: b1 of the other parameters, in [0, 1).
        adam_b2: b2 of the other parameters, in [0, 1).
        adam_eps: eps of the other parameters, >= 0.
        adam_ratio: learning rate of the other parameters, divided by that of the matrices, >= 0; None is 1 for "moonlight",
            else 0.015 (3e-4 for 0.02, as the authors have it).
        adam_learning_rate: of the other parameters, in place of a ratio, a number or a schedule. The two are then called
            `matrices.learning_rate` and `others.learning_rate` in the state.
        adam_weight_decay: of the other parameters, a number >= 0 or a schedule; None is `weight_decay`.

    Raises:
        ValueError: a parameter of `matrices` has fewer than two axes, or others than those given; both a ratio and a rate are
            given for the others.

    Reference:
        Jordan et al. 2024, Muon: an optimizer for hidden layers; Liu et al. 2025, arXiv:2502.16982; Amsel et al. 2025,
        arXiv:2505.16932; Grishina et al. 2025, arXiv:2506.10935.
    """
    of_matrices = as_matrices(matrices)
    direction = scale_by_muon(
        momentum=momentum,
        nesterov=nesterov,
        ns_coeffs=ns_coeffs,
        ns_steps=ns_steps,
        scale=scale,
        scale_factor=scale_factor,
        ns_dtype=ns_dtype,
        ns_eps=ns_eps,
        ns_eps_form=ns_eps_form,
        ns_safety=ns_safety,
        momentum_form=momentum_form,
        matrices=of_matrices,
    )
    adam = auxiliary_adam.Auxiliary(adam_b1, adam_b2, adam_eps, adam_ratio, adam_learning_rate, adam_weight_decay)
    return auxiliary_adam.beside_adam(
        direction, of_matrices.mask, learning_rate, weight_decay, mask, adam, DEFAULT_RATIO[scale]
    )
