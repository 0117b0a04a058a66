"""Some rows of a table as one Pallas kernel: it reads them by their ids, runs their program, and writes them over the old ones.

XLA has a kernel for each array that rows are gathered from, and for each that they are scattered to, and writes them to memory
in between. Here each row is read and written once, and values of one id are summed where they are read. As in `kernel.py`, no
rule, storage or optimizer has kernel code. Triton compiles it for NVIDIA; on TPU, XLA's kernels move little more.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.pallas import triton
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jadam._engine.in_kernel import as_number, can_be_counted, from_number, one_key
from jadam._engine.kernel import placed, unless_transformed
from jadam._engine.leaf import Operands, Program, Result, like, run
from jadam._engine.view import View, power_of_two, spread, whole
from jadam._storage.blocks import BLOCK, Tile, block_axis

ELEMENTS = 2048
"""Of the gradient, read at once where a program of the grid sums it: 16 for each thread of 4 warps. Of other arrays a quarter,
or a block: rows are far apart, and of small programs more are on their way.
"""


def fits(program: Program, operands: Operands) -> bool:
    """Whether a kernel can compute rows of a table: rules that look at elements alone, on tables in 32 or 16 bits."""
    table, scalars = like(operands), jax.tree.leaves(operands.hs)
    own = jax.tree.leaves((operands.p, operands.slots, operands.residue))
    in_blocks = any(x.shape != table.shape for x in own)
    shapes = {table.shape} | ({_scales(table.shape)} if in_blocks and block_axis(table.shape) == -2 else set())
    alike = all(x.shape in shapes for x in own) and all(x.shape == () for x in scalars)
    narrow = not any(x.dtype in (jnp.float64, jnp.float16) for x in jax.tree.leaves(operands))
    return program.elementwise and table.dtype in (jnp.float32, jnp.bfloat16) and alike and narrow and can_be_counted(own)


def _scales(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-2], -(-shape[-2] // BLOCK), shape[-1]) if len(shape) > 2 else shape


def run_in_kernel(program: Program, operands: Operands, in_xla: Callable[[Operands], Result]) -> Result:
    """The rules on rows of a table, as a kernel where Triton compiles it; in XLA as in `kernel.run_in_kernel`, and on TPU."""
    flat, treedef = jax.tree.flatten(operands)

    def kernel(*flat: Array) -> list[Array]:
        return unless_transformed(functools.partial(_on_devices, program), in_xla, treedef.unflatten(flat))

    def otherwise(*flat: Array) -> list[Array]:
        return jax.tree.leaves(in_xla(treedef.unflatten(flat)))

    new = lax.platform_dependent(*flat, tpu=otherwise, default=kernel)
    return jax.tree.unflatten(jax.tree.structure((like(operands), operands.slots, operands.residue)), new)


class _Parts(NamedTuple):
    """What a kernel is called with, each an array or a tree of arrays.

    Attributes:
        tables: the parameter, slots, residue.
        values: with the columns of the table: the summands of the update, the raw gradient.
        ids: of rows in the table, and where their summands are.
        shared: scalars and keys.
    """

    tables: Any
    values: Any
    ids: Any
    shared: Any

    @classmethod
    def of(cls, operands: Operands) -> _Parts:
        _, p, gradient, slots, residue, hs, keys, _, ids, summands = operands
        assert summands is not None
        tables, values = (p, slots, residue), (summands.values, gradient)
        return cls(tables, values, (ids, summands.order, summands.first, summands.counts), (summands.lost, hs, keys))


class _Kernel(NamedTuple):
    """A program, and what is known of its operands: their structure, and the types of their leaves."""

    program: Program
    structure: _Parts
    types: _Parts

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the table, on however many devices."""
        return self.types.tables[0].shape

    @property
    def rows(self) -> int:
        return self.types.ids[0].shape[0]

    @property
    def in_blocks(self) -> bool:
        return any(x.shape != self.shape for x in self.types.tables)

    @property
    def written(self) -> list[int]:
        """Which tables change."""
        slots = jax.tree.unflatten(self.structure.tables, range(len(self.types.tables)))[1]
        kept = range(1, 1 + len(jax.tree.leaves(slots)))  # between two passes, what is stored beside the parameter stays
        changed = [*kept] if self.program.mode == "between" else [*range(1, len(self.types.tables))]
        return [0, *changed] if self.program.mode == "step" else changed

    @property
    def update(self) -> list[jax.ShapeDtypeStruct]:
        """The update of rows, where it is a result: of a step the new parameter is."""
        p = self.types.tables[0]
        dtype = jnp.float32 if self.program.mode == "between" else p.dtype
        return [] if self.program.mode == "step" else [jax.ShapeDtypeStruct((self.rows, *p.shape[1:]), dtype)]

    def on_device(self, first: Sequence[Array], parts: _Parts) -> list[Array]:
        """The update and the new tables of one device, whose part of the tables begins at `first`."""
        calls = {"cuda": functools.partial(self._call, False)}
        return lax.platform_dependent(list(first), parts, **calls, default=functools.partial(self._call, True))

    def _call(self, interpret: bool, first: list[Array], parts: _Parts) -> list[Array]:
        _, *row = shape = parts.tables[0].shape
        # A row as one of columns, or, where there are blocks, as matrices whose rows are in blocks.
        *matrices, height, width = row if self.in_blocks else (1, math.prod(row))
        count, tile_height = math.prod(matrices), BLOCK if self.in_blocks else 1
        tile_width = min(power_of_two(width), ELEMENTS // tile_height)
        together = max(1, ELEMENTS // 4 // (tile_height * tile_width))
        summing = len(parts.ids) > 1
        view = View(shape, (count, height, width), (1 if summing else together, tile_height, tile_width))

        def rows(x: Any) -> Any:
            return x.reshape(x.shape[0], -1, width)

        options: dict[str, Any] = {} if interpret else {"compiler_params": triton.CompilerParams(num_warps=4)}
        scalars = [as_number(x) for x in (*first, *parts.shared)]
        arrays = [*map(rows, parts.tables), *map(rows, parts.values), *parts.ids, *scalars]
        update = [jax.ShapeDtypeStruct((x.shape[0], *row), x.dtype) for x in self.update]
        new = [*update, *(parts.tables[k] for k in self.written)]
        viewed = [jax.eval_shape(rows, x) for x in new]
        results = pl.pallas_call(
            functools.partial(self._body, view),
            grid=(-(-self.rows // view.tile[0]), count * -(-height // tile_height), -(-width // tile_width)),
            in_specs=[whole(x) for x in arrays],
            out_specs=[whole(x) for x in viewed],
            out_shape=viewed,
            input_output_aliases={k: len(update) + n for n, k in enumerate(self.written)},
            name="_".join(["jadam_rows", *(rule.name for rule, *_ in self.program.rules)]),
            interpret=interpret,
            **options,
        )(*arrays)
        return [x.reshape(old.shape) for x, old in zip(results, new, strict=True)]

    def _body(self, view: View, *refs: Any) -> None:
        """One tile: some rows, or a part of one."""
        sizes = [*(len(leaves) for leaves in self.types[:3]), len(view.shape), len(self.types.shared)]
        ends = np.cumsum([0, *sizes]).tolist()
        tables, values, ids, first, shared = (refs[a:b] for a, b in pairwise(ends))
        results = refs[ends[-1] :]
        view = view._replace(program=[pl.program_id(axis) for axis in range(3)])
        number = lax.broadcasted_iota(jnp.int32, (view.tile[0], 1, 1), 0) + view.program[0] * view.tile[0]
        there = number < self.rows
        at = triton.load(ids[0].at[number], mask=there, other=np.int32(self.shape[0]))
        here = at - first[0][0, 0]  # the row in what this device has of the table
        real = there & (here >= 0) & (here < view.shape[0])
        lost, hs, keys = jax.tree.unflatten(self.structure.shared, map(from_number, shared, self.types.shared))

        def read(ref: Any, row: Any, mask: Any) -> Array:
            index, inside = view.of(ref, row.shape[0])
            mask, nothing = spread(mask, inside) & inside, np.zeros((), ref.dtype)
            x = triton.load(ref.at[spread(row, inside), *index], mask=mask, other=nothing)
            return x if inside.shape[1] == view.tile[1] else x[:, 0]  # of blocks, one scale each

        def summed(ref: Any) -> Array:
            """Of the values of an id, so many at once as a tile has room for."""
            if len(ids) == 1:
                return read(ref, number, there)
            lanes = max(1, ELEMENTS // math.prod(view.tile[1:]))
            begin, count = (triton.load(x.at[number])[0, 0, 0] for x in ids[2:])

            def with_some(k: Array, total: Array) -> Array:
                place = lax.broadcasted_iota(jnp.int32, (lanes, 1, 1), 0) + k * lanes
                counts = place < count
                order = triton.load(ids[1].at[begin + place], mask=counts, other=np.int32(0))
                return total + jnp.sum(read(ref, order, counts).astype(jnp.float32), 0, keepdims=True)

            return lax.fori_loop(0, (count + (lanes - 1)) // lanes, with_some, jnp.zeros(view.tile, jnp.float32))

        u, *others = values
        u, gradient = summed(u), [read(x, number, there) for x in others]
        u = jnp.where(lost, jnp.full_like(u, jnp.nan), u)
        p, slots, residue = jax.tree.unflatten(self.structure.tables, [read(x, here, real) for x in tables])
        operands = Operands(u, p, gradient[0] if gradient else None, slots, residue, hs, one_key(keys))
        index, inside = view.numbers(at, self.shape, [x[0, 0] for x in first])
        tile = Tile(self.shape, index, inside, in_kernel=True)
        new, slots, residue = run(self.program, operands, None, tile)
        update = [] if self.program.mode == "step" else [jnp.where(spread(real, new), new, jnp.zeros_like(new))]
        after = jax.tree.leaves((new, slots, residue))
        of_update = len(update)
        for ref, x, row, mask in [
            *((ref, x, number, there) for ref, x in zip(results[:of_update], update, strict=True)),
            *((ref, after[k], here, real) for ref, k in zip(results[of_update:], self.written, strict=True)),
        ]:
            index, inside = view.of(ref, row.shape[0])
            x = x.reshape(inside.shape).astype(ref.dtype)
            triton.store(ref.at[spread(row, inside), *index], x, mask=spread(mask, inside) & inside)


def _on_devices(program: Program, operands: Operands) -> list[Array]:
    """The update and the new tables, on one device or on many, where each computes the rows that it has."""
    parts = _Parts.of(operands)
    structure = _Parts(*map(jax.tree.structure, parts))
    leaves = _Parts(*(tuple(jax.tree.leaves(part)) for part in parts))
    types = _Parts(*(tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in part) for part in leaves))
    kernel = _Kernel(program, structure, types)
    if AxisType.Manual in jax.typeof(operands.p).sharding.mesh.axis_types:
        new = kernel.on_device([jnp.zeros((), jnp.int32)] * len(kernel.shape), leaves)
    else:
        new = _by_partitioner(kernel, leaves)
    update, tables = new[: len(kernel.update)], list(leaves.tables)
    for k, x in zip(kernel.written, new[len(update) :], strict=True):
        tables[k] = x
    return [*update, *tables[len(update) :]]


def _by_partitioner(kernel: _Kernel, leaves: _Parts) -> list[Array]:
    """Where XLA places arrays: ids and values go to every device, and tables to none."""
    counts = [len(part) for part in leaves]
    ends = [len(kernel.shape), *(len(kernel.shape) + np.cumsum(counts)).tolist()]

    def given(flat: Sequence[Any]) -> _Parts:
        return _Parts(*(tuple(flat[a:b]) for a, b in pairwise(ends)))

    @custom_partitioning
    def call(*flat: Array) -> list[Array]:
        return kernel.on_device([x[0] for x in flat[: ends[0]]], given(flat))  # where this device's part begins

    def shardings(mesh: Any, shapes: Sequence[Any]) -> tuple[tuple[Any, ...], list[Any]]:
        own = placed(kernel.shape, kernel.in_blocks, mesh, given(shapes).tables[0].sharding.spec)
        of = functools.partial(NamedSharding, mesh)
        part, rows, whole = of(own), of(PartitionSpec(None, *own[1:])), of(PartitionSpec())
        counted = [of(PartitionSpec(axis)) for axis in own]
        places = [part] * counts[0], [rows] * counts[1], [whole] * (counts[2] + counts[3])
        return (*counted, *(x for one in places for x in one)), [rows] * len(kernel.update) + [part] * len(kernel.written)

    def partition(mesh: Any, shapes: Sequence[Any], _: Any) -> tuple[Any, ...]:
        into, out = shardings(mesh, shapes)
        owners = into[0].spec[0]

        def on_device(*flat: Array) -> list[Array]:
            new = call.fun(*flat)
            n = len(kernel.update) if owners is not None else 0
            return [*(lax.psum(x, owners) for x in new[:n]), *new[n:]]  # of rows that others own it is zero

        return mesh, on_device, out, into

    letters = [f"a{axis}" for axis in range(len(kernel.shape))]
    of_rows, of_scales = " ".join(letters[1:]), " ".join([*letters[:-2], "blocks", letters[-1]])
    tables = [" ".join(letters) if x.shape == kernel.shape else of_scales for x in leaves.tables]
    rows = [f"r{n} {of_rows}" for n, _ in enumerate(leaves.values)]
    shared = [" ".join(f"s{n}x{k}" for k in range(x.ndim)) for n, x in enumerate((*leaves.ids, *leaves.shared))]
    results = [f"u {of_rows}"] * len(kernel.update) + [tables[k] for k in kernel.written]
    call.def_partition(
        partition,
        infer_sharding_from_operands=lambda mesh, shapes, _: shardings(mesh, shapes)[1],
        sharding_rule=f"{', '.join([*letters, *tables, *rows, *shared])} -> {', '.join(results)}",
    )
    first = (jnp.arange(length, dtype=jnp.int32) for length in kernel.shape)
    return call(*first, *(x for part in leaves for x in part))
