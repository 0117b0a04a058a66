"""The leaves of a tree as the engine numbers them, and which of them a part acts on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from jadam._part import Part
from jadam._rule import Rule
from jadam._storage import compute_dtype
from jadam._tree import Leaves, PyTree, flatten, is_trained, quoted


@dataclass(frozen=True)
class Layout:
    """The parameters (or updates) as the engine sees them: all leaves, and the numbers of those that are trained."""

    leaves: Leaves
    trained: tuple[int, ...]

    @classmethod
    def of(cls, tree: PyTree) -> Layout:
        leaves = flatten(tree)
        return cls(leaves, tuple(i for i, value in enumerate(leaves.values) if is_trained(value) and value.size > 0))

    @property
    def dtype(self) -> Any:
        """The dtype of what all leaves share: float64 as soon as one leaf computes in it."""
        wide = any(compute_dtype(self.leaves.values[i].dtype) == jnp.float64 for i in self.trained)
        return jnp.float64 if wide else jnp.float32

    def selected(self, where: str, part: Part) -> list[int]:
        """The leaves that a part acts on."""
        try:
            chosen = part.mask.select(self.leaves)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{where}: {error}") from None
        indices = [i for i in self.trained if chosen[i]]
        if isinstance(part.rule, Rule) and not part.rule.elementwise:
            for i in indices:
                if jnp.issubdtype(self.leaves.values[i].dtype, jnp.complexfloating):
                    raise TypeError(
                        f"{where}: {part.rule.block} does not act on complex parameters, and "
                        f"{quoted(self.leaves.paths[i])} is {self.leaves.values[i].dtype}; mask it out."
                    )
        return indices

    def tree(self, values: Mapping[int, Any], others: Sequence[Any] | None = None) -> PyTree:
        """A tree like this one with `values` by leaf number; `others`, or None, where there is none."""
        others = others or [None] * len(self.leaves.values)
        return self.leaves.treedef.unflatten([values.get(i, other) for i, other in enumerate(others)])


def scalar_like(value: Any, dtype: Any, like: Sequence[Any]) -> Array:
    """A scalar array, on the device of the parameters or replicated over their mesh: else the second step compiles again."""
    for leaf in like:
        if isinstance(leaf, Tracer) or isinstance(value, Tracer) or not isinstance(leaf, Array):
            break
        if isinstance(leaf.sharding, NamedSharding):
            return jax.device_put(np.asarray(value, dtype), NamedSharding(leaf.sharding.mesh, PartitionSpec()))
        if isinstance(leaf.sharding, SingleDeviceSharding) and leaf.committed:
            return jax.device_put(np.asarray(value, dtype), leaf.sharding)
    return jnp.asarray(value, dtype)


def slot_sharding(sharding: Any, shape: tuple[int, ...], own: tuple[int, ...]) -> Any:
    """Where a slot of shape `own` lies: as its parameter along axes that are as long, replicated along others."""
    if shape == own or not isinstance(sharding, NamedSharding):
        return sharding
    spec = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
    alike = zip(spec, shape, own, strict=True) if len(shape) == len(own) else ()
    return NamedSharding(sharding.mesh, PartitionSpec(*(axis if one == other else None for axis, one, other in alike)))


def placed(value: Any, like: Any) -> Any:
    """A new slot where `slot_sharding` says, or on the one device of its parameter."""
    if isinstance(like, Tracer) or not isinstance(like, Array):
        return value
    if isinstance(like.sharding, NamedSharding):
        target = slot_sharding(like.sharding, like.shape, value.shape)
        return value if value.sharding == target else jax.device_put(value, target)
    return value if value.shape == like.shape else scalar_like(value, value.dtype, [like])
