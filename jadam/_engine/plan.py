"""A recipe over a tree: which part acts on which leaf, under which name, stored how.

It is made once for each structure, shapes and dtypes of the parameters, for `init`, `update`, `describe` and
`check_precision` alike, and holds neither numbers nor anything of the user's: masks have answered, schedules have not been
asked. So it is what programs are cached by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import jax.numpy as jnp
from jax.core import Tracer

from jadam._by_leaf import ByLeaf
from jadam._dtypes import compute_dtype, is_complex
from jadam._errors import BadType
from jadam._frozen import SetToZero, frozen
from jadam._hyper import Declared, HyperField
from jadam._recipe import Landing, Pair, Place, Recipe, SlotFormats
from jadam._rows import refuse_rows
from jadam._scope import mask_of
from jadam._storage.params import NEAREST, ParamStorage
from jadam._tree import Leaves, PyTree, flatten, is_function, is_trained, quoted


class ReadItFromH:
    """Stands in a rule for a number that the state holds, so that `self.b1` for `h.b1` is an error, and not a constant."""

    def _refuse(self, *_: Any) -> Any:
        raise BadType("a rule used a hyperparameter of its own; write `h.b1` for `self.b1`, since the state holds the number.")

    __jax_array__ = __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __pow__ = __rpow__ = __neg__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __float__ = _refuse


IN_STATE = ReadItFromH()


Group = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Placed:
    """A part over a tree; masks and options are resolved, numbers left out.

    Attributes:
        key: its name in the state.
        rule: the rule or wrapper, in which options by leaf are None; or the pair.
        at: the numbers of its leaves.
        rules: for each of these the rule, with the options of the leaf.
        formats: of its slots.
        hypers: its hyperparameters by their keys in the state.
        counter: the name of its group, if that keeps its step count.
        counts: whether it keeps the step count of what is inside it.
        inner: what it wraps.
        group: the groups it belongs to, the outermost first: the name of each, and which parameters these are in words.
    """

    key: str
    rule: Any
    at: tuple[int, ...]
    rules: tuple[Any, ...]
    formats: SlotFormats
    hypers: tuple[tuple[str, HyperField], ...]
    counter: str | None
    counts: bool
    inner: tuple[Placed, ...]
    group: Group = field(compare=False)  # for the eyes alone: programs do not depend on it

    def __iter__(self) -> Iterator[Placed]:
        yield self
        for placed in self.inner:
            yield from placed

    def __hash__(self) -> int:
        return hash((self.key, self.at))


@dataclass(frozen=True, eq=False)
class Plan:
    """A recipe over a tree.

    Attributes:
        names: of all leaves: their paths as `match` writes them.
        shapes: and dtypes, of all leaves.
        treedef: of the tree.
        trained: the numbers of the leaves that optimizers act on.
        frozen: those that they would act on if their updates were not set to zero, with their groups.
        row: the parts, in order.
        storages: of parameters, by their names in the state.
        landings: the name in the state of each leaf's storage, where the recipe says so; the innermost call does.
        numbers: the keys of the hyperparameters that are numbers.
        traced: of those that are tracers. They stand for many numbers, of a sweep perhaps, so that they count as set by hand:
            code with one number must not take their place.
        whole: of the tables that some rows stand for in this step, the shapes.
    """

    names: tuple[str, ...]
    shapes: tuple[tuple[tuple[int, ...], Any], ...]
    treedef: Any
    trained: tuple[int, ...]
    frozen: dict[int, Group]
    row: tuple[Placed, ...]
    storages: dict[str, ParamStorage]
    landings: dict[int, str]
    numbers: tuple[str, ...]
    traced: tuple[str, ...]
    whole: dict[int, tuple[int, ...]] = field(default_factory=dict)

    @cached_property
    def kept(self) -> dict[Any, Any]:
        """What rules keep for a leaf, by the kind of leaf, as far as it was asked."""
        return {}

    @cached_property
    def _identity(self) -> tuple[Any, ...]:
        return (
            self.treedef,
            self.shapes,
            tuple(self.frozen),
            self.row,
            tuple(self.storages.items()),
            tuple(self.landings.items()),
            self.numbers,
            self.traced,
        )

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Plan) and self._identity == other._identity)

    @cached_property
    def _hash(self) -> int:
        return hash(self._identity)

    def __hash__(self) -> int:
        return self._hash

    @classmethod
    def of(cls, recipe: Recipe, values: list[Any], treedef: Any, initial: bool = False) -> Plan:
        """The plan for a tree of arrays, flattened; looked up where the recipe has met one like it.

        A mask that reads values has an answer in `init`, outside `jit`; the plan is not kept, and the first update refuses it.
        """
        shapes = tuple([(value.shape, value.dtype) for value in values])
        plan = recipe.plans.get((treedef, shapes))
        if plan is None:
            if len(recipe.plans) >= 32:  # a transformation that meets ever new trees must not keep them all
                recipe.plans.clear()
            tree = treedef.unflatten(values)
            refuse_rows(tree)
            leaves = replace(flatten(tree), readers=[] if initial else None)
            plan = cls._made(recipe, leaves, shapes)
            if not leaves.readers:
                recipe.plans[treedef, shapes] = plan
        return plan

    @classmethod
    def _made(cls, recipe: Recipe, leaves: Leaves, shapes: Any) -> Plan:
        places, keys = recipe.named
        inexact = [i for i, value in enumerate(leaves.values) if is_trained(value) and value.size > 0]  # a mean of none is NaN
        still = frozen(places, leaves, inexact) if any(isinstance(at.part.rule, SetToZero) for at in recipe.all) else {}
        groups = {i: _group(place) for i, place in still.items()}
        trained = tuple(i for i in inexact if i not in still)
        row = _placed(places, leaves, trained)
        landings: dict[int, str] = {}
        for key, landing in zip(keys, recipe.landings, strict=True):
            landings = dict.fromkeys(_stored(landing, leaves, trained), key) | landings  # the first said is the innermost
        storages = {key: landing.storage for key, landing in zip(keys, recipe.landings, strict=True)}
        numbers = tuple(recipe.numbers)
        plan = cls(leaves.names, shapes, leaves.treedef, trained, groups, row, storages, landings, numbers, recipe.traced)
        for place in recipe.all:  # under x64, the dtype of numbers is known only now
            if not isinstance(rule := place.part.rule, Pair):
                Declared.by(type(rule)).check_dtype(vars(rule), plan.dtype)
        return plan

    @cached_property
    def all(self) -> tuple[Placed, ...]:
        """Every part, also those inside wrappers."""
        return tuple(one for placed in self.row for one in placed)

    @cached_property
    def dtype(self) -> Any:
        """The dtype of what all leaves share: float64 as soon as one leaf computes in it."""
        wide = any(compute_dtype(self.shapes[i][1]) == jnp.float64 for i in self.trained)
        return jnp.float64 if wide else jnp.float32

    @cached_property
    def compiles(self) -> bool:
        """Whether a step may be compiled as one: pairs and functions from elsewhere may look at values. No cache keeps them."""
        values = (value for one in self.all for value in vars(one.rule).values())
        own = any(isinstance(value, Tracer) or is_function(value) for value in values)
        return not own and not any(isinstance(one.rule, Pair) for one in self.all)

    def dtype_of(self, i: int) -> Any:
        return self.shapes[i][1]

    def storage(self, i: int) -> ParamStorage:
        return self.storages[self.landings[i]] if i in self.landings else NEAREST

    def residues(self, values: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[str, PyTree]]:
        """What is stored beside parameters, by leaf, as it stands in the slots of a state."""
        kept = {key: storage.residue for key, storage in self.storages.items() if storage.residue}
        kept = {key: names for key, names in kept.items() if key in self.landings.values()}
        return {key: self.trees({i: values[i] for i, own in self.landings.items() if own == key}, kept[key]) for key in kept}

    def path(self, i: int) -> str:
        return quoted(self.names[i])

    def tree(self, values: Mapping[int, Any], others: Sequence[Any] | None = None) -> PyTree:
        """A tree like this one with `values` by leaf number; `others`, or None, where there is none."""
        others = others or [None] * len(self.names)
        return self.treedef.unflatten([values.get(i, other) for i, other in enumerate(others)])

    def trees(self, values: Mapping[int, Mapping[str, Any]], names: Iterable[str]) -> dict[str, PyTree]:
        """What is kept by leaf and name as a tree for each name, with None where a leaf has none."""
        return {name: self.tree({i: own[name] for i, own in values.items() if name in own}) for name in names}


def _placed(row: Sequence[Place], leaves: Leaves, within: Sequence[int]) -> tuple[Placed, ...]:
    """Parts over the leaves, of which those inside a wrapper act on its own."""
    placed = []
    for place in row:
        rule = place.part.rule
        selected = mask_of(place.scope).by_leaf(leaves)
        at = tuple(i for i in within if selected[i])
        if not isinstance(rule, Pair) and (rule.real or not rule.elementwise):
            _refuse_complex(rule, at, leaves)
        rules: tuple[Any, ...] = ()
        if not isinstance(rule, Pair):
            rule, rules = _bound(rule, at, leaves)
        placed.append(
            Placed(
                place.key,
                rule,
                at,
                rules,
                SlotFormats(
                    tuple(said for scope in reversed(place.scope) for said in scope.formats),
                    (*getattr(rule, "positions", ()), *getattr(rule, "exact", ())),
                    next((scope.kernel for scope in reversed(place.scope) if scope.kernel), ""),
                ),
                place.hypers,
                place.group,
                place.counts,
                _placed(place.inner, leaves, at),
                _group(place),
            )
        )
    return tuple(placed)


def _group(place: Place) -> Group:
    return tuple((scope.label, scope.group) for scope in place.scope if scope.label)


def _bound(rule: Any, at: Sequence[int], leaves: Leaves) -> tuple[Any, tuple[Any, ...]]:
    """A rule without its numbers, and the same for each leaf: an option given leaf by leaf has there the leaf's value."""
    options = {name: value.by_leaf(leaves) for name, value in vars(rule).items() if isinstance(value, ByLeaf)}
    shared = without_numbers(rule)
    if not options:
        return shared, (shared,) * len(at)
    return shared, tuple(shared.bound({name: values[i] for name, values in options.items()}) for i in at)


def without_numbers(rule: Any) -> Any:
    """A rule as it is for all leaves: without numbers, which the state has, and without options that are given by leaf."""
    numbers = dict.fromkeys([hyper.name for hyper in rule.hypers], IN_STATE)
    return rule.bound(numbers | {name: None for name, value in vars(rule).items() if isinstance(value, ByLeaf)})


def _refuse_complex(rule: Any, at: Sequence[int], leaves: Leaves) -> None:
    for i in at:
        if is_complex(leaves.values[i].dtype):
            raise BadType(
                f"{rule.name} does not act on complex parameters, and {quoted(leaves.names[i])} is "
                f"{leaves.values[i].dtype}; mask it out."
            )


def _stored(landing: Landing, leaves: Leaves, trained: Sequence[int]) -> list[int]:
    """The leaves of 16 bits in the scope of a storage of parameters."""
    selected, stored = mask_of(landing.scope).by_leaf(leaves), []
    for i in trained:
        dtype = leaves.values[i].dtype
        if not selected[i] or dtype not in (jnp.bfloat16, jnp.float16):
            continue
        if dtype not in landing.storage.dtypes:
            raise BadType(
                f"params={landing.storage.key!r} is for bfloat16, and {quoted(leaves.names[i])} is {dtype}; "
                "take 'kahan' or 'stochastic' for it."
            )
        stored.append(i)
    return stored
