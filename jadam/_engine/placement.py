"""Where arrays of the state are placed: with their parameters, or replicated over the same mesh."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer
from jax.sharding import AxisType, NamedSharding, PartitionSpec, SingleDeviceSharding

from jadam._storage.slots import decode_slot


def shared_sharding(leaves: Sequence[Any]) -> Any:
    """Where scalars beside these leaves are placed: on their device, or replicated over their mesh; None if anywhere will do.

    A scalar that is placed elsewhere would make the second step compile again.
    """
    for leaf in leaves:
        if isinstance(leaf, Tracer) or not isinstance(leaf, Array | jax.ShapeDtypeStruct):
            return None
        if isinstance(leaf.sharding, NamedSharding):
            return NamedSharding(leaf.sharding.mesh, PartitionSpec())
        if isinstance(leaf.sharding, SingleDeviceSharding) and getattr(leaf, "committed", True):
            return leaf.sharding
    return None


def scalar(value: Any, dtype: Any, sharding: Any) -> Array:
    """A scalar, or an array that all leaves share, placed as `shared_sharding` says."""
    if sharding is None or isinstance(value, Tracer):
        return jnp.asarray(value, dtype)
    if isinstance(sharding, NamedSharding) and AxisType.Explicit in sharding.mesh.axis_types:  # whose specs name every axis
        sharding = NamedSharding(sharding.mesh, PartitionSpec(*(None,) * np.ndim(value)))
    return jax.device_put(np.asarray(value, dtype), sharding)


def slot_sharding(sharding: Any, shape: tuple[int, ...], own: tuple[int, ...]) -> Any:
    """The sharding of a slot of shape `own`: along each axis that of its parameter, where it divides evenly, else replicated.

    An axis of one, along which the parameter was summed up, is the same on all devices. So the scales of blocks are placed with
    them, where each device has whole blocks. A slot with another number of axes is spread as its parameter is along the first
    of them that divides.
    """
    if shape == own or not isinstance(sharding, NamedSharding):
        return sharding
    spec = (*sharding.spec, *(None,) * (len(shape) - len(sharding.spec)))
    if len(shape) != len(own):
        names = tuple(name for axis in spec for name in _names(axis))
        fits = next((k for k, length in enumerate(own) if length % _devices(sharding, names) == 0), len(own))
        spec = [names if k == fits else None for k in range(len(own))]
    return NamedSharding(
        sharding.mesh,
        PartitionSpec(*(axis if n % _devices(sharding, axis) == 0 else None for axis, n in zip(spec, own, strict=True))),
    )


def spread(sharding: Any, data: tuple[str, ...], shape: tuple[int, ...], beside: Sequence[tuple[int, ...]]) -> Any:
    """The sharding of a slot of this shape, spread over more axes of the mesh, if an axis of the slot divides evenly.

    It is the axis along which most of what is kept for the parameter can be spread, of shapes `beside`, so that codes and
    scales of 8 bits go together; of several, one that is not spread yet.
    """
    used = {name for axis in getattr(sharding, "spec", ()) for name in _names(axis)}
    if not isinstance(sharding, NamedSharding) or used & set(data) or not set(data) <= set(sharding.mesh.axis_names):
        return sharding
    spec = [*sharding.spec, *(None,) * (len(shape) - len(sharding.spec))]
    parts = [_devices(sharding, axis) * _devices(sharding, data) for axis in spec]

    def gain(axis: int) -> tuple[int, bool]:
        alike = (x for x in beside if len(x) == len(shape) and x[axis] % parts[axis] == 0)
        return sum(map(math.prod, alike)), spec[axis] is None

    fits = [axis for axis, length in enumerate(shape) if length and length % parts[axis] == 0]
    if not fits:
        return sharding
    best = max(fits, key=gain)  # the first of several
    spec[best] = (*_names(spec[best]), *data)
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def on_automatic_axes(f: Callable[..., Any], like: Any, shardings: Callable[[], Any]) -> Callable[..., Any]:
    """`f`, written without regard to explicit mesh axes, if `like` is on such; its results get `shardings()`."""
    # A rule that reshapes or multiplies matrices would otherwise have to say at each operation where the result is placed.
    if not isinstance(like, Array) or AxisType.Explicit not in jax.typeof(like).sharding.mesh.axis_types:
        return f
    return jax.sharding.auto_axes(f, out_sharding=shardings())  # pyright: ignore[reportCallIssue]


def decoded(stored: Any, dtype: Any) -> Any:
    """A stored slot of a parameter of this dtype, in the dtype of the arithmetic, on whatever mesh; None stays."""
    if stored is None:
        return None
    first = jax.tree.leaves(stored)[0]
    return on_automatic_axes(lambda x: decode_slot(x, dtype), first, lambda: jax.typeof(first).sharding)(stored)


def _devices(sharding: NamedSharding, axis: Any) -> int:
    """Over how many devices an axis of the mesh, or several, or none spread an array."""
    return math.prod(sharding.mesh.shape.get(name, 1) for name in _names(axis))  # 1 if XLA chooses


def _names(axis: Any) -> tuple[Any, ...]:
    """The axes of the mesh that one of an array is spread over."""
    return axis if isinstance(axis, tuple) else () if axis is None else (axis,)
