"""What rules and wrappers read of a step: updates and their norms, parameters, slots, the learning rate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jax import Array

from jadam._dtypes import cast, compute_dtype, decode, encode
from jadam._engine import checks, parts, returned
from jadam._engine.leaf import Measured, Mode, Operands, Program, needs_params
from jadam._engine.missed import Gap
from jadam._engine.norms import Norms
from jadam._engine.owners import Collected, Table
from jadam._engine.placement import decoded
from jadam._engine.plan import Placed, Plan
from jadam._errors import BadValue
from jadam._hyper import HyperField
from jadam._norm import norm_of
from jadam._squares import Squares, bounded
from jadam._state import OptState
from jadam._tree import PyTree


class Step(NamedTuple):
    """What all rows of a step share."""

    plan: Plan
    params: list[Any] | None
    extra: dict[str, Any]
    hyperparams: dict[str, tuple[Array, Array]]
    run_rules: Callable[[Program, Operands], Any]  # under `jit`
    ids: Mapping[int, Array]  # by leaf, the rows of tables of which there are gradients of these alone
    rate: Array | None = None  # by which wrappers around a row multiply its learning rates
    measured: Measured = ""
    gaps: Mapping[int, Gap] = MappingProxyType({})  # by leaf, how many steps its rows missed, to be caught up with
    collected: Mapping[int, Collected] = MappingProxyType({})  # by leaf, the tables of which a wrapper collects rows
    tables: Mapping[int, Table] = MappingProxyType({})  # by leaf, those that a kernel may write where they are; in no wrapper


class Done(NamedTuple):
    """What a row makes, by leaf: updates or new parameters, the residues of these; the state of its parts; of tables of which
    a wrapper has collected rows, which they are; and sums that were made with the parameters.
    """

    updates: dict[int, Array]
    residues: dict[int, dict[str, Array]]
    state: OptState
    ids: dict[int, Array]
    sums: dict[int, tuple[Array, Array]]


class Ready(NamedTuple):
    """A rule whose `prepare` has run, waiting for the leaves."""

    placed: Placed
    rules: dict[int, Any]  # by leaf, as the slots
    slots: dict[int, dict[str, Any]]
    h: dict[str, Any]


class Reader(ABC):
    """A row as `Context` and `Inside` see it: everything is read when it is asked for.

    Attributes:
        step: what all rows of the step share.
        plan: of the tree.
        state: of the parts of the row.
        residues: what is stored beside parameters, by leaf.
        norms: what is known of norms.
        slots_read: keys of rules with the names of slots that their `prepare` has asked for.
    """

    def __init__(self, step: Step, state: OptState, residues: dict[int, dict[str, Array]], norms: Norms):
        self.step, self.plan, self.state, self.residues, self.norms = step, step.plan, state, residues, norms
        self.slots_read: set[tuple[str, str]] = set()

    @abstractmethod
    def read(self, of: Ready) -> list[Array]:
        """The updates that reach a rule or wrapper, as they are stored."""

    def squares(self, of: Ready) -> Squares:
        """The squares of the updates that reach a rule or wrapper, as they are stored: XLA would write a cast of bfloat16 to
        memory first.
        """
        return self.norms.squares(self.whole_updates(of))

    def whole_updates(self, of: Ready) -> list[Array]:
        """The updates that reach a rule or wrapper which may add up their elements."""
        updates = self.read(of)
        parts.check_sums(self.plan, of.placed, dict(zip(of.placed.at, updates, strict=True)), self.step.params)
        return updates

    def norm(self, of: Ready) -> Array:
        return norm_of(self.read(of), self.squares(of))

    def norms_of(self, of: Ready) -> list[Array]:
        leaves, squares = self.read(of), self.squares(of)
        return [norm_of([x], squares.at(leaves, [n])) for n, x in enumerate(leaves)]

    def scaled(self, of: Ready, updates: list[Array], factor: Array) -> list[Array]:
        new = [u * factor.astype(u.dtype) for u in updates]
        self.norms.scaled(self.read(of), new, factor)
        return new

    def bound(self, of: Ready, u: Array) -> Array:
        """An update as the rule's `update` sees it."""
        return bounded(u, of.placed.rule.squares(u.shape)) if of.placed.key in self.state.slots else u

    def params(self, of: Ready) -> list[Array]:
        checks.whole(self.plan, of.placed, "reads whole parameters")
        return self.own_params(of)

    def own_params(self, of: Ready) -> list[Array]:
        """The parameters; of tables, the rows of this step."""
        stored = self.given_params(of.placed.rule)
        return [self.plan.storage(i).decode(stored[i], self.residues[i]) for i in of.placed.at]

    def given_params(self, rule: Any) -> list[Any]:
        if self.step.params is None:
            raise BadValue(needs_params(rule))
        return self.step.params

    def slot(self, of: Ready, name: str) -> list[Array]:
        checks.whole(self.plan, of.placed, f"reads the whole of {name}")
        self.slots_read.add((of.placed.key, name))
        return [decoded(returned.slot(of.placed.rule, of.slots[i], name), self.plan.dtype_of(i)) for i in of.placed.at]

    def learning_rate(self, of: Ready) -> Array:
        """The learning rate that scales what a rule does to its leaves: the next one in the chain, else the last before."""
        placed, everything = of.placed, self.plan.all
        at = everything.index(placed)
        for other in (*everything[at:], *reversed(everything[:at])):
            rate = next((one for one in other.hypers if one[1].name == "learning_rate"), None)
            if rate is not None and set(placed.at) <= set(other.at):
                return self.acting(*rate)
        raise BadValue(
            f"{placed.rule.name} needs the learning rate, and the chain has none that acts on all its parameters; add "
            f"scale_by_learning_rate(...), or put {placed.rule.name} into each group of a partition."
        )

    def as_params(self, of: Ready, values: list[Array]) -> PyTree:
        checks.whole(self.plan, of.placed, "makes parameters for a function of yours")
        dtypes = [self.plan.dtype_of(i) for i in of.placed.at]
        new = {i: encode(x, dtype) for i, x, dtype in zip(of.placed.at, values, dtypes, strict=True)}
        return self.plan.tree(new, self.step.params)

    def as_updates(self, of: Ready, tree: PyTree, returned_by: str) -> list[Array]:
        found = checks.gradients(self.plan, tree, returned_by)
        return [self.full(i, found[i]) for i in of.placed.at]

    def acting(self, key: str, hyper: HyperField) -> Array:
        """A hyperparameter as it acts; the state keeps the learning rate without what a wrapper multiplies it by."""
        value = self.step.hyperparams[key][0]
        return value if self.step.rate is None or hyper.name != "learning_rate" else value * self.step.rate

    def full(self, i: int, u: Any) -> Array:
        return cast(decode(u), compute_dtype(self.plan.dtype_of(i)))

    def moved_of(self, i: int, done: Done, p: Array, mode: Mode) -> tuple[Array, Array]:
        """What a row adds to a parameter, with what is stored beside it; and that parameter."""
        u, residue, stored = done.updates[i], done.residues[i], (self.step.params or [])[i]
        if i in done.ids:  # which are other rows than those of the gradient
            stored, _, old = self.step.collected[i].at(done.ids[i])
            p = self.plan.storage(i).decode(stored, old)
        if mode == "between" or (mode == "update" and not residue):
            return self.full(i, u), p
        return self.plan.storage(i).decode(u if mode == "step" else stored + u, residue) - p, p
