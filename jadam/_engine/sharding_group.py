"""Two arrays that XLA spreads over devices alike. A primitive of JAX says so, in a file of its own: JAX imports it slowly."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend.core import Primitive
from jax.extend.mlir.dialects import sdy
from jax.interpreters import ad, batching, mlir


def in_a_group(x: Array, like: Array) -> Array:
    """`x`, which XLA spreads over devices as it does the other."""
    return _alike.bind(x, like)


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
