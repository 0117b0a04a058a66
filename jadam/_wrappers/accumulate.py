"""Gradient accumulation: one step of an optimizer for several micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import jax.numpy as jnp
from jax import Array

from jadam._annotations import AxisName
from jadam._chain import TransformationLike, builder, not_ours, wrap
from jadam._engine.plan import Placed, Plan
from jadam._engine.windows import collectors
from jadam._errors import BadValue, door
from jadam._hyper import NonNegative, Range
from jadam._recipe import Pair, Part
from jadam._rows import Rows
from jadam._rule import Block, Slots, zeros
from jadam._schedules.fields import not_a_number
from jadam._state import OptState, scalars_of_one
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree, is_trained, strong
from jadam._wrapper import Inside, Outcome, Wrapper
from jadam._wrappers.collected import ROWS, RoomLike, Rooms, no_rows, rows_of, with_rows

Every = Annotated[
    int | Array | Callable[[Array], Any],
    Range("an integer in [1, 2**24]", lambda x: 1 <= x <= 2**24 and float(x).is_integer()),
]
"""How many micro-batches a window has: a number, a scalar array, or a schedule."""
Around = tuple[Outcome, dict[str, list[Any]], dict[str, Array]]


@dataclass(frozen=True)
class Accumulate(Wrapper):
    """Runs the inside once in a window of `every` micro-batches, on the mean or the sum of their gradients."""

    every: Every
    reduction: Literal["mean", "sum"] = "mean"
    nonfinite: Literal["drop", "drop_window", "keep"] = "drop"
    how: Literal["loop", "cond"] = "loop"
    rows: Annotated[RoomLike, Rooms()] = None
    axis_name: AxisName = None
    flushes: bool = False  # as one step of `flush` has it: the window ends, and there is no micro-batch

    exact: ClassVar[tuple[str, ...]] = ("ids", "weights")

    @property
    def elementwise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return not self.rows

    @property
    def room(self) -> int:
        return self.rows if isinstance(self.rows, int) else 0  # of a leaf

    @property
    def needs_all_rows(self) -> str:
        words = "has to know for how many rows of it a window has room; write accumulate(tx, every, rows=[(mask, number)])."
        return "" if self.room else words

    def init(self, p: Array) -> Slots:
        return no_rows(p, self.room) if self.room else {"mean": zeros(p)}

    def scalars(self) -> dict[str, float]:
        # After a window `seen` is 0, and `weight` and `value` are still those of the window.
        return {"seen": 0.0, "weight": 0.0, "value": 0.0, "value_weight": 0.0, "dropped": 0.0}

    def asks(self) -> dict[str, Any]:
        return {"weight": NonNegative}

    def around(self, inside: Inside) -> Around:
        if self.flushes:
            kept = {name: inside.scalars[name] for name in self.scalars()}
            names = [("mean",) if ids is None else ROWS for ids in inside.rows]
            slots = [{name: inside.slots[name][k] for name in own} for k, own in enumerate(names)]
            return self._run(inside, kept["seen"] > 0, slots, kept, valued=True, weighted=True)
        old, dtype = inside.scalars, inside.scalars["weight"].dtype
        weighted = "weight" in inside.extra
        weight = jnp.asarray(inside.extra["weight"] if weighted else 1, dtype)
        valued = "value" in inside.extra and not not_a_number(inside.extra["value"])
        value = jnp.asarray(inside.extra["value"], dtype) if valued else jnp.zeros((), dtype)

        good = (weight >= 0) & (weight < jnp.inf)
        if self.nonfinite != "keep":
            good &= inside.finite & jnp.isfinite(value)

        def share_of(before: Array) -> Array:
            return jnp.where(before + weight > 0, weight / (before + weight), 0)

        before, valued_before = (jnp.where(old["seen"] == 0, 0, old[name]) for name in ("weight", "value_weight"))
        share = share_of(before)  # once, and not for each leaf
        counted = jnp.where(good, weight, jnp.nan if self.nonfinite == "drop_window" else 0)

        def mean(m: Array, g: Array, before: Array, share: Array) -> Array:
            # No sum that overflows; and of equal gradients, to the bit, that gradient.
            new = jnp.where(before == 0, g, m + share.astype(m.dtype) * (g - m))
            return jnp.where(good, new, m) if self.nonfinite == "drop" else new

        def with_micro_batch(k: int, g: Array) -> Slots:
            if (ids := inside.rows[k]) is None:
                return {"mean": mean(inside.slots["mean"][k], g, before, share)}
            own = {name: inside.slots[name][k] for name in ROWS}
            counts = good if self.nonfinite == "drop" else jnp.bool_(True)
            return with_rows(own, ids, g, counted, counts, begins=old["seen"] == 0)

        scalars = {
            "seen": old["seen"] + 1,
            "weight": before + counted,
            "value": mean(old["value"], value, valued_before, share_of(valued_before)) if valued else old["value"],
            "value_weight": valued_before + (counted if valued else 0),
            "dropped": old["dropped"] + jnp.where(good, 0, 1),
        }
        ends = ~(scalars["seen"] < inside.h.every)  # also where a schedule returns NaN
        slots = [with_micro_batch(k, g) for k, g in enumerate(inside.updates)]
        return self._run(inside, ends, slots, scalars, valued, weighted)

    def _run(
        self,
        inside: Inside,
        ends: Array,
        slots: list[Slots],
        scalars: dict[str, Array],
        valued: bool,
        weighted: bool,
    ) -> Around:
        """Runs the inside if the window ends and has something in it."""
        total = scalars["weight"]

        def reduced(m: Array, total: Array) -> Array:
            return m * total.astype(m.dtype) if self.reduction == "sum" else m

        def of_window(own: Slots) -> Array | Rows:
            if "mean" in own:
                return reduced(own["mean"], total)
            return rows_of(own, jnp.ones_like(total) if self.reduction == "sum" else total)

        extra = {"weight": total} if weighted else {}
        extra |= {"value": reduced(scalars["value"], scalars["value_weight"])} if valued else {}
        outcome = inside.when(ends & (total > 0), lambda: [of_window(own) for own in slots], self.how, extra)
        columns = {name: [own.get(name) for own in slots] for name in inside.slots}
        return outcome, columns, scalars | {"seen": jnp.where(ends, 0, scalars["seen"])}


@builder
def accumulate(
    tx: TransformationLike,
    every: Every,
    *,
    reduction: Literal["mean", "sum"] = "mean",
    nonfinite: Literal["drop", "drop_window", "keep"] = "drop",
    how: Literal["loop", "cond"] = "loop",
    rows: RoomLike = None,
    axis_name: AxisName = None,
) -> GradientTransformation:
    """Makes one step of a transformation for several micro-batches: the gradient of a batch that does not fit into memory.

    Gradients are averaged over a window of `every` calls of `update` or `step`. The last of them runs `tx`, once; until then
    updates are zero, and the parameters and the state of `tx`, its count and schedules too, stay as they are. The mean is
    kept in float32 (float64 where the parameter is): 4 bytes a parameter, or fewer by
    `with_precision(..., state={"mean": "bfloat16"})`. What stands in `tx` sees the mean, a clip for instance; what stands
    before `accumulate` in a chain sees each micro-batch.

    Pass `weight=`, a scalar >= 0, and each micro-batch counts by it: by the number of its tokens, say, if its gradient is of a
    mean over them. The mean is `sum(weight * gradient) / sum(weight)`, and `tx` finds the sum of all weights in `weight=`.
    Without it, each has the weight 1.

    A scalar `value=` is reduced as gradients are, over those micro-batches that have one, so that `tx` finds the loss of its
    batch. All other keyword arguments of `update` reach it from the last micro-batch.

    Args:
        tx: a transformation, or any `(init, update)` pair.
        every: how many micro-batches a window has, an integer in [1, 2**24]; or a schedule of the steps that `tx` has done, to
            raise the batch size during training. What it returns under `jit` is not checked: below 1, and NaN, count as 1. It
            is a hyperparameter: `tx.set_hyperparams(state, every=8)` compiles nothing.
        reduction: "mean" or "sum" of gradients.
        nonfinite: what becomes of a micro-batch that has NaN or inf in its gradient, or in its `value=`. "drop": the mean is
            over the others of its window. "drop_window": `tx` makes no step of the window, which saves a second look at
            the gradient: a micro-step moves 12 bytes a parameter, not 16. "keep": `tx` sees it, and may skip the step itself.
            A weight that is NaN, inf or negative is not finite, in "keep" too. Where nothing is left of a window, `tx` does
            not run. `state.scalars["accumulate"]["dropped"]` counts them.
        how: "loop" does no work while it waits, on any device, but has no derivative in reverse; "cond" has one, and XLA for
            GPU computes `tx` at every micro-step. As in `Inside.when`.
        rows: for tables of which micro-batches have gradients that are `Rows`: for how many rows a window has room, where each
            micro-batch counts the rows that it touches. `[(match("**/table"), 4 * 4096)]` says so for tables by masks, the
            first that selects one; a number alone is for all parameters. Ids and values of the window are kept then, and no
            mean as large as the table. If there is no room for all, the step is NaN. No parameter may be complex then.
        axis_name: as in `guard`: inside `jax.shard_map` all devices leave out a micro-batch together.

    Raises:
        ValueError: an argument is out of its range; from `update`, the weight is out of its range, or the gradient of a
            parameter is `Rows` and `rows` does not name it, or the other way round.
        TypeError: the weight is not a scalar.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.accumulate(jadam.sgd(0.5), every=2), {"w": jnp.ones(2)}
        >>> params, state = tx.step({"w": jnp.array([1.0, 2.0])}, tx.init(params), params)
        >>> params["w"], jadam.has_updated(state)
        (Array([1., 1.], dtype=float32), Array(False, dtype=bool))
        >>> params, state = tx.step({"w": jnp.array([3.0, 2.0])}, state, params)
        >>> params["w"], jadam.has_updated(state)
        (Array([0., 0.], dtype=float32), Array(True, dtype=bool))
    """
    return wrap(Accumulate(every, reduction, nonfinite, how, rows, axis_name), tx)


def _kept(state: PyTree) -> dict[str, Array]:
    return scalars_of_one(state, Accumulate(every=1).scalars(), "windows of micro-batches", "accumulate")


@door
def has_updated(state: PyTree) -> Array:
    """Whether the last micro-step of `accumulate` ended a window and ran what is inside: a bool scalar.

    A micro-step that a wrapper around `accumulate` skipped never was: the answer stays that of the one before.

    Args:
        state: an `OptState`, or a tree with one inside.

    Raises:
        ValueError: the state is of no `accumulate`, or of several.
    """
    kept = _kept(state)
    return (kept["seen"] == 0) & (kept["weight"] > 0)


@door
def flush(tx: GradientTransformation, state: OptState, params: PyTree, **extra: Any) -> tuple[PyTree, OptState]:
    """The step of a window that is not full, at the end of an epoch for instance; a new window begins.

    It is a step on the mean, or the sum, of the micro-batches that are there. Where there are none, or none is left, parameters
    stay as they are; right after a full window the state does too, and `has_updated` still speaks of that window. What follows
    `accumulate` in a chain makes its step too. What stands before it sees a gradient of zeros, and may keep no state.

    Args:
        tx: a transformation with `accumulate` on all parameters.
        state: its state.
        params: the parameters.
        **extra: for what asks for them; the `value` and `weight` of the window are known.

    Returns:
        The new parameters and the new state, as `tx.step` does.

    Raises:
        ValueError: a parameter is not accumulated; something that keeps a state stands before `accumulate`; one `accumulate`
            stands inside another; the state belongs to another transformation.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.accumulate(jadam.sgd(0.5), every=8), {"w": jnp.ones(2)}
        >>> params, state = tx.step(params, tx.init(params), params)
        >>> params, state = jadam.flush(tx, state, params)
        >>> params["w"]
        Array([0.5, 0.5], dtype=float32)
    """
    if not isinstance(tx, GradientTransformation):
        raise not_ours(tx)
    _, leaves, treedef = strong("params", params, passing=True)
    plan = Plan.of(tx.recipe, leaves, treedef)
    if not any(isinstance(one.rule, Accumulate) for one in plan.all):
        raise BadValue("tx has no accumulate, whose window could end.")
    if other := set(plan.trained) - _accumulated(plan.row):
        raise BadValue(f"the parameter at {plan.path(min(other))} is not accumulated; put accumulate around what acts on it.")
    rooms = collectors(plan)
    none = treedef.unflatten([_nothing(leaf, i in rooms) if is_trained(leaf) else leaf for i, leaf in enumerate(leaves)])
    return GradientTransformation.of(tx.recipe.map(_flushing)).step(none, state, params, **extra)


def _nothing(p: Array, of_rows: bool) -> Array | Rows:
    """A gradient of zeros."""
    return Rows.of(jnp.zeros(0, jnp.int32), jnp.zeros((0, *p.shape[1:]), p.dtype)) if of_rows else jnp.zeros_like(p)


def _flushing(part: Part) -> Part:
    return replace(part, rule=part.rule.bound({"flushes": True})) if isinstance(part.rule, Accumulate) else part


def _accumulated(row: Sequence[Placed]) -> set[int]:
    """The leaves that a row accumulates, where nothing else would make a step without a gradient."""
    found: set[int] = set()
    for placed in row:
        within = [one.rule for inner in placed.inner for one in inner if isinstance(one.rule, Accumulate)]
        if isinstance(placed.rule, Accumulate):
            if within:
                raise BadValue("one accumulate stands inside another; write one with a window as long as both.")
            found |= set(placed.at)
        elif within:
            found |= _accumulated(placed.inner)
        elif not found.issuperset(placed.at) and _keeps_state(placed.rule):
            raise BadValue(f"{placed.rule.name} stands before accumulate and keeps a state; put it inside.")
    return found


def _keeps_state(rule: Any) -> bool:
    return isinstance(rule, Pair | Wrapper) or type(rule).init is not Block.init or bool(rule.scalars())
