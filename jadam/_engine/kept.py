"""What a state keeps for each leaf: arrays by name, of which shape and dtype."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._dtypes import cast, compute_dtype, decode, full_products
from jadam._engine import returned
from jadam._engine.leaf import encoded
from jadam._engine.placement import on_automatic_axes, slot_sharding
from jadam._engine.plan import Placed, Plan
from jadam._recipe import Pair, SlotFormats
from jadam._rule import Block
from jadam._state import GIVEN, OptState
from jadam._storage.params import ParamStorage
from jadam._storage.slots import FLOAT32, Float32, SlotStorage, apart


class Type(NamedTuple):
    """Of an array."""

    shape: tuple[int, ...]
    dtype: Any

    def __str__(self) -> str:
        return f"{jnp.dtype(self.dtype)}[{','.join(map(str, self.shape))}]"


Types = dict[str, Type]


def types(arrays: Mapping[str, Any]) -> Types:
    return {name: Type(x.shape, x.dtype) if hasattr(x, "dtype") else Type((), type(x).__name__) for name, x in arrays.items()}


def kept(plan: Plan, rule: Any, formats: SlotFormats, i: int) -> Types:
    """What a rule or wrapper keeps for a leaf, as the state has it."""
    if type(rule).init is Block.init:
        return {}
    shape, dtype = plan.shapes[i]
    alike = rule, formats, shape, dtype
    if alike not in plan.kept:
        like = jax.ShapeDtypeStruct(shape, dtype)
        plan.kept[alike] = types(jax.eval_shape(functools.partial(new_slots, rule, formats), like))
    return plan.kept[alike]


def formats_of(plan: Plan, placed: Placed, i: int) -> SlotFormats:
    """How the slots of a leaf are stored: those of some rows as those of the whole parameter, however few these are."""
    if i not in plan.whole or not placed.formats.said:
        return placed.formats
    whole, dtype = plan.whole[i], plan.dtype_of(i)
    said = placed.formats.said
    own = [(name, replace(codec, min_size=0) if codec.compresses(whole, dtype) else FLOAT32) for name, codec in said]
    return replace(placed.formats, said=tuple(own))


def kept_of(rule: Any, formats: SlotFormats) -> Types:
    """What it keeps for a vector of two."""
    if type(rule).init is Block.init:
        return {}
    return types(jax.eval_shape(functools.partial(new_slots, rule, formats), jax.ShapeDtypeStruct((2,), jnp.float32)))


def new_slots(rule: Any, formats: SlotFormats, p: Array) -> dict[str, Array]:
    """The slots of a new parameter as they are stored."""
    x = decode(p)
    with full_products():
        slots = returned.slots(rule, x)
    slots = {name: value if name in rule.exact else cast(value, compute_dtype(p.dtype)) for name, value in slots.items()}
    return apart({name: _stored(value, formats.codec(name), p.dtype, x) for name, value in slots.items()})


def new_parts(
    plan: Plan,
    parts: Sequence[Placed],
    values: list[Any],
    slots_of: Callable[[Placed, Any, int], dict[str, Array]],
    scalar: Callable[[Any, Any], Array],
) -> tuple[dict[str, Any], dict[str, dict[str, Array]]]:
    """The slots and scalars of parts at the beginning.

    Args:
        plan: of the tree.
        parts: those inside wrappers too.
        values: the parameters, of all leaves.
        slots_of: makes the slots of a part, by its rule for a leaf, and of which.
        scalar: makes one, of a number and a dtype.
    """
    kept: dict[str, Any] = {}
    scalars: dict[str, dict[str, Array]] = {}
    for one in parts:
        if isinstance(one.rule, Pair):
            kept[one.key] = one.rule.init(plan.tree({i: values[i] for i in one.at}))
            continue
        own = {i: slots_of(one, rule, i) for i, rule in zip(one.at, one.rules, strict=True)}
        if values or plan.treedef.num_nodes == 0:
            names = list(dict.fromkeys(slot for slots in own.values() for slot in slots))
        else:  # a node that stands for parameters, as `optax.tree.map_params` passes one
            names = list(kept_of(one.rule, one.formats))
        if names:
            kept[one.key] = plan.trees(own, names)
        numbers = {name: scalar(value, plan.dtype) for name, value in returned.scalars(one.rule).items()}
        if one.counts:
            numbers["count"] = scalar(0, jnp.int32)
        if numbers:
            scalars[one.key] = numbers
        if one.counter:
            scalars[one.counter] = {"count": scalar(0, jnp.int32)}
    return kept, scalars


def made_anew(plan: Plan, row: Sequence[Placed], values: list[Any]) -> tuple[dict[str, Any], dict[str, dict[str, Array]]]:
    """The slots and scalars of a row in the middle of a run, as at the beginning."""
    parts = [one for placed in row for one in placed]
    return new_parts(plan, parts, values, lambda one, rule, i: new_slots(rule, one.formats, values[i]), jnp.asarray)


def replaced(
    plan: Plan, placed: Placed, i: int, slots: Mapping[str, Any], before: Mapping[str, Any], key: Any
) -> dict[str, Array]:
    """New slots of a part for a leaf as the state keeps them, placed as they were before; `key` is of random bits."""
    new, formats = {}, formats_of(plan, placed, i)
    for name, x in slots.items():
        if x is not None and name in before:
            place = functools.partial(jax.tree.map, lambda old: jax.typeof(old).sharding, before[name])
            encode = functools.partial(encoded, slot=name, formats=formats, dtype=plan.dtype_of(i), key=key, owner=placed.key)
            new[name] = on_automatic_axes(encode, x, place)(x)
    return apart(new)


def new_residue(storage: ParamStorage, p: Array) -> dict[str, Array]:
    return storage.init(p)


def _stored(value: Array, codec: SlotStorage, dtype: Any, p: Array) -> Any:
    if isinstance(codec, Float32):
        return codec.encode(value, dtype)
    # Behind a barrier: XLA would compute the blocks of a constant when it compiles, and take minutes.
    encode = functools.partial(codec.encode, dtype=dtype)
    shapes = jax.eval_shape(encode, jax.ShapeDtypeStruct(value.shape, value.dtype))
    places = jax.tree.map(lambda x: slot_sharding(jax.typeof(p).sharding, p.shape, x.shape), shapes)
    return on_automatic_axes(encode, p, lambda: places)(lax.optimization_barrier(value))


def part_of(state: OptState, row: Sequence[Placed]) -> OptState:
    """The state of some parts."""
    parts = [one for placed in row for one in placed]
    keys, hypers = {name for one in parts for name in (one.key, one.counter)}, {key for one in parts for key, _ in one.hypers}
    return OptState(
        state.count,
        {key: value for key, value in state.hyperparams.items() if key in hypers},
        {key: value for key, value in state.slots.items() if key in keys},
        {key: value for key, value in state.scalars.items() if key in keys},
        {key: value for key, value in state.given.items() if key.removesuffix(GIVEN) in hypers},
    )


def following(count: Array) -> Array:
    """The count after this update. It saturates: one that wrapped would turn bias corrections negative."""
    return jnp.minimum(count, jnp.iinfo(jnp.int32).max - 1) + 1
