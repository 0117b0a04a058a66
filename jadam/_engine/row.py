"""Runs a row of parts over the leaves of a tree.

Per leaf, `run_rules` decodes the parameter and its slots, runs the rules in order and encodes; it is traced once for each
(rules, kind of leaf), so that a tree of 148 leaves with 6 shapes is traced 6 times.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax.numpy as jnp
from jax import Array

from jadam._context import H, extra, scalars_of
from jadam._dtypes import cast, encode, full_dtype, full_products
from jadam._engine import checks, returned, windows
from jadam._engine.kept import following, formats_of, kept_of, made_anew, part_of, replaced
from jadam._engine.leaf import Mode, NoCount, Operands, Program
from jadam._engine.missed import Gap
from jadam._engine.norms import Norms, sums_of_squares
from jadam._engine.placement import decoded
from jadam._engine.plan import Placed
from jadam._engine.reader import Done, Reader, Ready, Step
from jadam._engine.rows import Written, in_place
from jadam._engine.stacks import mesh_of, on_matrices
from jadam._errors import BadValue, locating
from jadam._recipe import Pair
from jadam._rows import Rows
from jadam._rule import Context, DecayRate, Rule
from jadam._state import GIVEN, OptState
from jadam._storage.rounding import number_key, step_key
from jadam._storage.slots import apart, together
from jadam._wrapper import Inside, Wrapper


class Row(Reader):
    """Parts in a row at one step: rules are queued in `pending` and run, fused, when a later part needs their updates."""

    def __init__(
        self,
        step: Step,
        row: Sequence[Placed],
        updates: dict[int, Array],
        residues: dict[int, dict[str, Array]],
        state: OptState,
        mode: Mode,
        around: Norms | None = None,
    ):
        super().__init__(step, state, residues, Norms(around))
        self.row = row
        self.mode: Mode = mode
        self.given, self.updates = updates, dict(updates)  # `given` stays raw
        self.t: Any = None if state.count is None else following(state.count)
        self.new = OptState(self.t, {}, {}, {}, {})
        self.pending: list[Ready] = []
        self.ids, self.sums = dict[int, Array](), dict[int, tuple[Array, Array]]()  # as `Done` has them
        self.written: Written = set()  # by part and leaf, which results are whole tables

    @functools.cached_property  # traced only where something is rounded by chance
    def key(self) -> Array:
        """The key of this step's random bits."""
        return step_key(self.state.count)

    def run(self) -> Done:
        last = {i: placed for placed in self.row for i in placed.at}
        landed: set[int] = set()
        for placed in self.row:
            for key, _ in placed.hypers:
                self.new.hyperparams[key], self.new.given[key + GIVEN] = self.step.hyperparams[key]
            if isinstance(placed.rule, Wrapper):
                # Where nothing follows, the inside ends the step: parameters land in the branch that runs it.
                lands = all(last[i] is placed for i in placed.at)
                self._wrap(placed, placed.rule, self.mode if lands else "between")
                landed |= set(placed.at) if lands else set()
            elif isinstance(placed.rule, Pair):
                self._pair(placed, placed.rule)
            else:
                self._prepare(placed, placed.rule)
        self._flush(self.mode, landed)
        return Done(self.updates, self.residues, self.new, self.ids, self.sums)

    def _h(self, placed: Placed) -> dict[str, Any]:
        """Hyperparameters as a rule reads them in `h`."""
        values = {hyper: self.acting(key, hyper) for key, hyper in placed.hypers}
        return {hyper.name: DecayRate(value) if hyper.allowed.complement else value for hyper, value in values.items()}

    def _count(self, group: str | None) -> tuple[Any, Any]:
        """The updates done, in a group or in the row, and the number of this one."""
        if group is None or self.state.count is None:
            return self.state.count, self.t
        own = self.new.scalars[group] = {"count": following(self.state.scalars[group]["count"])}
        return self.state.scalars[group]["count"], own["count"]

    def _prepare(self, placed: Placed, rule: Rule) -> None:
        """Computes the constants of a rule, and queues it."""
        h, dtype, (count, number) = self._h(placed), self.plan.dtype, self._count(placed.counter)
        slots = checks.slots(self.plan, self.state, placed)
        ready = Ready(placed, dict(zip(placed.at, placed.rules, strict=True)), slots, h)
        scalars = scalars_of(rule, self.state.scalars.get(placed.key, {}))
        t: Any = NoCount(rule, dtype) if number is None else cast(number, dtype)
        # Once a step, and not for each kind of leaf: XLA writes scalars that vary by leaf into its kernels.
        context = Context(H(**h), t if count is None else count, t, scalars, extra(self.step.extra), self, ready)
        with full_products():
            constants = returned.constants(rule, rule.prepare(context))
        if shadowed := {"gradient", *h} & set(constants):
            name = shadowed.pop()
            raise BadValue(f"{rule.name}.prepare returns {name!r}, which is the name of something else in h; choose another.")
        if kept := {name: jnp.asarray(constants[name], dtype) for name in rule.scalars()}:
            self.new.scalars[placed.key] = kept
        ready = ready._replace(h=h | constants)
        if rule.on_matrices is not None:
            ready = self._spread_matrices(ready)
        self.pending.append(ready)

    def _spread_matrices(self, ready: Ready) -> Ready:
        """Runs a rule on the matrices that are spread over devices; what is left of it waits as others do."""
        params = self.step.params or self.given
        meshes = {i: mesh_of(self.updates[i], params[i]) for i, rule in ready.rules.items() if rule.matrices}
        meshes = {i: mesh for i, mesh in meshes.items() if mesh is not None}
        if not meshes:
            return ready
        self._flush("between")
        slots = {i: {name: decoded(x, self.plan.dtype_of(i)) for name, x in ready.slots[i].items()} for i in meshes}
        for i, (u, new) in on_matrices(self.step.run_rules, ready, self.updates, slots, meshes).items():
            self.updates[i] = u
            ready.slots[i] = self._encoded(ready.placed, i, new, ready.slots[i])
        return ready._replace(rules={i: rule for i, rule in ready.rules.items() if i not in meshes})

    def _flush(self, mode: Mode, landed: set[int] | frozenset[int] = frozenset()) -> None:
        """Runs the queued rules on every leaf."""
        plan, params = self.plan, self.step.params
        queued: dict[int, list[Ready]] = {}
        for one in self.pending:
            for i in one.rules:
                queued.setdefault(i, []).append(one)
        for i in self.updates:
            ready = queued.get(i, [])
            if (not ready and mode == "between") or i in landed:
                continue  # what landed inside a wrapper is not an update any more
            # A name only where random bits depend on it: equal rules under other names share a program.
            rules = tuple(
                (one.rules[i], formats_of(plan, one.placed, i), one.placed.key * one.placed.formats.draws) for one in ready
            )
            operands = Operands(
                self.updates[i],
                None if params is None else params[i],
                self.given[i] if any(rule.reads_gradient for rule, *_ in rules) else None,
                [one.slots[i] for one in ready],
                self.residues[i],
                [one.h for one in ready],
                (self.key, number_key(i)) if any(name for *_, name in rules) or plan.storage(i).draws else None,
                self.step.gaps.get(i),
                self.step.ids.get(i),
            )
            in_kernel = any(one.placed.formats.kernel == "pallas" for one in ready)
            read = [(n, name) for n, one in enumerate(ready) for key, name in self.slots_read if key == one.placed.key]
            length = plan.whole[i][0] if i in plan.whole else 0
            program = Program(rules, plan.storage(i), mode, in_kernel, self.step.measured, frozenset(read), length)
            if i in self.step.tables:
                operands, where = in_place(self.step, mode, i, ready, operands, self.given[i])
                self.written |= where
            with locating(plan.path(i)):
                (self.updates[i], slots, residue), sums = self.step.run_rules(program, operands)
            self.sums |= {} if sums is None else {i: sums}
            if mode != "between":
                self.residues[i] = residue
            for one, new in zip(ready, slots, strict=True):
                one.slots[i] = new
        for one in self.pending:
            if names := self.state.slots.get(one.placed.key, {}):
                self.new.slots[one.placed.key] = plan.trees({i: apart(slots) for i, slots in one.slots.items()}, names)
        self.pending = []

    def _pair(self, placed: Placed, pair: Pair) -> None:
        """Runs an `(init, update)` pair on the leaves of its mask, in the dtypes of the parameters; the others are None."""
        plan, params = self.plan, self.step.params
        self._flush("between")
        own = None if params is None else plan.tree({i: params[i] for i in placed.at})
        updates = plan.tree({i: encode(self.full(i, self.updates[i]), plan.dtype_of(i)) for i in placed.at})
        extra = pair.accepted(self.step.extra)
        found = returned.by_pair(pair, updates, self.state.slots[placed.key], own, extra)
        shapes = {i: plan.shapes[i][0] for i in placed.at}
        new, self.new.slots[placed.key] = returned.of_pair(pair, found, plan.treedef, shapes)
        self.updates |= {i: encode(self.full(i, u), full_dtype(plan.dtype_of(i))) for i, u in new.items()}

    def _wrap(self, placed: Placed, wrapper: Wrapper, mode: Mode) -> None:
        """Lets a wrapper run what is inside it."""
        plan, at, key = self.plan, placed.at, placed.key
        self._flush("between")  # a wrapper is a wall for fusion: it sees finished updates
        stored = checks.slots(plan, self.state, placed)
        names, own = self.state.slots.get(key, {}), self.state.scalars.get(key, {})
        inner = part_of(self.state, placed.inner)
        if placed.counts:
            inner = inner._replace(count=own["count"])
        residues = {i: self.residues[i] for i in at}

        of = Ready(placed, {}, stored, {})
        still = windows.at_rest(self.step, Done({i: self._still(i, mode) for i in at}, residues, inner, {}, {}))
        full = [self.full(i, self.updates[i]) for i in at]

        def run(
            updates: list[Array],
            before: Done = still,
            extra: Mapping[str, Any] = MappingProxyType({}),
            rate: Array | None = None,
            measured: bool = False,
            gaps: Sequence[Gap] = (),
        ) -> Done:
            own = zip(at, returned.updates(wrapper, updates, len(at)), full, strict=True)
            # What is handed on unchanged stays as it is stored: its norm is known, and no cast of it is written to memory.
            given = {i: self.updates[i] if u is x else self._handed_on(i, u) for i, u, x in own}
            step = self.step._replace(extra={**self.step.extra, **extra}, gaps=dict(zip(at, gaps, strict=False)), tables={})
            step = step._replace(measured="here" if measured else step.measured and "outside")
            if rate is not None:
                checks.rate_inside(placed)
                step = step._replace(rate=rate if step.rate is None else rate * step.rate)
            step, given, before = windows.entered(placed, step, mode, given, before, self.residues)
            done = Row(step, placed.inner, given, dict(before.residues), before.state, mode, self.norms).run()
            if mode == "between":
                done = done._replace(updates={i: self._handed_on(i, self.full(i, u)) for i, u in done.updates.items()})
            return done._replace(ids=before.ids | done.ids)

        def restarted(done: Done) -> Done:
            checks.whole(plan, placed, "begins anew with all rows")
            slots, scalars = made_anew(plan, placed.inner, self.given_params(wrapper))
            return done._replace(state=done.state._replace(count=jnp.zeros_like(inner.count), slots=slots, scalars=scalars))

        def moved(done: Done) -> list[tuple[Array, Array]]:
            pairs = [self.moved_of(i, done, p, mode) for i, p in zip(at, self.own_params(of), strict=True)]
            return sums_of_squares(pairs, [done.sums.get(i) for i in at])

        columns = {name: [decoded(stored[i].get(name), plan.dtype_of(i)) for i in at] for name in together(names)}
        inside = Inside(
            h=H(**self._h(placed)),
            updates=full,
            rows=[windows.ids_of(self.step, i) for i in at],
            slots=defaultdict(list, columns),
            scalars=scalars_of(wrapper, {name: x for name, x in own.items() if name != "count"}),  # which is the engine's
            count=inner.count,
            extra=extra(self.step.extra),
            run=run,
            stay=lambda: still,
            restarted=restarted,
            moved=moved,
            kept=functools.partial(self._kept, placed),
            reader=self,
            of=of,
        )
        done, slots, scalars = returned.around(wrapper, wrapper.around(inside), Done, columns if at else {})
        self.updates |= done.updates
        self.residues |= done.residues
        self.ids |= done.ids
        for mine, theirs in zip(self.new[1:], done.state[1:], strict=True):
            mine.update(theirs)
        if names:
            leaves = {i: {name: values[n] for name, values in slots.items()} for n, i in enumerate(at)}
            self.new.slots[key] = plan.trees({i: self._encoded(placed, i, leaves[i], stored[i]) for i in at}, names)
        scalars = {name: jnp.asarray(scalars[name], own[name].dtype) for name in wrapper.scalars()}
        if placed.counts:
            scalars["count"] = done.state.count
        else:
            self.new = self.new._replace(count=done.state.count)
        if scalars:
            self.new.scalars[key] = scalars

    def read(self, of: Ready) -> list[Array]:
        """The updates that reach a rule, as they are stored."""
        self._flush("between")
        return [self.updates[i] for i in of.placed.at]

    def _kept(self, placed: Placed, done: Done, names: Sequence[str]) -> list[tuple[Array, ...]]:
        """Slots of the rules inside a wrapper that have all these, a tuple for each leaf of each."""
        found, inside = [], [one for inner in placed.inner for one in inner if not isinstance(one.rule, Pair)]
        for one in inside:
            slots = checks.slots(windows.of_rows(self.plan, done.ids), done.state, one)
            leaves = [(i, slots[i]) for i in one.at if set(names) <= set(slots[i])]
            found += [tuple(decoded(own[name], self.plan.dtype_of(i)) for name in names) for i, own in leaves]
        if not found and not any(set(names) <= set(kept_of(one.rule, one.formats)) for one in inside):
            raise BadValue(f"no rule inside {placed.rule.name} keeps {' and '.join(names)}, which it reads.")
        return found

    def _handed_on(self, i: int, u: Any) -> Any:
        """An update as a row begins with it, or another row gets it."""
        return u if isinstance(u, Rows) else encode(u, full_dtype(self.plan.dtype_of(i)))

    def _encoded(self, placed: Placed, i: int, slots: dict[str, Any], before: dict[str, Any]) -> dict[str, Array]:
        """The slots of a part for a leaf as the state keeps them, placed as they were before."""
        return replaced(self.plan, placed, i, slots, before, self.key ^ number_key(i) if placed.formats.draws else None)

    def _still(self, i: int, mode: Mode) -> Array:
        """What leaves a parameter where it is."""
        if mode == "step" and self.step.params is not None:
            return self.step.params[i]
        dtype = self.plan.dtype_of(i)
        return jnp.zeros_like(self.updates[i], dtype=full_dtype(dtype) if mode == "between" else dtype)
