"""Where the state is placed on a mesh of devices, and in which memory."""

from __future__ import annotations

from typing import Annotated, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from jadam._annotations import Option
from jadam._engine.placement import slot_sharding, spread
from jadam._errors import BadType, BadValue, door
from jadam._state import OptState, owners
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree, flatten


def _names_axes(data: Any) -> bool:
    names = data if isinstance(data, tuple) else (data,)
    return len(names) > 0 and all(isinstance(name, str) for name in names)


AXES = Option("the name of an axis of the mesh, or a tuple of names", _names_axes, optional=True)
MEMORY = Option("the name of a memory, such as 'pinned_host'", lambda kind: isinstance(kind, str), optional=True)


@door
def state_shardings(
    tx: GradientTransformation,
    params: PyTree,
    *,
    data: Annotated[str | tuple[str, ...] | None, AXES] = None,
    memory_kind: Annotated[str | None, MEMORY] = None,
) -> OptState:
    """The shardings of a state: slots like their parameters, or spread further; everything else is replicated.

    A slot of another shape (a row of Adafactor, a basis of SOAP) is spread along the same axes where it divides evenly.

    For `jax.jit(tx.init, out_shardings=jadam.state_shardings(tx, params))(params)`, and to restore a checkpoint. Outside
    `jit`, `tx.init` places its state like the parameters by itself. `tx.update` and `tx.step` keep the state where it is,
    and return updates and parameters that are placed like the parameters.

    Args:
        tx: a transformation, of jadam or any other with `init`.
        params: a tree of arrays, or of `jax.ShapeDtypeStruct` with a sharding.
        data: the axis of the mesh, or several, over which copies of the parameters see different data. Slots are spread over
            it too (ZeRO-1), each along one axis of the array that it divides; those that have none stay like their
            parameters. Where a parameter is spread over it already (fully sharded), so are its slots.
        memory_kind: the memory in which slots are kept. With "pinned_host" each step brings them to the device and back.

    Raises:
        ValueError: no parameter has a sharding; the mesh has no such axis; the devices have no such memory.
        TypeError: `tx` has no `init`.

    Reference:
        Rajbhandari et al. 2020, "ZeRO", section 5.1 (the states of optimizers, P_os), arXiv:1910.02054.
    """
    if not hasattr(tx, "init"):
        raise BadType(f"{tx!r} is not a transformation; the order is (tx, params).")
    AXES.check("data", data)
    MEMORY.check("memory_kind", memory_kind)
    state = jax.eval_shape(tx.init, params)
    placed = shardings_of(state, params, data if isinstance(data, tuple | None) else (data,))
    return placed if memory_kind is None else _in_memory(placed, state, memory_kind)


def shardings_of(state: OptState, params: PyTree, data: tuple[str, ...] | None = None) -> OptState:
    """The same for a state of these shapes."""
    leaves = flatten(params)
    shardings = [getattr(leaf, "sharding", None) for leaf in leaves.values]
    meshes = [sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)]
    alone = NamedSharding(meshes[0], PartitionSpec()) if meshes else next(filter(None, shardings), None)
    if alone is None:
        raise BadValue("no parameter has a sharding; pass jax arrays, or ShapeDtypeStructs with one.")
    if data is not None and not any(set(data) <= set(mesh.axis_names) for mesh in meshes):
        there = f"a mesh with the axes {meshes[0].axis_names}" if meshes else "a single device"
        raise BadValue(
            f"the parameters are on {there}; {{name}} must name axes of their mesh.", data=data if data[1:] else data[0]
        )
    slots, found = jax.tree.leaves(state), []
    of_parameter: dict[int, list[jax.ShapeDtypeStruct]] = {}
    numbers = owners(state, leaves)
    for number, leaf in zip(numbers, slots, strict=True):
        if number is not None:
            of_parameter.setdefault(number, []).append(leaf)
    for number, leaf in zip(numbers, slots, strict=True):
        own = None if number is None else shardings[number]
        if number is None or not own:
            found.append(alone)
            continue
        place = slot_sharding(own, leaves.values[number].shape, leaf.shape)
        found.append(place if data is None else spread(place, data, leaf.shape, [x.shape for x in of_parameter[number]]))
    return jax.tree.structure(state).unflatten(found)


def _in_memory(placed: OptState, state: OptState, kind: str) -> OptState:
    """Slots in a memory of this kind. Scalars stay on the devices: they are few, and TPUs have no copies of them."""

    def there(sharding: Sharding, x: jax.ShapeDtypeStruct) -> Sharding:
        if isinstance(sharding, SingleDeviceSharding):  # with which programs forget the memory of their results (JAX 0.10)
            sharding = NamedSharding(Mesh(np.array(list(sharding.device_set)), "alone"), PartitionSpec())
        try:
            return sharding.with_memory_kind(kind) if x.ndim else sharding
        except ValueError:
            kinds = {memory.kind for device in sharding.device_set for memory in device.addressable_memories()}
            raise BadValue(f"{{name}} must be one of {', '.join(sorted(kinds))} here.", memory_kind=kind) from None

    if not isinstance(state, OptState):  # of an optimizer from elsewhere
        return jax.tree.map(there, placed, state)
    return placed._replace(slots=jax.tree.map(there, placed.slots, state.slots))
