"""Which of optax's transformations jadam computes, and why it does not compute the others."""

from __future__ import annotations

from typing import Any

import jadam._clipping as clipping
from jadam._chain import identity
from jadam._ema import ema
from jadam._groups import set_to_zero
from jadam._learning_rate import scale
from jadam._optimizers.adabelief import scale_by_belief
from jadam._optimizers.adadelta import scale_by_adadelta
from jadam._optimizers.adam import scale_by_adam
from jadam._optimizers.adamax import scale_by_adamax
from jadam._optimizers.amsgrad import scale_by_amsgrad
from jadam._optimizers.lamb import scale_by_trust_ratio
from jadam._optimizers.lion import scale_by_lion
from jadam._optimizers.rmsprop import scale_by_rms
from jadam._optimizers.sgd import trace
from jadam._optimizers.yogi import scale_by_yogi
from jadam._weight_decay import add_decayed_weights
from jadam.optax._parts import Ours

MOMENTS = {"mu": "mu", "nu": "nu"}


def _is(value: Any, wanted: float) -> bool:
    """Whether this is the number, and no array, of which nothing is known while a step is traced."""
    return isinstance(value, int | float) and value == wanted


OURS = {
    "add_decayed_weights": Ours(
        lambda a: add_decayed_weights(a.weight_decay, a.mask),
        when=lambda a: a.mask is None or not callable(a.weight_decay),  # under a mask, the count stands in another state
        schedule="weight_decay",
        but="a schedule under a mask",
    ),
    "clip": Ours(lambda a: clipping.clip(a.max_delta)),
    "clip_by_block_rms": Ours(lambda a: clipping.clip_by_block_rms(a.threshold)),
    "clip_by_global_norm": Ours(lambda a: clipping.clip_by_global_norm(a.max_norm)),
    "ema": Ours(lambda a: ema(a.decay, debias=a.debias), {"ema": "ema"}, dtypes={"ema": "accumulator_dtype"}),
    "identity": Ours(lambda a: identity()),
    "scale": Ours(lambda a: scale(a.step_size)),
    "scale_by_adadelta": Ours(lambda a: scale_by_adadelta(rho=a.rho, eps=a.eps), {"e_g": "nu", "e_x": "delta"}),
    "scale_by_adam": Ours(
        lambda a: scale_by_adam(b1=a.b1, b2=a.b2, eps=a.eps, eps_root=a.eps_root),
        MOMENTS,
        when=lambda a: not a.nesterov,
        dtypes={"mu": "mu_dtype"},
        but="`nesterov`: jadam has the authors' NAdam",
    ),
    "scale_by_adamax": Ours(lambda a: scale_by_adamax(b1=a.b1, b2=a.b2, eps=a.eps), MOMENTS),
    "scale_by_amsgrad": Ours(
        lambda a: scale_by_amsgrad(b1=a.b1, b2=a.b2, eps=a.eps, maximum="corrected"),
        MOMENTS | {"nu_max": "nu_max"},
        when=lambda a: _is(a.eps_root, 0) and a.bias_correction_mu and a.bias_correction_nu,
        dtypes={"mu": "mu_dtype"},
        but="`eps_root`, or without a bias correction",
    ),
    "scale_by_belief": Ours(
        lambda a: scale_by_belief(b1=a.b1, b2=a.b2, eps=a.eps),
        MOMENTS,
        when=lambda a: not a.nesterov and _is(a.eps_root, a.eps),
        but="`nesterov`, or an `eps_root` that is not `eps`",
    ),
    "scale_by_learning_rate": Ours(
        lambda a: scale(-a.learning_rate if a.flip_sign else a.learning_rate),
        when=lambda a: a.learning_rate is not None,
        schedule="learning_rate",
    ),
    "scale_by_lion": Ours(
        lambda a: scale_by_lion(b1=a.b1, b2=a.b2),
        {"mu": "mu"},
        when=lambda a: a.mode == "hard",
        dtypes={"mu": "mu_dtype"},
        but='another `mode` than `"hard"`',
    ),
    "scale_by_rms": Ours(
        lambda a: scale_by_rms(decay=a.decay, eps=a.eps, bias_correction=a.bias_correction),
        {"nu": "nu"},
        when=lambda a: not a.eps_in_sqrt,
        but="`eps_in_sqrt`, the default: jadam has `eps` beside the root, as torch",
    ),
    "scale_by_schedule": Ours(lambda a: scale(a.step_size_fn), schedule="step_size_fn"),
    "scale_by_stddev": Ours(
        lambda a: scale_by_rms(decay=a.decay, eps=a.eps, centered=True),
        MOMENTS,
        when=lambda a: not (a.eps_in_sqrt or a.bias_correction),
        but="`eps_in_sqrt`, the default, or `bias_correction`",
    ),
    "scale_by_trust_ratio": Ours(
        lambda a: scale_by_trust_ratio(),
        when=lambda a: _is(a.min_norm, 0) and _is(a.trust_coefficient, 1) and _is(a.eps, 0),
        but="any argument",
    ),
    "scale_by_yogi": Ours(lambda a: scale_by_yogi(b1=a.b1, b2=a.b2, eps=a.eps), MOMENTS, when=lambda a: _is(a.eps_root, 0)),
    "set_to_zero": Ours(lambda a: set_to_zero()),
    "trace": Ours(lambda a: trace(a.decay, a.nesterov), {"trace": "trace"}, dtypes={"trace": "accumulator_dtype"}),
}
"""By optax's name."""

OTHER_NUMBERS = {
    "adaptive_grad_clip": "jadam's has no units for kernels of 5 axes",
    "scale_by_adan": "jadam's decays as the authors' does",
    "scale_by_factored_rms": "jadam's of this name is Big Vision's",
    "scale_by_radam": "optax's state has no place for the age that jadam's keeps",
    "scale_by_rss": "jadam's has `eps` beside the root, as torch's",
}
"""Why a transformation that jadam has by the same name is optax's all the same."""
