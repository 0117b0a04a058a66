"""The first state of a transformation."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jadam._drivers import scheduled
from jadam._landing import ParamStorage
from jadam._layout import Layout, on_automatic_axes, placed, scalar_like, slot_sharding
from jadam._part import Opaque, Part, named, slot_codec
from jadam._state import OptState
from jadam._storage import Float32, SlotStorage, decode
from jadam._tree import PyTree, arrays, quoted


def init(where: str, parts: Sequence[Part], params: PyTree) -> OptState:
    """The first state: slots with the sharding of their parameters, everything else replicated."""
    layout = Layout.of(arrays(where, "params", params))
    values = layout.leaves.values
    scalar = functools.partial(scalar_like, like=[values[i] for i in layout.trained])
    state = OptState(scalar(0, jnp.int32), {}, {}, {})
    by_name = named(parts)
    landings = layout.landings(where, by_name)
    for key, part in by_name.items():
        chosen = layout.selected(where, part)
        if isinstance(part.rule, Opaque):
            state.slots[key] = part.rule.init(layout.tree({i: values[i] for i in chosen}))
            continue
        rules = part.rules(layout.leaves)
        lands = {i for i, (name, _) in landings.items() if name == key}
        first = {i: _first_slots(where, layout, i, part, rules[i], i in lands) for i in chosen}
        if slots := list(dict.fromkeys(slot for own in first.values() for slot in own)):
            state.slots[key] = layout.trees(first, slots)
        if isinstance(part.rule, ParamStorage):
            continue
        hypers = {}
        for hyper in part.hypers:
            value = getattr(part.rule, hyper.name)
            value = scheduled(value, hyper, layout.dtype, np.int32(0)) if callable(value) else hyper.store(value)
            hypers[hyper.stored] = scalar(value, layout.dtype)
        if hypers:
            state.hyperparams[key] = hypers
        if scalars := {name: scalar(value, layout.dtype) for name, value in part.rule.scalars().items()}:
            state.scalars[key] = scalars
    return state


def _first_slots(where: str, layout: Layout, i: int, part: Part, rule: Any, lands: bool) -> dict[str, Any]:
    """What a part keeps for a leaf at first."""
    value = jnp.asarray(layout.leaves.values[i])
    if isinstance(rule, ParamStorage):
        return rule.init(value) if lands else {}
    p = decode(value)
    try:
        slots = rule.init(p)
    except ValueError as error:
        raise ValueError(f"{where}: the parameter at {quoted(layout.leaves.paths[i])}: {error}") from None
    return {slot: _stored(x, slot_codec(part.storage, slot), value.dtype, p) for slot, x in slots.items()}


def _stored(value: jax.Array, codec: SlotStorage, dtype: Any, p: Any) -> Any:
    """A slot of a new state as it is stored, where `slot_sharding` says, or on the one device of its parameter `p`."""
    if isinstance(codec, Float32):
        return codec.encode(placed(value, p), dtype)
    encode = functools.partial(_encode, codec, dtype)

    def lies() -> Any:
        shapes = jax.eval_shape(encode, jax.ShapeDtypeStruct(value.shape, value.dtype))
        return jax.tree.map(lambda x: slot_sharding(jax.typeof(p).sharding, p.shape, x.shape), shapes)

    return jax.tree.map(lambda x: placed(x, p), on_automatic_axes(encode, p, lies)(placed(value, p)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _encode(codec: SlotStorage, dtype: Any, value: jax.Array) -> Any:
    # Behind a barrier: XLA would compute the blocks of a constant when it compiles, and take minutes.
    return codec.encode(lax.optimization_barrier(value), dtype)
