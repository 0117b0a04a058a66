"""In how many passes over its memory a leaf is computed: one; two where slots are in 8 bits; or by a kernel, tile by tile."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._engine.leaf import Operands, Program, Result, index_of, like, run, updated
from jadam._engine.placement import on_automatic_axes
from jadam._engine.sums import Sums, run_with_sums
from jadam._engine.tables import in_tables
from jadam._shards import varying, varying_like
from jadam._storage.blocks import BLOCK, Int8Blocks, Tile, as_array, block_axis, in_blocks, joined, scales_of
from jadam._tables import without_padding


def run_rules(program: Program, operands: Operands) -> tuple[Result, Sums | None]:
    """The rules on one array, traced once for each kind of array; and the sums of `run_with_sums`, where there are any."""
    if operands.summands is not None:
        return in_tables(program, operands, run_rules), None
    leaf = like(operands)

    def shardings() -> Any:
        return jax.tree.map(lambda x: jax.typeof(x).sharding, (leaf, operands.slots, operands.residue))

    in_xla = on_automatic_axes(functools.partial(_in_xla, program), leaf, shardings)
    # Inside `shard_map`, Pallas would have to be told how the results differ between devices.
    if program.kernel and operands.gap is None and operands.ids is None and not varying(leaf):
        from jadam._engine.kernel import fits, of_what_is_read, run_in_kernel  # here, since Pallas takes long to import

        read = of_what_is_read(program, operands)
        if fits(program, read):
            return run_in_kernel(program, read, in_xla), None
    if (found := run_with_sums(program, operands)) is not None:
        return found
    return in_xla(operands), None


def _in_xla(program: Program, operands: Operands) -> Result:
    in_8_bits = any(isinstance(stored, Int8Blocks) for slots in operands.slots for stored in slots.values())
    by_blocks = in_8_bits and program.elementwise and operands.gap is None  # which is of rows, and not of blocks
    result = (_in_two_passes if by_blocks else run)(program, operands)
    if operands.ids is None:
        return result
    return without_padding(result[0], operands.ids, program.length), *result[1:]  # no norm may count what rules made of it


def _in_two_passes(program: Program, operands: Operands) -> Result:
    """A code needs the largest element of its block. The first pass finds that and keeps nothing else; the second repeats it.

    XLA would write what both compute to memory, in 32 bits, if it knew that they are the same.
    """
    shape = like(operands).shape
    tile = Tile.whole(shape)
    if (index := index_of(operands)) is not None:
        tile = replace(tile, index=in_blocks(index))

    def scales(blocks: Operands, inside: Array | None) -> list[dict[str, Array]]:
        return [
            {slot: scales_of(x, inside) for slot, x in slots.items() if isinstance(stored[slot], Int8Blocks)}
            for slots, stored in zip(updated(program, blocks)[1], operands.slots, strict=True)
        ]

    def at_once(blocks: Operands) -> list[dict[str, Array]]:
        return scales(blocks, tile.inside)

    def two_rows_at_once(blocks: Operands) -> list[dict[str, Array]]:
        """On CPU, where barriers are not kept and halves of blocks are written to memory."""

        def with_row(k: Array, found: list[dict[str, Array]]) -> list[dict[str, Array]]:
            def row(x: Array) -> Array:
                # As bits: XLA would turn all of a bfloat16 array into float32 before the loop.
                bits = lax.bitcast_convert_type(x, jnp.uint16) if x.dtype == jnp.bfloat16 else x
                bits = lax.dynamic_slice_in_dim(bits, k, 1, axis=-2)
                return lax.bitcast_convert_type(bits, x.dtype) if x.dtype == jnp.bfloat16 else bits

            at_row = _mapped(blocks, lambda x: Int8Blocks(row(x.codes), x.scales) if isinstance(x, Int8Blocks) else row(x))
            return jax.tree.map(joined, found, scales(at_row, None if tile.inside is None else row(tile.inside)))

        def with_rows(k: Array, found: list[dict[str, Array]]) -> list[dict[str, Array]]:
            return with_row(2 * k + 1, with_row(2 * k, found))

        none = jax.tree.map(lambda x: jnp.full(x.shape, -0.0, x.dtype), jax.eval_shape(at_once, blocks))
        return lax.fori_loop(0, BLOCK // 2, with_rows, varying_like(none, blocks))

    # Blocks as axes of their own keep fusions on TPU; on CPU and GPU results are written in place only without.
    def on_blocks(operands: Operands, blocks: Operands, scales: list[dict[str, Array]]) -> Result:
        blocks, scales = lax.optimization_barrier((blocks, scales))
        result = run(program, blocks, scales, tile)
        return _mapped(result, lambda x: x.as_array(shape) if isinstance(x, Int8Blocks) else as_array(x, shape))

    def on_arrays(operands: Operands, blocks: Operands, scales: list[dict[str, Array]]) -> Result:
        scales = jax.tree.map(lambda x: x[..., 0], scales) if block_axis(shape) == -1 else scales
        operands, scales = lax.optimization_barrier((operands, scales))
        return run(program, operands, scales)

    blocks = _mapped(operands, lambda x: x.in_blocks() if isinstance(x, Int8Blocks) else in_blocks(x))
    found = lax.platform_dependent(lax.stop_gradient(blocks), cpu=two_rows_at_once, default=at_once)
    return lax.platform_dependent(operands, blocks, found, tpu=on_blocks, default=on_arrays)


def _mapped(of_leaf: Any, change: Callable[[Any], Any]) -> Any:
    """Operands, or a result, with every array of the leaf changed."""
    if isinstance(of_leaf, Operands):
        u, p, gradient, slots, residue = _mapped(tuple(of_leaf[:5]), change)
        return of_leaf._replace(u=u, p=p, gradient=gradient, slots=slots, residue=residue)
    return jax.tree.map(change, of_leaf, is_leaf=lambda x: isinstance(x, Int8Blocks))
