"""Runs a row of parts over the leaves of a tree.

Per leaf, `run_rules` decodes the parameter and its slots, runs the rules in order and encodes; it is traced once for each
(rules, kind of leaf), so that a tree of 148 leaves with 6 shapes is traced 6 times.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jadam._dtypes import cast, compute_dtype, decode, encode, full_dtype, full_products
from jadam._engine import checks, returned
from jadam._engine.kept import following, made_anew, part_of
from jadam._engine.leaf import Mode, NoCount, Operands, Program, encoded, needs_params
from jadam._engine.placement import decoded, on_automatic_axes
from jadam._engine.plan import Placed, Plan
from jadam._errors import BadValue
from jadam._norm import bounded
from jadam._recipe import Pair
from jadam._rule import Context, DecayRate, H, Rule, extra, scalars_of
from jadam._state import GIVEN, OptState
from jadam._storage.rounding import number_key, step_key
from jadam._storage.slots import apart, together
from jadam._tree import PyTree
from jadam._wrapper import Inside, Wrapper


class Step(NamedTuple):
    """What all rows of a step share."""

    plan: Plan
    params: list[Any] | None
    extra: dict[str, Any]
    hyperparams: dict[str, tuple[Array, Array]]
    run_rules: Callable[[Program, Operands], Any]  # under `jit`


class Done(NamedTuple):
    """What a row makes, by leaf: updates or new parameters, the residues of these; and the state of its parts."""

    updates: dict[int, Array]
    residues: dict[int, dict[str, Array]]
    state: OptState


class _Ready(NamedTuple):
    """A rule whose `prepare` has run, waiting for the leaves."""

    placed: Placed
    rules: dict[int, Any]  # by leaf, as the slots
    slots: dict[int, dict[str, Any]]
    h: dict[str, Any]


class Row:
    """Parts in a row at one step: rules are queued in `pending` and run, fused, when a later part needs their updates."""

    def __init__(
        self,
        step: Step,
        row: Sequence[Placed],
        updates: dict[int, Array],
        residues: dict[int, dict[str, Array]],
        state: OptState,
        mode: Mode,
    ):
        self.step, self.plan, self.row, self.state = step, step.plan, row, state
        self.mode: Mode = mode
        self.given, self.updates, self.residues = updates, dict(updates), residues  # `given` stays raw
        self.t: Any = None if state.count is None else following(state.count)
        self.new = OptState(self.t, {}, {}, {}, {})
        self.pending: list[_Ready] = []

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
        return Done(self.updates, self.residues, self.new)

    def _h(self, placed: Placed) -> dict[str, Any]:
        """Hyperparameters as a rule reads them in `h`."""
        values = {hyper: self.step.hyperparams[key][0] for key, hyper in placed.hypers}
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
        ready = _Ready(placed, dict(zip(placed.at, placed.rules, strict=True)), slots, h)
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
        self.pending.append(ready._replace(h=h | constants))

    def _flush(self, mode: Mode, landed: set[int] | frozenset[int] = frozenset()) -> None:
        """Runs the queued rules on every leaf."""
        plan, params = self.plan, self.step.params
        queued: dict[int, list[_Ready]] = {}
        for one in self.pending:
            for i in one.slots:
                queued.setdefault(i, []).append(one)
        for i in self.updates:
            ready = queued.get(i, [])
            if (not ready and mode == "between") or i in landed:
                continue  # what landed inside a wrapper is not an update any more
            # A name only where random bits depend on it: equal rules under other names share a program.
            rules = tuple(
                (one.rules[i], one.placed.formats, one.placed.key if one.placed.formats.draws else "") for one in ready
            )
            operands = Operands(
                self.updates[i],
                None if params is None else params[i],
                self.given[i] if any(rule.reads_gradient for rule, *_ in rules) else None,
                [one.slots[i] for one in ready],
                self.residues[i],
                [one.h for one in ready],
                (self.key, number_key(i)) if any(name for *_, name in rules) or plan.storage(i).draws else None,
            )
            program = Program(rules, plan.storage(i), mode, any(one.placed.formats.kernel == "pallas" for one in ready))
            self.updates[i], slots, self.residues[i] = self.step.run_rules(program, operands)
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
        updates = plan.tree({i: encode(self._full(i, self.updates[i]), plan.dtype_of(i)) for i in placed.at})
        extra = pair.accepted(self.step.extra)
        found = pair.update(updates, self.state.slots[placed.key], own, **extra)
        shapes = {i: plan.shapes[i][0] for i in placed.at}
        new, self.new.slots[placed.key] = returned.of_pair(pair, found, plan.treedef, shapes)
        self.updates |= {i: encode(self._full(i, u), full_dtype(plan.dtype_of(i))) for i, u in new.items()}

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

        still = Done({i: self._still(i, mode) for i in at}, residues, inner)

        def run(updates: list[Array], before: Done = still, extra: Mapping[str, Any] = MappingProxyType({})) -> Done:
            own = zip(at, returned.updates(wrapper, updates, len(at)), strict=True)
            given = {i: encode(u, full_dtype(plan.dtype_of(i))) for i, u in own}
            step = self.step._replace(extra={**self.step.extra, **extra})
            if mode == "step" and step.params is not None:
                step = step._replace(params=[before.updates.get(i, p) for i, p in enumerate(step.params)])
            return Row(step, placed.inner, given, dict(before.residues), before.state, mode).run()

        def restarted(done: Done) -> Done:
            slots, scalars = made_anew(plan, placed.inner, self._given_params(wrapper))
            return done._replace(state=done.state._replace(count=jnp.zeros_like(inner.count), slots=slots, scalars=scalars))

        columns = {name: [decoded(stored[i].get(name), plan.dtype_of(i)) for i in at] for name in together(names)}
        inside = Inside(
            h=H(**self._h(placed)),
            updates=[self._full(i, self.updates[i]) for i in at],
            slots=defaultdict(list, columns),
            scalars=scalars_of(wrapper, own),
            count=inner.count,
            extra=extra(self.step.extra),
            run=run,
            stay=lambda: still,
            restarted=restarted,
            reader=self,
            of=_Ready(placed, {}, stored, {}),
        )
        done, slots, scalars = returned.around(wrapper, wrapper.around(inside), Done, columns if at else {})
        self.updates |= done.updates
        self.residues |= done.residues
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

    def _encoded(self, placed: Placed, i: int, slots: dict[str, Any], before: dict[str, Any]) -> dict[str, Array]:
        """The slots of a wrapper for a leaf as the state keeps them, placed as they were before."""
        key = self.key ^ number_key(i) if placed.formats.draws else None
        new = {}
        for name, x in slots.items():
            if x is not None and name in before:
                place = functools.partial(jax.tree.map, lambda old: jax.typeof(old).sharding, before[name])
                encode_ = functools.partial(
                    encoded, slot=name, formats=placed.formats, dtype=self.plan.dtype_of(i), key=key, owner=placed.key
                )
                new[name] = on_automatic_axes(encode_, x, place)(x)
        return apart(new)

    def _full(self, i: int, u: Any) -> Array:
        return cast(decode(u), compute_dtype(self.plan.dtype_of(i)))

    def _still(self, i: int, mode: Mode) -> Array:
        """What leaves a parameter where it is."""
        if mode == "step" and self.step.params is not None:
            return self.step.params[i]
        dtype = self.plan.dtype_of(i)
        return jnp.zeros_like(self.updates[i], dtype=full_dtype(dtype) if mode == "between" else dtype)

    # What `Context` and `Inside` read.

    def read(self, of: _Ready) -> list[Array]:
        """The updates that reach a rule, as they are stored."""
        self._flush("between")
        return [self.updates[i] for i in of.placed.at]

    def bound(self, of: _Ready, u: Array) -> Array:
        """An update as the rule's `update` sees it."""
        return bounded(u, of.placed.rule.squares(u.shape)) if of.placed.key in self.state.slots else u

    def params(self, of: _Ready) -> list[Array]:
        stored = self._given_params(of.placed.rule)
        return [self.plan.storage(i).decode(stored[i], self.residues[i]) for i in of.placed.at]

    def _given_params(self, rule: Any) -> list[Any]:
        if self.step.params is None:
            raise BadValue(needs_params(rule))
        return self.step.params

    def slot(self, of: _Ready, name: str) -> list[Array]:
        return [decoded(returned.slot(of.placed.rule, of.slots[i], name), self.plan.dtype_of(i)) for i in of.placed.at]

    def learning_rate(self, of: _Ready) -> Array:
        """The learning rate that scales what a rule does to its leaves: the next one in the chain, else the last before."""
        placed, everything = of.placed, self.plan.all
        at = everything.index(placed)
        for other in (*everything[at:], *reversed(everything[:at])):
            rate = next((key for key, hyper in other.hypers if hyper.name == "learning_rate"), None)
            if rate is not None and set(placed.at) <= set(other.at):
                return self.step.hyperparams[rate][0]
        raise BadValue(
            f"{placed.rule.name} needs the learning rate, and the chain has none that acts on all its parameters; add "
            f"scale_by_learning_rate(...), or put {placed.rule.name} into each group of a partition."
        )

    def as_params(self, of: _Ready, values: list[Array]) -> PyTree:
        dtypes = [self.plan.dtype_of(i) for i in of.placed.at]
        new = {i: encode(x, dtype) for i, x, dtype in zip(of.placed.at, values, dtypes, strict=True)}
        return self.plan.tree(new, self.step.params)

    def as_updates(self, of: _Ready, tree: PyTree) -> list[Array]:
        found = checks.gradients(self.plan, tree)
        return [self._full(i, found[i]) for i in of.placed.at]
