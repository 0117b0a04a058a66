"""What a wrapper sums over a new parameter and over the old one, on CPU.

XLA for CPU computes one array in one loop over memory. A sum over what a parameter moves by would read the new one and the
old one again, and a copy of the old one, since the new one is written over it. So the sums come first, by the new slots, and
then the parameter is written: there is no copy, and what is still to do for the parameter is computed twice.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._engine.leaf import Operands, Program, Result, after, like, run
from jadam._shards import varying
from jadam._storage.params import NEAREST

LEAST = 2**20
"""Elements of an array for which it is worth the time to compile it."""
PARTS = 8
"""Of an array, whose squares are added to each other before they are summed: XLA for CPU makes a vectorized loop of that on
all cores, and of a sum over more than one array a loop over single numbers on one.
"""
LANES = 32

Sums = tuple[Array, Array]
"""Of squares: of what a parameter moves by, and of the parameter before it."""
Landing = Callable[[Operands, list[Array]], Array]
"""The new parameter by the operands and the new slots."""


def run_with_sums(program: Program, operands: Operands) -> tuple[Result, Sums] | None:
    """The rules on one array, with sums that are right on CPU alone; None where it has to be computed at once."""
    if not _can_be_parted(program, operands) or (landing := _landing(program, operands)) is None:
        return None

    def at_once(operands: Operands) -> tuple[Result, Sums]:
        new, old = run(program, operands), like(operands)
        return new, (jnp.sum((new[0] - old) ** 2), jnp.sum(old**2))

    @jax.custom_jvp
    def sums_first(operands: Operands) -> tuple[Result, Sums]:
        new, slots, residue = run(program, operands)
        moved, before = sums = _sums(landing, operands, slots)
        return (after(new, moved + before, operands.hs), slots, residue), sums

    @sums_first.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        return jax.jvp(at_once, primals, tangents)

    def elsewhere(operands: Operands) -> tuple[Result, Sums]:
        none = jnp.zeros((), jnp.float32)
        return run(program, operands), (none, none)

    return lax.platform_dependent(operands, cpu=sums_first, default=elsewhere)


def _can_be_parted(program: Program, operands: Operands) -> bool:
    p, arrays = operands.p, jax.tree.leaves((operands.u, operands.gradient, operands.slots))
    if program.measured != "here" or program.mode != "step" or not program.elementwise or program.landing != NEAREST:
        return False
    if p is None or p.dtype != jnp.float32 or not isinstance(p.size, int) or p.size < LEAST or varying(p):
        return False
    if operands.keys is not None or operands.gap is not None or operands.ids is not None:
        return False
    if jax.typeof(p).sharding.mesh.axis_names:  # of several devices, each part would be on one
        return False
    return p.size % (PARTS * LANES) == 0 and all(x.shape == p.shape and x.dtype == p.dtype for x in arrays)


def _parts(x: Array) -> Array:
    return lax.reshape(x, (PARTS, x.size // PARTS))


def _landing(program: Program, operands: Operands) -> Landing | None:
    """How the program computes a part of the new parameter by the new slots; None if it needs an old one besides, which is
    lost.
    """
    from jadam._engine.rest import rest_of  # here, since `jax.extend` takes long to import

    shape = like(operands).shape

    def part(x: Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((x.size // PARTS,) if x.shape == shape else x.shape, x.dtype)

    def landed(operands: Operands) -> tuple[Array, list[Array]]:
        new, slots, _ = run(program._replace(measured=""), operands)
        return new, jax.tree.leaves(slots)

    numbers = jax.tree.unflatten(jax.tree.structure(operands), range(len(jax.tree.leaves(operands))))
    return rest_of(landed, jax.tree.map(part, operands), jax.tree.leaves(numbers.slots))


def _sums(landing: Landing, operands: Operands, slots: Any) -> Sums:
    p, u, gradient, slots = jax.tree.map(_parts, (operands.p, operands.u, operands.gradient, slots))

    def squares(n: int) -> Array:
        of_part = jax.tree.map(lambda x: x[n], (p, u, gradient, slots))
        own = operands._replace(p=of_part[0], u=of_part[1], gradient=of_part[2])
        return lax.square(landing(own, jax.tree.leaves(of_part[3])) - of_part[0])

    added = functools.reduce(lax.add, map(squares, range(PARTS)))
    # As a product: XLA would fuse the squares into a sum.
    rows = lax.reshape(added, (added.size // (length := math.gcd(added.size, 4096)), length))
    return jnp.sum(rows @ jnp.ones(length, added.dtype)), jnp.sum(lax.square(p))
