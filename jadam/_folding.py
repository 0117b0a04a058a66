"""Rows of a table whose paths differ in nothing but numbers, as one row: `h/*/attn/kernel`."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

_NUMBER = re.compile(r"(?<![0-9])([0-9]{1,9})(?![0-9])")  # longer ones are hashes, not numbers of layers


class Row(NamedTuple):
    """One row, which may stand for several.

    Attributes:
        path: texts and numbers in turn, as `of` takes them apart.
        cells: what the row shows beside its path and its bytes.
        size: the bytes of one of those that it stands for.
        times: how many it stands for.
    """

    path: tuple[str, ...]
    cells: tuple[str, ...]
    size: int
    times: int = 1

    @classmethod
    def of(cls, path: str, cells: Sequence[str], size: int) -> Row:
        return cls(tuple(_NUMBER.split(path)), tuple(cells), size)

    @property
    def name(self) -> str:
        return "".join(self.path) + (f" x{self.times}" if self.times > 1 else "")


def fold(rows: Iterable[Row]) -> list[Row]:
    """The rows, in their order, of which those that are alike but for numbers in their paths are one.

    One place of a number after the other, the outermost first: what one row stands for is every combination of its numbers.
    """
    rows = list(rows)
    for place in range(1, max((len(row.path) for row in rows), default=0), 2):
        rows = _folded(rows, place)
    return rows


def _folded(rows: list[Row], place: int) -> list[Row]:
    known: dict[Any, set[str]] = defaultdict(set)  # all numbers in this place of a path, whatever the row shows
    alike: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        around = row.path[:place], row.path[place + 1 :]
        if place < len(row.path):
            known[around].add(row.path[place])
        alike[around, row._replace(path=())].append(row)
    folded = []
    for (around, row), together in alike.items():
        number = together[0].path[place : place + 1]
        if len(together) > 1:
            numbers = {row.path[place] for row in together}
            number = ("*" if numbers == known[around] else _ranges(numbers),)
        folded.append(row._replace(path=around[0] + number + around[1], times=row.times * len(together)))
    return folded


def _ranges(numbers: Iterable[str]) -> str:
    """Some numbers as ranges, `[0-5]` or `[0,2]`; a star where that would be long."""
    ordered = sorted(numbers, key=int)
    starts = [ordered[0], *(after for before, after in pairwise(ordered) if int(after) > int(before) + 1)]
    ends = [*(before for before, after in pairwise(ordered) if int(after) > int(before) + 1), ordered[-1]]
    if len(starts) > 3:
        return "*"
    return f"[{','.join(start if start == end else f'{start}-{end}' for start, end in zip(starts, ends, strict=True))}]"
