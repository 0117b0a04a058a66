"""AdaBound: Adam that turns into SGD."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, block, chain, peak_of, scale_by_learning_rate
from jadam._authoring import Context, Decay, FixedPositive, NonNegative, Rule, Slots, builder, root, zeros


@dataclass(frozen=True)
class ScaleByAdabound(Rule):
    """Adam with each step size clipped between bounds that close in on that of SGD.

    `u = m clip(sqrt(1-b2^t)/(1-b1^t) / (sqrt(v) + eps), f (1 - 1/(gamma t + 1)), f (1 + 1/(gamma t)))`, where `f` is
    `final_learning_rate / base_learning_rate`. Arguments as in `adabound`, but a schedule is not asked for its peak.
    """

    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: NonNegative = 1e-8
    final_learning_rate: NonNegative = 0.1
    gamma: NonNegative = 1e-3
    amsbound: bool = False
    base_learning_rate: FixedPositive | None = None

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p)} | ({"nu_max": zeros(p)} if self.amsbound else {})

    def scalars(self) -> dict[str, float]:
        return {"base_learning_rate": self.base_learning_rate or 0.0}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t, base = context.h, context.t, context.scalars["base_learning_rate"]
        nu_scale = 1 / h.b2.debias(t)
        # The paper clips learning_rate / sqrt(v) to bounds that do not follow the learning rate; the authors' code lets them
        # follow it. The learning rate stands at the end of the chain, so that here the bounds are divided by its base.
        base = jnp.where(base > 0, base, context.learning_rate)  # a warm-up may begin at zero: the base is what comes after
        final = h.final_learning_rate / jnp.where(base > 0, base, 1)  # at a learning rate of zero nothing moves
        narrowing = h.gamma * t
        tiny = float(jnp.finfo(narrowing.dtype).tiny)
        narrows = narrowing > tiny  # not for a gamma of zero, whose bounds are 0 and infinity
        return {
            "base_learning_rate": base,
            "mu_scale": 1 / h.b1.debias(t),
            "nu_scale": nu_scale,
            "scaled_eps": h.eps * jnp.sqrt(nu_scale),  # of the uncorrected root
            "lower": final * (1 - 1 / (narrowing + 1)),
            "upper": final * jnp.where(narrows, 1 + 1 / jnp.where(narrows, narrowing, 1), 1 / tiny),
        }

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = h.b1.ema(slots["mu"], g), h.b2.ema(slots["nu"], g * g)
        new = {"mu": m, "nu": v}
        if self.amsbound:
            v = new["nu_max"] = jnp.maximum(slots["nu_max"], v)
        size = h.mu_scale / (root(v * h.nu_scale) + h.scaled_eps)
        return m * jnp.clip(size, h.lower, h.upper), new


scale_by_adabound = block(ScaleByAdabound)


@builder
def adabound(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    *,
    final_learning_rate: NonNegative = 0.1,
    gamma: NonNegative = 1e-3,
    amsbound: bool = False,
    base_learning_rate: FixedPositive | None = None,
) -> GradientTransformation:
    """AdaBound, or AMSBound: Adam whose step sizes are clipped between bounds that close in on those of SGD.

    Args:
        learning_rate: a number >= 0 or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the uncorrected root, >= 0.
        final_learning_rate: that of the SGD it becomes, >= 0; it follows the learning rate, in proportion.
        gamma: how fast the bounds close in, >= 0.
        amsbound: whether the largest `v` so far is used, as in AMSGrad.
        base_learning_rate: the learning rate to which `final_learning_rate` belongs, > 0; by default the `peak_value` of a
            schedule that has one, else the first that is not zero.

    Reference:
        Luo et al. 2019, Algorithms 2 and 3, arXiv:1902.09843.
    """
    if base_learning_rate is None and callable(learning_rate):
        base_learning_rate = peak_of(learning_rate)
    rule = scale_by_adabound(
        b1=b1,
        b2=b2,
        eps=eps,
        final_learning_rate=final_learning_rate,
        gamma=gamma,
        amsbound=amsbound,
        base_learning_rate=base_learning_rate,
    )
    return chain(rule, scale_by_learning_rate(learning_rate))
