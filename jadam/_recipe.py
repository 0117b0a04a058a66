"""What a transformation is: a row of parts, each a rule, a wrapper around a row, or a pair from elsewhere, in its scope."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

from jax.core import Tracer
from jax.errors import TracerBoolConversionError

from jadam._hyper import Driven, HyperField
from jadam._rule import Block, Rule
from jadam._scope import Line, Scope, show
from jadam._state import numbered
from jadam._storage.params import ParamStorage
from jadam._storage.slots import FLOAT32, SlotStorage
from jadam._tree import of_numbers
from jadam._wrapper import Wrapper


@dataclass(frozen=True)
class Pair:
    """An `(init, update)` pair from elsewhere, over the whole tree, with a state of its own."""

    init: Callable[..., Any]
    update: Callable[..., Any]

    hypers = ()

    @property
    def name(self) -> str:
        return getattr(self.update, "__qualname__", type(self.update).__name__).split(".")[0]

    key = summary = name

    def accepted(self, extra: dict[str, Any]) -> dict[str, Any]:
        """Those of the keyword arguments of `tx.update` that it has a parameter for."""
        parameters = inspect.signature(self.update).parameters
        every = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        return {name: value for name, value in extra.items() if every or name in parameters}

    def __repr__(self) -> str:
        return f"{self.name}(...)"


@dataclass(frozen=True)
class Part:
    """One thing that happens to updates, in its scope (the outermost first), and the row that it wraps."""

    rule: Rule | Wrapper | Pair
    scope: tuple[Scope, ...] = ()
    inner: tuple[Part, ...] = ()

    @property
    def keeps_slots(self) -> bool:
        """Whether it may keep something for each parameter."""
        return isinstance(self.rule, Pair) or type(self.rule).init is not Block.init or any(p.keeps_slots for p in self.inner)

    def map(self, change: Callable[[Part], Part]) -> Part:
        """The part, and those inside it, changed alike."""
        return change(replace(self, inner=tuple(part.map(change) for part in self.inner)))


class Landing(NamedTuple):
    """How the parameters in a scope are stored, whatever rules act on them."""

    storage: ParamStorage
    scope: tuple[Scope, ...]


@dataclass(frozen=True)
class Place:
    """A part under its name in the state, with all scopes around it.

    Attributes:
        key: its name in the state.
        part: the part.
        scope: its own after those of the wrappers around it.
        counter: the name of the wrapper or group that keeps its step count; None where it is the state's.
        group: the name of its group, if it is a rule of one, which keeps its step count.
        counts: whether it is a wrapper that keeps the step count of what is inside it.
        inner: the places inside it.
    """

    key: str
    part: Part
    scope: tuple[Scope, ...]
    counter: str | None
    group: str | None
    counts: bool
    inner: tuple[Place, ...]

    @property
    def hypers(self) -> tuple[tuple[str, HyperField], ...]:
        """Its hyperparameters, by their keys in the state."""
        return tuple(zip(_stored(self.part.rule, self.key), self.part.rule.hypers, strict=True))

    def __iter__(self) -> Iterator[Place]:
        yield self
        for place in self.inner:
            yield from place


@dataclass(frozen=True, eq=False)
class Recipe:
    """What a transformation is made of.

    Equal to another that is made of equal things. One with something in it that has no hash (a schedule that is a mutable
    object, a table) is equal to itself alone: that may change, or be an array, which has no truth value.

    Attributes:
        parts: a row.
        landings: how parameters are stored, the innermost first.
        plans: of the trees that it met, so that masks are asked once for each; and, by plan, what is compiled for it.
        operands: its numbers as arrays, by dtype and sharding.
    """

    parts: tuple[Part, ...] = ()
    landings: tuple[Landing, ...] = ()
    plans: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    operands: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def _hash(self) -> int | None:
        try:
            return hash((self.parts, self.landings))
        except TypeError:
            return None

    def __hash__(self) -> int:
        return id(self) if self._hash is None else self._hash

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, Recipe):
            return self is other
        comparable = self._hash is not None and self._hash == other._hash
        try:
            return comparable and (self.parts, self.landings) == (other.parts, other.landings)
        except TracerBoolConversionError:  # of a schedule with a traced number, which is equal to itself alone
            return False

    def __add__(self, other: Recipe) -> Recipe:
        return Recipe(self.parts + other.parts, self.landings + other.landings)

    def within(self, scope: Scope) -> Recipe:
        """The same in one more scope around it."""
        parts = tuple(Part(part.rule, (scope, *part.scope), part.inner) for part in self.parts)
        return Recipe(parts, tuple(Landing(storage, (scope, *inner)) for storage, inner in self.landings))

    def map(self, change: Callable[[Part], Part]) -> Recipe:
        """The same with every part changed, also those inside wrappers."""
        return Recipe(tuple(part.map(change) for part in self.parts), self.landings)

    @cached_property
    def named(self) -> tuple[tuple[Place, ...], tuple[str, ...]]:
        """The parts, and the storages of parameters, under their names in the state, numbered where several are alike."""
        taken: set[str] = set()
        groups: dict[Any, str] = {}

        def name(rule: Any, scope: Sequence[Scope]) -> str:
            labelled = ".".join([*(one.label for one in scope if one.label), rule.key])
            # The names of hyperparameters too: `adam.rate` may be of the rule `rate` in the group `adam`.
            free = next(key for key in numbered(labelled) if taken.isdisjoint([key, *_stored(rule, key)]))
            taken.update([free, *_stored(rule, free)])
            return free

        def group_of(part: Part, around: tuple[Scope, ...]) -> str | None:
            """Who counts for a rule in a group, which may join a run that has done many steps, and has its own beginning."""
            labelled = [n for n, scope in enumerate(part.scope, 1) if scope.label]
            # Only `prepare` sees a count, and schedules do.
            counted = isinstance(part.rule, Rule) and (part.rule.hypers or type(part.rule).prepare is not Rule.prepare)
            if not labelled or not counted:
                return None
            scope = around + part.scope[: labelled[-1]]
            group = tuple(map(id, scope)) if self._hash is None else scope
            if group not in groups:
                label = ".".join(one.label for one in scope if one.label)
                groups[group] = next(free for free in numbered(label) if free not in taken)
                taken.add(groups[group])
            return groups[group]

        def place(row: Sequence[Part], around: tuple[Scope, ...], counter: str | None) -> tuple[Place, ...]:
            places = []
            for part in row:
                scope = around + part.scope
                key = name(part.rule, scope)
                # A row that is nothing but a wrapper has one count with its inside: `state.count` is updates done.
                counts = isinstance(part.rule, Wrapper) and (len(row) > 1 or any(one.label for one in part.scope))
                group = group_of(part, around)
                inner = place(part.inner, scope, key if counts else counter)
                places.append(Place(key, part, scope, group or counter, group, counts, inner))
            return tuple(places)

        row = place(self.parts, (), None)
        return row, tuple(name(storage, scope) for storage, scope in self.landings)

    @cached_property
    def all(self) -> tuple[Place, ...]:
        """Every part, also those inside wrappers."""
        return tuple(one for place in self.named[0] for one in place)

    @cached_property
    def counters(self) -> dict[str, list[Place]]:
        """The names of the groups and wrappers that keep a step count, with the places that they count for."""
        names = [name for at in self.all for name in (at.group, at.key if at.counts else None) if name]
        return {name: [at for at in self.all if at.counter == name] for name in dict.fromkeys(names)}

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The hyperparameters that are numbers, as the state has them."""
        return {key: hyper.store(value) for key, hyper, value, _ in self._hypers if not _drives(value)}

    @cached_property
    def drivers(self) -> tuple[tuple[str, HyperField, Any, str | None], ...]:
        """The hyperparameters that schedules and arrays drive, with who keeps their count."""
        return tuple(entry for entry in self._hypers if _drives(entry[2]))

    @cached_property
    def keeps_nothing(self) -> bool:
        """Whether a step needs nothing of the last one, as far as rules say: no slots, no scalars, no schedule."""
        rules = [at.part.rule for at in self.all]
        own = not self.landings and not any(isinstance(rule, Pair | Wrapper) or rule.scalars() for rule in rules)
        return own and not any(part.keeps_slots for part in self.parts) and not any(callable(d) for _, _, d, _ in self.drivers)

    @cached_property
    def traced(self) -> tuple[str, ...]:
        """Those that are tracers."""
        return tuple(key for key, _, value, _ in self.drivers if isinstance(value, Driven) and isinstance(value.value, Tracer))

    @cached_property
    def _hypers(self) -> list[tuple[str, HyperField, Any, str | None]]:
        # The schedules of a wrapper follow the steps of its inside, whether it stands alone in its row or beside others.
        return [
            (key, hyper, getattr(at.part.rule, hyper.name), at.key if at.counts else at.counter)
            for at in self.all
            for key, hyper in at.hypers
        ]

    @cached_property
    def of_numbers(self) -> bool:
        """Whether nothing in it is the user's own: a function, an array, a pair."""
        return of_numbers((self.parts, self.landings))

    def __getstate__(self) -> dict[str, Any]:
        return {"parts": self.parts, "landings": self.landings, "plans": {}, "operands": {}}  # made where they are needed

    def __repr__(self) -> str:
        # A scope that only says how parameters are stored, and has no parts in it, is seen nowhere else.
        empty = [scope for _, scope in self.landings if not any(at.scope[: len(scope)] == scope for at in self.all)]
        return show([*_lines(self.parts), *(Line(scope, None) for scope in empty)])


def _stored(rule: Any, key: str) -> list[str]:
    """The keys of a rule's hyperparameters in the state: its own alone for one that is called like the rule."""
    return [key if hyper.stored == rule.key else f"{key}.{hyper.stored}" for hyper in getattr(rule, "hypers", ())]


def _drives(value: Any) -> bool:
    return callable(value) or isinstance(value, Driven)


@dataclass(frozen=True)
class SlotFormats:
    """How the slots of a rule are stored: the first that names one decides, float32 where none does; and what computes it.

    Attributes:
        said: names of slots, or nothing for all, with their formats.
        by_name: the slots that no format for all is meant for.
        kernel: what computes it.
    """

    said: tuple[tuple[str, SlotStorage], ...] = ()
    by_name: tuple[str, ...] = ()
    kernel: str = ""

    @property
    def draws(self) -> bool:
        """Whether a slot may be rounded by chance."""
        return any(codec.draws for _, codec in self.said)

    def codec(self, slot: str) -> SlotStorage:
        named = (codec for name, codec in self.said if name == slot or (not name and slot not in self.by_name))
        return next(named, FLOAT32)


def _lines(parts: Sequence[Part]) -> list[Line]:
    lines = []
    for part in parts:
        text = repr(part.rule)
        if isinstance(part.rule, Wrapper):
            text = f"{part.rule.name}({', '.join(filter(None, [show(_lines(part.inner)), part.rule.arguments()]))})"
        lines.append(Line(part.scope, text))
    return lines
