"""How parameters of 16 bits are stored, and how an update is brought to land on them.

A caller adds the update to the parameter, which rounds to nearest. To get another rounding, the engine computes the new
parameter itself and returns `new - old`. Their sum is `new` exactly where that is between half and twice `old` (Sterbenz
1974). Elsewhere, where the step is as large as the parameter, it can be off by 1/128 of the step (1/1024 in float16).
`tx.step` always returns `new`.

A residue, which the state keeps beside a parameter, is less than a unit of it. Others change parameters between steps: they
prune, project, reset, restore. Then the residue is that of another weight, and must not count for more.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.typing import DTypeLike

from jadam._derivatives import straight_through
from jadam._dtypes import cast, decode, encode
from jadam._errors import BadValue
from jadam._storage.rounding import Noise, round_stochastically
from jadam._storage.slots import Storage

Residue = dict[str, Array]
"""What the state keeps beside a parameter, so that nothing of a step is lost: arrays of its shape, by name."""


class ParamStorage(Storage, ABC):
    """A format of parameters, and the rounding that goes with it."""

    dtypes: ClassVar[tuple[Any, ...]] = (jnp.bfloat16, jnp.float16)
    """The dtypes of the parameters that it can store."""
    residue: ClassVar[Mapping[str, Any]] = {}
    """What the state keeps beside a parameter: dtypes by name. Empty where nothing is."""

    def init(self, p: Array) -> Residue:
        """The residue of a new parameter."""
        return {name: jnp.zeros_like(p, dtype=dtype) for name, dtype in self.residue.items()}

    def decode(self, p: Array, residue: Residue) -> Array:
        """The parameter in the dtype of the arithmetic."""
        return decode(p)

    def keep(self, new: Array, landed: Array) -> Residue:
        """The residue of a parameter that landed, where it should be `new`."""
        return {}

    def stored(self, new: Array, p: Array, step: bool) -> Array:
        """What the parameter is after `step`, or after `land` and the caller's addition, where it should be `new`.

        It is `new` itself where the difference is not lost: it is kept beside the parameter, or zero on average.
        """
        return new

    @abstractmethod
    def land(
        self, u: Array, p: Array, residue: Residue, noise: Noise | None, new: Array | None = None
    ) -> tuple[Array, Residue]:
        """The update in the dtype of the parameter, for the caller to add, and the new residue.

        What the parameter should be is `new`, if it is known, and otherwise the sum.
        """

    @abstractmethod
    def step(
        self, u: Array, p: Array, residue: Residue, noise: Noise | None, new: Array | None = None
    ) -> tuple[Array, Residue]:
        """The new parameter, and its residue."""


@dataclass(frozen=True)
class Stored:
    """What a parameter will be after a step, where it should be `new`: `ParamStorage.stored`, for a rule to call."""

    landing: ParamStorage
    p: Array
    step: bool

    def __call__(self, new: Array) -> Array:
        return self.landing.stored(new, self.p, self.step)

    @property
    def unit(self) -> float:
        """The distance from 1 to the next number of its dtype."""
        return float(jnp.finfo(self.p.dtype).eps)


class Nearest(ParamStorage):
    """Rounds as the caller's `params + updates` does. In 16 bits, small steps are lost."""

    def stored(self, new: Array, p: Array, step: bool) -> Array:
        if p.dtype not in self.dtypes:
            return new
        sum_of_both = new if step else decode(p) + decode(_exactly(new - decode(p), p.dtype))
        return decode(_exactly(sum_of_both, p.dtype))

    def land(
        self, u: Array, p: Array, residue: Residue, noise: Noise | None, new: Array | None = None
    ) -> tuple[Array, Residue]:
        return encode(u, p.dtype), {}

    def step(
        self, u: Array, p: Array, residue: Residue, noise: Noise | None, new: Array | None = None
    ) -> tuple[Array, Residue]:
        return lax.add(p, encode(u, p.dtype)) if new is None else encode(new, p.dtype), {}


NEAREST = Nearest()


@dataclass(frozen=True)
class _Landed(ParamStorage):
    """Computes the new parameter itself: `round` returns it, and `keep` its residue."""

    @abstractmethod
    def round(self, new: Array, dtype: DTypeLike, noise: Noise | None) -> Array:
        """The new parameter as it is stored."""

    def land(
        self, u: Array, p: Array, residue: Residue, noise: Noise | None, new: Array | None = None
    ) -> tuple[Array, Residue]:
        new = self.decode(p, residue) + u if new is None else new
        delta = _exactly(decode(self.round(new, p.dtype, noise)) - decode(p), p.dtype)
        return delta, self.keep(new, _exactly(decode(p) + decode(delta), p.dtype))

    def step(
        self, u: Array, p: Array, residue: Residue, noise: Noise | None, new: Array | None = None
    ) -> tuple[Array, Residue]:
        new = self.decode(p, residue) + u if new is None else new
        rounded = self.round(new, p.dtype, noise)
        return rounded, self.keep(new, rounded)


def _exactly(x: Array, dtype: DTypeLike) -> Array:
    """`x.astype(dtype)` that XLA does not leave out: it computes chains of 16-bit operations in float32 if it may."""
    if dtype == jnp.bfloat16:  # on bits, since Pallas has no `reduce_precision`
        pattern = lax.bitcast_convert_type(x, jnp.uint32)
        even = lax.bitwise_and(pattern >> 16, np.uint32(1))
        near = lax.bitcast_convert_type(((pattern + even + np.uint32(0x7FFF)) >> 16).astype(jnp.uint16), jnp.bfloat16)
        return straight_through(lax.select(lax.is_finite(x), near, x.astype(dtype)), x)
    # Numbers below 6e-5, which `reduce_precision` would make zero, have a distance of their own.
    least, normal = (np.asarray(number, x.dtype) for number in (_FLOAT16.smallest_subnormal, _FLOAT16.smallest_normal))
    small = lax.round(x / least, lax.RoundingMethod.TO_NEAREST_EVEN) * least
    rounded = lax.select(lax.abs(x) < normal, small, lax.reduce_precision(x, _FLOAT16.nexp, _FLOAT16.nmant))
    return straight_through(rounded.astype(dtype), x)


_FLOAT16 = jnp.finfo(jnp.float16)


@dataclass(frozen=True)
class Stochastic(_Landed):
    """Rounds the new parameter up or down by chance, so that it is right on average."""

    seed: int = 0
    draws: ClassVar[bool] = True

    def round(self, new: Array, dtype: DTypeLike, noise: Noise | None) -> Array:
        if noise is None:
            raise BadValue("stochastic rounding needs random bits.")
        return round_stochastically(new, dtype, noise.bits(new.shape, self.seed))


@dataclass(frozen=True)
class Kahan(_Landed):
    """Keeps what rounding to nearest took away, in bfloat16, and adds it at the next step (Kahan 1965)."""

    residue: ClassVar[Mapping[str, Any]] = {"compensation": jnp.bfloat16}

    def decode(self, p: Array, residue: Residue) -> Array:
        info, stored = jnp.finfo(p.dtype), decode(p)
        unit = lax.max(lax.abs(stored) * np.float32(info.eps / 2), np.float32(info.smallest_subnormal))
        return stored + lax.clamp(-unit, decode(residue["compensation"]), unit)

    def round(self, new: Array, dtype: DTypeLike, noise: Noise | None) -> Array:
        return _exactly(new, dtype)

    def keep(self, new: Array, landed: Array) -> Residue:
        return {"compensation": cast(new - decode(landed), jnp.bfloat16)}


@dataclass(frozen=True)
class Remainder(_Landed):
    """Keeps the lower 16 bits of the float32 of which a bfloat16 parameter is the upper: together they are that float32."""

    dtypes: ClassVar[tuple[Any, ...]] = (jnp.bfloat16,)
    residue: ClassVar[Mapping[str, Any]] = {"remainder": jnp.int16}

    def decode(self, p: Array, residue: Residue) -> Array:
        # The remainder of another weight may turn the sign of the pattern at zero, or go beyond inf: both are patterns of NaN.
        # There the weight counts as it is stored. Elsewhere a remainder is half a unit at most.
        stored, pattern = decode(p), _pattern(p)
        sum_of_patterns = pattern + residue["remainder"].astype(jnp.int32)
        exact = lax.bitcast_convert_type(sum_of_patterns, jnp.float32)
        belongs = lax.bitwise_and(lax.ge(lax.bitwise_xor(sum_of_patterns, pattern), np.int32(0)), lax.is_finite(exact))
        return straight_through(lax.select(belongs, exact, stored), stored)

    def round(self, new: Array, dtype: DTypeLike, noise: Noise | None) -> Array:
        """To nearest, and halves away from zero, so that a remainder fits 16 bits."""
        pattern = lax.bitcast_convert_type(new, jnp.int32) + np.int32(0x8000)
        rounded = lax.bitcast_convert_type((pattern >> 16).astype(jnp.int16), jnp.bfloat16)
        return straight_through(lax.select(lax.is_finite(new), rounded, new.astype(jnp.bfloat16)), new)

    def keep(self, new: Array, landed: Array) -> Residue:
        near, pattern = _pattern(landed), lax.bitcast_convert_type(new, jnp.int32)
        zero = near & np.int32(-(2**31))  # of the sign of `landed`: the nearest that it can say of another sign
        pattern = jnp.where((pattern ^ near) < 0, zero, pattern)
        exact = lax.clamp(np.int32(-(2**15)), pattern - near, np.int32(2**15 - 1)).astype(jnp.int16)
        return {"remainder": lax.select(lax.is_finite(new), exact, jnp.zeros_like(exact))}


def _pattern(p: Array) -> Array:
    """The bits of a bfloat16 as the upper ones of a float32."""
    return lax.bitcast_convert_type(p, jnp.int16).astype(jnp.int32) << 16


PARAM_STORAGE: dict[str, type[ParamStorage]] = {kind().key: kind for kind in (Nearest, Stochastic, Kahan, Remainder)}
