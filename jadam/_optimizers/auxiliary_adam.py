"""What optimizers of matrices share: AdamW for the parameters that are not matrices."""

from __future__ import annotations

from typing import Any, NamedTuple

from jadam._assembly import (
    GradientTransformation,
    Scale,
    add_decayed_weights,
    chain,
    masked,
    partition,
    scale_by_learning_rate,
)
from jadam._authoring import BadValue, Decay, Hyper, Mask, MaskLike, NonNegative
from jadam._optimizers.adam import scale_by_adam


class Auxiliary(NamedTuple):
    """AdamW of the other parameters, in the arguments of an optimizer of matrices without their `adam_`."""

    b1: Decay
    b2: Decay
    eps: NonNegative
    ratio: NonNegative | None
    learning_rate: Hyper | None
    weight_decay: NonNegative | None


def beside_adam(
    direction: GradientTransformation,
    of_matrices: Mask,
    rate: Hyper,
    weight_decay: NonNegative,
    mask: MaskLike,
    adam: Auxiliary,
    default_ratio: float,
) -> GradientTransformation:
    """A direction for matrices, Adam's for the others, each with its decay and rate.

    The others' rate is a share of the matrices', which one number or schedule drives, or their own: then there are two groups,
    `matrices.learning_rate` and `others.learning_rate`.
    """
    of_others = scale_by_adam(b1=adam.b1, b2=adam.b2, eps=adam.eps)
    decay = add_decayed_weights(weight_decay, mask)
    decay_of_others = decay if adam.weight_decay is None else add_decayed_weights(adam.weight_decay, mask)
    if adam.learning_rate is not None:
        if adam.ratio is not None:
            raise BadValue("adam_ratio is of the learning rate, and adam_learning_rate takes its place; give one of the two.")
        own: list[Any] = [
            (of_matrices, chain(direction, decay, scale_by_learning_rate(rate)), "matrices"),
            (True, chain(of_others, decay_of_others, scale_by_learning_rate(adam.learning_rate)), "others"),
        ]
        return partition(own)
    shared = adam.weight_decay is None
    return chain(
        masked(direction, of_matrices),
        masked(of_others, ~of_matrices),
        decay if shared else chain(masked(decay, of_matrices), masked(decay_of_others, ~of_matrices)),
        # After the decay, which the ratio scales too.
        masked(chain(Scale(default_ratio if adam.ratio is None else adam.ratio)), ~of_matrices),
        scale_by_learning_rate(rate),
    )
