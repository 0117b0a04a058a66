"""AdEMAMix: Adam with a second, much slower average of gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, add_decayed_weights, block, chain, scale_by_learning_rate
from jadam._authoring import Context, Count, Decay, DecayRate, Hyper, MaskLike, NonNegative, Rule, Slots, builder, root, zeros


@dataclass(frozen=True)
class ScaleByAdemamix(Rule):
    """Adam with a slow average of gradients added to the fast one: `u = (mhat + alpha m_slow) / (sqrt(vhat) + eps)`.

    `m = b1 m + (1-b1) g`, `m_slow = b3 m_slow + (1-b3) g`, `v = b2 v + (1-b2) g^2`. Arguments as in `ademamix`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: NonNegative = 1e-8
    b3: Decay = 0.9999
    alpha: NonNegative = 2.0
    alpha_warmup: Count | None = None
    b3_warmup: Count | None = None

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p), "mu_slow": zeros(p)}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        alpha, b3 = h.alpha, h.b3
        if self.alpha_warmup is not None:
            alpha = alpha * jnp.minimum(t / self.alpha_warmup, 1)
        if self.b3_warmup is not None:
            # The half-life rises in a line, not b3: of the 6,900 steps of 0.9999, a line in b3 would have reached some 70
            # after nine tenths of the warm-up.
            done = t / self.b3_warmup
            half_life = (1 - done) * _half_life(h.b1) + done * _half_life(b3)
            warm = -jnp.expm1(math.log(0.5) / (half_life + 1))  # 1 - b3, without its rounding
            b3 = DecayRate(jnp.where(done < 1, warm, b3.complement))  # in the end exactly the b3 that was asked for
        return {
            "mu_scale": 1 / h.b1.debias(t),
            "nu_scale": 1 / h.b2.debias(t),
            "slow_weight": alpha,
            "slow_decay": b3,
        }

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = h.b1.ema(slots["mu"], g), h.b2.ema(slots["nu"], g * g)
        slow = h.slow_decay.ema(slots["mu_slow"], g)  # not bias-corrected, as in Algorithm 1
        u = (m * h.mu_scale + h.slow_weight * slow) / (root(v * h.nu_scale) + h.eps)
        return u, {"mu": m, "nu": v, "mu_slow": slow}


def _half_life(decay: DecayRate) -> Array:
    """In how many steps, less one, the weight of a gradient is halved; with the authors' 1e-8 for a decay of zero."""
    # Of a small decay by its value: `1e-8 - 1` is -1 in float32, of which `log1p` is infinite.
    small = decay.complement > 0.5
    log = jnp.where(small, jnp.log(decay.value + 1e-8), jnp.log1p(1e-8 - jnp.where(small, 0, decay.complement)))
    return math.log(0.5) / log - 1


scale_by_ademamix = block(ScaleByAdemamix)


@builder
def ademamix(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Decay = 0.9999,
    *,
    alpha: NonNegative = 2.0,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
    alpha_warmup: Count | None = None,
    b3_warmup: Count | None = None,
) -> GradientTransformation:
    """AdEMAMix: AdamW with a slow average of gradients added to the fast one.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the fast average, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        b3: decay of the slow average, in [0, 1); it is not bias-corrected.
        alpha: weight of the slow average, >= 0.
        eps: added to the root, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        alpha_warmup: steps in which `alpha` rises from 0 in a line, >= 1; the authors advise the length of the run. None for
            no warm-up.
        b3_warmup: steps in which the half-life of the slow average rises from that of `b1` in a line, >= 1; the authors advise
            the length of the run. None for no warm-up.

    Reference:
        Pagliardini et al. 2024, Algorithm 1, arXiv:2409.03137.
    """
    return chain(
        scale_by_ademamix(b1=b1, b2=b2, eps=eps, b3=b3, alpha=alpha, alpha_warmup=alpha_warmup, b3_warmup=b3_warmup),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
