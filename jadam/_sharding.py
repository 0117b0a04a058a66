"""Where the state is placed on a mesh of devices."""

from __future__ import annotations

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jadam._engine.placement import slot_sharding
from jadam._errors import BadType, BadValue, door
from jadam._state import OptState, owners
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree, flatten


@door
def state_shardings(tx: GradientTransformation, params: PyTree) -> OptState:
    """The shardings of `tx.init(params)`: slots like their parameters, everything else replicated.

    A slot of another shape (a row or column of Adafactor) is placed like its parameter along axes of equal length.

    For `jax.jit(tx.init, out_shardings=jadam.state_shardings(tx, params))(params)`, and to restore a checkpoint. Outside
    `jit`, `tx.init` places its state like that by itself.

    Args:
        tx: a transformation, of jadam or any other with `init`.
        params: a tree of arrays, or of `jax.ShapeDtypeStruct` with a sharding.

    Raises:
        ValueError: no parameter has a sharding.
        TypeError: `tx` has no `init`.
    """
    if not hasattr(tx, "init"):
        raise BadType(f"{tx!r} is not a transformation; the order is (tx, params).")
    return shardings_of(jax.eval_shape(tx.init, params), params)


def shardings_of(state: OptState, params: PyTree) -> OptState:
    """The same for a state of these shapes."""
    leaves = flatten(params)
    shardings = [getattr(leaf, "sharding", None) for leaf in leaves.values]
    meshes = [sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)]
    alone = NamedSharding(meshes[0], PartitionSpec()) if meshes else next(filter(None, shardings), None)
    if alone is None:
        raise BadValue("no parameter has a sharding; pass jax arrays, or ShapeDtypeStructs with one.")
    found = []
    for number, leaf in zip(owners(state, leaves), jax.tree.leaves(state), strict=True):
        own = None if number is None else shardings[number]
        found.append(slot_sharding(own, leaves.values[number].shape, leaf.shape) if number is not None and own else alone)
    return jax.tree.structure(state).unflatten(found)
