"""The leaves of a tree as the engine numbers them, and which of them a part acts on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from jadam._landing import ParamStorage
from jadam._part import Part
from jadam._rule import Rule
from jadam._storage import BLOCK, cast, compute_dtype, decode
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

    def landings(self, where: str, parts: Mapping[str, Part]) -> dict[int, tuple[str, ParamStorage]]:
        """How each leaf is stored, with the key of that in the state, where a part says so: the innermost."""
        found: dict[int, tuple[str, ParamStorage]] = {}
        for key, part in parts.items():
            if not isinstance(part.rule, ParamStorage):
                continue
            for i in self.selected(where, part):
                dtype = self.leaves.values[i].dtype
                if i in found or dtype not in (jnp.bfloat16, jnp.float16):
                    continue
                if dtype not in part.rule.dtypes:
                    raise TypeError(
                        f"{where}: params={part.rule.key!r} is for bfloat16, and {quoted(self.leaves.paths[i])} is {dtype}; "
                        "take 'kahan' or 'stochastic' for it."
                    )
                found[i] = key, part.rule
        return found

    def tree(self, values: Mapping[int, Any], others: Sequence[Any] | None = None) -> PyTree:
        """A tree like this one with `values` by leaf number; `others`, or None, where there is none."""
        others = others or [None] * len(self.leaves.values)
        return self.leaves.treedef.unflatten([values.get(i, other) for i, other in enumerate(others)])

    def trees(self, values: Mapping[int, Mapping[str, Any]], names: Iterable[str]) -> dict[str, PyTree]:
        """What is kept by leaf and name as a tree for each name, with None where a leaf has none."""
        return {name: self.tree({i: own[name] for i, own in values.items() if name in own}) for name in names}


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
    """Where a slot of shape `own` lies: as its parameter along axes that are as long, replicated along others.

    The scales of blocks lie with them, where each device has whole blocks.
    """
    if shape == own or not isinstance(sharding, NamedSharding):
        return sharding
    if len(shape) != len(own):
        return NamedSharding(sharding.mesh, PartitionSpec())
    spec = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
    devices = [_devices(sharding, axis) for axis in spec]
    alike = [a == b or (a == b * BLOCK and b % n == 0) for a, b, n in zip(shape, own, devices, strict=True)]
    return NamedSharding(
        sharding.mesh, PartitionSpec(*(axis if same else None for axis, same in zip(spec, alike, strict=True)))
    )


def on_automatic_axes(f: Callable[..., Any], like: Any, lies: Callable[[], Any]) -> Callable[..., Any]:
    """`f`, which need not know of a mesh with explicit axes, if `like` is an array on one; its results lie as `lies` says."""
    if not isinstance(like, Array) or AxisType.Explicit not in jax.typeof(like).sharding.mesh.axis_types:
        return f
    return jax.sharding.auto_axes(f, out_sharding=lies())  # pyright: ignore[reportCallIssue]


def decoded(stored: Any, dtype: Any) -> Array:
    """A slot of a parameter of this dtype, on whatever mesh."""
    first = jax.tree.leaves(stored)[0]
    return cast(on_automatic_axes(decode, first, lambda: jax.typeof(first).sharding)(stored), compute_dtype(dtype))


def _devices(sharding: NamedSharding, axis: Any) -> int:
    """Over how many devices an axis of the mesh, or several, or none spread an array."""
    names = axis if isinstance(axis, tuple) else () if axis is None else (axis,)
    return math.prod(sharding.mesh.shape[name] for name in names)


def placed(value: Array, like: Any) -> Array:
    """A new slot where `slot_sharding` says, or on the one device of its parameter."""
    if isinstance(like, Tracer) or not isinstance(like, Array):
        return value
    if isinstance(like.sharding, NamedSharding):
        target = slot_sharding(like.sharding, like.shape, value.shape)
        return value if value.sharding == target else jax.device_put(value, target)
    return value if value.shape == like.shape else scalar_like(value, value.dtype, [like])
