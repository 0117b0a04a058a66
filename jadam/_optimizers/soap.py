"""SOAP: Adam in the eigenbasis of Shampoo."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._assembly import GradientTransformation, block, chain, decay_after_step, hold_first, scale_by_learning_rate
from jadam._authoring import (
    SURE,
    Context,
    Count,
    Decay,
    Hyper,
    MaskLike,
    NonNegative,
    Rule,
    Slots,
    SureLike,
    builder,
    eigenvectors,
    from_matrices,
    orthonormalized,
    root,
    to_matrices,
    zeros,
)

Matrices = dict[int, Array]
"""A square matrix for each axis."""


@dataclass(frozen=True)
class ScaleBySoap(Rule):
    """Adam on gradients turned, along each side, into the eigenvectors of the average of `G G^T`, and turned back.

    `u = Q (Q^T m / (sqrt(v) + eps))` with Adam's bias corrections and `v` of the turned gradients. The first step only finds
    the eigenvectors; every `precondition_frequency` steps a power iteration and a QR decomposition renew them.
    Arguments as in `soap`.
    """

    b1: Decay = 0.95
    b2: Decay = 0.95
    eps: NonNegative = 1e-8
    precondition_frequency: Count = 10
    max_precondition_size: Count = 10000
    matrices: SureLike = SURE
    elementwise: ClassVar[bool] = False
    on_matrices: ClassVar[tuple[str, ...]] = ("mu", "nu")

    def _matrices(self, x: Array) -> Array:
        """An array as it is turned: its matrix, or several on a first axis; as it is where all axes are turned."""
        if self.matrices is None:
            return x
        found = to_matrices(x, self.matrices.in_order)
        return found if self.matrices.several else found[0]

    @property
    def _apart(self) -> bool:
        return self.matrices is not None and self.matrices.several

    def _turned(self, p: Array) -> dict[int, int]:
        """The axes of one matrix that are turned, with the axis in whose name the state keeps what belongs to each."""
        shape = jax.eval_shape(self._matrices, p).shape[self._apart :]
        axes = range(p.ndim) if self.matrices is None else [of[0] for of in self.matrices.in_order.groups[:2]]
        return {k: axes[k] for k, length in enumerate(shape) if p.ndim > 1 and length <= self.max_precondition_size}

    def init(self, p: Array) -> Slots:
        shape = jax.eval_shape(self._matrices, p).shape
        stack, one = (shape[:1], shape[1:]) if self._apart else ((), shape)
        names = [(f"{kind}_{axis}", one[k]) for kind in ("gram", "basis") for k, axis in self._turned(p).items()]
        return {"mu": zeros(p), "nu": zeros(p)} | {name: jnp.zeros((*stack, n, n), p.dtype) for name, n in names}

    def squares(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape)  # a turned gradient may have its norm in one element

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, jnp.maximum(context.t - 1, 1)  # the averages begin one step late
        nu_scale = 1 / h.b2.debias(t)
        return {
            "mu_scale": 1 / h.b1.debias(t),
            "nu_scale": nu_scale,
            "scaled_eps": h.eps * jnp.sqrt(nu_scale),  # of the uncorrected root, as in the authors' code
            "first": context.count == 0,
            "due": (context.count > 0) & (context.count % self.precondition_frequency == 0),
        }

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        names = self._turned(g)
        m = jnp.where(h.first, slots["mu"], h.b1.ema(slots["mu"], g))
        grams, bases = ({k: slots[f"{kind}_{axis}"] for k, axis in names.items()} for kind in ("gram", "basis"))
        step = functools.partial(self._step, h)
        of_g, of_m, of_v = (self._matrices(x) for x in (g, m, slots["nu"]))
        u, v, grams, bases = (jax.vmap(step) if self._apart else step)(of_g, of_m, of_v, grams, bases)
        if self.matrices is not None:
            u, v = (from_matrices(x, self.matrices.in_order, g.shape) for x in (u, v))
        new = {f"{kind}_{names[k]}": x for kind, of in (("gram", grams), ("basis", bases)) for k, x in of.items()}
        return u, {"mu": m, "nu": v} | new

    def _step(self, h: Any, g: Array, m: Array, v: Array, grams: Matrices, bases: Matrices) -> tuple[Any, ...]:
        """The update of one matrix, the second moment of its turned gradients, and the matrices of its sides."""
        grams = {k: h.b2.ema(gram, _gram(g, k)) for k, gram in grams.items()}
        v = jnp.where(h.first, v, h.b2.ema(v, _turned(g, bases) ** 2))
        known = _known(v, bool(bases))
        u = _turned(m, bases) * h.mu_scale / jnp.where(known, root(v * h.nu_scale) + h.scaled_eps, 1)
        u = _turned(jnp.where(known, u, 0), {k: basis.T for k, basis in bases.items()})
        if bases:
            # After the step: `v` is still averaged in the bases so far.
            case = jnp.where(h.first, 1, jnp.where(h.due, 2, 0))
            bases, v = lax.switch(case, [_keep, _decompose, _renew], grams, bases, v)  # a select would run all three
        return u, v, grams, bases


def _gram(g: Array, axis: int) -> Array:
    rows = jnp.moveaxis(g, axis, 0).reshape(g.shape[axis], -1)
    return rows @ rows.T


def _turned(x: Array, bases: Matrices) -> Array:
    for axis, basis in bases.items():
        x = jnp.moveaxis(jnp.tensordot(x, basis, ([axis], [0])), -1, axis)
    return x


def _known(v: Array, turned: bool) -> Array:
    """Where the second moment of turned gradients is more than what rounding makes of zero.

    Where a gradient has no rank, turning leaves its norm times the epsilon of the arithmetic, over the root of the length.
    Adam would make full steps of that, the longest where there is nothing. The factor 64 is 4 times what the worst element
    of random 16 x 16 matrices has in float32, where for 4096 x 4096 it is a 2000th of the mean element.
    """
    size = jnp.asarray(v.size, v.dtype)  # an array, since a symbolic shape has no roots
    noise = 64 * float(jnp.finfo(v.dtype).eps) / jnp.sqrt(jnp.sqrt(size)) if turned else 0
    return v > noise**2 * jnp.sum(v)


def _keep(grams: Matrices, bases: Matrices, v: Array) -> tuple[Matrices, Array]:
    return bases, v


def _decompose(grams: Matrices, bases: Matrices, v: Array) -> tuple[Matrices, Array]:
    """All eigenvectors, from the largest eigenvalue down; `eigenvectors` returns them the other way round."""
    return {axis: eigenvectors(gram)[:, ::-1] for axis, gram in grams.items()}, v


def _renew(grams: Matrices, bases: Matrices, v: Array) -> tuple[Matrices, Array]:
    """One power iteration from the eigenvectors so far, sorted by their eigenvalues; `v` is sorted alike."""
    new = {}
    for axis, gram in grams.items():
        powered = gram @ bases[axis]
        order = jnp.argsort(-jnp.sum(bases[axis] * powered, axis=0))  # q^T A q, an estimate of the eigenvalue of q
        v = jnp.take(v, order, axis)
        new[axis] = orthonormalized(powered[:, order])
    return new, v


scale_by_soap = block(ScaleBySoap)


@builder
def soap(
    learning_rate: Hyper,
    b1: Decay = 0.95,
    b2: Decay = 0.95,
    eps: NonNegative = 1e-8,
    *,
    weight_decay: NonNegative = 1e-2,
    mask: MaskLike = None,
    precondition_frequency: Count = 10,
    max_precondition_size: Count = 10000,
    matrices: SureLike = None,
) -> GradientTransformation:
    """SOAP: Adam in the eigenbasis of Shampoo's preconditioner, as in the authors' code. Nothing moves at the first step.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the averages of squares and of `G G^T`, in [0, 1).
        eps: added to the uncorrected root, >= 0.
        weight_decay: a number >= 0 or a schedule; the decay follows the step.
        mask: which parameters decay; None is all of them.
        precondition_frequency: steps from one renewal of the eigenvectors to the next, >= 1.
        max_precondition_size: sides longer than this are not turned, >= 1.
        matrices: which gradients are turned as matrices, along inputs and outputs: a mask, or pairs `(mask, axes(...))` as in
            `muon`. By default those whose axes the tree tells. Others are turned along each of their axes.

    Reference:
        Vyas et al. 2024, Algorithm 3, arXiv:2409.11321.
    """
    direction = scale_by_soap(
        b1=b1,
        b2=b2,
        eps=eps,
        precondition_frequency=precondition_frequency,
        max_precondition_size=max_precondition_size,
        matrices=matrices,
    )
    return chain(direction, scale_by_learning_rate(learning_rate), decay_after_step(weight_decay, mask), hold_first())
