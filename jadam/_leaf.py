"""Runs rules on one array: the inner loop of the engine, traced once for each kind of array."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType

from jadam._part import Storage, slot_codec
from jadam._rule import Rule
from jadam._storage import NEAREST, cast, compute_dtype, decode, encode, full_dtype


class StateMismatch(Exception):
    """The slots of a leaf are not what its rule keeps."""


@functools.partial(jax.jit, static_argnames=("where", "rules", "mode"))
def run_rules(
    where: str,
    rules: tuple[tuple[Rule, Storage], ...],
    mode: str,
    u: Array,
    slots: list[dict[str, Any]],
    p: Array | None,
    hs: list[dict[str, Any]],
    gradient: Array | None,
) -> tuple[Array, list[dict[str, Any]]]:
    """The rules on one array. The result is the update for the next rules ("between") or for the caller ("update"), or
    the new parameter ("step").
    """
    like = u if p is None else p
    dtype = compute_dtype(like.dtype)
    g = cast(decode(u), dtype)
    new_slots = []
    for (rule, storage), stored, h in zip(rules, slots, hs, strict=True):
        codec = functools.partial(slot_codec, storage)
        param: Any = _NoParams(where, rule) if p is None else NEAREST.decode(p)
        _check_slots(rule, storage, like, stored)
        own = {slot: codec(slot).decode(value) for slot, value in stored.items()}
        values = SimpleNamespace(**jax.tree.map(lambda x: x if x.dtype == bool else cast(x, dtype), h))
        if rule.reads_gradient and gradient is not None:
            values.gradient = cast(decode(gradient), dtype)
        before = _shapes(g, own)
        with jax.named_scope(rule.block):
            out, own = _run(rule, bounded(g) if own else g, own, param, values)
        if (shapes := _shapes(out, own)) != before:
            raise ValueError(
                f"{type(rule).__name__}.update must keep the shapes of update and slots: of {before} it made {shapes}."
            )
        g = cast(out, dtype)
        new_slots.append({slot: codec(slot).encode(cast(value, dtype), like.dtype) for slot, value in own.items()})
    if mode == "between":
        return encode(g, full_dtype(like.dtype)), new_slots
    delta = NEAREST.land(g, like)
    return (lax.add(like, delta) if mode == "step" else delta), new_slots


def _run(rule: Rule, g: Array, slots: dict[str, Array], p: Any, h: SimpleNamespace) -> tuple[Array, dict[str, Array]]:
    """`rule.update`, on automatic axes where the mesh has explicit ones and the rule mixes elements: it need not know."""
    if rule.elementwise or AxisType.Explicit not in jax.typeof(g).sharding.mesh.axis_types:
        return rule.update(g, slots, p, h)
    given = p if isinstance(p, Array) else None

    def automatic(g: Array, slots: dict[str, Array], given: Array | None, h: dict[str, Any]) -> Any:
        return rule.update(g, slots, p if given is None else given, SimpleNamespace(**h))

    lies = jax.tree.map(lambda x: jax.typeof(x).sharding, (g, slots))
    return jax.sharding.auto_axes(automatic, out_sharding=lies)(g, slots, given, vars(h))  # pyright: ignore[reportCallIssue]


def _shapes(u: Array, slots: dict[str, Array]) -> dict[str, tuple[int, ...]]:
    return {"update": u.shape, **{slot: value.shape for slot, value in slots.items()}}


def _check_slots(rule: Rule, storage: Storage, like: Array, stored: dict[str, Any]) -> None:
    found = jax.tree.map(jnp.shape, stored)
    if stored and all(shape == like.shape for shape in found.values()):
        return  # as nearly always: spares the trace of `init`
    kept = _kept_shapes(rule, storage, like.shape, like.dtype)
    if kept != found:
        words = [", ".join(f"{slot} of shape {shape}" for slot, shape in x.items()) or "nothing" for x in (kept, found)]
        raise StateMismatch(f"{rule.block} keeps {words[0]}, the state has {words[1]}")


@functools.cache
def _kept_shapes(rule: Rule, storage: Storage, shape: tuple[int, ...], dtype: Any) -> dict[str, Any]:
    if type(rule).init is Rule.init:
        return {}

    def stored(p: Array) -> dict[str, Any]:
        return {slot: slot_codec(storage, slot).encode(value, dtype) for slot, value in rule.init(decode(p)).items()}

    return jax.tree.map(jnp.shape, jax.eval_shape(stored, jax.ShapeDtypeStruct(shape, dtype)))


def bounded(g: Array) -> Array:
    """Finite gradients so huge that their square, or a sum of squares, would be inf are cut to 2^52 (2^500 in float64).

    Only before rules with slots, which an inf would spoil for ever. NaN and inf pass: that a step went wrong must be seen.
    """
    limit = np.asarray(2.0 ** (jnp.finfo(g.dtype).maxexp // 2 - 12), g.dtype)
    return lax.select(lax.is_finite(g), lax.clamp(-limit, g, limit), g)


def needs_params(where: str, rule: Rule) -> str:
    return f"{where}: {rule.block} needs the parameters; call update(grads, state, params), not update(grads, state)."


class _NoParams:
    """Stands for the parameter where `update` got none; any use of it says so."""

    def __init__(self, where: str, rule: Rule):
        self._words = needs_params(where, rule)

    def _refuse(self, *_: Any) -> Any:
        raise ValueError(self._words)

    __jax_array__ = __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __neg__ = __abs__ = _refuse

    def __getattr__(self, name: str) -> Any:
        raise ValueError(self._words) if not name.startswith("_") else AttributeError(name)
