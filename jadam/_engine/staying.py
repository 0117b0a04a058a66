"""A step whose results stay where parameters and state were, on automatic and on explicit axes, in whatever memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jadam._engine.alike import is_placed, on_device, placed_alike
from jadam._engine.leaf import Mode
from jadam._state import OptState
from jadam._tree import PyTree


def staying(
    step: Callable[..., Any], mode: Mode, updates: PyTree, state: OptState, params: PyTree, extra: Any, code: Any
) -> tuple[PyTree, OptState]:
    """`step(mode, updates, state, params, extra, code)`, whose results stay where parameters and state were."""
    flat, structure = jax.tree.flatten(extra)
    of_arrays = {n: x for n, x in enumerate(flat) if isinstance(x, Array)}

    def near(updates: PyTree, state: OptState, params: PyTree, values: dict[int, Array], code: Any) -> Any:
        extra = structure.unflatten([values.get(n, x) for n, x in enumerate(flat)])  # in which functions may be
        found, new = step(mode, updates, state._replace(slots=jax.tree.map(on_device, state.slots)), params, extra, code)
        slots = {key: placed_alike(own, state.slots.get(key)) for key, own in new.slots.items()}
        return found if params is None else placed_alike(found, params), new._replace(slots=slots)

    like = updates if params is None else params
    if (mesh := _mesh_of_types(like, state)) is None:
        return near(updates, state, params, of_arrays, code)
    # Types say that operands of one operation are placed otherwise, which is an error. XLA may move them.
    where = jax.tree.map(lambda x: _type_on(mesh, x), (like, state))
    return jax.sharding.auto_axes(near, out_sharding=where)(updates, state, params, of_arrays, code)  # pyright: ignore


def _mesh_of_types(like: PyTree, state: OptState) -> Any:
    """The mesh with explicit axes on which a slot is spread otherwise than its parameter; None where there is none."""
    if not any(map(_is_explicit, jax.tree.leaves(state.slots))):
        return None
    leaves, structure = jax.tree.flatten(like)
    for own in state.slots.values():
        for slot in own.values() if isinstance(own, dict) else ():
            for x, p in zip(_column(structure, slot), leaves, strict=False):
                if is_placed(x) and is_placed(p) and x.shape == p.shape:
                    where, own_place = jax.typeof(x).sharding, jax.typeof(p).sharding
                    if _is_explicit(x) and where.spec != own_place.spec:
                        return where.mesh
    return None


def _is_explicit(x: Any) -> bool:
    return isinstance(x, Array) and AxisType.Explicit in jax.typeof(x).sharding.mesh.axis_types


def _type_on(mesh: Any, x: Any) -> NamedSharding:
    where = jax.typeof(x).sharding
    return where if where.mesh == mesh else NamedSharding(mesh, PartitionSpec(*(None,) * x.ndim))


def _column(structure: Any, slot: PyTree) -> list[Any]:
    """The leaves of a slot, with None where there is none; nothing of what is not like the parameters."""
    try:
        return structure.flatten_up_to(slot)
    except (ValueError, TypeError):
        return []
