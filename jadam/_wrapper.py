"""What the author of a wrapper sees: control over whether, how often and on which updates a transformation runs."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer

from jadam._errors import BadValue
from jadam._rows import DENSE
from jadam._rule import Block

Outcome = Any
"""What became of the inside: `run`, `stay` and `when` return it, and `around` hands it on. A pytree of arrays."""


@dataclass(frozen=True)
class Inside:
    """What a wrapper sees of a step, and how it runs what is inside it.

    Leaf by leaf, in one order, are all lists: arrays in the dtype of the arithmetic.

    Attributes:
        h: the wrapper's hyperparameters by name.
        updates: those that reach the wrapper.
        rows: of which rows of a table these are, int32 ids, where the wrapper has `room` for others; None elsewhere.
        slots: of the wrapper, by name.
        scalars: of the wrapper.
        count: int32, how often the inside has run.
        extra: the keyword arguments of `tx.update`.
        run: runs the inside on such a list of updates, at most once a step; from the outcome `before`, if it is given: a loop
            that carries one must run from what it carries, or XLA copies the whole state. `extra` takes the place of keyword
            arguments of `tx.update`; the learning rates inside are multiplied by `rate`, if that is given; `measured` says that
            the outcome is for `moved`, which costs less then.
        stay: leaves parameters and the state inside as they are.
        restarted: an outcome in which the state inside is the initial one, of the parameters as they were before the step.
        moved: of an outcome, leaf by leaf, two sums of squares: of what is added to the parameter, and of the parameter.
        kept: of an outcome, the slots of rules inside: `kept(outcome, ["mu", "nu"])` is a list of pairs of arrays, for every
            leaf of every rule that has both; that no rule has them is an error.
        reader: the engine, which reads and writes leaves for the wrapper `of`.
        of: the wrapper in its place.
    """

    h: Any
    updates: list[Array]
    rows: list[Array | None]
    slots: Mapping[str, list[Array]]
    scalars: Mapping[str, Array]
    count: Array
    extra: Mapping[str, Any]
    run: Callable[..., Outcome]
    stay: Callable[[], Outcome]
    restarted: Callable[[Outcome], Outcome]
    moved: Callable[[Outcome], list[tuple[Array, Array]]]
    kept: Callable[[Outcome, list[str]], list[tuple[Array, ...]]]
    reader: Any
    of: Any

    @property
    def norm(self) -> Array:
        """The global norm of `updates`. Whoever asks for it inside, of the same updates, causes no second reduction."""
        return self.reader.norm(self.of)

    @property
    def norms(self) -> list[Array]:
        """The norm of each leaf of `updates`, from the same reduction."""
        return self.reader.norms_of(self.of)

    @property
    def finite(self) -> Array:
        """Whether there is neither NaN nor inf in `updates`, from the same reduction."""
        return self.reader.squares(self.of).finite

    def scaled(self, factor: Array) -> list[Array]:
        """The updates times a factor, to run the inside on; their norm needs no reduction if that of `updates` is known."""
        return self.reader.scaled(self.of, self.updates, factor)

    @property
    def params(self) -> list[Array]:
        """The parameters that the wrapper acts on.

        Raises:
            ValueError: `tx.update` was called without them.
        """
        return self.reader.params(self.of)

    @property
    def has_params(self) -> bool:
        """Whether `tx.update` was called with the parameters."""
        return self.reader.step.params is not None

    def tree(self, values: list[Array]) -> Any:
        """Leaves as the whole tree of parameters, in their dtypes, for a function of the user's."""
        return self.reader.as_params(self.of, values)

    def leaves(self, tree: Any, returned_by: str = "") -> list[Array]:
        """The wrapper's leaves of a tree of gradients that such a function returned, which errors name if it is named."""
        return self.reader.as_updates(self.of, tree, returned_by)

    def when(
        self,
        condition: Array,
        updates: Sequence[Any] | Callable[[], Sequence[Any]],
        how: Literal["cond", "loop", "select"] = "cond",
        extra: Mapping[str, Any] | None = None,
        rate: Array | None = None,
    ) -> Outcome:
        """Runs the inside on these updates if the condition is true, and otherwise leaves everything as it is.

        Args:
            condition: a bool scalar.
            updates: for `run`; or a function that makes them, which is called where the inside runs: what it computes is not
                written to memory at a step that waits.
            how: "cond" is `lax.cond`: on CPU and TPU nothing is computed in vain, but XLA on GPU runs both branches, or
                copies the state around them. "loop" is a `lax.while_loop` of zero or one pass, which costs nothing while it
                waits, on GPU as well; it cannot be differentiated in reverse. "select" always runs the inside, and then
                chooses: for what nearly always runs, since it is fused into the loops that write the state. XLA for CPU
                would keep a copy of the state for it, so that it is "cond" there.
            extra: for `run`.
            rate: for `run`.
        """
        if how not in ("cond", "loop", "select"):
            raise BadValue("{name} must be 'cond', 'loop' or 'select'.", how=how)

        # The updates are closed over: as operands of a branch they would be other arrays, of which no norm is known.
        def run(before: Outcome) -> Outcome:
            return self.run(updates() if callable(updates) else updates, before, extra or {}, rate)

        still = self.stay()
        if not isinstance(condition, Tracer) and how != "select":
            return run(still) if bool(condition) else still  # outside `jit`, Python chooses
        ways = {name: functools.partial(way, run) for name, way in (("cond", _cond), ("select", _select))}
        if how == "select" and isinstance(condition, Tracer):
            return lax.platform_dependent(condition, still, cpu=ways["cond"], default=ways["select"])
        return _loop(run, condition, still, self.of.placed.rule.name) if how == "loop" else ways[how](condition, still)


def _cond(run: Callable[[Outcome], Outcome], condition: Array, before: Outcome) -> Outcome:
    return lax.cond(condition, run, lambda before: before, before)


def _loop(run: Callable[[Outcome], Outcome], condition: Array, before: Outcome, name: str) -> Outcome:
    from jadam._forward_only import forward_only

    start = condition, before
    after = lax.while_loop(lambda carry: carry[0], lambda carry: (carry[0] & False, run(carry[1])), start)[1]
    words = f'{name}: how="loop" has no derivative in reverse, which jax.grad computes; write how="cond", or use jax.jvp.'
    return jax.tree.map(lambda x: forward_only(x, words) if jnp.issubdtype(x.dtype, jnp.inexact) else x, after)


def _select(run: Callable[[Outcome], Outcome], condition: Array, before: Outcome) -> Outcome:
    return jax.tree.map(lambda new, old: lax.select(condition, new, old), run(before), before)


@dataclass(frozen=True)
class Wrapper(Block):
    """Decides whether, how often and on which updates the transformation inside it runs.

    Subclass it as a frozen dataclass, and build the transformation with `jadam.wrap(EverySecond(), tx)`. The inside keeps
    its names in the state; what the wrapper keeps stands under its own. Updates that reach a wrapper have been written to
    memory: rules that need not stand before it, such as a clip, are cheaper inside.
    """

    outermost: ClassVar[bool] = False
    """Whether nothing may stand around it or beside it."""

    elementwise: ClassVar[bool] = True
    """Whether its slots have the shapes of the parameters. Only then can it act on complex ones."""

    @property
    def needs_all_rows(self) -> str:
        if type(self).init is Block.init:
            return ""
        # What it keeps may depend on every step, as a mean does.
        return f"keeps something for each row, of which some would miss this step; {DENSE}"

    @property
    def room(self) -> int:
        """On how many rows of a table its inside runs, where these are others than those of the gradient; 0 elsewhere.

        It is asked leaf by leaf. Such a wrapper hands on `Rows` with so many ids, and keeps what it likes of those that it saw.
        """
        return 0

    @abstractmethod
    def around(self, inside: Inside) -> tuple[Outcome, dict[str, list[Array]], dict[str, Array]]:
        """What `inside.run`, `stay` or `when` returned; the wrapper's new slots, leaf by leaf; and its new scalars."""
