"""Runs rules over trees: one step.

Per leaf, `run_rules` decodes the parameter and its slots, runs the rules in order and encodes; it is compiled once for each
(rules, kind of leaf), so that a tree of 148 leaves with 6 shapes is traced 6 times.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jadam._drivers import driven, evaluated
from jadam._landing import NEAREST, ParamStorage
from jadam._layout import Layout, decoded
from jadam._leaf import Operands, Program, StateMismatch, bounded, needs_params, run_rules
from jadam._masks import EVERYTHING
from jadam._part import Opaque, Part, named
from jadam._rounding import number_key, step_key
from jadam._rule import Context, Rule
from jadam._state import OptState, check_is_state
from jadam._tree import PyTree, arrays, difference, is_array, is_trained, quoted


def update(
    where: str,
    parts: Sequence[Part],
    updates: PyTree,
    state: OptState,
    params: PyTree,
    extra: dict[str, Any],
    apply: bool,
) -> tuple[PyTree, OptState]:
    """One step, compiled: the updates, or the new parameters if `apply`, and the new state."""
    check_is_state(where, "second", state)
    state = driven(parts, state)
    updates = arrays(where, "the gradient tree", updates)
    params = arrays(where, "params", params)
    traced = {name: value for name, value in extra.items() if all(map(is_array, jax.tree.leaves(value)))}
    static = tuple((name, value) for name, value in extra.items() if name not in traced)
    traced = arrays(where, "extra", traced)
    return _update(where, tuple(part.structure for part in parts), apply, static, updates, state, params, traced)


@functools.partial(jax.jit, static_argnames=("where", "parts", "apply", "static"))
def _update(
    where: str,
    parts: tuple[Part, ...],
    apply: bool,
    static: tuple[tuple[str, Any], ...],
    updates: PyTree,
    state: OptState,
    params: PyTree,
    traced: dict[str, Any],
) -> tuple[PyTree, OptState]:
    step = _Step(where, named(parts), updates, state, params, traced | dict(static))
    for key, part in step.parts.items():
        if isinstance(part.rule, Opaque):
            step.run_opaque(key, part, part.rule)
        elif isinstance(part.rule, Rule):
            step.prepare(key, part, part.rule)
    return step.finish("step" if apply else "update")


@dataclass(frozen=True)
class _Ready:
    """A rule whose `prepare` has run, waiting for the leaves."""

    key: str
    part: Part
    rules: list[Any]  # by leaf
    h: dict[str, Any]
    slots: dict[int, dict[str, Any]]  # by leaf


class _Step:
    """One update of a tree: rules wait in `pending` until something needs the updates that they make."""

    def __init__(
        self,
        where: str,
        parts: dict[str, Part],
        updates: PyTree,
        state: OptState,
        params: PyTree,
        extra: dict[str, Any],
    ):
        self.where, self.parts, self.state, self.extra = where, parts, state, extra
        self.layout = Layout.of(updates if params is None else params)
        self.params = None if params is None else self.layout.leaves.values
        self.given = self._gradients(updates)
        self.updates = {i: self.given[i] for i in self.layout.trained}
        self.pending: list[_Ready] = []
        self._check_state()
        self.landings = self.layout.landings(where, parts)
        self.kept = self._read_kept()
        self.key = step_key(state.count) if any(part.draws for part in parts.values()) else None
        self.hyperparams = evaluated(parts, state)
        self.slots: dict[str, Any] = {}
        self.scalars: dict[str, dict[str, Array]] = {}
        self.gate: tuple[str, Array] | None = None  # a rule that leaves out steps, and whether this one counts

    def _gradients(self, updates: PyTree) -> list[Any]:
        """The gradient of each leaf, checked against its parameter."""
        leaves = self.layout.leaves
        try:
            gradients = leaves.treedef.flatten_up_to(updates)
        except (ValueError, TypeError):
            gradients = [None] * len(leaves.values)
        for i in self.layout.trained:
            p, g = leaves.values[i], gradients[i]
            if not isinstance(g, Array | np.ndarray | np.generic):
                raise ValueError(
                    f"{self.where}: the gradients do not have the structure of the parameters: "
                    f"{difference(updates, leaves)}. Differentiate with respect to the same tree, or mask out what has "
                    "no gradient."
                )
            if g.shape != p.shape:
                path = quoted(leaves.paths[i])
                raise ValueError(f"{self.where}: the gradient at {path} has shape {g.shape}, its parameter {p.shape}.")
            kinds = [jnp.issubdtype(x.dtype, jnp.complexfloating) for x in (g, p)]
            if not is_trained(g) or kinds[0] != kinds[1]:
                raise TypeError(
                    f"{self.where}: the gradient at {quoted(leaves.paths[i])} has dtype {g.dtype}, its parameter {p.dtype}; "
                    "give a floating-point gradient, complex where the parameter is."
                )
        return gradients

    def _check_state(self) -> None:
        expected = {key: {hyper.stored for hyper in part.hypers} for key, part in self.parts.items() if part.hypers}
        found = {key: set(values) for key, values in self.state.hyperparams.items()}
        strange = set(self.state.slots) - set(self.parts)
        if expected != found or strange:
            raise ValueError(
                f"{self.where}: the state belongs to another transformation: it is of "
                f"{', '.join(sorted(set(found) | set(self.state.slots))) or 'no rules'}, this one of "
                f"{', '.join(self.parts) or 'no rules'}. Use the state that this transformation's init gave."
            )

    def prepare(self, key: str, part: Part, rule: Rule) -> None:
        """Computes the constants of a rule, and lets it wait for the leaves."""
        count, dtype = self.state.count, self.layout.dtype
        h = part.readable(self.hyperparams.get(key, {}))
        chosen = self.layout.selected(self.where, part)
        slots = self._read_slots(key, chosen)
        context = Context(
            h=SimpleNamespace(**h),
            count=count,
            t=count.astype(dtype) + 1,
            scalars=self.state.scalars.get(key, {}),
            extra=self.extra,
            read_updates=lambda: self._read_updates(chosen),
            bound=bounded if key in self.state.slots else lambda u: u,
            read_params=lambda: self._read_params(rule, chosen),
            read_slot=lambda slot: [decoded(slots[i][slot], self.layout.leaves.values[i].dtype) for i in chosen],
            read_learning_rate=lambda: self._learning_rate(key, rule, chosen),
        )
        constants = rule.prepare(context)
        if (accept := constants.pop("accept", None)) is not None:
            if key != next(iter(self.parts)) or part.mask != EVERYTHING:
                raise ValueError(f"{self.where}: {rule.block} leaves out whole steps; put it around all else, without a mask.")
            self.gate = key, accept
        if scalars := {name: jnp.asarray(constants[name], dtype) for name in rule.scalars()}:
            self.scalars[key] = scalars
        self.pending.append(_Ready(key, part, part.rules(self.layout.leaves), h | constants, slots))

    def _learning_rate(self, key: str, rule: Rule, chosen: list[int]) -> Array:
        """The learning rate that scales what a rule does to its leaves: the next one in the chain, else the last before."""
        names = list(self.parts)
        at = names.index(key)
        for name in (*names[at:], *reversed(names[:at])):
            rate = self.hyperparams.get(name, {}).get("learning_rate")
            if rate is not None and set(chosen) <= set(self.layout.selected(self.where, self.parts[name])):
                return rate
        raise ValueError(
            f"{self.where}: {rule.block} needs the learning rate, and the chain has none that acts on all its parameters; add "
            f"scale_by_learning_rate(...), or put {rule.block} into each group of a partition."
        )

    def _read_slots(self, key: str, chosen: list[int]) -> dict[int, dict[str, Any]]:
        treedef = self.layout.leaves.treedef
        try:
            columns = {slot: treedef.flatten_up_to(tree) for slot, tree in self.state.slots.get(key, {}).items()}
        except (ValueError, TypeError):
            raise ValueError(
                f"{self.where}: the state of {key} has another structure than the parameters: it was made for "
                "other ones. Call init with these."
            ) from None
        return {i: {slot: column[i] for slot, column in columns.items() if column[i] is not None} for i in chosen}

    def _mismatch(self, i: int, words: str) -> ValueError:
        return ValueError(
            f"{self.where}: the state does not fit the parameter at {quoted(self.layout.leaves.paths[i])}: {words}. "
            "It was made for other parameters, another mask or another storage; call init with these."
        )

    def _read_params(self, rule: Rule, chosen: list[int]) -> list[Array]:
        if self.params is None:
            raise ValueError(needs_params(self.where, rule))
        return [self._landing(i).decode(self.params[i], self.kept.get(i, {})) for i in chosen]

    def _landing(self, i: int) -> ParamStorage:
        return self.landings[i][1] if i in self.landings else NEAREST

    def _read_kept(self) -> dict[int, dict[str, Array]]:
        """What is stored beside each parameter."""
        kept: dict[int, dict[str, Array]] = {}
        for key, part in self.parts.items():
            storage = part.rule
            if not isinstance(storage, ParamStorage) or storage == NEAREST:
                continue
            if self.params is None:
                raise ValueError(f"{self.where}: {storage!r} needs the parameters; call update(grads, state, params).")
            for i, found in self._read_slots(key, list(self.layout.trained)).items():
                lands = i in self.landings and self.landings[i][0] == key
                expected = dict.fromkeys(storage.kept, self.params[i].shape) if lands else {}
                if jax.tree.map(jnp.shape, found) != expected:
                    raise self._mismatch(i, f"{storage!r} keeps {', '.join(expected) or 'nothing'} beside it")
                kept |= {i: found} if lands else {}
        return kept

    def _read_updates(self, chosen: list[int]) -> list[Array]:
        self.flush("between")
        return [self.updates[i] for i in chosen]

    def flush(self, mode: Literal["between", "cast", "update", "step"]) -> None:
        """Runs the rules that wait on every leaf."""
        for i in self.layout.trained:
            ready = [rule for rule in self.pending if i in rule.slots]
            if not ready and mode == "between":
                continue
            p = None if self.params is None else self.params[i]
            rules = tuple((one.rules[i], one.part.storage, one.key if one.part.draws else "") for one in ready)
            operands = Operands(
                self.updates[i],
                p,
                self.given[i] if any(rule.reads_gradient for rule, *_ in rules) else None,
                [one.slots[i] for one in ready],
                self.kept.get(i, {}),
                [one.h for one in ready],
                None if self.key is None else (self.key, number_key(i)),
            )
            program = Program(self.where, rules, self._landing(i), mode)
            try:
                self.updates[i], slots, self.kept[i] = run_rules(program, operands)
            except StateMismatch as error:
                raise self._mismatch(i, str(error)) from None
            for one, new in zip(ready, slots, strict=True):
                one.slots[i] = new
        for one in self.pending:
            names = self.state.slots.get(one.key, {})
            if names:
                self.slots[one.key] = self.layout.trees(one.slots, names)
        self.pending = []

    def run_opaque(self, key: str, part: Part, rule: Opaque) -> None:
        """Runs an `(init, update)` pair on the leaves of its mask, in the dtypes of the parameters; the others are None."""
        chosen = self.layout.selected(self.where, part)
        self.flush("cast")
        params = None if self.params is None else self.layout.tree({i: self.params[i] for i in chosen})
        extra = self.extra if rule.takes_extra else {}
        new, self.slots[key] = rule.update(
            self.layout.tree({i: self.updates[i] for i in chosen}), self.state.slots[key], params, **extra
        )
        columns = self.layout.leaves.treedef.flatten_up_to(new)
        self.updates |= {i: columns[i] for i in chosen}

    def finish(self, mode: Literal["update", "step"]) -> tuple[PyTree, OptState]:
        self.flush(mode)
        for key, storage in dict(self.landings.values()).items():
            if storage.kept:
                own = {i: self.kept[i] for i, (name, _) in self.landings.items() if name == key}
                self.slots[key] = self.layout.trees(own, storage.kept)
        untouched = [self._untouched(i, mode) for i in range(len(self.given))]
        count = jnp.minimum(self.state.count, jnp.iinfo(jnp.int32).max - 1) + 1
        state = OptState(count, self.hyperparams, self.slots, self.scalars)
        if self.gate is None:
            return self.layout.tree(self.updates, untouched), state
        # A select in the loops that write the state, which read the old one anyway.
        key, accept = self.gate
        choose = functools.partial(jax.tree.map, functools.partial(lax.select, accept))
        stay = {i: self.layout.leaves.values[i] if mode == "step" else jnp.zeros_like(u) for i, u in self.updates.items()}
        kept = choose(state, self.state)
        scalars = kept.scalars | {key: self.scalars[key]}
        return self.layout.tree(choose(self.updates, stay), untouched), kept._replace(scalars=scalars)

    def _untouched(self, i: int, mode: str) -> Any:
        """What stands for a leaf that is not trained: itself, or zeros, so that `params + updates` leaves it as it is."""
        if self.params is None or i in self.updates:
            return self.given[i]
        if mode == "step":
            return self.params[i]
        return jnp.zeros_like(self.params[i]) if isinstance(self.given[i], Array) else self.given[i]
