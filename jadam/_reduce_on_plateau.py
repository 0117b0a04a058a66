"""A learning rate that falls where the loss does not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._annotations import Option
from jadam._chain import block
from jadam._errors import BadType, BadValue
from jadam._hyper import BelowOne, Count, FixedNonNegative, Steps
from jadam._rule import Context, Rule, Slots
from jadam._schedules.fields import not_a_number

_Unit = Annotated[float, Option.of_number("in [0, 1]", lambda x: 0 <= x <= 1)]
_Tolerance = Annotated[float, Option.of_number("in [0, 1)", lambda x: 0 <= x < 1)]


@dataclass(frozen=True)
class ReduceOnPlateau(Rule):
    """Multiplies updates by a scale that falls where a value, such as the loss, has stopped falling.

    A value is an improvement if it is less than `(1 - rtol) best - atol`. After `patience` values in a row that are none,
    `scale = max(factor scale, min_scale)`. Pass the value as `tx.update(grads, state, params, value=loss)`, and to `tx.step`
    alike. The state has the scale in `scalars["reduce_on_plateau"]["scale"]`, float32.

    Args:
        factor: by which the scale falls, in (0, 1).
        patience: how many values in a row without an improvement let it fall, >= 1.
        rtol: how much less, as a share of the best value, an improvement is, in [0, 1).
        atol: how much less it is in numbers, >= 0. One of the two must be above 0.
        cooldown: how many values after a fall do not count as missing improvements, >= 0.
        accumulation_size: of how many steps the values are averaged to one, >= 1.
        min_scale: below which the scale does not fall, in [0, 1].

    Raises:
        ValueError: an argument is out of its range; when a step is traced, there is no `value`.
        TypeError: when a step is traced, `value` is not a real number.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx = jadam.chain(jadam.adam(1e-3), jadam.reduce_on_plateau(factor=0.5, patience=2))
        >>> params = {"w": jnp.ones(2)}
        >>> state = tx.init(params)
        >>> for loss in (3.0, 2.0, 2.0, 2.0):
        ...     params, state = tx.step(params, state, params, value=loss)
        >>> state.scalars["reduce_on_plateau"]["scale"]
        Array(0.5, dtype=float32)
    """

    factor: BelowOne = 0.1
    patience: Count = 10
    rtol: _Tolerance = 1e-4
    atol: FixedNonNegative = 0.0
    cooldown: Steps = 0
    accumulation_size: Count = 1
    min_scale: _Unit = 0.0

    keeps_zeros: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rtol == self.atol == 0:
            raise BadValue("rtol or atol must be above 0: noise would be an improvement.")

    def scalars(self) -> dict[str, float]:
        return {
            "scale": 1.0,
            "best_value": math.inf,
            "plateau_count": 0.0,
            "cooldown_count": 0.0,
            "count": 0.0,
            "avg_value": 0.0,
        }

    def prepare(self, context: Context) -> dict[str, Array]:
        old, value = context.scalars, context.extra["value"]
        if words := not_a_number(value):
            raise BadType(f"value must be a real number, not {words}.")
        count = old["count"] + 1
        mean = (old["count"] * old["avg_value"] + jnp.asarray(value, count.dtype)) / count
        full = count == self.accumulation_size
        improved = mean < (1 - self.rtol) * old["best_value"] - self.atol
        missing, cooling = jnp.where(improved, 0, old["plateau_count"] + 1), old["cooldown_count"] > 0
        falls = (missing == self.patience) & ~cooling
        after = {
            "scale": jnp.where(falls, jnp.maximum(old["scale"] * self.factor, self.min_scale), old["scale"]),
            "best_value": jnp.where(improved, mean, old["best_value"]),
            "plateau_count": jnp.where(falls | cooling, 0, missing),
            "cooldown_count": jnp.where(cooling, old["cooldown_count"] - 1, jnp.where(falls, self.cooldown, 0)),
        }
        seen = {"count": jnp.where(full, 0, count), "avg_value": jnp.where(full, 0, mean)}
        return {name: jnp.where(full, new, old[name]) for name, new in after.items()} | seen

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return h.scale * g, slots


reduce_on_plateau = block(ReduceOnPlateau)
