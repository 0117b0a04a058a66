"""Prodigy: AdamW that finds its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, block, chain, scale_by_learning_rate
from jadam._authoring import (
    EVERYTHING,
    BadValue,
    Context,
    Decay,
    DecayRate,
    FixedPositive,
    MaskLike,
    NonNegative,
    Option,
    Positive,
    Rule,
    Slots,
    bounded,
    builder,
    cast,
    root,
    zeros,
)

GrowthRate = Annotated[float, Option.of_number("a finite number >= 1", lambda x: 1 <= x < math.inf)]


@dataclass(frozen=True)
class ScaleByProdigy(Rule):
    """Adam times an estimate `d` of the distance to the solution, which takes the place of the learning rate.

    `r = b3 r + d/d0 dlr <g, p0 - p>`, `s = b3 s + d/d0 dlr g`, `d = max(d, d_coef r / |s|_1)`, where `dlr` is `d` times the
    learning rate, and inner product and norm are over all parameters. Arguments as in `prodigy`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.999
    b3: Decay = 0.9995
    eps: NonNegative = 1e-8
    weight_decay: NonNegative = 0.0
    mask: MaskLike = EVERYTHING
    use_bias_correction: bool = False
    safeguard_warmup: bool = False
    d0: FixedPositive = 1e-6
    d_coef: Positive = 1.0
    growth_rate: GrowthRate | None = None
    positions: ClassVar[tuple[str, ...]] = ("p0",)

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p), "s": zeros(p), "p0": jnp.copy(p)}

    def scalars(self) -> dict[str, float]:
        return {"d": self.d0, "d_max": self.d0, "r": 0.0, "taken": 0.0}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, rate = context.h, context.learning_rate
        d, d_max, r = (context.scalars[name] for name in ("d", "d_max", "r"))
        t = context.scalars["taken"] + 1  # steps of a learning rate of zero, or of gradients that always were, do not count
        # `size` times the learning rate is the paper's dlr; the learning rate itself stands at the end of the chain.
        size = d * jnp.sqrt(h.b2.debias(t)) / h.b1.debias(t) if self.use_bias_correction else d
        moving = rate > 0
        # At a learning rate of zero nothing is averaged: the complements of all decays are zero, and so is the gain of s.
        b1, b2, b3 = (DecayRate(jnp.where(moving, b.complement, 0)) for b in (h.b1, h.b2, h.b3))
        gain = jnp.where(moving, d / self.d0 * (d if self.safeguard_warmup else size * rate), 0)

        # d needs the norm of the new s of all leaves: s is computed here, and once more in `update`, which finds in h only what
        # all leaves share. Sums are of the dtype of d, since leaves may differ in theirs.
        leaves = list(zip(context.updates, context.params, context.slot("p0"), context.slot("s"), strict=True))
        product = sum((cast(jnp.sum(g * (p0 - p)), d.dtype) for g, p, p0, _ in leaves), jnp.zeros_like(d))
        new_s = (cast(b3.value, g.dtype) * s + cast(gain, g.dtype) * g for g, _, _, s in leaves)
        norm = sum((cast(jnp.sum(jnp.abs(s)), d.dtype) for s in new_s), jnp.zeros_like(d))

        r = b3.value * r + d / self.d0 * size * rate * product
        defined = moving & (norm > 0)
        d_hat = jnp.where(defined, h.d_coef * r / jnp.where(defined, norm, 1), d)
        d_max = jnp.maximum(d_max, d_hat)
        new_d = d_max
        if self.growth_rate is not None:  # of the first estimate on: d0 is but a guess
            new_d = jnp.minimum(d_max, self.growth_rate * jnp.where(d <= self.d0, jnp.maximum(d, d_hat), d))
        new_d = jnp.where(defined, new_d, d)
        return {
            "d": new_d,
            "d_max": d_max,
            "r": r,
            "taken": jnp.where(defined, t, t - 1),
            "mu_decay": b1,
            "nu_decay": b2,
            "s_decay": b3,
            "gain": gain,
            "mu_d": jnp.where(b1.complement == 1, new_d, d),  # without momentum, the authors step by the new estimate
            "nu_d": d,
            "scaled_eps": new_d * h.eps,
            "size": jnp.where(defined, size, 0),  # where nothing is estimated, the authors do not step
        }

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        # Gradients are averaged times d, which makes `m / sqrt(v)` the same, but lets those of a small d fade as d grows.
        m = h.mu_decay.ema(slots["mu"], h.mu_d * g)
        v = h.nu_decay.ema(slots["nu"], bounded(h.nu_d * g) ** 2)
        s = h.s_decay.value * slots["s"] + h.gain * g
        u = m / (root(v) + h.scaled_eps) + (h.weight_decay * p if self.mask else 0)
        return h.size * u, {"mu": m, "nu": v, "s": s, "p0": slots["p0"]}


scale_by_prodigy = block(ScaleByProdigy)


@builder
def prodigy(
    learning_rate: NonNegative = 1.0,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    *,
    b3: Decay | None = None,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
    use_bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: FixedPositive = 1e-6,
    d_coef: Positive = 1.0,
    growth_rate: GrowthRate | None = None,
) -> GradientTransformation:
    """Prodigy: AdamW whose learning rate is found from the distance travelled, over all parameters together.

    Its first steps are of the size of `d0`: parameters in 16 bits do not resolve them, and it never starts, unless
    `with_precision(tx, params="remainder")` or another rounding than to nearest keeps them.

    Args:
        learning_rate: a factor >= 0 or a schedule, on the rate that is found; 1 unless you know better.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        b3: decay of the averages that `d` is estimated from, in [0, 1); None is the root of `b2`, which must be a number.
        eps: added to the root, times `d`, >= 0.
        weight_decay: decoupled, a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        use_bias_correction: whether the step has Adam's bias correction.
        safeguard_warmup: whether the estimate's divisor omits the learning rate; set it with a warm-up.
        d0: the initial estimate, > 0.
        d_coef: factor of the estimate, > 0: the one to tune.
        growth_rate: the largest growth of `d` in a step, >= 1; None for any.

    Raises:
        ValueError: `b2` is not a number, and `b3` is not given.

    Reference:
        Mishchenko & Defazio 2024, Algorithm 4, arXiv:2306.06101.
    """
    if b3 is None and (callable(b2) or isinstance(b2, Array)):
        raise BadValue("give b3 too; only of a number is it the root.", b2=b2)
    rule = scale_by_prodigy(
        b1=b1,
        b2=b2,
        b3=math.sqrt(b2) if b3 is None else b3,  # pyright: ignore[reportArgumentType]
        eps=eps,
        weight_decay=weight_decay,
        mask=mask,
        use_bias_correction=use_bias_correction,
        safeguard_warmup=safeguard_warmup,
        d0=d0,
        d_coef=d_coef,
        growth_rate=growth_rate,
    )
    return chain(rule, scale_by_learning_rate(learning_rate))
