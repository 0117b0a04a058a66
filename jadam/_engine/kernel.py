"""A leaf as one Pallas kernel: its program, tile by tile, each array in and out once whatever its storage.

No rule, storage or optimizer has kernel code: the body of the kernel is what the engine does to a leaf, on whole blocks.
Triton compiles it for NVIDIA, Mosaic for TPU; elsewhere it is interpreted.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import pallas as pl
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.pallas import tpu as mosaic
from jax.experimental.pallas import triton
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jadam._engine.in_kernel import as_number, can_be_counted, from_number, one_key
from jadam._engine.leaf import Operands, Program, Result, like, run
from jadam._errors import BadValue
from jadam._storage.blocks import BLOCK, Tile, block_axis

TILES = {"tpu": (256, 256), "cuda": (32, 128), "interpreted": (64, 256)}
"""Rows and columns. On TPU, scales come 8 rows at a time; on a GPU, 8 warps have 16 elements a thread."""


def fits(program: Program, operands: Operands) -> bool:
    """Whether a kernel can compute a leaf: rules that look at elements alone, on matrices in 32 or 16 bits."""
    leaf, (arrays, shared) = like(operands), _parts(operands)
    alike = all(x.ndim == leaf.ndim and x.shape[-1:] == leaf.shape[-1:] for x in jax.tree.leaves(arrays))
    wide = any(x.dtype in (jnp.float64, jnp.float16) for x in jax.tree.leaves((arrays, shared)))
    matrices = leaf.ndim > 1 and block_axis(leaf.shape) == -2 and leaf.dtype in (jnp.float32, jnp.bfloat16)
    scalars = all(x.shape == () for x in jax.tree.leaves(shared[0]))
    return program.elementwise and matrices and alike and scalars and not wide and can_be_counted(jax.tree.leaves(arrays))


def of_what_is_read(program: Program, operands: Operands) -> Operands:
    """The operands of a leaf without arrays that rules share and do not read there, such as a history of norms."""
    shared, treedef = jax.tree.flatten(operands.hs)
    if all(x.shape == () for x in shared):
        return operands
    trace = jax.make_jaxpr(lambda shared: run(program, operands._replace(hs=treedef.unflatten(shared))))(shared).jaxpr
    read = {id(x) for x in (*(x for equation in trace.eqns for x in equation.invars), *trace.outvars)}
    left = [x if x.shape == () or id(name) in read else None for x, name in zip(shared, trace.invars, strict=True)]
    return operands._replace(hs=treedef.unflatten(left))


def run_in_kernel(program: Program, operands: Operands, in_xla: Callable[[Operands], Result]) -> Result:
    """The rules on one array, as a kernel; in XLA where it is differentiated, or there are many under `vmap`."""
    results = jax.tree.structure((like(operands), operands.slots, operands.residue))
    return jax.tree.unflatten(results, unless_transformed(functools.partial(_on_devices, program), in_xla, operands))


def unless_transformed(kernel: Callable[[Any], list[Array]], in_xla: Callable[[Any], Any], operands: Any) -> list[Array]:
    """The leaves of what a kernel makes of operands, or XLA where they are differentiated, or there are many."""
    flat, treedef = jax.tree.flatten(operands)

    def otherwise(*flat: Array) -> list[Array]:
        return jax.tree.leaves(in_xla(treedef.unflatten(flat)))

    @jax.custom_batching.custom_vmap
    def alone(*flat: Array) -> list[Array]:
        return kernel(treedef.unflatten(flat))

    @alone.def_vmap
    def _(_: int, batched: Sequence[bool], *flat: Array) -> tuple[list[Array], list[bool]]:
        new = jax.vmap(otherwise, in_axes=tuple(0 if one else None for one in batched))(*flat)
        return new, [True] * len(new)

    in_kernel = jax.custom_jvp(alone)

    @in_kernel.defjvp
    def _(primals: Sequence[Array], tangents: Sequence[Any]) -> Any:
        return jax.jvp(otherwise, primals, tangents)

    return in_kernel(*flat)


def _parts(operands: Operands) -> tuple[Any, Any]:
    """The arrays of the leaf, and what its tiles share."""
    *arrays, hs, keys = operands[:7]  # no kernel computes a leaf with a gap
    return tuple(arrays), (hs, keys)


class _Kernel(NamedTuple):
    """A program, and what is known of its operands.

    Attributes:
        program: of the leaf.
        structure: of the operands.
        arrays: of the leaf, shapes and dtypes: the update, the parameter, the raw gradient, slots, residues, where there are.
        shared: of scalars and keys.
        read: how many of the arrays come before the slots: those that are not also results.
        shape: of the leaf, on however many devices.
        dtype: of the update, or of the new parameter.
    """

    program: Program
    structure: Any
    arrays: tuple[jax.ShapeDtypeStruct, ...]
    shared: tuple[jax.ShapeDtypeStruct, ...]
    read: int
    shape: tuple[int, ...]
    dtype: Any

    @property
    def first(self) -> int:
        """Which of the arrays says how all are placed: the parameter, if there is one."""
        return min(1, self.read - 1)

    @property
    def in_blocks(self) -> bool:
        return any(x.shape != self.shape for x in self.arrays)

    def on_device(self, first: Sequence[Array], arrays: Sequence[Array], shared: Sequence[Array]) -> list[Array]:
        """The new arrays of one device, whose part of the leaf begins at `first`."""
        calls = {where: functools.partial(self._call, where) for where in TILES}
        default = calls.pop("interpreted")
        return lax.platform_dependent(list(first), list(arrays), list(shared), **calls, default=default)

    def _call(self, where: str, first: list[Array], arrays: list[Array], shared: list[Array]) -> list[Array]:
        *leading, rows, columns = shape = arrays[0].shape
        tile_rows, tile_columns = TILES[where]
        tile_rows = min(tile_rows, -(-rows // BLOCK) * BLOCK)
        tile_columns = tile_columns if where == "cuda" else min(tile_columns, columns)

        def spec(x: Any) -> pl.BlockSpec:
            length = tile_rows if x.shape[-2] == rows else tile_rows // BLOCK
            return pl.BlockSpec((None, length, tile_columns), lambda b, i, j: (b, i, j))

        def matrices(x: Any) -> tuple[int, ...]:
            return (math.prod(leading), *x.shape[-2:])

        scalars = [as_number(x) for x in (*first, *shared)]
        on_chip: dict[str, Any] = {"memory_space": mosaic.SMEM} if where == "tpu" else {}
        new = [jax.ShapeDtypeStruct(shape, self.dtype), *arrays[self.read :]]
        parts = {1: 0} if self.program.mode == "step" else {}
        in_place = {self.read + k: 1 + k for k in range(len(new) - 1)} | parts
        options: dict[str, Any] = {"interpret": where == "interpreted"}
        if where == "cuda":
            options["compiler_params"] = triton.CompilerParams(num_warps=8)
        found = pl.pallas_call(
            functools.partial(self._body, where, shape, (tile_rows, tile_columns)),
            grid=(math.prod(leading), -(-rows // tile_rows), -(-columns // tile_columns)),
            in_specs=[*map(spec, arrays), *(pl.BlockSpec(x.shape, lambda b, i, j: (0, 0), **on_chip) for x in scalars)],
            out_specs=[*map(spec, new)],
            out_shape=[jax.ShapeDtypeStruct(matrices(x), x.dtype) for x in new],
            input_output_aliases=in_place,
            name="_".join(["jadam", *(rule.name for rule, *_ in self.program.rules)]),
            **options,
        )(*[x.reshape(matrices(x)) for x in arrays], *scalars)
        return [x.reshape(old.shape) for x, old in zip(found, new, strict=True)]

    def _body(self, where: str, shape: tuple[int, ...], size: tuple[int, int], *refs: Any) -> None:
        """One tile, of a device's part of this shape."""
        *leading, rows, columns = shape
        n = len(self.arrays)
        arrays, first, shared = refs[:n], refs[n : n + len(shape)], refs[n + len(shape) : n + len(shape) + len(self.shared)]
        number, *at = (pl.program_id(axis) for axis in range(3))
        row, column = (lax.broadcasted_iota(jnp.int32, size, axis) + at[axis] * size[axis] for axis in (0, 1))
        inside = None if rows % size[0] == 0 else row < rows
        # Mosaic and the interpreter leave out what is outside of the arrays, Triton has to be told.
        masked = where == "cuda" and (rows % size[0] or columns % size[1])
        bounds = lax.bitwise_and(row < rows, column < columns) if masked else None

        def mask_of(ref: Any) -> Any:
            if bounds is None or ref.shape == size:
                return bounds
            counts = tuple(lax.broadcasted_iota(jnp.int32, ref.shape, axis) + at[axis] * ref.shape[axis] for axis in (0, 1))
            return lax.bitwise_and(counts[0] < -(-rows // BLOCK), counts[1] < columns)

        def read(ref: Any) -> Array:
            x = ref[...] if bounds is None else triton.load(ref, mask=mask_of(ref), other=0)
            return in_tile(x) if ref.shape == size else x

        def in_tile(x: Array) -> Array:
            return x.reshape(size[0] // BLOCK, BLOCK, size[1])

        index = jnp.uint32(0)
        for axis, length in enumerate(leading):
            here = lax.rem(lax.div(number, np.int32(math.prod(leading[axis + 1 :]))), np.int32(length))
            index = index * np.uint32(self.shape[axis]) + (first[axis][0, 0] + here).astype(jnp.uint32)
        for axis, x in ((-2, row), (-1, column)):
            index = index * np.uint32(self.shape[axis]) + (first[axis][0, 0] + x).astype(jnp.uint32)
        tile = Tile(self.shape, in_tile(index), None if inside is None else in_tile(inside), in_kernel=True)

        of_tile = [*map(read, arrays), *map(from_number, shared, self.shared)]
        (u, p, gradient, slots, residue), (hs, keys) = self.structure.unflatten(of_tile)
        keys = one_key(keys)
        new = run(self.program, Operands(u, p, gradient, slots, residue, hs, keys), None, tile)
        for ref, x in zip(refs[n + len(shape) + len(shared) :], jax.tree.leaves(new), strict=True):
            x = x.reshape(ref.shape).astype(ref.dtype)
            if bounds is None:
                ref[...] = x
            else:
                triton.store(ref, x, mask=mask_of(ref))


def _on_devices(program: Program, operands: Operands) -> list[Array]:
    """The new arrays, on one device or on many, where each computes its own part."""
    parts, leaf = _parts(operands), like(operands)
    arrays, shared = (tuple(jax.tree.leaves(part)) for part in parts)
    types = [tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in values) for values in (arrays, shared)]
    read = len(jax.tree.leaves(parts[0][:3]))
    dtype = jnp.float32 if program.mode == "between" else leaf.dtype
    kernel = _Kernel(program, jax.tree.structure(parts), types[0], types[1], read, leaf.shape, dtype)
    kinds = jax.typeof(leaf).sharding.mesh.axis_types
    if AxisType.Explicit in kinds:
        return _by_types(kernel, arrays, shared)
    if AxisType.Manual in kinds:
        return kernel.on_device([jnp.zeros((), jnp.int32)] * leaf.ndim, arrays, shared)
    return _by_partitioner(kernel, arrays, shared)


def _by_types(kernel: _Kernel, arrays: tuple[Array, ...], shared: tuple[Array, ...]) -> list[Array]:
    """Where the types of arrays say how they are placed."""
    mesh = jax.typeof(arrays[0]).sharding.mesh
    leaf = placed(kernel.shape, kernel.in_blocks, mesh, jax.typeof(arrays[kernel.first]).sharding.spec)

    def part(arrays: Any, shared: Any) -> list[Array]:
        first = [
            lax.axis_index(axis).astype(jnp.int32) * (length // parts_of(mesh, axis)) if axis else jnp.zeros((), jnp.int32)
            for axis, length in zip(leaf, kernel.shape, strict=True)
        ]
        return kernel.on_device(first, arrays, shared)

    specs = (leaf,) * len(arrays), (PartitionSpec(),) * len(shared)
    new = [leaf] * (1 + len(arrays) - kernel.read)
    return jax.shard_map(part, mesh=mesh, in_specs=specs, out_specs=new, check_vma=False)(arrays, shared)


def _by_partitioner(kernel: _Kernel, arrays: tuple[Array, ...], shared: tuple[Array, ...]) -> list[Array]:
    """Where XLA places arrays: it asks how the kernel is divided, and would gather its operands if nobody answered."""
    n, axes = len(kernel.arrays), len(kernel.shape)

    @custom_partitioning
    def call(*flat: Array) -> list[Array]:
        counted, arrays, shared = flat[:axes], flat[axes : axes + n], flat[axes + n :]
        return kernel.on_device([x[0] for x in counted], arrays, shared)  # where this device's part begins

    def shardings(mesh: Any, given: Sequence[Any]) -> tuple[tuple[Any, ...], list[Any]]:
        leaf = placed(kernel.shape, kernel.in_blocks, mesh, given[axes + kernel.first].sharding.spec)
        part, whole = NamedSharding(mesh, leaf), NamedSharding(mesh, PartitionSpec())
        counted = [NamedSharding(mesh, PartitionSpec(axis)) for axis in leaf]
        return (*counted, *(part,) * n, *(whole,) * len(kernel.shared)), [part] * (1 + n - kernel.read)

    def partition(mesh: Any, given: Sequence[Any], _: Any) -> tuple[Any, ...]:
        into, out = shardings(mesh, given)
        return mesh, call.fun, out, into

    letters = [f"a{axis}" for axis in range(axes)]
    of_leaf, of_scales = " ".join(letters), " ".join([*letters[:-2], "blocks", letters[-1]])
    axes_of = [of_leaf if x.shape == kernel.shape else of_scales for x in kernel.arrays]
    words = [f"s{k}" if x.shape else "" for k, x in enumerate(kernel.shared)]
    call.def_partition(
        partition,
        infer_sharding_from_operands=lambda mesh, given, _: shardings(mesh, given)[1],
        sharding_rule=f"{', '.join([*letters, *axes_of, *words])} -> {', '.join([of_leaf, *axes_of[kernel.read :]])}",
    )
    return call(*(jnp.arange(length, dtype=jnp.int32) for length in kernel.shape), *arrays, *shared)


def placed(shape: tuple[int, ...], in_blocks: bool, mesh: Any, spec: Any) -> PartitionSpec:
    """How a parameter and all that is kept for it are placed, by the spec of one of them.

    Raises:
        ValueError: devices would have to share a block.
    """
    spec = (*spec, *(None,) * (len(shape) - len(spec)))
    if in_blocks and shape[-2] % (BLOCK * parts_of(mesh, spec[-2])):
        raise BadValue(
            f"a parameter of shape {shape} is spread over {parts_of(mesh, spec[-2])} devices along its second last "
            f"axis, where slots in 8 bits have blocks of {BLOCK}, and a kernel needs whole blocks on each; spread it along "
            "another axis, or write with_precision(..., kernel='xla')."
        )
    return PartitionSpec(*spec)


def parts_of(mesh: Any, axis: Any) -> int:
    """How many parts an axis of the mesh, or several, or none make."""
    return math.prod(mesh.shape[name] for name in (axis if isinstance(axis, tuple) else () if axis is None else (axis,)))
