"""NorMuon: Muon with steps of one size for all neurons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, chain
from jadam._authoring import (
    ALL,
    Axes,
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
    from_matrices,
    root,
    scaled_norm,
    to_matrices,
    zeros,
)
from jadam._optimizers import auxiliary_adam, muon, newton_schulz, orthogonal, shaped


@dataclass(frozen=True)
class ScaleByNormuon(Rule):
    """Divides each neuron of orthogonal matrices by the root of the average of its mean square, and keeps the norm of all.

    `v = b2 v + (1-b2) mean(o^2)`, `u = o / (sqrt(v) + eps)`, then scaled to the norm of `o`. A neuron is an output. Arguments
    as in `normuon`.
    """

    b2: Decay = 0.95
    eps: NonNegative = 1e-10
    norm_eps_form: newton_schulz.EpsForm = "add"
    matrices: MatricesLike = ALL
    elementwise: ClassVar[bool] = False

    def init(self, p: Array) -> Slots:
        return {"nu": zeros(jnp.mean(p, self.matrices.inputs, keepdims=True))} if self.matrices else {}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        v = h.b2.ema(slots["nu"], jnp.mean(g * g, self.matrices.inputs, keepdims=True))
        factor = 1 / (root(v) + h.eps)
        # The norms of matrices from those of their neurons: from the elements they move 12 bytes more of each on an H100.
        lengths = root(jnp.sum(g * g, self.matrices.inputs, keepdims=True))
        before, after = norms(lengths, self.matrices), norms(lengths * factor, self.matrices)
        after = after + h.eps if self.norm_eps_form == "add" else jnp.maximum(after, h.eps)
        return before / after * factor * g, {"nu": v}


def norms(x: Array, own: Axes) -> Array:
    """The norm of each matrix, at each of its elements."""
    if own.split == 1:
        return scaled_norm(x, own.inputs + own.outputs)
    found = to_matrices(x, own)
    return from_matrices(jnp.broadcast_to(scaled_norm(found, (1, 2)), found.shape), own, x.shape)


@builder
def scale_by_normuon(
    *,
    momentum: Decay = 0.95,
    b2: Decay = 0.95,
    eps: NonNegative = 1e-10,
    nesterov: bool = True,
    ns_coeffs: newton_schulz.Coefficients = "quintic",
    ns_steps: Count | None = None,
    scale: shaped.Scaling = "keller",
    scale_factor: FixedPositive | None = None,
    ns_dtype: orthogonal.Precision | None = None,
    ns_eps: NonNegative = 1e-7,
    ns_eps_form: newton_schulz.EpsForm = "add",
    ns_safety: FixedPositive | None = None,
    momentum_form: muon.MomentumForm = "lerp",
    norm_eps_form: newton_schulz.EpsForm = "add",
    matrices: MatricesLike = True,
) -> GradientTransformation:
    """Muon's direction, each neuron divided by the root of the average of its mean square, and the norm of all restored.

    `o = orthogonalize(m)`, `v = b2 v + (1-b2) mean(o^2)`, `u = o / (sqrt(v) + eps)`. A neuron is an output. Arguments as in
    `normuon`, but that by default all parameters are matrices.
    """
    of_matrices = as_matrices(matrices)
    return chain(
        muon.ScaleByMuon(momentum, nesterov, momentum_form),
        orthogonal.Orthogonalize(ns_coeffs, ns_steps, ns_dtype, ns_eps, ns_eps_form, ns_safety, of_matrices),
        ScaleByNormuon(b2, eps, norm_eps_form, of_matrices),
        shaped.ScaleByShape(scale, scale_factor, None, of_matrices),
    )


@builder
def normuon(
    learning_rate: Hyper,
    momentum: Decay = 0.95,
    *,
    b2: Decay = 0.95,
    eps: NonNegative = 1e-10,
    nesterov: bool = True,
    ns_coeffs: newton_schulz.Coefficients = "quintic",
    ns_steps: Count | None = None,
    scale: shaped.Scaling = "keller",
    scale_factor: FixedPositive | None = None,
    ns_dtype: orthogonal.Precision | None = None,
    ns_eps: NonNegative = 1e-7,
    ns_eps_form: newton_schulz.EpsForm = "add",
    ns_safety: FixedPositive | None = None,
    momentum_form: muon.MomentumForm = "lerp",
    norm_eps_form: newton_schulz.EpsForm = "add",
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
    """NorMuon for matrices, AdamW for the other parameters: Muon, after which all neurons make steps of one size.

    Args:
        learning_rate: as in `muon`, whose other arguments it has too.
        momentum: decay of the momentum, in [0, 1).
        b2: decay of the average of each neuron's mean square, in [0, 1).
        eps: added to the root of that average, and to the norm that is restored, >= 0.
        nesterov: as in `muon`.
        ns_coeffs: as in `muon`.
        ns_steps: as in `muon`.
        scale: as in `muon`.
        scale_factor: as in `muon`.
        ns_dtype: as in `muon`.
        ns_eps: as in `muon`.
        ns_eps_form: as in `muon`.
        ns_safety: as in `muon`.
        momentum_form: as in `muon`.
        norm_eps_form: "add" adds `eps` to the norm, "max" is the least that this may be.
        weight_decay: decoupled, a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        matrices: as in `muon`.
        adam_b1: as in `muon`.
        adam_b2: as in `muon`.
        adam_eps: as in `muon`.
        adam_ratio: as in `muon`.
        adam_learning_rate: as in `muon`.
        adam_weight_decay: as in `muon`.

    Raises:
        ValueError: a parameter of `matrices` has fewer than two axes, or others than those given; both a ratio and a rate are
            given for the others.

    Reference:
        Li et al. 2025, NorMuon: making Muon more efficient and scalable, Algorithm 1, arXiv:2510.05491.
    """
    of_matrices = as_matrices(matrices)
    direction = scale_by_normuon(
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
        b2=b2,
        eps=eps,
        norm_eps_form=norm_eps_form,
    )
    adam = auxiliary_adam.Auxiliary(adam_b1, adam_b2, adam_eps, adam_ratio, adam_learning_rate, adam_weight_decay)
    return auxiliary_adam.beside_adam(
        direction, of_matrices.mask, learning_rate, weight_decay, mask, adam, muon.DEFAULT_RATIO[scale]
    )
