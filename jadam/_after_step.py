"""What sees the new parameter: rules at the end of a chain, which say where a step lands."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from jax import Array

from jadam._annotations import Option, is_integer
from jadam._errors import BadValue
from jadam._rule import Rule, Slots


def _are_axes(axis: Any) -> bool:
    axes = axis if isinstance(axis, tuple) else (axis,)
    return all(map(is_integer, axes)) and 0 < len(set(axes)) == len(axes)


AlongAxes = Annotated[int | tuple[int, ...], Option("an axis, or a tuple of different axes", _are_axes)]
"""Along which an array is a unit; it has one for each place on the others."""


def axes_of(axis: AlongAxes | None, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of an array of this shape, as numbers from 0; all of them for None."""
    if axis is None:
        return tuple(range(len(shape)))
    axes = axis if isinstance(axis, tuple) else (axis,)
    found = {one % len(shape) for one in axes if -len(shape) <= one < len(shape)}
    if len(found) < len(axes):
        raise BadValue(f"{{parameter}} has shape {shape}, in which axis={axis} are not different axes; mask it out.")
    return tuple(sorted(found))


@dataclass(frozen=True)
class AfterStep(Rule):
    """A rule at the end of a chain, which sees the new parameter and says where the step lands.

    Subclass it as a `Rule`, with `land` in the place of `update`. The new parameter is that of the arithmetic, before it is
    rounded to the 16 bits in which it may be stored; `tx.step` returns it to the bit, and `params + updates` up to the rounding
    of this sum. Nothing that changes updates may follow, except for another such rule; wrappers and groups may stand around it.
    Complex parameters are refused.
    """

    real: ClassVar[bool] = True

    @abstractmethod
    def land(self, u: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        """The parameter on which the step lands, in the place of `p + u`, and the new slots.

        `h.stored(new)` is that parameter as 16 bits will store it, if it is rounded to nearest; otherwise it is `new` itself.
        `h.stored.unit` is the distance from 1 to the next number of its dtype.
        """

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        new, slots = self.land(g, slots, p, h)
        return new - p, slots
