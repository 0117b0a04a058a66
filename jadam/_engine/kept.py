"""What a state keeps for each leaf: arrays by name, of which shape and dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jadam._dtypes import decode
from jadam._engine import returned
from jadam._engine.plan import Plan
from jadam._recipe import SlotFormats
from jadam._rule import Block
from jadam._storage.slots import apart


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

        def stored(p: jax.Array) -> dict[str, jax.Array]:
            return apart({slot: formats.codec(slot).encode(x, dtype) for slot, x in returned.slots(rule, decode(p)).items()})

        plan.kept[alike] = types(jax.eval_shape(stored, jax.ShapeDtypeStruct(shape, dtype)))
    return plan.kept[alike]
