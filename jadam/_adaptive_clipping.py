"""Clipping by a limit that adapts to the norms seen before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jadam._annotations import Option, is_integer
from jadam._chain import block
from jadam._clipping import GlobalNormClip
from jadam._derivatives import root
from jadam._hyper import Count, Decay, FixedNonNegative, Positive
from jadam._rule import Context

LARGEST = 2.0**60
"""As which a norm counts that is larger: its square is a number of float32."""
Percentile = Annotated[int, Option("an integer in [0, 100)", lambda x: is_integer(x) and 0 <= x < 100)]


@dataclass(frozen=True)
class Zclip(GlobalNormClip):
    """Scales all updates by one factor where their global norm is far above its recent mean, in standard deviations.

    `z = (norm - mean) / (std + eps)`; where `z > z_thresh`, the norm becomes `mean + z_thresh^2/z std`: the larger a spike,
    the nearer to the mean. Mean and variance are averages of the norms after clipping.

    In the first `warmup_steps` steps nothing is clipped, and the mean and variance are those of the norms so far. Norms that
    are not finite do not count, and make all updates NaN, as in `clip_by_global_norm`. The authors' code has a constant limit
    besides; here that is `chain(zclip(), clip_by_global_norm(1.0))`.

    Unlike in the paper, norms that are all alike, or all 0, do not set the limit for ever. The standard deviation counts as a
    thousandth of the mean at least; while it is less, norms enter the averages as they were before clipping; and while both are
    0, nothing is clipped.

    Args:
        z_thresh: standard deviations above the mean from which on a norm is clipped, > 0.
        alpha: decay rate of the averages, in [0, 1).
        warmup_steps: steps before the first clip, >= 1.
        eps: added to the standard deviation, >= 0.
        measured, axis_name: as in `clip_by_global_norm`.

    Reference:
        Kumar et al. 2025, Algorithm 1 with reciprocal clipping, arXiv:2504.02507.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.zclip(warmup_steps=4), jnp.ones(1)
        >>> state = tx.init(params)
        >>> for norm in (0.9, 1.1, 0.9, 1.1, 2.0):  # a mean of 1, a standard deviation of 0.1
        ...     updates, state = tx.update(jnp.array([norm]), state, params)
        >>> updates.round(2)  # z is 10: 1 + 2.5^2 / 10 * 0.1
        Array([1.06], dtype=float32)
    """

    z_thresh: Positive = 2.5
    alpha: Decay = 0.97
    warmup_steps: Count = 25
    eps: FixedNonNegative = 1e-6

    def scalars(self) -> dict[str, Any]:
        return super().scalars() | {"norm_mean": 0.0, "norm_var": 0.0, "norms_seen": 0.0}

    def limit(self, context: Context, norm: Array) -> tuple[Array, dict[str, Array]]:
        h, own = context.h, context.scalars
        mean, var, seen = own["norm_mean"], own["norm_var"], own["norms_seen"]
        std, least = root(var), 1e-3 * mean
        sigma = jnp.maximum(std, least)
        known = sigma > 0
        z = (norm - mean) / jnp.where(known, sigma + self.eps, 1)
        warm = seen >= self.warmup_steps
        clips = warm & known & (z > h.z_thresh)
        limit = jnp.where(clips, mean + h.z_thresh**2 / jnp.maximum(z, h.z_thresh) * sigma, jnp.inf)
        weight = jnp.where(warm, h.alpha.complement, 1 / (jnp.minimum(seen, self.warmup_steps) + 1))
        # Where there is no deviation to speak of, a clipped norm would not add to it, and the limit would stay for ever.
        counted = jnp.where(std < least, jnp.inf, limit)
        apart = jnp.minimum(norm, jnp.minimum(counted, LARGEST)) - mean
        # The variance of norms is around their new mean; an average takes the new norm's distance from that, as the authors do.
        square = (1 - weight) * jnp.where(warm, 1 - weight, 1) * apart**2
        kept = {
            "norm_mean": mean + weight * apart,
            "norm_var": var + weight * (square - var),
            "norms_seen": jnp.minimum(seen + 1, self.warmup_steps),
        }
        return limit, {name: jnp.where(jnp.isfinite(norm), new, own[name]) for name, new in kept.items()}


@dataclass(frozen=True)
class PercentileClip(GlobalNormClip):
    """Scales all updates by one factor so that their global norm is at most a percentile of the last norms, this one included.

    As bitsandbytes with `percentile_clipping`, of the norm over all parameters instead of each one's: the first norm fills the
    history, and of the sorted history the one at `percentile / 100` of its length is the limit. Most steps are clipped a
    little, and spikes as far as all others. Norms that are not finite do not count, and make all updates NaN, as in
    `clip_by_global_norm`. Nor do norms of 0 count, unlike in bitsandbytes: a few of them would make the limit 0 as long as they
    are in the history.

    Args:
        percentile: which one, an integer in [0, 100).
        history: how many of the last norms count, >= 1.
        measured, axis_name: as in `clip_by_global_norm`.

    Reference:
        Dettmers et al. 2022, arXiv:2110.02861, whose code is bitsandbytes; Seetharaman et al. 2020, arXiv:2007.14469.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.percentile_clip(percentile=50, history=4), jnp.ones(1)
        >>> state = tx.init(params)
        >>> for norm in (1.0, 2.0, 3.0, 100.0):
        ...     updates, state = tx.update(jnp.array([norm]), state, params)
        >>> updates.round(2)  # of 1, 2, 3 and 100, that at the index 2
        Array([3.], dtype=float32)
    """

    percentile: Percentile = 5
    history: Count = 100

    def scalars(self) -> dict[str, Any]:
        return super().scalars() | {"norms": np.zeros(self.history), "norms_seen": 0.0}

    def limit(self, context: Context, norm: Array) -> tuple[Array, dict[str, Array]]:
        own, seen, counts = context.scalars["norms"], context.scalars["norms_seen"], jnp.isfinite(norm) & (norm > 0)
        here = (seen == 0) | (jnp.arange(self.history, dtype=seen.dtype) == seen % self.history)
        norms = jnp.where(counts & here, norm, own)
        limit = jnp.sort(norms)[self.percentile * self.history // 100]
        after = jnp.where(seen + 1 < 2 * self.history, seen + 1, self.history)  # so that float32 never stops counting
        return limit, {"norms": norms, "norms_seen": jnp.where(counts, after, seen)}


zclip = block(Zclip)
percentile_clip = block(PercentileClip)
