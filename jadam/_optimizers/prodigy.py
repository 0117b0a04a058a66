"""Prodigy: AdamW that finds its learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any

import jax.numpy as jnp
from jax import Array

from jadam._hyper import Decay, FixedPositive, NonNegative, Option, Positive
from jadam._learning_rate import scale_by_learning_rate
from jadam._masks import EVERYTHING, MaskLike
from jadam._rule import Context, DecayRate, Rule, Slots, debias, ema, zeros
from jadam._storage import cast
from jadam._transformation import GradientTransformation, block, chain


@dataclass(frozen=True, repr=False)
class ScaleByProdigy(Rule):
    """Adam times an estimate `d` of the distance to the solution, which takes the place of the learning rate.

    `r = b3 r + d/d0 dlr <g, p0 - p>`, `s = b3 s + d/d0 dlr g`, `d = max(d, d_coef r / |s|_1)`, where `dlr` is `d` times the
    learning rate, and inner product and norm are over all parameters.

    Args:
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        b3: decay of the averages that `d` is estimated from, in [0, 1).
        eps: added to the root, times `d`, >= 0.
        weight_decay: a number >= 0 or a schedule, multiplied by `dlr`.
        mask: which parameters decay.
        use_bias_correction: whether `dlr` has Adam's bias correction.
        safeguard_warmup: whether the learning rate is left out of `s`.
        d0: the first estimate, > 0.
        d_coef: factor of the estimate, > 0.
        growth_rate: the largest growth of `d` in a step, >= 1; None for any.

    Reference:
        Mishchenko & Defazio 2024, Algorithm 4, arXiv:2306.06101.
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
    growth_rate: Annotated[float, Option("a number >= 1", lambda x: x >= 1)] | None = None

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(p), "s": zeros(p), "p0": jnp.copy(p)}

    def scalars(self) -> dict[str, float]:
        return {"d": self.d0, "d_max": self.d0, "r": 0.0, "taken": 0.0}

    def prepare(self, context: Context) -> dict[str, Any]:
        h, rate = context.h, context.learning_rate
        d, d_max, r = (context.scalars[name] for name in ("d", "d_max", "r"))
        t = context.scalars["taken"] + 1  # steps of a learning rate of zero, or of gradients that always were, do not count
        size = d * jnp.sqrt(debias(h.b2, t)) / debias(h.b1, t) if self.use_bias_correction else d
        moving = rate > 0
        b1, b2, b3 = (DecayRate(jnp.where(moving, b.complement, 0)) for b in (h.b1, h.b2, h.b3))
        gain = jnp.where(moving, d / self.d0 * (d if self.safeguard_warmup else size * rate), 0)

        starts, sums = context.slot("p0"), context.slot("s")
        leaves = list(zip(context.updates, context.params, starts, sums, strict=True))
        product = sum((cast(jnp.sum(g * (p0 - p)), d.dtype) for g, p, p0, _ in leaves), jnp.zeros_like(d))
        news = (cast(b3.value, g.dtype) * s + cast(gain, g.dtype) * g for g, _, _, s in leaves)
        norm = sum((cast(jnp.sum(jnp.abs(s)), d.dtype) for s in news), jnp.zeros_like(d))
        r = b3.value * r + d / self.d0 * size * rate * product
        known = moving & (norm > 0)
        d_hat = jnp.where(known, h.d_coef * r / jnp.where(known, norm, 1), d)
        d_max = jnp.maximum(d_max, d_hat)
        new = d_max
        if self.growth_rate is not None:
            new = jnp.minimum(d_max, self.growth_rate * jnp.where(d <= self.d0, jnp.maximum(d, d_hat), d))
        new = jnp.where(known, new, d)
        return {
            **{"d": new, "d_max": d_max, "r": r, "taken": jnp.where(known, t, t - 1), "eps": new * h.eps},
            **{"b1": b1, "b2": b2, "b3": b3, "old_d": d, "gain": gain, "size": jnp.where(known, size, 0)},
            "m_d": jnp.where(b1.complement == 1, new, d),  # without momentum, the authors step by the new estimate
        }

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m = ema(slots["mu"], h.m_d * g, h.b1)
        v = ema(slots["nu"], (h.old_d * g) ** 2, h.b2)
        s = h.b3.value * slots["s"] + h.gain * g
        u = m / (jnp.sqrt(v) + h.eps) + (h.weight_decay * p if self.mask else 0)
        return h.size * u, {"mu": m, "nu": v, "s": s, "p0": slots["p0"]}


scale_by_prodigy = block(ScaleByProdigy)


def prodigy(
    learning_rate: NonNegative = 1.0,
    *,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    b3: Decay | None = None,
    eps: NonNegative = 1e-8,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
    use_bias_correction: bool = False,
    safeguard_warmup: bool = False,
    d0: float = 1e-6,
    d_coef: Positive = 1.0,
    growth_rate: float | None = None,
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
        safeguard_warmup: whether the learning rate is left out of the estimate's divisor; set it with a warm-up.
        d0: the first estimate, > 0.
        d_coef: factor of the estimate, > 0: the one to tune.
        growth_rate: the largest growth of `d` in a step, >= 1; None for any.

    Raises:
        ValueError: `b2` is no number, and `b3` is not given.

    Reference:
        Mishchenko & Defazio 2024, Algorithm 4, arXiv:2306.06101.
    """
    if b3 is None and (callable(b2) or isinstance(b2, Array)):
        raise ValueError(f"prodigy(b2={b2!r}): give b3 too; only of a number is it the root.")
    b3 = math.sqrt(max(b2, 0)) if b3 is None else b3  # pyright: ignore[reportArgumentType]
    rule = scale_by_prodigy(
        *(b1, b2, b3, eps, weight_decay, mask),
        *(use_bias_correction, safeguard_warmup, d0, d_coef, growth_rate),
    )
    return chain(rule, scale_by_learning_rate(learning_rate))
