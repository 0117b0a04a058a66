"""The initial state of a transformation."""

from __future__ import annotations

import functools
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jadam._dtypes import decode, full_products
from jadam._engine import returned
from jadam._engine.lost import warn_of_lost
from jadam._engine.numbers import initial
from jadam._engine.placement import on_automatic_axes, placed, scalar, shared_sharding, slot_sharding
from jadam._engine.plan import Placed, Plan
from jadam._engine.symbolic import asking_no_symbols
from jadam._errors import BadType, BadValue
from jadam._recipe import Pair, Recipe
from jadam._state import OptState
from jadam._storage.slots import Float32, SlotStorage, apart
from jadam._tree import PyTree, is_trained, strong


@asking_no_symbols
def init(recipe: Recipe, params: PyTree) -> OptState:
    """The initial state: slots with the sharding of their parameters, everything else replicated."""
    _, values, treedef = strong("params", params, shapes=True)
    plan = Plan.of(recipe, values, treedef, initial=True)
    if values and not any(map(is_trained, values)):
        found = ", ".join(sorted({str(value.dtype) for value in values}))
        raise BadType(f"nothing in params is trained: its leaves are {found}, none real or complex floating point.")
    sharding = shared_sharding([values[i] for i in plan.trained])
    hyperparams, given = initial(recipe, plan, sharding)
    state = OptState(scalar(0, jnp.int32, sharding), hyperparams, {}, {}, given)
    for one in plan.all:
        if isinstance(one.rule, Pair):
            state.slots[one.key] = one.rule.init(plan.tree({i: values[i] for i in one.at}))
            continue
        own = {i: _slots(plan, one, rule, i, values[i]) for i, rule in zip(one.at, one.rules, strict=True)}
        if names := list(dict.fromkeys(slot for slots in own.values() for slot in slots)):
            state.slots[one.key] = plan.trees(own, names)
        scalars = {name: scalar(value, plan.dtype, sharding) for name, value in returned.scalars(one.rule).items()}
        if one.counts:
            scalars["count"] = scalar(0, jnp.int32, sharding)
        if scalars:
            state.scalars[one.key] = scalars
    warn_of_lost(recipe, plan, values)
    state.slots.update(plan.residues({i: plan.storage(i).init(_array(values[i])) for i in plan.landings}))
    return state


def _array(value: Any) -> jax.Array:
    """A leaf of the parameters; where only its shape is given, zeros placed as it says, for as long as slots are made of it."""
    if isinstance(value, jax.ShapeDtypeStruct):
        return jnp.zeros(value.shape, value.dtype, device=value.sharding)
    return jnp.asarray(value)


def _slots(plan: Plan, one: Placed, rule: Any, i: int, value: Any) -> dict[str, Any]:
    """What a part keeps for a new leaf."""
    if rule.positions and isinstance(value, jax.ShapeDtypeStruct):
        raise BadType(
            f"{rule.positions[0]} of {rule.name} begins as a copy of the parameter, of which only the shape is given at "
            f"{plan.path(i)}; pass arrays, or write jax.eval_shape(tx.init, params) for the shapes of the state."
        )
    p = decode(_array(value))
    try:
        # Outside `jit` JAX compiles its own zeros once more under another precision: only rules that may multiply matrices ask.
        with nullcontext() if getattr(rule, "elementwise", True) else full_products():
            slots = returned.slots(rule, p)
    except ValueError as error:
        raise BadValue(f"the parameter at {plan.path(i)}: {error}") from None
    return apart({slot: _stored(x, one.formats.codec(slot), value.dtype, p) for slot, x in slots.items()})


def _stored(value: jax.Array, codec: SlotStorage, dtype: Any, p: Any) -> Any:
    """A slot of a new state as it is stored, placed like its parameter `p`."""
    if isinstance(codec, Float32):
        return codec.encode(placed(value, p), dtype)
    encode = functools.partial(_encode, codec, dtype)

    def shardings() -> Any:
        shapes = jax.eval_shape(encode, jax.ShapeDtypeStruct(value.shape, value.dtype))
        return jax.tree.map(lambda x: slot_sharding(jax.typeof(p).sharding, p.shape, x.shape), shapes)

    return jax.tree.map(lambda x: placed(x, p), on_automatic_axes(encode, p, shardings)(placed(value, p)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(codec: SlotStorage, dtype: Any, value: jax.Array) -> Any:
    # Behind a barrier: XLA would compute the blocks of a constant when it compiles, and take minutes.
    return codec.encode(lax.optimization_barrier(value), dtype)
