"""Rules on matrices: those of all parameters with one shape in one stack, spread over the devices of a mesh.

A matrix that is spread over devices would be gathered on every device for each product with it. Instead each device gets
whole matrices, as many as any other, and returns what the rule made of them: two exchanges for all matrices of one shape. A
single matrix of its shape is gathered once.
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
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jadam._axes import Axes, from_matrices, to_matrices
from jadam._dtypes import cast
from jadam._engine.alike import placed_alike
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
        if mesh is not None and min(shape) > 0 and max(shape) % min(shape) == 0:  # (in, out) and (out, in) go together
            shape = (min(shape), max(shape))
        kind = (rule.bound({"matrices": OF_STACK}), shape, u.dtype, mesh, i if mesh is None else None)
        kinds.setdefault(kind, []).append(i)

    new = {}
    for (rule, _, _, mesh, _), at in kinds.items():
        program = Program(((rule, SlotFormats(), ""),), NEAREST, "between")

        def run(stack: Array, h: dict[str, Any], program: Program = program) -> Array:
            return run_rules(program, Operands(stack, None, None, [{}], {}, [h], None))[0][0]

        arrays, axes = [updates[i] for i in at], [ready.rules[i].matrices for i in at]
        of_all = _one_by_one if mesh is None else functools.partial(_together, mesh)
        found = on_automatic_axes(
            functools.partial(of_all, run, rule, axes),
            arrays[0],
            lambda arrays=arrays: [jax.typeof(x).sharding for x in arrays],
        )(arrays, ready.h)
        if mesh is not None and AxisType.Explicit not in mesh.axis_types:  # else parameters would move with their updates
            found = placed_alike(found, arrays)
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
    parts = [to_matrices(x, own) for x, own in zip(arrays, axes, strict=True)]
    full, exchanged = parts[0].dtype, rule.exchanged or parts[0].dtype
    sorts = [[n for n, x in enumerate(parts) if (x.shape[1] > x.shape[2]) == tall] for tall in (False, True)]
    sorts = [of_sort for of_sort in sorts if of_sort]
    blocks = [cast(jnp.concatenate([parts[n] for n in of_sort]), exchanged) for of_sort in sorts]

    def in_full(stack: Array) -> Array:
        return cast(run(cast(stack, full), h), exchanged)

    # Where all but one are as many for each device as for any other, each makes that one for itself: a stack with it would be
    # filled up, and sent with what fills it, and no device would be ready sooner.
    alone = [blocks[-1][-1:]] if sum(map(len, blocks)) % mesh.size == 1 else []
    blocks[-1] = blocks[-1][: len(blocks[-1]) - len(alone)]
    to_spread = [block for block in blocks if len(block)]
    new = iter(_spread(mesh, in_full, to_spread) if to_spread else ())
    blocks = [next(new) if len(block) else block for block in blocks]
    blocks[-1] = jnp.concatenate([blocks[-1], *(_whole(in_full(_whole(x, mesh)), mesh) for x in alone)])
    found: dict[int, Array] = {}
    for of_sort, block in zip(sorts, blocks, strict=True):
        found |= zip(of_sort, _cut(block, [len(parts[n]) for n in of_sort]), strict=True)
    return [cast(from_matrices(found[n], own, x.shape), full) for n, (own, x) in enumerate(zip(axes, arrays, strict=True))]


def _spread(mesh: Any, run: Callable[[Array], Array], blocks: list[Array]) -> list[Array]:
    """A rule on wide matrices, on tall ones, or on both, of which each device gets as many as any other."""
    shapes = [block.shape for block in blocks]
    if len(blocks) > 1:
        blocks = [_placed(_in_squares(block), mesh, 0) for block in blocks]
    stack = jnp.concatenate(blocks)
    if missing := -len(stack) % mesh.size:  # by ones, of which no norm is zero
        stack = lax.pad(stack, jnp.ones((), stack.dtype), [(0, missing, 0)] + [(0, 0, 0)] * (stack.ndim - 1))
    steps = range(sum(size > 1 for size in mesh.shape.values()) + 1)  # XLA exchanges along one axis of the mesh at a time
    stack = functools.reduce(lambda x, count: _placed(x, mesh, count), steps, stack)
    stack = run(stack) if len(shapes) == 1 else _as_wide(run, stack, shapes[0])
    stack = functools.reduce(lambda x, count: _placed(x, mesh, count), reversed(steps), stack)
    blocks = _cut(stack, [shape[0] for shape in shapes])
    return blocks if len(shapes) == 1 else [_placed(x, mesh, 0).reshape(y) for x, y in zip(blocks, shapes, strict=True)]


def _placed(stack: Array, mesh: Any, count: int) -> Array:
    """A stack that lies over the first axes of the mesh, so many; the others have what XLA chooses, but of all none is left."""
    names = [name for name, size in mesh.shape.items() if size > 1]
    rest = None if count == len(names) else PartitionSpec.UNCONSTRAINED
    spec = PartitionSpec(tuple(names[:count]) or None, *(rest,) * (stack.ndim - 1))
    return lax.with_sharding_constraint(stack, NamedSharding(mesh, spec))


def _whole(stack: Array, mesh: Any) -> Array:
    """A stack that every device has: gathered once where it is in parts, and not sent where it is not."""
    return lax.with_sharding_constraint(stack, NamedSharding(mesh, PartitionSpec()))


def _cut(stack: Array, lengths: list[int]) -> list[Array]:
    return [stack[end - length : end] for length, end in zip(lengths, itertools.accumulate(lengths), strict=True)]


# Matrices (rows, k rows) and (k rows, rows) go in one exchange, as the same arrays of squares: which axis of an array is spread
# over devices stays so. Each device then tells them apart. Where all arrays are spread along their first axis, nothing else is
# exchanged; else the tall ones are, once.


def _in_squares(block: Array) -> Array:
    count, short = len(block), min(block.shape[1:])
    return block.reshape(count, short, -1, short)


def _as_wide(run: Callable[[Array], Array], squares: Array, wide: tuple[int, ...]) -> Array:
    """A rule on matrices of which the first are wide, and the others tall."""
    count, rows, columns = wide
    is_wide = lax.broadcasted_iota("int32", (len(squares), 1, 1), 0) < count
    stack = run(jnp.where(is_wide, squares.reshape(-1, rows, columns), squares.reshape(-1, columns, rows).mT))
    return jnp.where(is_wide[..., None], stack.reshape(squares.shape), stack.mT.reshape(squares.shape))
