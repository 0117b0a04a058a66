"""A new parameter on CPU, in pieces that stay in the cache, together with the sums that a wrapper wants of it.

XLA for CPU computes one array in one loop over memory. A sum over what a parameter moves by would read the new one and the
old one again, and a copy of the old one, since the new one is written over it: 20 bytes a parameter, and 4 of temporary
memory. In pieces there is no copy; `tests/bench/speed.py` has the times.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._engine.leaf import Operands, Program, Result, like, run
from jadam._shards import varying
from jadam._storage.params import NEAREST

SIZE = 2**17
"""Elements of a piece, of which four are in the cache of a core, or of several: XLA runs loops over fewer than 2^15 on one."""
LEAST = 2**20
"""Elements of an array for which a loop is worth its time to compile."""

Sums = tuple[Array, Array]
"""Of squares: of what a parameter moves by, and of the parameter before it."""
Landing = Callable[[Operands, list[Array]], Array]
"""The new parameter by the operands and the new slots."""


def sums_in_pieces(program: Program, operands: Operands) -> tuple[Result, Sums] | None:
    """The rules on one array, with sums that are right on CPU alone; None where pieces are of no help."""
    if not (rows := _rows(program, operands)) or (landing := _landing(program, operands, rows)) is None:
        return None

    def whole(operands: Operands) -> tuple[Result, Sums]:
        new, old = run(program, operands), like(operands)
        return new, (jnp.sum((new[0] - old) ** 2), jnp.sum(old**2))

    @jax.custom_jvp
    def in_pieces(operands: Operands) -> tuple[Result, Sums]:
        _, slots, residue = run(program, operands)
        new, sums = _in_pieces(landing, rows, operands, slots)
        return (new, slots, residue), sums

    @in_pieces.defjvp
    def _(primals: Any, tangents: Any) -> Any:  # a loop would keep all that it carries
        return jax.jvp(whole, primals, tangents)

    def elsewhere(operands: Operands) -> tuple[Result, Sums]:
        none = jnp.zeros((), jnp.float32)
        return run(program, operands), (none, none)

    return lax.platform_dependent(operands, cpu=in_pieces, default=elsewhere)


def _rows(program: Program, operands: Operands) -> int:
    """How many rows a piece has; 0 where the leaf has to be computed at once."""
    p, arrays = operands.p, jax.tree.leaves((operands.u, operands.gradient, operands.slots))
    if program.measured != "here" or program.mode != "step" or not program.elementwise or program.landing != NEAREST:
        return 0
    if p is None or p.dtype != jnp.float32 or not isinstance(p.size, int) or p.size < LEAST or varying(p):
        return 0
    if operands.keys is not None or operands.gap is not None or operands.ids is not None:
        return 0
    if jax.typeof(p).sharding.mesh.axis_names:  # of several devices, each piece would be on one
        return 0
    if any(x.shape != p.shape or x.dtype != p.dtype for x in arrays):
        return 0
    most = SIZE * p.shape[0] // p.size
    rows = next((n for n in range(most, 0, -1) if p.shape[0] % n == 0), 0)
    return rows if 8 * rows > most else 0


def _landing(program: Program, operands: Operands, rows: int) -> Landing | None:
    """How the program computes such a piece of the new parameter by the new slots, which are written over the old ones before;
    None if it needs an old one besides.
    """
    from jadam._engine.rest import rest_of

    shape = like(operands).shape

    def piece(x: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *shape[1:]) if x.shape == shape else x.shape, x.dtype)

    def landed(operands: Operands) -> tuple[Array, list[Array]]:
        new, slots, _ = run(program._replace(measured=""), operands)
        return new, jax.tree.leaves(slots)

    numbers = jax.tree.unflatten(jax.tree.structure(operands), range(len(jax.tree.leaves(operands))))
    return rest_of(landed, jax.tree.map(piece, operands), jax.tree.leaves(numbers.slots))


def _in_pieces(landing: Landing, rows: int, operands: Operands, slots: Any) -> tuple[Array, Sums]:
    """The new parameter and the sums, piece by piece."""

    def piece(x: Array, n: Any) -> Array:
        return lax.dynamic_slice_in_dim(x, n * rows, rows)

    def step(n: Array, carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        # The old piece is carried: of an array that is read and written by one loop over memory, XLA makes a copy.
        p, old, moved, before = carry
        u, gradient, new_slots = jax.tree.map(lambda x: piece(x, n), (operands.u, operands.gradient, slots))
        new = landing(operands._replace(u=u, p=old, gradient=gradient), jax.tree.leaves(new_slots))
        p = lax.dynamic_update_slice_in_dim(p, new, n * rows, 0)
        return p, piece(p, n + 1), moved + _folded((new - old) ** 2), before + _folded(old**2)

    p: Any = operands.p
    none = jnp.zeros_like(_folded(piece(p, 0)))
    p, _, moved, before = lax.fori_loop(0, p.shape[0] // rows, step, (p, piece(p, 0), none, none))
    return p, (jnp.sum(moved), jnp.sum(before))


def _folded(x: Array) -> Array:
    """Rows added to each other, as far as one loop does it: in a sum of its own XLA for CPU adds number after number."""
    parts = next(n for n in (8, 4, 2, 1) if x.shape[0] % n == 0)
    length = x.shape[0] // parts
    return functools.reduce(lax.add, [x[n * length : (n + 1) * length] for n in range(parts)])
