"""Averages of the parameters, to evaluate and to keep."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array

from jadam._chain import TransformationLike, builder, chain
from jadam._dtypes import cast
from jadam._errors import BadValue, door
from jadam._hyper import Count, Decay, Steps
from jadam._positions import in_place_of
from jadam._rule import Context, Rule, Slots
from jadam._state import states
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree


def _towards(average: Array, p: Array, share: Array) -> Array:
    """The average after one more `p`, whose share of it this is. A share of 1 begins anew, whatever was there."""
    return jnp.where(share == 1, p, average + share * (p - average))


@dataclass(frozen=True)
class UniformAverage(Rule):
    """Leaves updates as they are, and keeps the mean of the parameters.

    A rule does not see where an update lands: it may be rounded, scaled or projected later. So the parameters that a step
    made enter the average at the next one, where they arrive as they are, and `averaged_params` adds the last.
    """

    start: Steps = 0
    every: Count = 1
    debias: bool = True

    positions: ClassVar[tuple[str, ...]] = ("average",)
    keeps_zeros: ClassVar[bool] = True
    observes: ClassVar[bool] = True
    whole: ClassVar[float] = 1.0
    """The weight of an average that the parameters at its beginning count in."""

    @property
    def needs_all_rows(self) -> str:
        return "averages every row at every step, and not those alone that a batch touches; mask the table out of it."

    def init(self, p: Array) -> Slots:
        return {"average": jnp.copy(p)}

    def scalars(self) -> dict[str, float]:
        return {"weight": 0.0 if self.debias else self.whole, "share": 1.0}

    def prepare(self, context: Context) -> dict[str, Any]:
        old, done = context.scalars["weight"], context.count + 1
        due = (done > self.start) & ((done - self.start) % self.every == 0)
        weight, share = self.weigh(old, context.h)
        # Until the first parameters are due, the average follows them.
        share = jnp.where((done > self.start) & (old > 0), jnp.where(due, share, 0), 1)
        return {"weight": jnp.where(due, weight, old), "share": share, "last_share": context.scalars["share"]}

    def weigh(self, weight: Array, h: Any) -> tuple[Array, Array]:
        """The weight of all averaged parameters after one more, and the share of that one."""
        return weight + 1, 1 / (weight + 1)

    def squares(self, shape: tuple[int, ...]) -> int:
        return 0

    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        return g, {"average": _towards(slots["average"], p, h.last_share)}


@dataclass(frozen=True)
class Average(UniformAverage):
    """The same with an exponential moving average, divided by its bias."""

    decay: Decay = 0.999

    whole: ClassVar[float] = math.inf

    def weigh(self, weight: Array, h: Any) -> tuple[Array, Array]:
        # Minus the logarithm of what the beginning still counts, of which float32 loses nothing, neither early nor late.
        weight = weight - jnp.log1p(-h.decay.complement)
        return weight, h.decay.complement / -jnp.expm1(-weight)


@builder
def average(
    tx: TransformationLike,
    decay: Decay | Literal["uniform"] = 0.999,
    *,
    start: Steps = 0,
    every: Count = 1,
    debias: bool = True,
) -> GradientTransformation:
    """Averages the parameters that `tx` trains, and trains them as before: read the average with `averaged_params`.

    `average = average + c (params - average)`, with `c = (1-decay) / (1-decay^n)` for the n-th parameters that are averaged, or
    `1/n` for "uniform". It is kept in float32 whatever the parameters' dtype (float64 where they are): in bfloat16, an
    average stands still as soon as its steps are below a 256th of it. It costs 4 bytes a parameter, and is read and written
    by the kernel that makes the step.

    Args:
        tx: a transformation.
        decay: in [0, 1), or a schedule, for an exponential moving average; "uniform" for the mean of all (Polyak averaging,
            stochastic weight averaging).
        start: how many steps are done before averaging begins, >= 0; until then the average is the parameters as they are.
        every: of the steps after `start`, every how many-th is averaged, >= 1.
        debias: whether the first parameters that are averaged are the whole average. If not, it begins with those
            after `start` steps, at first the initial ones, as many exponential averages do.

    Raises:
        ValueError: an argument is out of its range; when a step is traced, it has no parameters.

    Reference:
        Polyak & Juditsky 1992, doi:10.1137/0330046; Izmailov et al. 2018, Algorithm 1, arXiv:1803.05407.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.average(jadam.sgd(1.0), "uniform"), {"w": jnp.zeros(2)}
        >>> state = tx.init(params)
        >>> for _ in range(3):
        ...     params, state = tx.step({"w": -jnp.ones(2)}, state, params)
        >>> params["w"], jadam.averaged_params(state, params)["w"]  # the mean of 1, 2 and 3
        (Array([3., 3.], dtype=float32), Array([2., 2.], dtype=float32))
    """
    if isinstance(decay, str):
        return chain(tx, UniformAverage(start=start, every=every, debias=debias))
    return chain(tx, Average(start=start, every=every, debias=debias, decay=decay))


@door
def averaged_params(state: PyTree, params: PyTree) -> PyTree:
    """The average that `average` keeps: parameters to evaluate and to keep.

    Args:
        state: an `OptState`, or a tree with one inside.
        params: the parameters as the step that made the state left them; they are the last in the average.

    Returns:
        A tree like `params`, in its dtypes: of parameters that are cast to float32, what bfloat16 would round away is there.
        What is not averaged stays as it is.

    Raises:
        ValueError: the state is not of an `average`, or was made for other parameters, or a parameter has two averages.
    """
    kept = [
        (inner.slots.get(key, {}), jax.tree.leaves(scalars["share"])[0])  # flax.nnx keeps it in a box
        for inner in states(state)
        for key, scalars in inner.scalars.items()  # under a name that may begin with a group's, and be numbered
        if set(scalars) == {"weight", "share"}
    ]
    if not kept:
        raise BadValue("the state has no average; it must be of an `average`.")

    def read(share: Array) -> Any:
        return lambda average, p: _towards(average, p, cast(share, average.dtype))

    return in_place_of(params, [(slots, read(share)) for slots, share in kept], "average")
