"""What needs whole arrays, and sees a part of each: inside `jax.shard_map`, where no operation crosses devices by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax import Array, lax
from jax.core import Tracer
from jax.sharding import AxisType

from jadam._engine.plan import Placed, Plan
from jadam._errors import BadValue
from jadam._rule import Rule
from jadam._shards import varying

IN_JIT = "write jax.jit without shard_map, where XLA sees whole arrays"


def check(plan: Plan, updates: Mapping[int, Any], params: Sequence[Any] | None) -> None:
    """Refuses the parts of arrays where a rule mixes the elements of a parameter."""
    for one in plan.all:
        if isinstance(one.rule, Rule) and not one.rule.elementwise:
            for i in one.at:
                if axes := _axes(plan, i, updates, params):
                    raise BadValue(f"{one.rule.name} mixes the elements of a parameter, and {_seen(plan, i, axes)}; {IN_JIT}.")


def check_sums(plan: Plan, one: Placed, updates: Mapping[int, Any], params: Sequence[Any] | None) -> None:
    """Refuses them where a part reads all elements, unless it says along which axes of the mesh it adds up."""
    said = getattr(one.rule, "axis_name", None)
    names = said if isinstance(said, tuple) else () if said is None else (said,)
    for i in one.at:
        if more := [axis for axis in _axes(plan, i, updates, params) if axis not in names]:
            remedy = IN_JIT if not hasattr(one.rule, "axis_name") else f"write axis_name={_quoted((*names, *more))}"
            raise BadValue(f"{one.rule.name} reads all elements, and {_seen(plan, i, more)}; {remedy}.")
        if names and _untold(updates[i], names):
            raise BadValue(
                f"{one.rule.name}(axis_name={_quoted(names)}) cannot know which arrays are parts under "
                "shard_map(..., check_vma=False); leave out check_vma=False."
            )


def _axes(plan: Plan, i: int, updates: Mapping[int, Any], params: Sequence[Any] | None) -> tuple[str, ...]:
    """The axes of the mesh along which devices have parts of a leaf."""
    axes = varying(updates[i])
    if params is not None and (apart := [axis for axis in axes if axis not in varying(params[i])]):
        raise BadValue(
            f"the gradient at {plan.path(i)} differs between devices along {_quoted(apart)}, and its parameter does not; "
            f"average it first: jax.lax.pmean(grads, {_quoted(apart)})."
        )
    return axes


def _seen(plan: Plan, i: int, axes: Sequence[str]) -> str:
    return f"inside shard_map each device along {_quoted(axes)} has only a part of {plan.path(i)}"


def _quoted(axes: Sequence[str]) -> str:
    return repr(axes[0]) if len(axes) == 1 else repr(tuple(axes))


def _untold(x: Array, names: Sequence[str]) -> bool:
    """Whether types do not say which arrays are parts."""
    mesh = jax.typeof(x).sharding.mesh if isinstance(x, Tracer) else None
    inside = mesh is not None and any(
        kind == AxisType.Manual and axis in names for axis, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
    )
    return inside and not varying(lax.axis_index(names[0]))
