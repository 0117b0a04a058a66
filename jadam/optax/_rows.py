"""Parts in a row, in optax's state: jadam's neighbours run in one pass, and outside `jit` a step compiles itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from jadam._chain import chain
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree, is_array
from jadam.optax._parts import Part

Tree = Any
"""A part, or a tuple of trees: as `optax.chain` nests states."""


class Row:
    """Parts one after another, as a tree.

    Attributes:
        compares: whether an equal row may take its place.
    """

    def __init__(self, tree: Tree, name: str):
        self.tree, self.name = tree, name
        self.parts = [part for part, _ in _flat(tree, None)]
        self.compares = all(part.key is not None and not part.arrays for part in self.parts)

    def init(self, params: PyTree) -> Any:
        return _nested(self.tree, iter([part.init(params) for part in self.parts]))

    def update(self, updates: PyTree, state: Any, params: PyTree, extra: dict[str, Any]) -> tuple[PyTree, Any]:
        states = [part_state for _, part_state in _flat(self.tree, state)]
        arrays = [part.arrays for part in self.parts]
        leaves = jax.tree.leaves((updates, states, params, extra, arrays))
        if any(isinstance(leaf, Tracer) for leaf in leaves) or not all(map(is_array, leaves)):
            updates, new = _run(self.parts, updates, states, params, extra, self.name)
            return updates, _nested(self.tree, iter(new))
        new, at = [], 0
        parts = [part.resolved(updates, s) if part.key is None else part for part, s in zip(self.parts, states, strict=True)]
        for known, group in groupby(parts, lambda part: part.key is not None):
            several = tuple(group)
            here, at = states[at : at + len(several)], at + len(several)
            if known:
                run = functools.partial(_program(_Alike(several), self.name), [part.arrays for part in several])
            else:
                run = functools.partial(_run, several, name=self.name)
            updates, after = run(updates=updates, states=here, params=params, extra=extra)
            new += after
        return updates, _nested(self.tree, iter(new))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Row) and self.tree == other.tree

    def __hash__(self) -> int:
        return hash(self.tree)

    def __repr__(self) -> str:
        return _shown(self.tree)


class _Alike(tuple[Part, ...]):
    """Parts that are compared without their arrays, which are arguments of what is compiled for them."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Alike) and [part.key for part in self] == [part.key for part in other]

    def __hash__(self) -> int:
        return hash(tuple(part.key for part in self))


@functools.lru_cache(maxsize=32)
def _program(parts: _Alike, name: str) -> Callable[..., Any]:
    """What is compiled for parts that are built alike, for as long as it is among the last."""

    def run(arrays: Any, updates: PyTree, states: Any, params: PyTree, extra: Any) -> Any:
        several = [part.of_arrays(its) for part, its in zip(parts, arrays, strict=True)]
        return _run(several, updates, states, params, extra, name)

    return jax.jit(run)


def _run(parts: Any, updates: PyTree, states: Any, params: PyTree, extra: Any, name: str) -> tuple[PyTree, list[Any]]:
    """The parts in order: neighbours that jadam computes as one row of its own, each of the others by optax."""
    new: list[Any] = []
    while len(new) < len(parts):
        at = len(new)
        if several := _ours(parts[at:], states[at:], updates, params):
            updates, after = _run_ours(*zip(*several, strict=True), updates, states[at : at + len(several)], params, name)
            new += after
        else:
            updates, after = parts[at].pair.update(updates, states[at], params, **extra)
            new.append(after)
    return updates, new


def _ours(parts: Any, states: Any, updates: PyTree, params: PyTree) -> list[tuple[Part, GradientTransformation]]:
    """The first parts and what they are in jadam, as far as it computes them.

    It does on trees of real numbers, and with one count, so one state, in a row.
    """
    structure = jax.tree.structure(updates)
    several: list[tuple[Part, GradientTransformation]] = []
    if not _are_real(updates) or (params is not None and not (_are_real(params) and jax.tree.structure(params) == structure)):
        return several
    for part, state in zip(parts, states, strict=False):
        slots = tuple(getattr(state, name, None) for name in part.slots)
        if slots and any(before.slots for before, _ in several):
            break
        if any(jax.tree.structure(slot) != structure or not _are_real(slot) for slot in slots):
            break
        if (tx := part.made(state)) is None:
            break
        several.append((part, tx))
    return several


def _are_real(tree: PyTree) -> bool:
    return all(is_array(leaf) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating) for leaf in jax.tree.leaves(tree))


def _run_ours(
    parts: Sequence[Part], made: Sequence[Any], updates: PyTree, states: Any, params: PyTree, name: str
) -> tuple[PyTree, list[Any]]:
    """A row of jadam on its slots of the states."""
    tx = GradientTransformation.of(chain(*made).recipe, name)
    # An update has the dtype of its gradient in optax, of its parameter in jadam: both are the wider one here.
    updates = jax.tree.map(jnp.asarray, updates)
    if params is not None:
        params = jax.tree.map(lambda p, g: jnp.asarray(p, jnp.promote_types(jnp.result_type(p), g.dtype)), params, updates)
    state = tx.init(updates if params is None else params)
    keeps = [(part, own) for part, own in zip(parts, states, strict=True) if part.slots]
    for part, own in keeps:
        (key,) = state.slots
        fields = {slot: getattr(own, field) for field, slot in part.slots.items()}
        as_kept = {
            slot: jax.tree.map(lambda x, like: jnp.asarray(x, like.dtype), fields[slot], state.slots[key][slot])
            for slot in fields
        }
        state = state._replace(count=jnp.asarray(own.count) if "count" in own._fields else state.count, slots={key: as_kept})
    updates, after = tx.update(updates, state, params)
    new = []
    for part, own in zip(parts, states, strict=True):
        if part.slots:
            (slots,) = after.slots.values()
            trees = {field: _like(slots[slot], getattr(own, field)) for field, slot in part.slots.items()}
            own = own._replace(**trees, **({"count": after.count} if "count" in own._fields else {}))
        elif part.schedule is not None:
            own = own._replace(count=optax.safe_increment(own.count))
        new.append(own)
    return updates, new


def _like(tree: PyTree, before: PyTree) -> PyTree:
    return jax.tree.map(lambda x, old: x.astype(jnp.result_type(old)), tree, before)


def _flat(tree: Tree, state: Any) -> Iterator[tuple[Part, Any]]:
    if not isinstance(tree, tuple):
        yield tree, state
        return
    if state is not None and len(state) != len(tree):
        raise ValueError(f"the state has {len(state)} parts, the chain {len(tree)}; pass what init or update returned.")
    for number, inner in enumerate(tree):
        yield from _flat(inner, None if state is None else state[number])


def _nested(tree: Tree, states: Iterator[Any]) -> Any:
    return tuple(_nested(inner, states) for inner in tree) if isinstance(tree, tuple) else next(states)


def _shown(tree: Tree) -> str:
    return f"chain({', '.join(map(_shown, tree))})" if isinstance(tree, tuple) else repr(tree)
