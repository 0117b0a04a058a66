"""QK-clip: the kernels of queries and keys of heads whose attention logits grew too large are scaled down after the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._after_step import AfterStep, axes_of
from jadam._by_leaf import ByLeaf
from jadam._chain import builder, chain
from jadam._errors import BadType, BadValue, shown
from jadam._groups import masked
from jadam._hyper import FixedPositive, Positive
from jadam._masks import MaskLike
from jadam._rule import Context, Slots
from jadam._transformation import GradientTransformation
from jadam._tree import Leaves, flatten, is_array, quoted


@dataclass(frozen=True)
class _Paths(ByLeaf):
    """The path of each parameter, for a rule that needs to know where it acts."""

    def by_leaf(self, leaves: Leaves) -> list[str]:
        return list(leaves.names)


PATHS = _Paths()


@dataclass(frozen=True)
class QkClip(AfterStep):
    """Multiplies each head by `min(1, threshold / max_logits) ** power`. Arguments as in `qk_clip`."""

    threshold: Positive = 100.0
    axis: int = -2
    power: FixedPositive = 0.5
    path: Any = PATHS
    elementwise: ClassVar[bool] = False

    def prepare(self, context: Context) -> dict[str, Any]:
        found = flatten(context.extra["max_logits"])

        def factors(name: str, largest: Any) -> Array:
            if not is_array(largest) or jnp.iscomplexobj(largest):
                raise BadType(f"max_logits has {shown(largest)} at {quoted(name)}, which is not an array of real numbers.")
            over = (largest > context.h.threshold) & jnp.isfinite(largest)  # NaN and inf are for `guard` to see
            return (context.h.threshold / jnp.where(over, largest, context.h.threshold)) ** self.power

        return {"factors": {name: factors(name, x) for name, x in zip(found.names, found.values, strict=True)}}

    def land(self, u: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        around = [name for name in h.factors if not name or f"{self.path}/".startswith(f"{name}/")]
        if not around:
            there = ", ".join(map(quoted, h.factors)) or "nothing"
            raise BadValue(f"max_logits has nothing for the parameter at {quoted(self.path)}: it has {there}.")
        return (p + u) * self._spread(h.factors[max(around, key=len)], u.shape), slots

    def _spread(self, factors: Array, shape: tuple[int, ...]) -> Array:
        """The factor of each head in a shape that meets that of the parameter."""
        (axis,) = axes_of(self.axis, shape)
        factors = jnp.atleast_1d(factors)  # one number for all heads
        stacked, heads, length = factors.shape[:-1], factors.shape[-1], shape[axis]
        if stacked != shape[: len(stacked)] or len(stacked) > axis or (heads % length and length % heads):
            raise BadValue(
                f"max_logits for {quoted(self.path)} has shape {factors.shape}, and the parameter {shape}, with heads on axis "
                f"{self.axis}; its last axis must be heads, those before it the first of the parameter."
            )
        if heads > length:  # heads of queries that share a key: the smallest factor is that of the largest logit
            factors = factors.reshape(*stacked, length, heads // length).min(-1)
        else:
            factors = jnp.repeat(factors, length // heads, axis=-1)
        return factors.reshape(*stacked, *(1,) * (axis - len(stacked)), length, *(1,) * (len(shape) - axis - 1))


@builder
def qk_clip(
    mask: MaskLike, threshold: Positive = 100.0, *, axis: int = -2, power: FixedPositive = 0.5
) -> GradientTransformation:
    """Scales heads down after a step whose largest attention logit was above `threshold`: `p = p min(1, threshold/max)^power`.

    It stands last in a chain, and each step is given `max_logits=`: the largest logit of each head in the forward pass, before
    the softmax. That is an array for all parameters of `mask`, or a tree of such arrays along the paths of the parameters:
    `{"layer_0": {"attn": array}}` is for `layer_0/attn/query/kernel`. The last axis of an array is heads; axes before it are
    those that scanned layers have first.

    Args:
        mask: the kernels (and biases) of queries and keys, such as `match("**/query/kernel", "**/key/kernel")`.
        threshold: of logits, > 0, or a schedule.
        axis: that of the heads: -2 for kernels (embed, heads, head_dim), -1 for those of (embed, heads * head_dim), in which
            each head is a run of columns. Where several heads of queries share one of keys, and this axis is as long as there
            are heads of keys, the largest of their logits counts.
        power: 0.5 for queries and keys, each of which takes half; 1.0 for queries alone, as for the rotary part of MLA.

    Raises:
        ValueError: when a step is traced, `max_logits` is missing, or does not fit the parameters.
        TypeError: when a step is traced, `max_logits` has what is not an array of real numbers.

    Reference:
        Kimi Team 2025, Algorithm 1 (MuonClip), arXiv:2507.20534.

    Example:
        >>> import jadam
        >>> queries_and_keys = jadam.match("**/query/kernel", "**/key/kernel")
        >>> tx = jadam.chain(jadam.muon(0.02), jadam.qk_clip(queries_and_keys))
    """
    return masked(chain(QkClip(threshold, axis, power)), mask)
