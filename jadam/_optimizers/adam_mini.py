"""Adam-mini: Adam with one second moment for a block of weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._assembly import GradientTransformation, add_decayed_weights, block, chain, scale_by_learning_rate
from jadam._authoring import (
    WEIGHTS,
    BadValue,
    Context,
    Decay,
    GivenByLeaf,
    Hyper,
    MaskLike,
    NonNegative,
    PyTree,
    Rule,
    Slots,
    WeightsLike,
    builder,
    root,
    zeros,
)


def _is_counts(node: Any) -> bool:
    return isinstance(node, tuple) and all(type(count) is int for count in node)


@dataclass(frozen=True)
class ScaleByAdamMini(Rule):
    """Adam with the mean of the squares over a block of weights in place of each square: `v = b2 v + (1-b2) mean(g^2)`.

    `m = b1 m + (1-b1) g`, `u = mhat / (sqrt(vhat) + eps)`. Arguments as in `adam_mini`.
    """

    b1: Decay = 0.9
    b2: Decay = 0.999
    eps: NonNegative = 1e-8
    blocks: Annotated[Any, GivenByLeaf(_is_counts)] = None
    matrices: WeightsLike = WEIGHTS
    elementwise: ClassVar[bool] = False

    def _counts(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The number of blocks along each axis."""
        if not (self.blocks is None or _is_counts(self.blocks)):
            raise BadValue(f"blocks must be a tuple of integers, one for each of the last axes, not {self.blocks!r}.")
        if self.blocks is None:
            own = self.matrices
            return tuple([1 if own is None or axis in own.inputs else length for axis, length in enumerate(shape)])
        last = self.blocks
        counts = (1,) * (len(shape) - len(last)) + last
        if len(counts) != len(shape) or any(count < 1 or length % count for count, length in zip(counts, shape, strict=True)):
            raise BadValue(f"{last} blocks do not divide its shape {shape}.")
        return counts

    def _mean(self, x: Array) -> Array:
        """The mean over each block, an array with one element a block."""
        counts = self._counts(x.shape)
        split = [n for count, length in zip(counts, x.shape, strict=True) for n in (count, length // count)]
        return x.reshape(split).mean(tuple(range(1, 2 * x.ndim, 2)))

    def init(self, p: Array) -> Slots:
        return {"mu": zeros(p), "nu": zeros(self._mean(p))}

    def squares(self, shape: tuple[int, ...]) -> int:
        return math.prod(shape) // math.prod(self._counts(shape))  # a mean is a sum before it is divided

    def prepare(self, context: Context) -> dict[str, Any]:
        h, t = context.h, context.t
        return {"mu_scale": 1 / h.b1.debias(t), "nu_scale": 1 / h.b2.debias(t)}

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        m, v = h.b1.ema(slots["mu"], g), h.b2.ema(slots["nu"], self._mean(g * g))
        size = root(v * h.nu_scale)  # before it is spread: one root a block
        for axis, (count, length) in enumerate(zip(size.shape, g.shape, strict=True)):
            if 1 < count < length:  # other axes are broadcast by the division
                size = jnp.repeat(size, length // count, axis)
        return m * h.mu_scale / (size + h.eps), {"mu": m, "nu": v}


scale_by_adam_mini = block(ScaleByAdamMini)


@builder
def adam_mini(
    learning_rate: Hyper,
    b1: Decay = 0.9,
    b2: Decay = 0.999,
    eps: NonNegative = 1e-8,
    *,
    weight_decay: NonNegative = 0.0,
    mask: MaskLike = None,
    blocks: PyTree | None = None,
    matrices: WeightsLike = None,
) -> GradientTransformation:
    """Adam-mini: AdamW with one second moment for a block of weights, which halves the state.

    Args:
        learning_rate: a number or a schedule.
        b1: decay of the average of gradients, in [0, 1).
        b2: decay of the average of squares, in [0, 1).
        eps: added to the root, >= 0.
        weight_decay: a number >= 0 or a schedule.
        mask: which parameters decay; None is all of them.
        blocks: a tree like the parameters, a prefix of one, or a function of the parameters that returns it, with a tuple of
            integers for each: how many blocks there are along the last axes. `(heads,)` cuts the columns of a query kernel
            `(in, heads * size)` into its heads, `(tokens, 1)` makes a block of each row of an embedding, `()` is one block.
        matrices: where `blocks` is None, each output of a matrix is a block, and what is not a matrix is one: a mask, or pairs
            `(mask, axes(...))` as in `muon`. By default all parameters but biases and scales are; the tree tells the axes.

    Raises:
        ValueError: when parameters are seen, blocks do not divide them.

    Reference:
        Zhang et al. 2024, Algorithm 1, arXiv:2406.16793.

    Example:
        >>> import jadam
        >>> tx = jadam.adam_mini(1e-3, blocks={"embed": (1000, 1), "query": (8,), "mlp": (256,), "bias": ()})
    """
    return chain(
        scale_by_adam_mini(b1=b1, b2=b2, eps=eps, blocks=blocks, matrices=matrices),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
