"""How a new state takes what it can from an old one, by the names of arrays."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jadam._checkpoint.flat import placed_like
from jadam._checkpoint.report import Migration, divided
from jadam._checkpoint.stored import by_name
from jadam._dtypes import cast
from jadam._engine import checks
from jadam._engine.kept import Type
from jadam._engine.leaf import encoded
from jadam._engine.plan import Placed, Plan
from jadam._errors import BadValue
from jadam._recipe import Pair, Place, Recipe
from jadam._state import GIVEN, OptState
from jadam._storage.blocks import Int8Blocks
from jadam._storage.params import PARAM_STORAGE
from jadam._storage.slots import SCALES, apart, decode_slot

_COUNT = re.compile("scalars/[^/]+/count")


class Old:
    """The arrays of an old state, under the names that their parameters have now; and which of them are not taken yet."""

    def __init__(self, arrays: Mapping[str, Any], rename: Callable[[str], str], expected: set[str]):
        self.arrays: dict[str, Any] = {}
        self.was: dict[str, str] = {}
        self.expected = expected
        self.alike: dict[str, list[str]] = defaultdict(list)
        for name, x in arrays.items():
            new = rename(name)
            if new in self.arrays:
                raise BadValue(f"renamed makes one path of two: {self.was[new]!r} and {name!r} would both be {new!r}.")
            self.arrays[new], self.was[new] = x, name
            self.alike[_ungrouped(new)].append(new)
        self.left = dict.fromkeys(self.arrays)
        self.of_wrappers = [name for name in self.arrays if self._is_of_wrapper(name)]

    def is_count(self, name: str) -> bool:
        """Whether it is a step count; what a rule calls `count` is not an integer."""
        return name == "count" or (bool(_COUNT.fullmatch(name)) and self.arrays[name].dtype == jnp.int32)

    def _is_of_wrapper(self, name: str) -> bool:
        """Whether it is the step count of a wrapper, which keeps something else too, as a group does not."""
        beside = tuple(f"{field}/{name.split('/')[1]}/" for field in ("scalars", "slots")) if "/" in name else ()
        return self.is_count(name) and any(other.startswith(beside) for other in self.arrays if other != name)

    def find(self, name: str) -> str | None:
        """The name of what is in this place, or was in it when its rule was in another group, or in none."""
        if name in self.arrays:
            return name
        others = [other for other in self.alike[_ungrouped(name)] if other not in self.expected]
        return others[0] if len(others) == 1 else None

    def take(self, *names: str) -> Any:
        """The array of the last of these names, which are all used then."""
        for name in names:
            self.left.pop(name, None)
        return self.arrays[names[-1]]


class Moving:
    """A state of a plan in the making: what it takes from an old one, and the report."""

    def __init__(self, old: Old, recipe: Recipe, plan: Plan, values: Sequence[Any], fresh: OptState):
        self.old, self.recipe, self.plan, self.values, self.fresh = old, recipe, plan, values, fresh
        self.names = by_name(fresh)
        self.arrays: dict[str, Any] = {}
        self.remarks: dict[str, str] = {}
        self.dropped: dict[str, str] = {}
        self.sources: dict[str, list[str]] = defaultdict(list)  # of the slots of each part

    def run(self) -> tuple[OptState, Migration]:
        for one in self.plan.all:
            self._part(one)
        for i in self.plan.trained:
            self._residue(i)
        self._counts()
        leaves = [placed_like(self.arrays.get(name, leaf), leaf) for name, leaf in self.names.items()]
        return jax.tree.structure(self.fresh).unflatten(leaves), self._report()

    def _keep(self, name: str, x: Any, source: str, remark: str = "") -> None:
        was = self.old.was[source]
        (place, path), (old_place, old_path) = divided(name), divided(was)
        moved = f"was {old_place if path == old_path else was}" if (place, path) != (old_place, old_path) else ""
        self.arrays[name], self.remarks[name] = x, "; ".join(filter(None, [moved, remark]))

    def _drop(self, sources: Sequence[str], remark: str) -> None:
        self.old.take(*sources)
        self.dropped |= dict.fromkeys(sources, remark)

    def _part(self, one: Placed) -> None:
        for key, _ in one.hypers:
            self._hyperparameter(key)
        if isinstance(one.rule, Pair):
            for name in self.names:
                if name.startswith(f"slots/{one.key}/"):
                    self._unchanged(name, one.key)
            return
        self._scalars([f"scalars/{one.key}/{scalar}" for scalar in one.rule.scalars()])
        for i, slots in checks.slots(self.plan, self.fresh, one).items():
            for slot, stored in slots.items():
                self._slot(one, i, slot, stored)

    def _hyperparameter(self, key: str) -> None:
        name, given = f"hyperparams/{key}", f"given/{key}{GIVEN}"
        if not {name, given} <= set(self.old.arrays):
            return
        by_hand = _by_hand(self.old, name)
        if by_hand and key not in self.plan.numbers:
            self._drop([name], f"{by_hand}, and now a schedule drives it")
            return
        for one, remark in ((name, by_hand), (given, "")):
            self._keep(one, cast(jnp.asarray(self.old.take(one)), self.plan.dtype), one, remark)

    def _scalars(self, names: Sequence[str]) -> None:
        """The scalars of a rule belong together: where one has another shape, all begin anew. Their dtype may be another."""
        found = {name: source for name in names if (source := self.old.find(name)) is not None}
        unfit = [name for name, source in found.items() if self.old.arrays[source].shape != self.names[name].shape]
        for name, source in found.items():
            if name in unfit:
                self._drop([source], self._misfit(source, name))
            elif unfit:
                self._drop([source], f"it belongs to {unfit[0].rpartition('/')[2]}, which does not fit")
            else:
                self._keep(name, cast(jnp.asarray(self.old.take(source)), self.names[name].dtype), source)

    def _unchanged(self, name: str, part: str) -> None:
        """What a pair keeps, in the shape and dtype that it has."""
        source, like = self.old.find(name), self.names[name]
        if source is None:
            return
        x = self.old.arrays[source]
        if (x.shape, x.dtype) != (like.shape, like.dtype):
            return self._drop([source], self._misfit(source, name))
        self._keep(name, self.old.take(source), source)
        self.sources[part].append(source)

    def _misfit(self, source: str, name: str) -> str:
        return f"{_types(self.old.arrays[source])}, where the new one is {_types(self.names[name])}"

    def _slot(self, one: Placed, i: int, slot: str, like: Any) -> None:
        """A slot of a leaf, in the storage and shape that it has now."""
        dtype = self.plan.dtype_of(i)
        found = [self.old.find(self._name(one.key, name, i)) for name in (slot, slot + SCALES)]
        if not (sources := [source for source in found if source is not None]):
            return
        arrays = [jnp.asarray(self.old.arrays[source]) for source in sources]
        x = new = Int8Blocks(*arrays) if len(arrays) == 2 else arrays[0]
        remark = ""
        if _types(x) != _types(like):
            grown = _grown(*(decode_slot(stored, dtype) for stored in (x, like)))
            if grown is None:
                return self._drop(sources, f"{_types(x)}, where the new one is {_types(like)}")
            new = encoded(grown, slot, one.formats, dtype, None, one.key)
            remark = f"{_types(x)} became {_types(new)}"
        for n, (name, array) in enumerate(apart({slot: new}).items()):
            self._keep(self._name(one.key, name, i), array, sources[min(n, len(sources) - 1)], remark)
        self.sources[one.key] += sources
        self.old.take(*sources)

    def _residue(self, i: int) -> None:
        """What was stored beside a parameter, in the form in which it is stored now."""
        storage, key, p = self.plan.storage(i), self.plan.landings.get(i, ""), self.values[i]
        for other in (storage, *(kind() for kind in PARAM_STORAGE.values())):
            names = [self._name(key if other is storage else other.key, name, i) for name in other.residue]
            sources = [source for source in map(self.old.find, names) if source is not None]
            if sources and len(sources) == len(names):
                break
        else:
            return
        arrays = [jnp.asarray(self.old.arrays[source]) for source in sources]
        grown = [_grown(x, jnp.zeros(p.shape, x.dtype)) for x in arrays]
        residue = {name: x for name, x in zip(other.residue, grown, strict=True) if x is not None}
        if len(residue) < len(names):
            return self._drop(sources, "the parameter has another shape now")
        low = p if p.dtype in other.dtypes else p.astype(jnp.bfloat16)
        full, new, remark = other.decode(low, residue), residue, ""
        if type(other) is not type(storage):
            new = storage.keep(full, low)
            lost = float(jnp.max(jnp.abs(full - storage.decode(low, new))))
            if not new:
                return self._drop(sources, f"without it, the parameter is off by up to {lost:.2g}")
            remark = f"the parameter is off by up to {lost:.2g}" if lost else ""
        for name, x in new.items():
            self._keep(self._name(key, name, i), x, sources[0], remark)
        self.old.take(*sources)

    def _counts(self) -> None:
        """The step counts: of the row, of groups, and of wrappers beside others."""
        names = {name: f"scalars/{name}/count" for name in self.recipe.counters}
        own = {names[at.key]: self.old.find(names[at.key]) for at in self.recipe.all if at.counts}
        gone = [count for count in self.old.of_wrappers if count not in own.values()]
        for name, counted in self.recipe.counters.items():
            self._count(names[name], own.get(names[name]), counted, gone)
        sources = self._sources([at for at in self.recipe.all if at.counter is None]) or ["slots/none"]
        source = self._latest([self._count_of(source, gone, grouped=False) for source in sources])
        source = "count" if self.old.arrays["count"] == self.old.arrays[source] else source
        self._keep("count", self.old.take(source), source)

    def _count(self, name: str, own: str | None, counted: Sequence[Place], gone: Sequence[str]) -> None:
        """The count of a group, or of what a wrapper counts for: that of what they keep, and 0 if they keep nothing."""
        own = name if name in self.old.arrays else own
        counts = [own] if own else [self._count_of(source, gone) for source in self._sources(counted)]
        if not counts and not any(place.part.keeps_slots for place in counted):
            counts = [self._count_of("slots/none", gone)]  # nothing of it is young, and its schedules go on
        if counts:
            source = self._latest(counts)
            self._keep(name, self.old.take(source), source)

    def _latest(self, counts: Sequence[str]) -> str:
        return max(counts, key=lambda count: int(self.old.arrays[count]))

    def _sources(self, counted: Sequence[Place]) -> list[str]:
        return [source for place in counted for source in self.sources[place.key]]

    def _count_of(self, source: str, gone: Sequence[str], grouped: bool = True) -> str:
        """The name of the count that went with a slot: that of its group, if it had one, or of a wrapper around it.

        Names do not say what was inside a wrapper. Of one that is gone, all slots of its group count as inside: what stands
        beside a wrapper, such as a clip, seldom keeps any.
        """
        label = _label(source)
        own = f"scalars/{label[:-1]}/count"
        counts = ["count", *([own] if grouped and own in self.old.arrays else [])]
        counts += [count for count in gone if label.startswith(_label(count))]
        depth = {count: len(label if count == own else _label(count)) for count in counts}
        return min(counts, key=lambda count: (-depth[count], int(self.old.arrays[count])))

    def _name(self, key: str, slot: str, i: int) -> str:
        return "/".join(filter(None, ("slots", key, slot, self.plan.names[i])))

    def _report(self) -> Migration:
        counter = {place.key: f"scalars/{place.counter}/count" if place.counter else "count" for place in self.recipe.all}
        new = {}
        for name in self.names:
            part = name.split("/")[1] if name.startswith("slots/") else ""
            if name not in self.arrays:
                at = counter.get(part, "")
                count = int(self.arrays.get(at, self.names[at])) if at else 0
                new[name] = f"beside a count of {count}" if count else ""
        dropped = self.dropped | {name: _value(self.old, name) for name in self.old.left}
        dropped = {was: dropped[name] for name, was in self.old.was.items() if name in dropped}
        listed = [
            {name: remark for name, remark in entries.items() if not name.startswith("given/")}
            for entries in ({name: self.remarks[name] for name in self.names if name in self.arrays}, new, dropped)
        ]
        return Migration(*listed)


def _label(name: str) -> str:
    """The groups in a name: `a.b.` of `slots/a.b.adam/mu/w`."""
    _, key, *_ = [*name.split("/"), ""]
    return key[: key.rfind(".") + 1]


def _ungrouped(name: str) -> str:
    """A name in a state as it would be if its rule were in no group, and the only one of its kind."""
    parts = name.split("/")
    if parts[0] in ("slots", "scalars") and len(parts) > 2:
        parts[1] = re.sub(r"_\d+$", "", parts[1].rpartition(".")[2])
    return "/".join(parts)


def _by_hand(old: Old, name: str) -> str:
    """In words, what a hyperparameter was set to, if it was."""
    given = name.replace("hyperparams/", "given/", 1) + GIVEN
    if not name.startswith("hyperparams/") or given not in old.arrays or old.arrays[name] == old.arrays[given]:
        return ""
    return f"set by hand to {float(old.arrays[name]):g}"


def _value(old: Old, name: str) -> str:
    """In words, a number that nothing else can tell."""
    return f"{int(old.arrays[name])} updates" if old.is_count(name) else _by_hand(old, name)


def _types(stored: Any) -> str:
    """The types of what is stored of a slot."""
    return " with ".join(str(Type(x.shape, x.dtype)) for x in jax.tree.leaves(stored))


def _grown(x: Array, like: Array) -> Array | None:
    """An array with its elements at the beginning of each axis of another, or None if they do not fit."""
    if x.shape == like.shape:
        return x
    fits = x.ndim == like.ndim and all(n <= m for n, m in zip(x.shape, like.shape, strict=True))
    return like.at[tuple(map(slice, x.shape))].set(x) if fits else None
