"""A step on some rows of a table is a step on the tree that has these rows in its place.

Gradients that are `Rows` are summed by row; the same rows of the parameter, of its slots and of what is stored beside it are
gathered; the parts of the recipe run on them as on any array; what they return is scattered. The plan of the smaller tree is
that of the whole one: names, groups and formats are those of the whole parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import AxisType

from jadam._engine import checks
from jadam._engine.leaf import Mode, Operands
from jadam._engine.owners import Collected, Table, gathered, scattered, summed_rows
from jadam._engine.plan import Placed, Plan
from jadam._engine.reader import Done, Ready, Step
from jadam._engine.windows import collected, of_rows, with_rows
from jadam._recipe import Pair
from jadam._rows import DENSE, Rows
from jadam._state import OptState
from jadam._storage.blocks import block_axis
from jadam._storage.slots import SCALES, apart, together
from jadam._tables import Summands, summands

PARAMS = ""
"""In place of the name of a part, for the parameters themselves."""

Written = set[tuple[str, int]]
"""By part and leaf, what a row has made of whole tables and not of rows."""


class Tables(NamedTuple):
    """The tables of a step of which there are gradients of rows alone.

    Attributes:
        plan: of the whole tree.
        whole: by leaf, the parameter.
        rows: by leaf, the gradients, with sorted, distinct ids; or those of one owner after the other.
        summands: of those that a kernel may compute, what they are summed from.
        collected: of those of which a wrapper collects rows.
    """

    plan: Plan
    whole: dict[int, Array]
    rows: dict[int, Rows]
    summands: dict[int, Summands]
    collected: dict[int, Collected]

    @classmethod
    def of(cls, plan: Plan, given: list[Any], params: list[Any] | None, state: OptState) -> Tables:
        """Those among the gradients; a part that they are not enough for is an error."""
        found = {i: given[i] for i in plan.trained if isinstance(given[i], Rows)}
        own = {} if params is None else collected(plan, given, params, state)
        if params is None or not found:
            return cls(plan, {}, {}, {}, {})
        checks.residues(plan, state)
        for one in plan.all:
            _check_part(plan, one, state, [i for i in one.at if i in found])
        whole = {i: params[i] for i in found}
        by_kernel = {i for one in plan.all for i in one.at if one.formats.kernel == "pallas" and i in found}
        # Where types say how arrays are placed, each device has its own ids, and XLA's kernels.
        by_kernel = {i for i in by_kernel if AxisType.Explicit not in jax.typeof(whole[i]).sharding.mesh.axis_types}
        rows = {i: summed_rows(whole[i], rows) for i, rows in found.items()}
        return cls(plan, whole, rows, {i: _summands(found[i], len(whole[i])) for i in by_kernel}, own)

    @property
    def ids(self) -> dict[int, Array]:
        """By leaf, the rows, with those of padding past the end."""
        return {i: rows.ids for i, rows in self.rows.items()}

    @property
    def smaller(self) -> Plan:
        """The plan of the tree with rows in the place of tables."""
        if not self.rows:
            return self.plan
        return replace(of_rows(self.plan, self.ids), whole={i: self.plan.shapes[i][0] for i in self.rows})

    def updates(self, given: list[Any]) -> dict[int, Array]:
        """The gradients that are trained on."""
        return {i: self.rows[i].values if i in self.rows else given[i] for i in self.plan.trained}

    def params(self, params: list[Any] | None) -> list[Any] | None:
        """The parameters, with rows in the place of tables."""
        return params and [gathered(p, self.rows[i].ids) if i in self.rows else p for i, p in enumerate(params)]

    def state(self, state: OptState) -> OptState:
        """The state with the rows of slots."""
        return self._changed(
            state, lambda key, i, old, _: old if self._is_inside(key, i) else gathered(old, self.rows[i].ids), state
        )

    def in_kernel(self, state: OptState) -> dict[int, Table]:
        """By leaf, the tables that a kernel may write where they are."""
        own = [one.key for one in self.plan.all if not isinstance(one.rule, Pair)]
        found = {}
        for i, summed in self.summands.items():
            slots = {key: with_rows(self.plan, i, state.slots[key]) for key in own if key in state.slots}
            residue = with_rows(self.plan, i, state.slots.get(self.plan.landings.get(i, ""), {}))
            found[i] = Table(self.whole[i], slots, residue, summed)
        return found

    def scattered(self, before: OptState, done: Done, written: Written) -> OptState:
        """The state after a step, with whole slots."""

        def change(key: str, i: int, old: Array, new: Array) -> Array:
            if (key, i) in written:
                return new
            inside = self._is_inside(key, i) or (i in self.collected and key in self.plan.storages)
            return scattered(old, done.ids[i] if inside else self.rows[i].ids, new)

        return self._changed(before, change, done.state)

    def landed(self, done: Done, written: Written, mode: Mode) -> dict[int, Any]:
        """What the caller gets of a step: whole tables, or the updates of rows."""
        ids, updates = self.ids | done.ids, done.updates
        if mode == "step":
            rest = {i: table for i, table in self.whole.items() if (PARAMS, i) not in written}
            return updates | {i: scattered(table, ids[i], updates[i]) for i, table in rest.items()}
        return updates | {i: Rows.of(ids[i], updates[i], distinct=rows.distinct) for i, rows in self.rows.items()}

    def _is_inside(self, key: str, i: int) -> bool:
        """Whether a part is inside a wrapper that collects rows of a leaf."""
        return i in self.collected and key in self.collected[i].slots

    def _changed(self, before: OptState, change: Callable[[str, int, Array, Any], Array], after: OptState) -> OptState:
        """A state in which slots that have the rows of a table are other ones: by those before and after a step."""
        if not self.rows:
            return after
        slots, plan = dict(after.slots), self.plan
        for key in ({one.key for one in plan.all if not isinstance(one.rule, Pair)} | set(plan.storages)) & set(slots):
            columns = {}
            for name, tree in slots[key].items():
                old, new = (plan.treedef.flatten_up_to(tree) for tree in (before.slots[key][name], tree))
                for i in self.rows:
                    own = i in self.collected and self.collected[i].by.key == key
                    if not own and old[i] is not None and old[i].shape[:1] == plan.shapes[i][0][:1]:
                        new[i] = change(key, i, old[i], new[i])
                columns[name] = plan.treedef.unflatten(new)
            slots[key] = columns
        return after._replace(slots=slots)


def in_place(
    step: Step, mode: Mode, i: int, ready: Sequence[Ready], operands: Operands, given: Array
) -> tuple[Operands, Written]:
    """Whole tables in place of the rows of a leaf, for a kernel that finds these itself; and what it writes, by part and leaf.

    Where a part keeps what has no rows, they stay rows.
    """
    table = step.tables[i]
    slots = [table.slots.get(one.placed.key, {}) for one in ready]
    if any(set(apart(one.slots[i])) != set(own) for one, own in zip(ready, slots, strict=True)):
        return operands, set()
    own = table.summands if operands.u is given else Summands(operands.u, jnp.zeros((), bool))
    written = {(one.placed.key, i) for one in ready} | ({(step.plan.landings.get(i, ""), i)} if mode != "between" else set())
    whole = operands._replace(p=table.p, slots=[*map(together, slots)], residue=table.residue, summands=own)
    return whole, written | ({(PARAMS, i)} if mode == "step" else set())


def _summands(rows: Rows, length: int) -> Summands:
    return summands(rows.narrowed(length), rows.values, rows.distinct, length)


def _check_part(plan: Plan, one: Placed, state: OptState, at: list[int]) -> None:
    """Whether a part may see some rows of its leaves alone."""
    if not at:
        return
    if isinstance(one.rule, Pair):
        checks.refuse_rows(plan, at[0], f"{one.rule!r} is not of jadam, and expects whole arrays; {DENSE}")
        return
    for i, rule in zip(one.at, one.rules, strict=True):
        if i in at and (why := rule.needs_all_rows):
            checks.refuse_rows(plan, i, f"{rule.name} {why}")
    checks.slots(plan, state, one)
    for name, tree in state.slots.get(one.key, {}).items():
        if name + SCALES in state.slots[one.key]:
            column = plan.treedef.flatten_up_to(tree)
            for i in at:
                if column[i] is not None and column[i].ndim + block_axis(column[i].shape) == 0:
                    words = f"{name} of {one.rule.name} is stored in 8 bits, in blocks of 32 rows; keep the state of tables"
                    checks.refuse_rows(plan, i, f"{words} in a group of their own: with_precision(tx, state='bfloat16').")
