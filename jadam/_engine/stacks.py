"""Rules on matrices: those of all parameters with one shape in one stack, spread over the devices of a mesh.

A matrix that is spread over devices would be gathered on every device for each product with it. Instead each device gets
whole matrices, as many as any other, and returns what the rule made of them (see `exchange.py`). What a rule keeps for a matrix
goes with it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jax.sharding import AxisType

from jadam._axes import Axes, from_matrices, to_matrices
from jadam._dtypes import cast
from jadam._engine.alike import placed_alike
from jadam._engine.exchange import Columns, Run, exchanged, placed
from jadam._engine.leaf import Operands, Program
from jadam._engine.placement import on_automatic_axes
from jadam._engine.reader import Ready
from jadam._recipe import SlotFormats
from jadam._rule import Slots
from jadam._storage.params import NEAREST

OF_STACK = Axes((1,), (2,), (0,))


class Part(NamedTuple):
    """A parameter's matrices.

    Attributes:
        axes: of the array in which they are.
        arrays: the update, and the slots as the rule's `init` names them.
        matrices: which of these have matrices as the parameter has.
    """

    axes: Axes
    arrays: Columns
    matrices: list[bool]

    @property
    def columns(self) -> Columns:
        count = len(to_matrices(self.arrays[0], self.axes))
        return [
            to_matrices(x, self.axes) if own else x.reshape(count, *x.shape[self.axes.several :])
            for x, own in zip(self.arrays, self.matrices, strict=True)
        ]

    def of(self, columns: Columns) -> Columns:
        """Arrays of which these are the columns."""
        return [
            from_matrices(new, self.axes, x.shape) if own else new.reshape(x.shape)
            for new, x, own in zip(columns, self.arrays, self.matrices, strict=True)
        ]


def mesh_of(*arrays: Any) -> Any:
    """The mesh over whose devices a stack is spread; None for one device, outside `jit`, and inside `shard_map`."""
    for x in arrays:
        if isinstance(x, Tracer) and not (mesh := jax.typeof(x).sharding.mesh).empty:
            return None if mesh.size == 1 or AxisType.Manual in mesh.axis_types else mesh
    return None


def on_matrices(
    run_rules: Callable[[Program, Operands], Any],
    ready: Ready,
    updates: Mapping[int, Array],
    slots: Mapping[int, Slots],
    meshes: Mapping[int, Any],
) -> dict[int, tuple[Array, Slots]]:
    """The updates of a rule on matrices that are spread over devices, and its slots in the dtype of the arithmetic."""
    kinds: dict[Any, dict[int, Part]] = {}
    names: dict[int, list[str]] = {}
    for i, own in slots.items():
        rule, u = ready.rules[i], updates[i]
        names[i] = _names(rule, u)
        as_matrices = [True, *(name in rule.on_matrices for name in names[i])]
        part = Part(rule.matrices.in_order, [u, *(own[name] for name in names[i])], as_matrices)
        shape = tuple(jax.eval_shape(lambda part=part: part.columns[0]).shape[1:])
        if not own and min(shape) > 0 and max(shape) % min(shape) == 0:  # (in, out) and (out, in) go together
            shape = (min(shape), max(shape))
        kinds.setdefault((rule.bound({"matrices": OF_STACK}), shape, u.dtype, meshes[i]), {})[i] = part

    new = {}
    for (rule, *_, mesh), parts in kinds.items():
        arrays = [part.arrays for part in parts.values()]
        found = on_automatic_axes(
            functools.partial(_together, mesh, functools.partial(_run, run_rules, rule), rule.exchanged, list(parts.values())),
            arrays[0][0],
            lambda arrays=arrays: jax.tree.map(lambda x: jax.typeof(x).sharding, arrays),
        )(arrays, ready.h)
        if AxisType.Explicit not in mesh.axis_types:  # else parameters would move with their updates
            found = placed_alike(found, arrays)
        new |= {i: (own[0], dict(zip(names[i], own[1:], strict=True))) for i, own in zip(parts, found, strict=True)}
    return new


def _names(rule: Any, x: Any) -> list[str]:
    """The slots of a rule, in the order in which it makes them, which is the same for a stack."""
    names: list[str] = []
    jax.eval_shape(lambda x: names.extend(rule.init(x)), jax.ShapeDtypeStruct(x.shape, x.dtype))
    return names


def _run(run_rules: Callable[[Program, Operands], Any], rule: Any, columns: Columns, h: dict[str, Any]) -> Columns:
    """A rule on a stack of matrices, and on what it keeps for each."""
    u, names = columns[0], _names(rule, columns[0])
    program = Program(((rule, SlotFormats(), ""),), NEAREST, "between")
    slots = dict(zip(names, columns[1:], strict=True))
    (u, [slots], _), _ = run_rules(program, Operands(u, None, None, [slots], {}, [h], None))
    return [u, *(slots[name] for name in names)]


def _together(
    mesh: Any, run: Run, sent_as: str | None, parts: list[Part], arrays: list[Columns], h: dict[str, Any]
) -> list[Columns]:
    mesh = jax.typeof(arrays[0][0]).sharding.mesh or mesh  # whose explicit axes are automatic in here
    parts = [part._replace(arrays=own) for part, own in zip(parts, arrays, strict=True)]
    full = arrays[0][0].dtype
    columns = [[cast(u, sent_as or full), *slots] for u, *slots in (part.columns for part in parts)]
    lengths = [len(u) for u, *_ in columns]
    sorts = [[n for n, (x, *_) in enumerate(columns) if (x.shape[1] > x.shape[2]) == tall] for tall in (False, True)]
    sorts = [of_sort for of_sort in sorts if of_sort]
    blocks = [[jnp.concatenate(x) for x in zip(*(columns[n] for n in of_sort), strict=True)] for of_sort in sorts]

    def in_full(columns: Columns, h: dict[str, Any]) -> Columns:
        u, *slots = run([cast(columns[0], full), *columns[1:]], h)
        return [cast(u, columns[0].dtype), *slots]

    # Where all but one are as many for each device as for any other, that one is for itself: a stack with it would be filled
    # up, and sent with what fills it, and no device would be ready sooner.
    alone = [x[-1:] for x in blocks[-1]] if sum(lengths) % mesh.size == 1 else []
    blocks[-1] = [x[: len(x) - 1] for x in blocks[-1]] if alone else blocks[-1]
    spread = [n for n, block in enumerate(blocks) if len(block[0])]
    if len(spread) == 2:
        blocks = [[x] for x in _wide_and_tall(mesh, in_full, [x for [x] in blocks], h)]
    elif spread:
        blocks[spread[0]] = exchanged(mesh, in_full, blocks[spread[0]], h)
    if alone:
        blocks[-1] = [jnp.concatenate(x) for x in zip(blocks[-1], exchanged(mesh, in_full, alone, h), strict=True)]
    found: dict[int, Columns] = {}
    for of_sort, block in zip(sorts, blocks, strict=True):
        own = zip(*(_cut(x, [lengths[n] for n in of_sort]) for x in block), strict=True)
        found |= {n: list(x) for n, x in zip(of_sort, own, strict=True)}
    return [part.of([cast(found[n][0], full), *found[n][1:]]) for n, part in enumerate(parts)]


def _cut(stack: Array, lengths: list[int]) -> list[Array]:
    return [stack[end - length : end] for length, end in zip(lengths, itertools.accumulate(lengths), strict=True)]


# Matrices (rows, k rows) and (k rows, rows) go in one exchange, as the same arrays of squares: which axis of an array is spread
# over devices stays so. Each device then tells them apart. Where all arrays are spread along their first axis, nothing else is
# exchanged; where one kind is, the other is once more; where none is, XLA gathers the stack.


def _wide_and_tall(mesh: Any, run: Run, blocks: list[Array], h: dict[str, Any]) -> list[Array]:
    """A rule without slots on wide matrices, and on as wide ones that are tall."""
    shapes = [block.shape for block in blocks]
    count, rows, columns = shapes[0]

    def in_squares(block: Array) -> Array:
        return placed(block.reshape(len(block), rows, -1, rows), mesh)

    def on_squares(stack: Columns, h: dict[str, Any]) -> Columns:
        squares, is_wide = stack
        of_wide, of_tall = squares.reshape(-1, rows, columns), squares.reshape(-1, columns, rows).mT
        [new] = run([jnp.where(is_wide, of_wide, of_tall)], h)
        return [jnp.where(is_wide[..., None], new.reshape(squares.shape), new.mT.reshape(squares.shape))]

    stack = jnp.concatenate([in_squares(block) for block in blocks])
    is_wide = lax.broadcasted_iota("int32", (len(stack), 1, 1), 0) < count
    [new] = exchanged(mesh, on_squares, [stack, is_wide], h)
    new = _cut(new, [shape[0] for shape in shapes])
    return [placed(x, mesh).reshape(shape) for x, shape in zip(new, shapes, strict=True)]
