"""What steps without a gradient would have done to a row that missed them, in one: for `lazy`.

Of averages from zero only the decay is left. Where an update without a gradient grows with a power of each of them, those of
the missed steps are a geometric series. Weight decay shrinks the parameter by the same factor at each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from jadam._context import H
from jadam._dtypes import cast, full_products
from jadam._errors import BadValue
from jadam._rule import Context

Slots = dict[str, Array]


class Gap(NamedTuple):
    """How far the rows of a leaf are behind: arrays of one number a row, of shape (n, 1, ...).

    Attributes:
        seen: the steps that a row has made, or caught up with.
        missed: those after them, before this step.
    """

    seen: Array
    missed: Array


def missed(
    rules: Sequence[Any], mode: str, p: Array | None, slots: Sequence[Slots], hs: Sequence[Any], gap: Gap
) -> tuple[Array, list[Slots]]:
    """What missed steps add to a parameter, and the slots after them; hyperparameters count as they are now."""
    if mode == "between":
        raise BadValue(f"lazy needs the steps of its rules in one, and something reads the updates of {rules[-1].name}.")
    if p is None:
        raise BadValue("lazy needs the parameters; call update(grads, state, params), not update(grads, state).")
    gap, none = Gap(*(cast(x, p.dtype) for x in gap)), jnp.zeros_like(p)
    # The updates of the average are summed; `each` is what every step adds beside it, the weight decay.
    total, each, averaged, after = none, none, False, []
    for rule, own, h in zip(rules, slots, hs, strict=True):
        with full_products():
            if own:
                if averaged or each is not none:
                    words = "which averages what other rules of lazy make of nothing; put them after it, or outside."
                    raise BadValue(f"lazy cannot sum up the steps of {rule.name}, {words}")
                averaged = True
                total, own = _series(rule, own, p, h, gap)
            elif rule.linear:
                base = rule.update(none, {}, p, h)[0]
                total = rule.update(total, {}, p, h)[0] - base if averaged else none
                each = none if each is none and rule.keeps_zeros else rule.update(each, {}, p, h)[0]
            elif averaged or each is not none or not rule.keeps_zeros:
                raise BadValue(f"lazy cannot sum up the steps of {rule.name}; put it before the averages, or outside.")
        after.append(own)
    late = total if each is none else total + _decayed(p, each, gap.missed)
    return jnp.where(gap.missed > 0, late, none), after


def _series(rule: Any, slots: Slots, p: Array, h: Any, gap: Gap) -> tuple[Array, Slots]:
    """The sum of the updates of a rule over steps without a gradient, and its slots after them."""
    # Most of the sum is in the first steps, whose bias corrections count therefore.
    then = rule.prepare(Context(h, gap.seen, gap.seen + 1, {}, {}, None, None))
    first, _ = rule.update(jnp.zeros_like(p), slots, p, H(**vars(h) | then))
    logs = {slot: getattr(h, decay).log() for slot, (decay, _) in rule.averages.items()}
    powers = [power * logs[slot] for slot, (_, power) in rule.averages.items() if power]
    terms = gap.missed
    if powers:
        # Where an update would grow, as none does for long, it counts as constant.
        ratio = jnp.minimum(sum(powers[1:], powers[0]), 0)
        constant = ratio > -1e-6
        ratio = jnp.where(constant, -1, ratio)
        terms = jnp.where(constant, terms, jnp.expm1(terms * ratio) / jnp.expm1(ratio))
    decayed = {slot: x * jnp.exp(gap.missed * logs[slot]) for slot, x in slots.items()}
    return first * terms, {slot: jnp.where(gap.missed > 0, new, slots[slot]) for slot, new in decayed.items()}


def _decayed(p: Array, each: Array, steps: Array) -> Array:
    """What steps take off a parameter if one takes this much."""
    share = jnp.where(p == 0, 0, each / jnp.where(p == 0, 1, p))
    return p * jnp.expm1(steps * jnp.log1p(jnp.maximum(share, -1)))
