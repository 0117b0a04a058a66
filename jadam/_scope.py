"""Where, under which name and in which formats parts work, and how that is written."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import groupby
from operator import and_
from typing import NamedTuple, cast

from jadam._masks import EVERYTHING, Mask
from jadam._storage.slots import SlotStorage
from jadam._tree import Leaves


@dataclass(frozen=True)
class Scope:
    """What one call says of the parts inside it: where, under which name and in which formats they work.

    Attributes:
        call: how it is written, before and after what is inside; for a partition, its `Groups`.
        mask: the parameters on which the parts act.
        formats: of slots by name; "" stands for all but those that begin as a copy of the parameter.
        kernel: what computes the leaves: "xla" or "pallas"; "" where nothing is said.
        number: of the group in its partition.
        label: begins the names of the parts in the state.
        group: which parameters these are in words, for `describe`; empty where the label says it.
    """

    call: tuple[str, str] | Groups
    mask: Mask = EVERYTHING
    formats: tuple[tuple[str, SlotStorage], ...] = ()
    kernel: str = ""
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


def masked_by(mask: Mask) -> Scope:
    return Scope(("masked(", f", {mask!r})"), mask)


def mask_of(scope: Sequence[Scope]) -> Mask:
    return reduce(and_, [one.mask for one in scope], EVERYTHING)


class Line(NamedTuple):
    """A part as text, or nothing, and the scopes around it that are not yet written."""

    scope: tuple[Scope, ...]
    text: str | None

    @property
    def inside(self) -> Line:
        return self._replace(scope=self.scope[1:])


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
