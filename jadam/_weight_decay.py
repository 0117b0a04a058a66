"""Weight decay. Placed before `scale_by_adam` it is L2 regularisation, placed after it it is AdamW's decoupled decay."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import jax.numpy as jnp
from jax import Array, lax

from jadam._chain import Transformation, builder, chain, identity
from jadam._errors import BadValue
from jadam._groups import masked
from jadam._hyper import FixedPositive, NonNegative
from jadam._masks import MaskLike
from jadam._recipe import Part
from jadam._rule import Context, Rule, Slots
from jadam._transformation import GradientTransformation

DecayScale = Literal["decoupled", "independent", "corrected"]
DecayForm = Literal["decoupled", "constant", "proximal"]

DECAYS = ("weight_decay", "weight_decay_at_z")
"""How rules that decay by themselves call it."""


def decays(rule: Any) -> bool:
    """Whether a rule has a weight decay that is not zero."""
    return any(hyper.name in DECAYS and getattr(rule, hyper.name) != 0 for hyper in rule.hypers)


@dataclass(frozen=True)
class AddDecayedWeights(Rule):
    """Adds `rate * p` to the update; if `cautious`, only where the two have the same sign.

    It is added to the update and not multiplied into the parameter: `p * (1 - lr*wd)` in float32 is 9 % off at
    lr*wd = 1e-7, and nothing at all at 2e-8.
    """

    weight_decay: NonNegative
    decay: DecayScale = "decoupled"
    peak_learning_rate: FixedPositive | None = None
    cautious: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay != "decoupled" and self.peak_learning_rate is None:
            words = "give peak_learning_rate; the learning rate is not a number, and has no peak_value."
            raise BadValue(words, decay=self.decay)

    @property
    def linear(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.cautious

    def prepare(self, context: Context) -> dict[str, Array]:
        rate = context.h.weight_decay
        if self.decay != "decoupled" and self.peak_learning_rate is not None:
            rate = rate / self.peak_learning_rate
        return {"rate": rate * context.learning_rate if self.decay == "corrected" else rate}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        decayed = p * h.rate
        return lax.add(g, jnp.where(jnp.sign(g) * jnp.sign(p) >= 0, decayed, 0) if self.cautious else decayed), slots


@builder
def add_decayed_weights(
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
    *,
    decay: DecayScale = "decoupled",
    peak_learning_rate: FixedPositive | None = None,
) -> GradientTransformation:
    """Adds the parameter times `weight_decay` to its update: `u = g + weight_decay p`.

    Before `scale_by_adam` this is L2 regularisation (coupled, as torch's Adam has it); after it, and before the learning
    rate, it is decoupled (AdamW), and multiplied by the learning rate.

    Args:
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        decay: "decoupled"; "independent" divides by the peak of the learning rate; "corrected" multiplies by the learning
            rate over its peak.
        peak_learning_rate: that peak, > 0.

    Raises:
        ValueError: an unknown `decay`, or one that needs a peak without it.

    Reference:
        Loshchilov & Hutter 2019, Algorithm 2, arXiv:1711.05101; corrected: Defazio 2025, arXiv:2506.02285.
    """
    return masked(chain(AddDecayedWeights(weight_decay, decay, peak_learning_rate)), mask)


def optional_decay(weight_decay: NonNegative | None, mask: MaskLike) -> GradientTransformation:
    """`add_decayed_weights`, or nothing for None."""
    return identity() if weight_decay is None else add_decayed_weights(weight_decay, mask)


@dataclass(frozen=True)
class DecayAfterStep(Rule):
    """Takes `rate` times the parameter that the step reaches off it: `u = u - rate (p + u)`."""

    weight_decay: NonNegative
    form: DecayForm = "decoupled"

    def prepare(self, context: Context) -> dict[str, Array]:
        if self.form == "constant":
            return {"rate": context.h.weight_decay}
        rate = context.learning_rate * context.h.weight_decay
        return {"rate": rate / (1 + rate) if self.form == "proximal" else rate}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return g - h.rate * (p + g), slots


@builder
def decay_after_step(
    weight_decay: NonNegative, mask: MaskLike = None, *, form: DecayForm = "decoupled"
) -> GradientTransformation:
    """Decays the parameter that a step reaches, instead of the one it leaves: `u = u - rate (p + u)`.

    It stands last in a chain, after the learning rate.

    Args:
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        form: what the rate is: "decoupled", `learning_rate weight_decay` (SOAP); "constant", `weight_decay` itself (LaProp);
            "proximal", that of `p / (1 + learning_rate weight_decay)` (Adan).

    Raises:
        ValueError: when a step is traced, there is no learning rate in the chain.
    """
    return masked(chain(DecayAfterStep(weight_decay, form)), mask)


@builder
def cautious_weight_decay(tx: Transformation) -> GradientTransformation:
    """The same transformation with weight decay only where the direction and the parameter have the same sign.

    There the step goes towards zero anyway; elsewhere the decay would work against it.

    Args:
        tx: a transformation of jadam with `add_decayed_weights` in it, such as `adamw`.

    Raises:
        ValueError: it has none, or another rule of it decays (SOAP, LaProp, StableAdamW, Prodigy, Adan).

    Reference:
        Chen et al. 2025, arXiv:2510.12402.

    Example:
        >>> import jadam
        >>> tx = jadam.cautious_weight_decay(jadam.lion(1e-4, weight_decay=0.1))
    """
    rules = [place.part.rule for place in tx.recipe.all]
    others = [rule for rule in rules if not isinstance(rule, AddDecayedWeights)]
    decaying = list(filter(decays, others))
    if len(others) == len(rules) or decaying:
        reason = f"{decaying[0].key} decays by itself" if decaying else "it has no add_decayed_weights"
        raise BadValue(f"of {tx!r} the decay cannot be masked: {reason}.")

    def masked_decay(part: Part) -> Part:
        return replace(part, rule=replace(part.rule, cautious=True)) if isinstance(part.rule, AddDecayedWeights) else part

    return GradientTransformation.of(tx.recipe.map(masked_decay))
