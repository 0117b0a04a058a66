"""Runs rules on one array: the inner loop of the engine, traced once for each kind of array."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jadam._landing import ParamStorage
from jadam._layout import on_automatic_axes
from jadam._part import Storage, slot_codec
from jadam._rounding import Noise
from jadam._rule import Rule
from jadam._storage import cast, compute_dtype, decode, encode, full_dtype


class StateMismatch(Exception):
    """The slots of a leaf are not what its rule keeps."""


class Program(NamedTuple):
    """What happens to a leaf, as far as its trace depends on it: rules with the storage of their slots and their names."""

    where: str
    rules: tuple[tuple[Rule, Storage, str], ...]
    landing: ParamStorage
    mode: Literal["between", "cast", "update", "step"]


class Operands(NamedTuple):
    """The arrays of a leaf.

    Attributes:
        u: the update so far.
        p: the parameter as it is stored, or None.
        gradient: as it came, for rules that read it.
        slots: of each rule, as they are stored.
        kept: what is stored beside the parameter.
        hs: hyperparameters and constants of each rule.
        keys: of the step and of the leaf, for random bits.
    """

    u: Array
    p: Array | None
    gradient: Array | None
    slots: list[dict[str, Any]]
    kept: dict[str, Array]
    hs: list[dict[str, Any]]
    keys: tuple[Any, Any] | None


@functools.partial(jax.jit, static_argnames="program")
def run_rules(program: Program, operands: Operands) -> tuple[Array, list[dict[str, Any]], dict[str, Array]]:
    """The rules on one array: the result, the new slots, and what is kept beside the parameter.

    The result is the update for the next rules ("between"), in the dtype of the parameter ("cast"), for the caller
    ("update"), or the new parameter ("step").
    """
    like = operands.u if operands.p is None else operands.p
    lies = lambda: jax.tree.map(lambda x: jax.typeof(x).sharding, (like, operands.slots, operands.kept))  # noqa: E731
    return on_automatic_axes(functools.partial(_run, program), like, lies)(operands)


def _run(program: Program, operands: Operands) -> tuple[Array, list[dict[str, Any]], dict[str, Array]]:
    where, rules, landing, mode = program
    u, p, gradient, slots, kept, hs, keys = operands
    like = u if p is None else p
    dtype = compute_dtype(like.dtype)
    g = cast(decode(u), dtype)
    full_p = None if p is None else landing.decode(p, kept)
    key = None if keys is None else lax.bitwise_xor(*keys)
    new_slots = []
    for (rule, storage, name), stored, h in zip(rules, slots, hs, strict=True):
        param: Any = _NoParams(where, rule) if full_p is None else full_p
        _check_slots(rule, storage, like, stored)
        own = {slot: cast(decode(value), dtype) for slot, value in stored.items()}
        values = SimpleNamespace(**jax.tree.map(lambda x: x if x.dtype == bool else cast(x, dtype), h))
        if rule.reads_gradient and gradient is not None:
            values.gradient = cast(decode(gradient), dtype)
        before = _shapes(g, own)
        with jax.named_scope(rule.block):
            out, own = rule.update(bounded(g) if own else g, own, param, values)
        if (shapes := _shapes(out, own)) != before:
            raise ValueError(
                f"{type(rule).__name__}.update must keep the shapes of update and slots: of {before} it made {shapes}."
            )
        g = cast(out, dtype)
        new_slots.append({})
        for slot, value in own.items():
            noise = None if key is None else Noise(key, f"{name}/{slot}")
            new_slots[-1][slot] = slot_codec(storage, slot).encode(cast(value, dtype), like.dtype, noise)
    if mode == "between":
        return encode(g, full_dtype(like.dtype)), new_slots, kept
    if mode == "cast" or p is None:
        return encode(g, like.dtype), new_slots, kept
    with jax.named_scope(landing.key):
        land = landing.step if mode == "step" else landing.land
        out, kept = land(g, p, kept, None if key is None else Noise(key, "params"))
    return out, new_slots, kept


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
