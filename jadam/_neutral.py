"""Arguments of optax that jadam expresses otherwise: which of their values change nothing, and what to write for others.

A call with such a value runs as if it were not there; the signature stays jadam's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Neutral(NamedTuple):
    """An argument that some functions of optax have, and jadam's of these names have not.

    Attributes:
        of: the functions, separated by spaces.
        holds: whether a value changes nothing.
        instead: what to write for others.
    """

    of: str
    holds: Callable[[Any], bool]
    instead: str


def _is(*values: Any) -> Callable[[Any], bool]:
    """Whether it is one of these values, of any kind of number. Of an array that is traced, nobody knows."""

    def holds(value: Any) -> bool:
        return any(value is one if one is None or isinstance(one, bool) else _equal(value, one) for one in values)

    return holds


def _equal(value: Any, one: Any) -> bool:
    return isinstance(value, int | float | str | np.generic) and not isinstance(value, bool) and value == one


def _float32(dtype: Any) -> bool:
    try:
        return dtype is None or np.dtype(dtype) == np.float32
    except TypeError:
        return False


_WORKS = "which works in jadam.chain"
MU = "write jadam.with_precision(tx, state={'mu': 'bfloat16'})"
ACCUMULATOR = "write jadam.with_precision(tx, state='bfloat16')"
NESTEROV = "jadam.nadamw is Adam along a Nesterov momentum"
_BIG_VISION = "jadam.big_vision_adafactor"

NEUTRAL: dict[str, tuple[Neutral, ...]] = {
    "mu_dtype": (
        Neutral("adam adamw amsgrad nadam nadamw lion ademamix adopt", _float32, MU),
        Neutral("scale_by_adam scale_by_amsgrad scale_by_lion scale_by_ademamix scale_by_adopt", _float32, MU),
    ),
    "accumulator_dtype": (Neutral("sgd trace ema", _float32, ACCUMULATOR),),
    "dtype_momentum": (Neutral("adafactor", _float32, ACCUMULATOR),),
    "nesterov": (
        Neutral("nadam nadamw", _is(True), "jadam.adam and jadam.adamw are without"),
        Neutral("adam adamw scale_by_adam", _is(False), NESTEROV),
        Neutral("adabelief radam scale_by_belief scale_by_radam", _is(False), "jadam.nadam looks ahead"),
        Neutral("rmsprop", _is(False), "write jadam.chain(jadam.scale_by_rms(...), jadam.trace(momentum, nesterov=True), ...)"),
    ),
    "eps_root": (
        Neutral("amsgrad nadam nadamw radam lamb adan ademamix", _is(0), "write eps=..., which is beside the root"),
        Neutral("scale_by_amsgrad scale_by_adan scale_by_radam", _is(0), "write eps=..., which is beside the root"),
        Neutral("scale_by_yogi", _is(0), "write eps=..., which is beside the root"),
    ),
    "eps_in_sqrt": (Neutral("rmsprop scale_by_rms", _is(False), f"optax.scale_by_rms, {_WORKS}, has eps under the root"),),
    "initial_scale": (Neutral("rmsprop scale_by_rms", _is(0), f"optax.scale_by_rms, {_WORKS}, has it"),),
    "bias_correction": (Neutral("rmsprop", _is(False), "write jadam.chain(jadam.scale_by_rms(bias_correction=True), ...)"),),
    "bias_correction_mu": (Neutral("amsgrad scale_by_amsgrad", _is(True), "write maximum='paper' for neither correction"),),
    "bias_correction_nu": (Neutral("amsgrad scale_by_amsgrad", _is(True), "write maximum='paper' for neither correction"),),
    "threshold": (Neutral("radam scale_by_radam", _is(5), f"optax.scale_by_radam, {_WORKS}, has it"),),
    "mode": (Neutral("scale_by_lion", _is("hard"), f"optax.scale_by_lion, {_WORKS}, has it"),),
    "smooth_beta": (Neutral("scale_by_lion", _is(1), f"optax.scale_by_lion, {_WORKS}, has it"),),
    "min_norm": (Neutral("scale_by_trust_ratio", _is(0), f"optax.scale_by_trust_ratio, {_WORKS}, has it"),),
    "trust_coefficient": (Neutral("scale_by_trust_ratio", _is(1), "put jadam.scale(...) behind it"),),
    "eps": (
        Neutral("scale_by_trust_ratio", _is(0), f"optax.scale_by_trust_ratio, {_WORKS}, has it"),
        Neutral("adafactor", _is(), "write eps1=..., the smallest root"),
    ),
    "mask_compatible_extra_args": (
        Neutral("masked partition", _is(False), "arguments of `update` reach what is inside as they are"),
    ),
    "weight_decay": (Neutral("adadelta", _is(0), "write jadam.chain(jadam.add_decayed_weights(...), jadam.adadelta(...))"),),
    "weight_decay_mask": (
        Neutral("adadelta", _is(None), "write jadam.chain(jadam.add_decayed_weights(..., mask), jadam.adadelta(...))"),
        Neutral("adafactor", _is(None), "write mask=..."),
    ),
    "weight_decay_rate": (Neutral("adafactor", _is(None, 0), "write weight_decay=..., times the learning rate as in torch"),),
    "decay_rate": (Neutral("adafactor", _is(0.8), "write beta2_decay=..., which is minus it"),),
    "decay_offset": (Neutral("adafactor", _is(0), f"optax.adafactor, {_WORKS}, has it"),),
    "clipping_threshold": (Neutral("adafactor", _is(1), "write d=..."),),
    "multiply_by_parameter_scale": (Neutral("adafactor", _is(True), f"{_BIG_VISION} does not multiply"),),
    "momentum": (Neutral("adafactor", _is(None), f"{_BIG_VISION} has a momentum"),),
    "factored": (Neutral("adafactor scale_by_factored_rms", _is(True), "jadam.adam keeps the whole second moment"),),
    "step_offset": (Neutral("scale_by_factored_rms", _is(0), f"optax.scale_by_factored_rms, {_WORKS}, has it"),),
    "min_dim_size_to_factor": (
        Neutral("adafactor", _is(), f"matrices of any size are factored, as in torch; {_BIG_VISION} has it"),
    ),
}


def elsewhere(function: str, argument: str) -> Neutral | None:
    """What is known of an argument that a function does not have."""
    return next((one for one in NEUTRAL.get(argument, ()) if function in one.of.split()), None)


def without_neutral(function: str, known: Mapping[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments of a call without those that the function does not have and that change nothing."""

    def changes(name: str, value: Any) -> bool:
        other = None if name in known else elsewhere(function, name)
        return other is None or not other.holds(value)

    return {name: value for name, value in kwargs.items() if changes(name, value)}
