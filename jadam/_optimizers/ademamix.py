"""AdEMAMix: Adam with a second, much slower average of gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Count, Decay, NonNegative
from jadam._learning_rate import scale_by_learning_rate
from jadam._masks import MaskLike
from jadam._optimizers.adam import Moments
from jadam._rule import Context, DecayRate, Slots, ema, zeros
from jadam._transformation import GradientTransformation, block, chain
from jadam._weight_decay import add_decayed_weights


@dataclass(frozen=True, repr=False)
class ScaleByAdemamix(Moments):
    """Adam with a slow average of gradients added to the fast one: `u = (mhat + alpha m_slow) / (sqrt(vhat) + eps)`.

    Args:
        b1: decay of the fast average, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        b3: decay of the slow average, in [0, 1); it is not bias-corrected.
        alpha: weight of the slow average, >= 0.
        alpha_warmup: steps in which `alpha` rises from 0 in a line; None for none.
        b3_warmup: steps in which the half-life of the slow average rises from that of `b1` in a line; None for none.

    Reference:
        Pagliardini et al. 2024, Algorithm 1, arXiv:2409.03137.
    """

    b3: Decay = 0.9999
    alpha: NonNegative = 2.0
    alpha_warmup: Count | None = None
    b3_warmup: Count | None = None

    def init(self, p: Array) -> Slots:
        return super().init(p) | {"mu_slow": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        alpha, b3 = h.alpha, h.b3
        if self.alpha_warmup is not None:
            alpha = alpha * jnp.minimum(t / self.alpha_warmup, 1)
        if self.b3_warmup is not None:
            done = t / self.b3_warmup
            half_life = (1 - done) * _half_life(h.b1) + done * _half_life(b3)
            warm = -jnp.expm1(math.log(0.5) / (half_life + 1))
            b3 = DecayRate(jnp.where(done < 1, warm, b3.complement))
        return super().prepare(context) | {"alpha": alpha, "b3": b3}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = ema(slots["mu"], g, h.b1), ema(slots["nu"], g * g, h.b2)
        slow = ema(slots["mu_slow"], g, h.b3)
        u = (m * h.mu_scale + h.alpha * slow) / (jnp.sqrt(v * h.nu_scale) + h.eps)
        return u, {"mu": m, "nu": v, "mu_slow": slow}


def _half_life(decay: DecayRate) -> Array:
    """In how many steps, less one, the weight of a gradient is halved; with the authors' 1e-8 for a decay of zero."""
    return math.log(0.5) / jnp.log1p(1e-8 - decay.complement) - 1


scale_by_ademamix = block(ScaleByAdemamix)


def ademamix(
    learning_rate: NonNegative,
    *,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Decay = 0.9999,
    alpha: NonNegative = 2.0,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
    alpha_warmup: int | None = None,
    b3_warmup: int | None = None,
) -> GradientTransformation:
    """AdEMAMix: AdamW with a slow average of gradients added to the fast one.

    Args:
        learning_rate: a number >= 0 or a schedule.
        b1: decay of the fast average, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        b3: decay of the slow average, in [0, 1).
        alpha: weight of the slow average, >= 0.
        eps: added to the root, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        alpha_warmup: steps in which `alpha` rises from 0; the authors advise the length of the run. None for none.
        b3_warmup: steps in which `b3` rises from `b1`; the authors advise the length of the run. None for none.

    Reference:
        Pagliardini et al. 2024, Algorithm 1, arXiv:2409.03137.
    """
    return chain(
        scale_by_ademamix(b1, b2, eps, b3, alpha, alpha_warmup, b3_warmup),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
