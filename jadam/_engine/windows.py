"""Tables of which a wrapper makes a step on other rows than those of the gradient: of all micro-batches in a window.

What is outside of the wrapper sees the rows of the gradient, as in any step on rows. What is inside runs on the rows that the
wrapper hands on, and these are gathered there. They are part of its outcome and scattered after the step, so that a wrapper
that waits touches no row, and no table is carried through its loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._engine.leaf import Mode
from jadam._engine.owners import Collected, Slots, summed_rows
from jadam._engine.plan import Placed, Plan
from jadam._engine.reader import Done, Step
from jadam._errors import BadValue
from jadam._recipe import Pair
from jadam._rows import Rows
from jadam._state import OptState
from jadam._tables import NOWHERE
from jadam._wrapper import Wrapper


def collectors(plan: Plan) -> dict[int, Placed]:
    """The leaves of which a wrapper collects rows, with that wrapper."""
    found: dict[int, Placed] = {}
    for one in plan.all:
        for i, rule in zip(one.at, one.rules, strict=False):  # a pair has none
            if not (isinstance(rule, Wrapper) and rule.room):
                continue
            if i in found:
                raise BadValue(f"{one.rule.name} collects rows of {plan.path(i)} inside another; write one for both.")
            if plan.shapes[i][0][:1] <= (rule.room,):
                shape = plan.shapes[i][0]
                words = f"{plan.path(i)} has the shape {shape}, and {one.rule.name} room for {rule.room} rows"
                raise BadValue(f"{words}: the whole gradient takes no more; leave it out of rows=.")
            found[i] = one
    if found:
        _check_last(plan.row, found)
    return found


def _check_last(row: Sequence[Placed], found: Mapping[int, Placed]) -> None:
    """Refuses what would see the updates of other rows than those of the gradient."""
    for n, one in enumerate(row):
        collecting = any(found[i] in list(one) for i in one.at if i in found)
        for later in row[n + 1 :] if collecting else ():
            if set(later.at) & set(one.at):
                words = f"{later.rule.name} follows {one.rule.name}, which makes its steps on the rows of several gradients"
                raise BadValue(f"{words}; put it inside.")
        _check_last(one.inner, found)


def collected(plan: Plan, given: Sequence[Any], params: Sequence[Any], state: OptState) -> dict[int, Collected]:
    """The tables of a step of which a wrapper collects rows."""
    found = {}
    for i, by in collectors(plan).items():
        if not isinstance(given[i], Rows):
            words = f"the gradient at {plan.path(i)} is a whole array, and {by.rule.name} collects rows of it"
            raise BadValue(f"{words}; pass Rows, or leave {plan.path(i)} out of rows=.")
        p, room = params[i], by.rules[by.at.index(i)].room
        inside = {one.key for part in by.inner for one in part if not isinstance(one.rule, Pair)}
        slots = {key: with_rows(plan, i, state.slots[key]) for key in inside & set(state.slots)}
        residue = with_rows(plan, i, state.slots.get(plan.landings.get(i, ""), {}))
        values = jnp.zeros((room, *p.shape[1:]), p.dtype)
        none = summed_rows(p, Rows.of(jnp.full(room, NOWHERE, jnp.int32), values, distinct=True))
        found[i] = Collected(by, p, slots, residue, none)
    return found


def with_rows(plan: Plan, i: int, slots: Mapping[str, Any]) -> dict[str, Array]:
    """The slots of a leaf that have a row for each of the table's, by name."""
    columns = {name: plan.treedef.flatten_up_to(tree)[i] for name, tree in slots.items()}
    return {name: x for name, x in columns.items() if x is not None and x.shape[:1] == plan.shapes[i][0][:1]}


def ids_of(step: Step, i: int) -> Array | None:
    """For a wrapper that collects rows of a leaf, which the gradient has; padding is nowhere."""
    if i not in step.collected:
        return None
    return jnp.where(step.ids[i] < step.plan.whole[i][0], step.ids[i], NOWHERE)


def at_rest(step: Step, still: Done) -> Done:
    """What a wrapper leaves as it is; of a table of which rows are collected, none of them."""
    ids, rows = {}, {}
    for i in step.collected.keys() & still.updates.keys():
        one = step.collected[i]
        ids[i] = one.none.ids
        still.updates[i], rows[i], still.residues[i] = one.at(one.none.ids)
    return still._replace(state=_filled(step.plan, still.state, rows), ids=ids)


def entered(
    placed: Placed, step: Step, mode: Mode, given: dict[int, Any], before: Done, residues: Mapping[int, dict[str, Array]]
) -> tuple[Step, dict[int, Any], Done]:
    """The step inside a wrapper, with its updates, from what was before: of tables, on the rows that it has collected.

    Args:
        placed: the wrapper.
        step: around it.
        mode: what becomes of the updates.
        given: the updates that the wrapper hands on, by leaf.
        before: the outcome from which the inside begins.
        residues: what is stored beside the parameters of the step.
    """
    if mode == "step" and step.params is not None:
        new = {i: p for i, p in before.updates.items() if i not in step.collected}
        step = step._replace(params=[new.get(i, p) for i, p in enumerate(step.params)])
    if not step.collected:
        return step, given, before
    params, kept, others = list(step.params or ()), dict(before.residues), dict(step.collected)
    ids, rows = {}, {}
    for i in step.collected.keys() & set(placed.at):
        one = step.collected[i]
        if one.by is not placed:  # a wrapper around that one: what reads parameters here reads those of the gradient
            kept[i] = residues[i]
            continue
        found = summed_rows(one.p, given[i])
        ids[i], given[i] = found.ids, found.values
        params[i], rows[i], kept[i] = one.at(found.ids)
        del others[i]
    plan = of_rows(step.plan, ids)
    step = step._replace(plan=plan, params=params, ids={**step.ids, **ids}, collected=others)
    return step, given, before._replace(residues=kept, state=_filled(plan, before.state, rows), ids={**before.ids, **ids})


def of_rows(plan: Plan, ids: Mapping[int, Array]) -> Plan:
    """The plan of the tree that has these rows in the place of tables."""
    shapes = list(plan.shapes)
    for i, rows in ids.items():
        shapes[i] = (rows.size, *shapes[i][0][1:]), plan.dtype_of(i)
    return replace(plan, shapes=tuple(shapes)) if ids else plan


def _filled(plan: Plan, state: OptState, rows: Mapping[int, Slots]) -> OptState:
    """A state with other rows of some leaves, by leaf, part and name."""
    slots = dict(state.slots)
    for i, own in rows.items():
        for key, columns in own.items():
            for name, x in columns.items():
                leaves = plan.treedef.flatten_up_to(slots[key][name])
                leaves[i] = x
                slots[key] = {**slots[key], name: plan.treedef.unflatten(leaves)}
    return state._replace(slots=slots)
