"""Where the state lies on a mesh of devices."""

from __future__ import annotations

import jax
from jax.sharding import NamedSharding, PartitionSpec

from jadam._layout import slot_sharding
from jadam._state import OptState
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree, flatten, owners


def state_shardings(tx: GradientTransformation, params: PyTree) -> OptState:
    """The shardings of `tx.init(params)`: slots lie like their parameters, everything else is replicated.

    A slot of another shape (a row or column of Adafactor) lies like its parameter along the axes that are as long.

    For `jax.jit(tx.init, out_shardings=jadam.state_shardings(tx, params))(params)`, and to restore a checkpoint. Outside
    `jit`, `tx.init` places its state so by itself.

    Args:
        tx: a transformation, of jadam or any other with `init`.
        params: a tree of arrays, or of `jax.ShapeDtypeStruct` with a sharding.

    Raises:
        ValueError: no parameter has a sharding.
    """
    leaves = flatten(params)
    shardings = [getattr(leaf, "sharding", None) for leaf in leaves.values]
    meshes = [sharding.mesh for sharding in shardings if isinstance(sharding, NamedSharding)]
    alone = NamedSharding(meshes[0], PartitionSpec()) if meshes else next(filter(None, shardings), None)
    if alone is None:
        raise ValueError("state_shardings: no parameter has a sharding; pass jax arrays, or ShapeDtypeStructs with one.")
    state = jax.eval_shape(tx.init, params)
    found = []
    for number, leaf in zip(owners(state, leaves), jax.tree.leaves(state), strict=True):
        own = None if number is None else shardings[number]
        found.append(slot_sharding(own, leaves.values[number].shape, leaf.shape) if number is not None and own else alone)
    return jax.tree.structure(state).unflatten(found)
