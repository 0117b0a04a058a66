"""Rows of a table that catch up with the steps that they missed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax import Array

from jadam._chain import Transformation, builder, wrap
from jadam._engine.missed import Gap
from jadam._errors import BadType, BadValue
from jadam._recipe import Part
from jadam._rule import Block, Rule, Slots
from jadam._transformation import GradientTransformation
from jadam._wrapper import Inside, Outcome, Wrapper


@dataclass(frozen=True)
class Lazy(Wrapper):
    """Lets the rows that a step touches catch up with those that they missed."""

    exact: ClassVar[tuple[str, ...]] = ("steps",)
    elementwise: ClassVar[bool] = False

    @property
    def needs_all_rows(self) -> str:
        return ""

    def init(self, p: Array) -> Slots:
        # An axis for each of the parameter's, so that it is placed as that is.
        return {"steps": jnp.zeros([n if axis == 0 else 1 for axis, n in enumerate(p.shape)], p.dtype)}

    def around(self, inside: Inside) -> tuple[Outcome, dict[str, list[Array]], dict[str, Array]]:
        seen = inside.slots["steps"]
        done = [inside.count.astype(x.dtype) for x in seen]
        gaps = [Gap(x, count - x) for x, count in zip(seen, done, strict=True)]
        outcome = inside.run(inside.updates, gaps=gaps)
        return outcome, {"steps": [jnp.full_like(x, count + 1) for x, count in zip(seen, done, strict=True)]}, {}


@builder
def lazy(tx: Transformation, *, catch_up: bool = False) -> GradientTransformation:
    """How a transformation treats the rows of a table that a step does not touch, where its gradient is `Rows`.

    Plain, without `catch_up`, they stand still: parameter and slots stay as they are to the bit, as in torch's `SparseAdam`.
    That is what every transformation does, and `lazy(tx)` is `tx`. A moment then remembers the last gradients of its row,
    however long ago they were.

    With `catch_up`, a row that is touched again first catches up with the steps that it missed. They are those of a gradient
    of zero: moments decay by `b**gap`; their updates, a geometric series, and the weight decay are added. A row that is not
    touched stays behind, and so does what is computed with it; a step with a dense gradient, of zeros perhaps, brings all rows
    up. The state keeps the number of steps that each row has seen: 4 bytes a row.

    Moments are then those of dense steps to rounding. Parameters differ by what hyperparameters have changed since, by the
    bias correction and by eps, which count as they are now.

    Args:
        tx: a transformation of jadam without wrappers: `adam`, `adamw`, `lion` or `sgd`, in a chain with clips before it. Of
            its rules, those with slots must be averages whose decay they declare (`Rule.averages`).
        catch_up: whether rows catch up.

    Raises:
        ValueError: a rule inside keeps something else than averages, or a sum of its steps is not known.
        TypeError: `tx` has a wrapper or a pair from elsewhere inside, or `catch_up` is not a bool.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.lazy(jadam.sgd(1.0, momentum=0.5), catch_up=True), {"table": jnp.zeros((3, 1))}
        >>> state = tx.init(params)
        >>> for row in (0, 1, 2):  # 1, and after two steps of 1/2 and 1/4, nothing but the last of the momentum
        ...     params, state = tx.step({"table": jadam.Rows(jnp.array([row]), jnp.ones((1, 1)))}, state, params)
        >>> params, state = tx.step({"table": jnp.zeros((3, 1))}, state, params)
        >>> params["table"][:, 0]
        Array([-1.875, -1.75 , -1.5  ], dtype=float32)
    """
    if not catch_up:
        return GradientTransformation.of(tx.recipe)
    for part in tx.parts:
        _check(part)
    return wrap(Lazy(), tx)


def _check(part: Part) -> None:
    rule: Any = part.rule
    if not isinstance(rule, Rule):
        raise BadType(f"{rule.name} cannot be inside; put it around: {rule.name}(lazy(tx, catch_up=True)).")
    known = rule.averages or type(rule).init is Block.init
    if not known or not rule.elementwise or rule.scalars():
        raise BadValue(f"what {rule.name} would have done in the steps that a row missed is not known; use adamw, lion or sgd.")
