"""New arrays stay where the old ones were: on the same devices, spread alike, in the same memory.

A program under `jit` does not know how XLA spreads arrays over the automatic axes of a mesh, and XLA places new ones as the
arithmetic suggests: parameters beside a state that is spread over more devices would come back in parts, and the second step
would be compiled again. So the program says which arrays belong together, and XLA does with the new what the caller did with
the old.
"""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer
from jax.extend.core import Primitive
from jax.extend.mlir.dialects import sdy
from jax.interpreters import ad, batching, mlir
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jadam._tree import PyTree


class _Groups:
    """The numbers of the groups of one program: other programs of the process have no influence on them, so that each has the
    same text wherever it is lowered, and compilation caches find it.
    """

    def __init__(self) -> None:
        self.numbers = itertools.count(2**32)  # `jax.experimental.shard_alike` counts its own from 0


def _as_is(x: Any, like: Any) -> Any:
    return x


def _lowered(context: Any, x: Any, like: Any) -> list[Any]:
    if jax.config.jax_use_shardy_partitioner:  # pyright: ignore[reportAttributeAccessIssue]
        module = context.module_context
        groups = next((one for one in module.keepalives if isinstance(one, _Groups)), None)
        if groups is None:
            module.add_keepalive(groups := _Groups())
        number = next(groups.numbers)
        sdy.sharding_group(x, number)
        sdy.sharding_group(like, number)
    return [x]


def _differentiated(primals: Any, tangents: Any) -> Any:
    return _alike.bind(*primals), tangents[0]


def _mapped(values: Any, axes: Any) -> Any:
    x, like = values
    if None in axes:  # one of them has no axis of models, and cannot be placed like the other
        return x, axes[0]
    return _alike.bind(x, jnp.moveaxis(like, axes[1], axes[0])), axes[0]


# `jax.experimental.shard_alike` says the same, but all its pairs of one type and shape share a group (JAX 0.10), so that a
# parameter and its slots would have to be placed alike: it is lowered once for all of them.
_alike = Primitive("placed_alike")
_alike.def_impl(_as_is)
_alike.def_abstract_eval(_as_is)
mlir.register_lowering(_alike, _lowered, cacheable=False)
ad.primitive_jvps[_alike] = _differentiated
batching.primitive_batchers[_alike] = _mapped


def placed_alike(new: PyTree, old: PyTree) -> PyTree:
    """New arrays where the old ones are; what has no partner of its shape stays where it is."""
    leaves, structure = jax.tree.flatten(new)
    partners, before = jax.tree.flatten(old)
    if structure != before:
        return new
    return structure.unflatten([_placed_alike(x, like) for x, like in zip(leaves, partners, strict=True)])


def _placed_alike(x: Any, like: Any) -> Any:
    if x is like or not (is_placed(x) and is_placed(like)) or x.shape != like.shape:
        return x
    if not isinstance(x, Tracer):
        alike = not like.committed or x.sharding.is_equivalent_to(like.sharding, x.ndim)
        return x if alike else jax.device_put(x, like.sharding)
    mesh = jax.typeof(like).sharding.mesh
    if x.ndim and mesh.size > 1 and set(mesh.axis_types) == {AxisType.Auto}:
        # An array of its own for the parts: a parameter in 16 bits is gathered, and not its update in 32.
        x = lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(*(PartitionSpec.UNCONSTRAINED,) * x.ndim)))
        x = _alike.bind(x, like)
    return jax.device_put(x, jax.memory.Space.Host) if on_host(like) else x


def is_placed(x: Any) -> bool:
    return isinstance(x, Array) and not jnp.issubdtype(x.dtype, jax.dtypes.extended)


def on_host(x: Array) -> bool:
    """Whether an array is in the memory of the host, where no device computes."""
    return jax.typeof(x).memory_space == jax.memory.Space.Host


def on_device(x: Any) -> Any:
    """An array where it can be computed with."""
    if not is_placed(x) or not on_host(x):
        return x
    return jax.device_put(x, jax.memory.Space.Device if isinstance(x, Tracer) else x.sharding.with_memory_kind("device"))
