"""What a state keeps for each leaf: arrays by name, of which shape and dtype."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._dtypes import decode, full_products
from jadam._engine import returned
from jadam._engine.placement import on_automatic_axes, slot_sharding
from jadam._engine.plan import Placed, Plan
from jadam._recipe import SlotFormats
from jadam._rule import Block
from jadam._state import GIVEN, OptState
from jadam._storage.params import ParamStorage
from jadam._storage.slots import Float32, SlotStorage, apart


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
    return apart({name: _stored(value, formats.codec(name), p.dtype, x) for name, value in slots.items()})


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
