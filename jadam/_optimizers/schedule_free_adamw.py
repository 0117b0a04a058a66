"""AdamW without a schedule."""

from __future__ import annotations

from jadam._assembly import GradientTransformation, ScheduleFree, add_decayed_weights, chain, identity, scale_by_learning_rate
from jadam._authoring import Decay, FixedNonNegative, MaskLike, NonNegative, builder
from jadam._optimizers.rmsprop import scale_by_rms


@builder
def schedule_free_adamw(
    learning_rate: NonNegative,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    *,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
    warmup_steps: FixedNonNegative = 0,
    r: NonNegative = 0.0,
    weight_lr_power: NonNegative = 2.0,
    decay_at_z: bool = False,
) -> GradientTransformation:
    """AdamW with an average of the iterates in place of momentum and of a schedule that falls.

    The parameters are where gradients are taken; read those to evaluate and keep with `schedule_free_params(state, params)`.

    Args:
        learning_rate: a number >= 0 or a schedule; larger than AdamW's, and constant after the warm-up.
        b1: how far the parameters are towards the average, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        warmup_steps: steps in which the learning rate rises from 0 in a line, >= 0.
        r: power of the step number in the weights of the average, >= 0.
        weight_lr_power: power of the largest learning rate so far in the weights, >= 0.
        decay_at_z: whether the iterate `z` decays by itself instead of by the parameters.

    Reference:
        Defazio et al. 2024, Algorithm 1, arXiv:2405.15682.
    """
    average = ScheduleFree(
        b1=b1,
        warmup_steps=warmup_steps,
        r=r,
        weight_lr_power=weight_lr_power,
        weight_decay_at_z=weight_decay if decay_at_z else 0.0,
        mask=mask,
    )
    return chain(
        scale_by_rms(decay=b2, eps=eps, bias_correction=True),  # Adam without its momentum, whose place the average takes
        identity() if decay_at_z else add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
        average,
    )
