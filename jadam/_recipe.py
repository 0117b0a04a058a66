"""What a transformation is: a row of parts, each a rule, a wrapper around a row, or a pair from elsewhere, in its scope."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce
from itertools import groupby
from operator import and_
from typing import Any, NamedTuple, cast

from jax.core import Tracer

from jadam._hyper import Driven, HyperField
from jadam._masks import EVERYTHING, Mask
from jadam._rule import Block, Rule
from jadam._state import numbered, stored_name
from jadam._storage.params import ParamStorage
from jadam._storage.slots import FLOAT32, SlotStorage
from jadam._tree import Leaves, of_numbers
from jadam._wrapper import Wrapper


@dataclass(frozen=True)
class Scope:
    """What one call says of the parts inside it: where, under which name and in which formats they work.

    Attributes:
        call: how it is written, before and after what is inside; for a partition, its `Groups`.
        mask: the parameters on which the parts act.
        formats: of slots by name; "" stands for all but those that begin as a copy of the parameter.
        number: of the group in its partition.
        label: begins the names of the parts in the state.
        group: in words, for `describe`.
    """

    call: tuple[str, str] | Groups
    mask: Mask = EVERYTHING
    formats: tuple[tuple[str, SlotStorage], ...] = ()
    number: int = 0
    label: str = ""
    group: str = ""


@dataclass(frozen=True)
class Groups(ABC):
    """How a partition divides the parameters. Its groups ask once for all of them: the time grows with their number."""

    names: tuple[str, ...]

    @abstractmethod
    def divide(self, leaves: Leaves) -> list[int]:
        """The number of its group for each leaf."""

    @abstractmethod
    def show(self, transforms: list[str]) -> str:
        """The call that made the groups."""


@dataclass(frozen=True)
class Pair:
    """An `(init, update)` pair from elsewhere, over the whole tree, with a state of its own."""

    init: Callable[..., Any]
    update: Callable[..., Any]

    hypers = ()

    @property
    def name(self) -> str:
        return getattr(self.update, "__qualname__", type(self.update).__name__).split(".")[0]

    key = name

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
        counter: the name of the wrapper that keeps its step count; None where it is the state's.
        counts: whether it is a wrapper that keeps the step count of what is inside it.
        inner: the places inside it.
    """

    key: str
    part: Part
    scope: tuple[Scope, ...]
    counter: str | None
    counts: bool
    inner: tuple[Place, ...]

    @property
    def hypers(self) -> tuple[tuple[str, HyperField], ...]:
        """Its hyperparameters, by their keys in the state."""
        return tuple((stored_name(self.key, hyper.stored), hyper) for hyper in self.part.rule.hypers)

    def __iter__(self) -> Iterator[Place]:
        yield self
        for place in self.inner:
            yield from place


@dataclass(frozen=True)
class Recipe:
    """What a transformation is made of.

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

        def name(key: str, scope: Sequence[Scope]) -> str:
            labelled = ".".join(filter(None, [*(one.label for one in scope), key]))
            taken.add(free := numbered(labelled, taken))
            return free

        def place(row: Sequence[Part], around: tuple[Scope, ...], counter: str | None) -> tuple[Place, ...]:
            places = []
            for part in row:
                scope = around + part.scope
                key = name(part.rule.key, scope)
                # A row that is nothing but a wrapper has one count with its inside: `state.count` is updates done.
                counts = isinstance(part.rule, Wrapper) and len(row) > 1
                places.append(Place(key, part, scope, counter, counts, place(part.inner, scope, key if counts else counter)))
            return tuple(places)

        row = place(self.parts, (), None)
        return row, tuple(name(storage.key, scope) for storage, scope in self.landings)

    @cached_property
    def all(self) -> tuple[Place, ...]:
        """Every part, also those inside wrappers."""
        return tuple(one for place in self.named[0] for one in place)

    @cached_property
    def numbers(self) -> dict[str, float]:
        """The hyperparameters that are numbers, as the state has them."""
        return {key: hyper.store(value) for key, hyper, value, _ in self._hypers if not _drives(value)}

    @cached_property
    def drivers(self) -> tuple[tuple[str, HyperField, Any, str | None], ...]:
        """The hyperparameters that schedules and arrays drive, with who keeps their count."""
        return tuple(entry for entry in self._hypers if _drives(entry[2]))

    @cached_property
    def traced(self) -> tuple[str, ...]:
        """Those that are tracers."""
        return tuple(key for key, _, value, _ in self.drivers if isinstance(value, Driven) and isinstance(value.value, Tracer))

    @cached_property
    def _hypers(self) -> list[tuple[str, HyperField, Any, str | None]]:
        return [(key, hyper, getattr(at.part.rule, hyper.name), at.counter) for at in self.all for key, hyper in at.hypers]

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


def _drives(value: Any) -> bool:
    return callable(value) or isinstance(value, Driven)


def masked_by(mask: Mask) -> Scope:
    return Scope(("masked(", f", {mask!r})"), mask)


def mask_of(scope: Sequence[Scope]) -> Mask:
    return reduce(and_, [one.mask for one in scope], EVERYTHING)


@dataclass(frozen=True)
class SlotFormats:
    """How the slots of a rule are stored: the first that names one decides, float32 where none does."""

    said: tuple[tuple[str, SlotStorage], ...] = ()
    positions: tuple[str, ...] = ()

    @property
    def draws(self) -> bool:
        """Whether a slot may be rounded by chance."""
        return any(codec.draws for _, codec in self.said)

    def codec(self, slot: str) -> SlotStorage:
        named = (codec for name, codec in self.said if name == slot or (not name and slot not in self.positions))
        return next(named, FLOAT32)


class Line(NamedTuple):
    """A part as text, or nothing, and the scopes around it that are not yet written."""

    scope: tuple[Scope, ...]
    text: str | None

    @property
    def inside(self) -> Line:
        return self._replace(scope=self.scope[1:])


def _lines(parts: Sequence[Part]) -> list[Line]:
    lines = []
    for part in parts:
        text = repr(part.rule)
        if isinstance(part.rule, Wrapper):
            text = f"{part.rule.name}({', '.join(filter(None, [show(_lines(part.inner)), part.rule.arguments()]))})"
        lines.append(Line(part.scope, text))
    return lines


def show(lines: Sequence[Line]) -> str:
    """Parts as one would write them: `chain(...)` around several, each call around what is in it."""
    texts: list[str] = []

    def call_of(line: Line) -> Scope | Groups | None:
        """The groups of one partition belong to one call; otherwise parts in equal scopes do."""
        scope = line.scope[0] if line.scope else None
        return scope.call if scope and isinstance(scope.call, Groups) else scope

    for call, group in groupby(lines, call_of):
        own = list(group)
        if isinstance(call, Groups):
            inside = [[line.inside for line in own if line.scope[0].number == n] for n in range(len(call.names))]
            texts.append(call.show([show(group) for group in inside]))
        elif isinstance(call, Scope):
            texts.append(show([line.inside for line in own]).join(cast(tuple[str, str], call.call)))
        else:
            texts += [line.text for line in own if line.text]
    return texts[0] if len(texts) == 1 else f"chain({', '.join(texts)})"
