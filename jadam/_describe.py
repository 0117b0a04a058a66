"""What a transformation does to each parameter, as a table."""

from __future__ import annotations

import math
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import tree_flatten_with_path

from jadam._annotations import is_integer
from jadam._chain import not_ours
from jadam._engine.plan import Placed, Plan
from jadam._errors import BadValue, door
from jadam._folding import Row, fold
from jadam._hyperparams import places
from jadam._precision import check_precision
from jadam._recipe import Pair
from jadam._state import OptState, owners
from jadam._storage.slots import SCALES
from jadam._transformation import GradientTransformation
from jadam._tree import Leaves, PyTree, flatten, strong

WIDTH = 100
"""Of the lines that can be wrapped. Tables are as wide as their paths make them; that of GPT-2 is narrower."""


@door
def describe(tx: GradientTransformation, params: PyTree, *, depth: int | None = None, fold: bool = True) -> str:
    """Tables for `print`: what happens to each parameter and how it is stored, then sums by group, then of all.

    Where an optimizer treats a parameter as a matrix, its shape says which axes are inputs and outputs, and along which
    matrices are stacked: `(12 stacked, 64 in, 256 out)`.

    Parameters that are treated alike are a group: those of a group of `partition`, under its name, or those that the same
    masks select, under a number such as `#1`. Below the tables it says which rules act on each group, and the first sentence
    of `check_precision`.

    Args:
        tx: a transformation of jadam.
        params: a tree of arrays, or of `jax.ShapeDtypeStruct`.
        depth: how many keys of a path are shown. What is deeper is summed, in a row that ends with `/**`. None shows all.
        fold: whether rows that differ in nothing but numbers in their paths are one row, such as `h/*/attn/kernel x12`, or
            `h/[0-5]/attn/kernel x6` where others differ. Its bytes are those of all twelve. False shows every row.

    Raises:
        ValueError: a mask does not fit the parameters; `depth` is below 1; `fold` is not a bool.
        TypeError: a leaf is not an array; `tx` is not a jadam transformation.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> layer = {"kernel": jnp.zeros((8, 8)), "bias": jnp.zeros(8)}
        >>> params = {"embed": jnp.zeros((9, 8)), "layers": [layer, layer, layer]}
        >>> tx = jadam.partition([(jadam.match("embed"), jadam.freeze()), (True, jadam.adam(1e-3), "rest")])
        >>> print(jadam.describe(tx, params))
        parameter           shape   dtype    group  slots    state bytes
        embed               (9, 8)  float32  0      -                  0
        layers/*/bias x3    (8,)    float32  rest   float32          192
        layers/*/kernel x3  (8, 8)  float32  rest   float32        1,536
        <BLANKLINE>
        group  arrays  parameters  dtype    slots    learning rate  state bytes
        0           1          72  float32  -        -                        0
        rest        6         216  float32  float32  learning_rate        1,728
        <BLANKLINE>
        0 = match('embed'): frozen
        rest = everything else: adam, learning_rate
        7 arrays with 288 parameters, 1,776 bytes of state: 6.17 a parameter
    """
    if not isinstance(tx, GradientTransformation):
        raise not_ours(tx)
    if depth is not None and not (is_integer(depth) and depth >= 1):
        raise BadValue("{name} must be an integer >= 1, or None for all that there is.", depth=depth)
    if not isinstance(fold, bool):
        raise BadValue("{name} must be True or False.", fold=fold)
    params, values, treedef = strong("params", params, shapes=True)
    leaves, state = flatten(params), jax.eval_shape(tx.init, params)
    plan = Plan.of(tx.recipe, values, treedef)
    described = _described(plan, leaves, state)
    groups = {line.treatment: [] for line in described}
    for line in described:
        groups[line.treatment].append(line)
    names = _names(list(groups))

    tables = _parameters(described, names, depth, fold), _groups(groups, names)
    rules = [_wrapped(f"{' = '.join(filter(None, [names[one], one.masks]))}: {one.rules}") for one in groups]
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    count = sum(leaves.values[number].size for number in (*plan.trained, *plan.frozen))
    per_parameter = f": {size / count:.2f} a parameter" if count else ""
    total = f"{len(described)} arrays with {count:,} parameters, {size:,} bytes of state{per_parameter}"
    found = check_precision(tx, params)
    more = [f"... and {len(found) - 1} more: see check_precision"] if len(found) > 1 else []
    return "\n".join([*tables[0], "", *tables[1], "", *rules, total, *found[:1], *more])


@dataclass(frozen=True)
class _Treatment:
    """What happens to the parameters of a group.

    Attributes:
        label: the name of their group of `partition`, empty outside of one.
        masks: which parameters these are, in words, as far as the label does not say it.
        rules: the names of the rules, in words where there are none.
        rates: the names of the learning rates, as `hyperparams` has them.
        acting: the numbers of the parts, so that rules of one name stay apart, and what each does to them.
    """

    label: str
    masks: str
    rules: str
    rates: str
    acting: tuple[tuple[int, str], ...]


@dataclass
class _Line:
    """One leaf."""

    name: str
    shape: str
    size: int
    dtype: str
    treatment: _Treatment
    slots: list[tuple[str, str]] = field(default_factory=list)
    bytes: int = 0

    @property
    def stored(self) -> str:
        """How its slots are: the dtype, or where there are several, that of each slot."""
        by_dtype: dict[str, list[str]] = defaultdict(list)
        for slot, dtype in self.slots:
            by_dtype[dtype].append(slot)
        if len(by_dtype) < 2:
            return next(iter(by_dtype), "-")
        return ", ".join(f"{' '.join(slots)} {dtype}" for dtype, slots in by_dtype.items())


def _described(plan: Plan, leaves: Leaves, state: OptState) -> list[_Line]:
    """The leaves in order; in one pass for each thing that is asked, since a tree may have 10,000 leaves."""
    acting: dict[int, list[tuple[int, str]]] = defaultdict(list)
    for index, placed in enumerate(plan.all):
        for number, rule in zip(placed.at, placed.rules or [placed.rule] * len(placed.at), strict=True):
            acting[number].append((index, rule.summary))
    named = {key: name for name, (owner, key) in places(state).items() if owner == 0}
    trained = set(plan.trained)
    treatments: dict[Any, _Treatment] = {}
    options = [(i, getattr(rule, "matrices", None)) for part in plan.all for i, rule in zip(part.at, part.rules, strict=False)]
    axes = {i: own for i, own in options if own is not None}
    lines = []
    for number, (name, value) in enumerate(zip(leaves.names, leaves.values, strict=True)):
        kind = tuple(acting[number]), plan.frozen.get(number), number in trained
        if kind not in treatments:
            treatments[kind] = _treatment(plan.all, *kind, named)
        dtype = str(value.dtype)
        if number in trained and (number in plan.landings or jnp.dtype(value.dtype).itemsize == 2):
            dtype += f" ({plan.storage(number).key})"
        shape = axes[number].shown(value.shape) if number in axes else str(jnp.shape(value))
        lines.append(_Line(name or ".", shape, value.size, dtype, treatments[kind]))

    pairs = {placed.key for placed in plan.all if isinstance(placed.rule, Pair)}
    paths, _ = tree_flatten_with_path(state)
    for (path, leaf), owner in zip(paths, owners(state, leaves), strict=True):
        if owner is None:
            continue
        line, key = lines[owner], path[1].key
        line.bytes += math.prod(leaf.shape) * leaf.dtype.itemsize
        slot = key if key in pairs else path[2].key
        if key not in plan.storages and not slot.endswith(SCALES):
            line.slots.append((slot, str(leaf.dtype)))
    return lines


def _treatment(
    parts: Sequence[Placed], acting: tuple[tuple[int, str], ...], frozen: Any, trained: bool, named: dict[str, str]
) -> _Treatment:
    own = [parts[index] for index, _ in acting]
    groups = list(dict.fromkeys(filter(None, [part.group for part in own] + [frozen])))
    groups = [group for group in groups if not any(other[: len(group)] == group for other in groups if other != group)]
    return _Treatment(
        " + ".join(".".join(label for label, _ in group) for group in groups),
        " + ".join(filter(None, [" & ".join(words for _, words in group if words) for group in groups])),
        ", ".join(rule for _, rule in acting) or ("frozen" if frozen is not None else "none" if trained else "not trained"),
        _distinct(named[key] for part in own for key, hyper in part.hypers if hyper.name == "learning_rate"),
        acting,
    )


def _names(treatments: Sequence[_Treatment]) -> dict[_Treatment, str]:
    """A name for each: its label, with a number where that has several; a number alone where it has no label."""
    by_label: dict[str, list[_Treatment]] = defaultdict(list)
    for one in treatments:
        by_label[one.label].append(one)
    if list(by_label) == [""] and len(treatments) == 1:
        return {treatments[0]: "all"}
    names = {}
    for label, alike in by_label.items():
        numbered = len(alike) > 1 or not label
        names |= {one: f"{label} #{n}".strip() if numbered else label for n, one in enumerate(alike, 1)}
    return names


def _parameters(lines: Sequence[_Line], names: dict[_Treatment, str], depth: int | None, folding: bool) -> list[str]:
    """The table of the parameters, or of the subtrees at a depth."""
    rows = []
    for path, within in _subtrees(lines, depth):
        shape, stored = within[0].shape, within[0].stored
        if path.endswith("/**"):
            arrays = "1 array" if len(within) == 1 else f"{len(within):,} arrays"
            shape = f"{sum(line.size for line in within):,} ({arrays})"
            stored = _distinct(dtype for line in within for _, dtype in line.slots)
        dtype, group = _distinct(line.dtype for line in within), _distinct(names[line.treatment] for line in within)
        rows.append(Row.of(path, (shape, dtype, group, stored), sum(line.bytes for line in within)))
    rows = fold(rows) if folding else rows
    head = ("parameter", "shape", "dtype", "group", "slots", "state bytes")
    table = [head, *((row.name, *row.cells, f"{row.size * row.times:,}") for row in rows)]
    return _table([line[:3] + line[4:] for line in table] if len(names) < 2 else table, "<<<<<>"[len(names) < 2 :])


def _subtrees(lines: Sequence[_Line], depth: int | None) -> Iterable[tuple[str, list[_Line]]]:
    """Each leaf, or what is below a depth together, under its path."""
    below: dict[str, list[_Line]] = defaultdict(list)
    found = []
    for line in lines:
        keys = [] if depth is None else line.name.split("/")
        if depth is None or len(keys) <= depth:
            found.append((line.name, [line]))  # paths of two leaves may read alike
            continue
        path = "/".join([*keys[:depth], "**"])
        if path not in below:
            found.append((path, below[path]))
        below[path].append(line)
    return found


def _groups(groups: dict[_Treatment, list[_Line]], names: dict[_Treatment, str]) -> list[str]:
    """The table of the groups."""
    rows = [("group", "arrays", "parameters", "dtype", "slots", "learning rate", "state bytes")]
    for one, lines in groups.items():
        slots = _distinct(dtype for line in lines for _, dtype in line.slots)
        size, state = sum(line.size for line in lines), sum(line.bytes for line in lines)
        dtypes = _distinct(line.dtype for line in lines)
        rows.append((names[one], f"{len(lines):,}", f"{size:,}", dtypes, slots, one.rates, f"{state:,}"))
    return _table(rows, "<>><<<>")


def _distinct(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words)) or "-"


def _table(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)) for row in rows]


def _wrapped(line: str) -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
