"""A rule in its place in a transformation."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax import Array

from jadam._hyper import HyperField, hyper_fields
from jadam._landing import ParamStorage
from jadam._masks import EVERYTHING, Mask, PerLeaf
from jadam._rule import DecayRate, Rule
from jadam._state import numbered
from jadam._storage import FLOAT32, SlotStorage
from jadam._tree import Leaves


@dataclass(frozen=True)
class Opaque:
    """An `(init, update)` pair from elsewhere: one rule over the whole tree, with a state of its own."""

    init: Callable[..., Any]
    update: Callable[..., Any]

    @property
    def key(self) -> str:
        return getattr(self.update, "__qualname__", type(self.update).__name__).split(".")[0]

    @property
    def takes_extra(self) -> bool:
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(self.update).parameters.values())

    def __repr__(self) -> str:
        return f"{self.key}(...)"


Storage = tuple[tuple[str, SlotStorage], ...]
"""Storage by slot, the first that names it; float32 where none does."""


@dataclass(frozen=True)
class Part:
    """A rule in its place: on which parameters it acts, in which group, and how its slots are stored.

    `group` is for the eyes of `describe`; `prefix` begins the rule's name in the state. In place of a rule stands how the
    parameters are stored, wherever in the chain: they are decoded before the first rule and land after the last.
    """

    rule: Rule | Opaque | ParamStorage
    mask: Mask = EVERYTHING
    group: str = ""
    prefix: str = ""
    storage: Storage = ()

    @property
    def hypers(self) -> tuple[HyperField, ...]:
        return hyper_fields(type(self.rule)) if isinstance(self.rule, Rule) else ()

    @property
    def draws(self) -> bool:
        """Whether it needs random bits."""
        return (isinstance(self.rule, ParamStorage) and self.rule.draws) or any(codec.draws for _, codec in self.storage)

    def readable(self, values: Mapping[str, Array]) -> dict[str, Any]:
        """Hyperparameters as the rule reads them in `h`, from those in the state."""
        stored = {hyper.name: (hyper.allowed.complement, values[hyper.stored]) for hyper in self.hypers}
        return {name: DecayRate(value) if complement else value for name, (complement, value) in stored.items()}

    def rules(self, leaves: Leaves) -> list[Any]:
        """The rule for each leaf. An option that is a mask, or given leaf by leaf, has there the value of the leaf."""
        own: dict[str, list[Any]] = {}
        for name, value in vars(self.rule).items():
            if isinstance(value, Mask):
                own[name] = value.select(leaves)
            elif isinstance(value, PerLeaf):
                own[name] = value.read(leaves, f"{self.rule.key}: {name}")
        if not own:
            return [self.rule] * len(leaves.values)
        rules = [copy.copy(self.rule) for _ in leaves.values]
        for name, column in own.items():
            for rule, value in zip(rules, column, strict=True):
                object.__setattr__(rule, name, value)
        return rules

    @functools.cached_property
    def structure(self) -> Part:
        """The part without its numbers, which the state holds: what a trace depends on, always hashable."""
        rule = copy.copy(self.rule)
        for hyper in self.hypers:
            if not callable(getattr(rule, hyper.name)):
                object.__setattr__(rule, hyper.name, IN_STATE)
        return dataclasses.replace(self, rule=rule, group="")


def slot_codec(storage: Storage, slot: str) -> SlotStorage:
    return next((codec for name, codec in storage if name == slot), FLOAT32)


class ReadItFromH:
    """Stands in a rule for a number that the state holds, so that `self.b1` for `h.b1` is an error, and not a constant."""


IN_STATE = ReadItFromH()


def named(parts: Sequence[Part]) -> dict[str, Part]:
    """The parts by their names in the state: the rule's, after its prefix, numbered where several are alike."""
    found: dict[str, Part] = {}
    for part in parts:
        found[numbered(".".join(filter(None, [part.prefix, part.rule.key])), found)] = part
    return found
