"""Adafactor as Big Vision trains ViTs with it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
from jax import Array
from jax.core import max_dim

from jadam._assembly import (
    GradientTransformation,
    add_decayed_weights,
    block,
    chain,
    clip_by_block_rms,
    ema,
    identity,
    scale_by_learning_rate,
)
from jadam._authoring import (
    Context,
    Count,
    Decay,
    DecayRate,
    Hyper,
    MaskLike,
    NonNegative,
    Option,
    Positive,
    Rule,
    Slots,
    builder,
    root,
    zeros,
)


@dataclass(frozen=True, kw_only=True)
class ScaleByFactoredRms(Rule):
    """Divides gradients by the root of a second moment, kept as means along the two largest axes if both are long enough.

    `v = b2 v + (1-b2) (g^2 + epsilon)` with `b2 = min(beta2_cap, 1 - t^-decay_rate)`, `u = g / sqrt(v)`.

    Args:
        decay_rate: how fast the decay of the second moment rises, > 0.
        min_dim_size_to_factor: from which length of the second largest axis on it is factored, >= 1.
        epsilon: added to squares, >= 0.
        beta2_cap: the largest decay, in [0, 1); the default is one that is never reached.
        decay_rate_fn: what returns the decay of steps done and `decay_rate`, in place of `1 - t^-decay_rate`.
    """

    decay_rate: Positive = 0.8
    min_dim_size_to_factor: Count = 128
    epsilon: NonNegative = 1e-30
    beta2_cap: Decay = 1 - 2.0**-31
    decay_rate_fn: Annotated[Callable[[Array, Array], Array], Option("a function", callable)] | None = None
    elementwise: ClassVar[bool] = False

    def _axes(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        """The largest axis and the second largest, if the second moment is factored."""
        by_length = sorted(range(len(shape)), key=lambda axis: shape[axis])
        if len(shape) < 2 or shape[by_length[-2]] < self.min_dim_size_to_factor:
            return None
        return by_length[-1], by_length[-2]

    def init(self, p: Array) -> Slots:
        axes = self._axes(p.shape)
        if axes is None:
            return {"nu": zeros(p)}
        return {slot: zeros(p.sum(axis, keepdims=True)) for slot, axis in zip(("nu_row", "nu_col"), axes, strict=True)}

    def squares(self, shape: tuple[int, ...]) -> int:
        return functools.reduce(max_dim, shape) if self._axes(shape) else 1  # a mean is a sum before it is divided

    def prepare(self, context: Context) -> dict[str, Any]:
        rate = context.h.decay_rate
        newest = context.t**-rate if self.decay_rate_fn is None else 1 - self.decay_rate_fn(context.count, rate)
        # The larger complement is the smaller decay; decays near one would lose their digits.
        return {"b2": DecayRate(jnp.maximum(context.h.beta2_cap.complement, newest))}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        axes = self._axes(g.shape)
        if axes is None:
            v = h.b2.ema(slots["nu"], g * g + h.epsilon)
            return g / root(v), {"nu": v}
        # Added to the mean, which is the same: XLA for GPU would write the sums of all elements to memory.
        row = h.b2.ema(slots["nu_row"], (g * g).mean(axes[0], keepdims=True) + h.epsilon)
        col = h.b2.ema(slots["nu_col"], (g * g).mean(axes[1], keepdims=True) + h.epsilon)
        # A row without gradients has eps alone: beside a large mean its ratio underflows, and nothing may be divided by zero.
        relative = jnp.maximum(row / row.mean(axes[1], keepdims=True), jnp.finfo(g.dtype).tiny)
        return g / root(relative) / root(col), {"nu_row": row, "nu_col": col}


scale_by_factored_rms = block(ScaleByFactoredRms)


@builder
def big_vision_adafactor(
    learning_rate: Hyper,
    *,
    decay_rate: Positive = 0.8,
    beta2_cap: Decay = 0.999,
    momentum: Decay = 0.9,
    eps: NonNegative = 1e-30,
    min_dim_size_to_factor: Count = 32,
    clipping_threshold: Positive | None = None,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
) -> GradientTransformation:
    """Adafactor as Big Vision trains ViTs with it: momentum, a cap on `b2`, steps that do not depend on the parameter.

    Args:
        learning_rate: a number or a schedule.
        decay_rate: how fast the decay of the second moment rises, > 0.
        beta2_cap: the largest decay, in [0, 1).
        momentum: decay of the average of divided gradients, in [0, 1).
        eps: added to squares, >= 0.
        min_dim_size_to_factor: from which length of the second largest axis on a second moment is factored, >= 1.
        clipping_threshold: the largest root mean square of the divided gradient of an array, > 0; None for any.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.

    Reference:
        Zhai et al. 2022, section 3.4, arXiv:2106.04560; Shazeer & Stern 2018, Algorithm 4, arXiv:1804.04235.
    """
    direction = scale_by_factored_rms(
        decay_rate=decay_rate, beta2_cap=beta2_cap, epsilon=eps, min_dim_size_to_factor=min_dim_size_to_factor
    )
    return chain(
        direction,
        identity() if clipping_threshold is None else clip_by_block_rms(clipping_threshold),
        ema(momentum, debias=False),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
