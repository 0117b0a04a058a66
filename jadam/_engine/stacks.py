"""Rules on matrices: those of all parameters with one shape in one stack, spread over the devices of a mesh.

A matrix that is spread over devices would be gathered on every device for each product with it. Instead each device gets
whole matrices, as many as any other, and returns what the rule made of them: two exchanges for all matrices of one shape.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jax.experimental.shard_alike import shard_alike
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jadam._axes import Axes, from_matrices, to_matrices
from jadam._dtypes import cast
from jadam._engine.leaf import Operands, Program
from jadam._engine.placement import on_automatic_axes
from jadam._engine.reader import Ready
from jadam._recipe import SlotFormats
from jadam._storage.params import NEAREST

OF_STACK = Axes((1,), (2,), (0,))


def on_matrices(run_rules: Callable[[Program, Operands], Any], ready: Ready, updates: dict[int, Array]) -> dict[int, Array]:
    """The updates of a rule on matrices."""
    kinds: dict[Any, list[int]] = {}
    for i, rule in ready.rules.items():
        u, axes = updates[i], rule.matrices
        mesh = _mesh(u)
        shape = tuple(jax.eval_shape(lambda x, axes=axes: to_matrices(x, axes), u).shape[1:])
        kind = (rule.bound({"matrices": OF_STACK}), shape, u.dtype, mesh, i if mesh is None else None)
        kinds.setdefault(kind, []).append(i)

    new = {}
    for (rule, _, _, mesh, _), at in kinds.items():
        program = Program(((rule, SlotFormats(), ""),), NEAREST, "between")

        def run(stack: Array, h: dict[str, Any], program: Program = program) -> Array:
            return run_rules(program, Operands(stack, None, None, [{}], {}, [h], None))[0]

        arrays, axes = [updates[i] for i in at], [ready.rules[i].matrices for i in at]
        of_all = _one_by_one if mesh is None else functools.partial(_together, mesh)
        found = on_automatic_axes(
            functools.partial(of_all, run, rule, axes),
            arrays[0],
            lambda arrays=arrays: [jax.typeof(x).sharding for x in arrays],
        )(arrays, ready.h)
        if mesh is not None and AxisType.Explicit not in mesh.axis_types:  # else parameters would move with their updates
            found = [shard_alike(u, x)[0] for u, x in zip(found, arrays, strict=True)]
        new |= zip(at, found, strict=True)
    return new


def _mesh(x: Array) -> Any:
    """The mesh over whose devices a stack is spread; None for one device, outside `jit`, and inside `shard_map`."""
    mesh = jax.typeof(x).sharding.mesh
    alone = mesh.size == 1 or AxisType.Manual in mesh.axis_types
    return None if mesh.empty or alone or not isinstance(x, Tracer) else mesh


Run = Callable[[Array, dict[str, Any]], Array]


def _one_by_one(run: Run, rule: Any, axes: list[Axes], arrays: list[Array], h: dict[str, Any]) -> list[Array]:
    return [from_matrices(run(to_matrices(x, own), h), own, x.shape) for x, own in zip(arrays, axes, strict=True)]


def _together(mesh: Any, run: Run, rule: Any, axes: list[Axes], arrays: list[Array], h: dict[str, Any]) -> list[Array]:
    mesh = jax.typeof(arrays[0]).sharding.mesh or mesh  # whose explicit axes are automatic in here
    spread = NamedSharding(mesh, PartitionSpec(tuple(name for name, size in mesh.shape.items() if size > 1)))
    parts = [to_matrices(x, own) for x, own in zip(arrays, axes, strict=True)]
    stack = jnp.concatenate(parts) if len(parts) > 1 else parts[0]
    if missing := -stack.shape[0] % mesh.size:  # by ones, of which no norm is zero
        stack = lax.pad(stack, jnp.ones((), stack.dtype), [(0, missing, 0), (0, 0, 0), (0, 0, 0)])
    full, exchanged = stack.dtype, rule.exchanged or stack.dtype
    stack = cast(lax.with_sharding_constraint(cast(stack, exchanged), spread), full)
    stack = lax.with_sharding_constraint(cast(run(stack, h), exchanged), spread)
    ends = list(itertools.accumulate(part.shape[0] for part in parts))
    pieces = [stack[end - part.shape[0] : end] for part, end in zip(parts, ends, strict=True)]
    return [cast(from_matrices(one, own, x.shape), full) for one, own, x in zip(pieces, axes, arrays, strict=True)]
