"""The decay of an average, as a rule meets it."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._derivatives import complement_of_power
from jadam._dtypes import of_a_kind


@functools.partial(jax.tree_util.register_dataclass, data_fields=["complement"], meta_fields=[])
@dataclass(frozen=True)
class DecayRate:
    """A `Decay` as a rule meets it in `h`: the average that it makes, and that average's bias."""

    complement: Array

    @property
    def value(self) -> Array:
        """The rate itself, which float32 rounds."""
        return 1 - self.complement

    def ema(self, average: Array, x: Array) -> Array:
        """The next exponential moving average, `m + (1-b) (x-m)`: its weights sum to one exactly."""
        if not of_a_kind(average, x) or average.dtype != self.complement.dtype:
            return average + self.complement * (x - average)
        return lax.add(average, lax.mul(lax.sub(x, average), self.complement))  # operators take three times as long to trace

    def debias(self, t: Array) -> Array:
        """`1 - b**t`, by which a zero-initialised average after `t` steps is divided (Kingma & Ba 2015, section 3)."""
        return complement_of_power(self.complement, t)

    def log(self) -> Array:
        """The logarithm of the rate, of which float32 loses nothing; -inf for 0."""
        return jnp.log1p(-self.complement)
