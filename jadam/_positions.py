"""Positions that a state keeps beside the parameters, such as their averages, put in the parameters' place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import jax
from jax import Array

from jadam._dtypes import decode, encode
from jadam._errors import BadValue
from jadam._storage.slots import decode_slot, together
from jadam._tree import PyTree, flatten, quoted, unboxed


def in_place_of(
    params: PyTree, kept: Iterable[tuple[Mapping[str, PyTree], Callable[[Array, Array], Array]]], name: str
) -> PyTree:
    """The parameters, each replaced by what stands for it in a slot.

    Args:
        params: a tree of arrays. What has no such slot stays as it is.
        kept: the slots of some rules, each with the function that returns the new value, of the slot and of the parameter
            in the dtype of the arithmetic.
        name: of the slot.

    Raises:
        ValueError: the slots are of other parameters, or a parameter has two.
    """
    leaves, values = flatten(params), {}
    numbers = {path: i for i, path in enumerate(unboxed(params))}  # flax.nnx has boxes around slots that are not of parameters
    for slots, read in kept:
        found: dict[int, dict[str, Array]] = {}
        for slot, tree in slots.items():
            for path, x in zip(unboxed(tree), jax.tree.leaves(tree), strict=True):
                found.setdefault(numbers.get(path, -1), {})[slot] = x
        stored = {i: together(own)[name] for i, own in found.items() if name in together(own)}
        positions = {i: decode_slot(x, leaves.values[i].dtype) for i, x in stored.items()}
        if -1 in found:
            raise BadValue("the state has another structure than the parameters: it was made for other ones.")
        for i, x in positions.items():
            if x.shape != (shape := decode(leaves.values[i]).shape):
                place = quoted(leaves.names[i])
                words = f"{name} has shape {x.shape} at {place}, and the parameter {shape}."
                raise BadValue(f"the state was made for other parameters: {words}")
        if twice := [i for i in positions if i in values]:
            raise BadValue(f"the parameter at {quoted(leaves.names[twice[0]])} has two averages; one must be inside no other.")
        values |= {i: encode(read(x, decode(leaves.values[i])), leaves.values[i].dtype) for i, x in positions.items()}
    return leaves.treedef.unflatten([values.get(i, p) for i, p in enumerate(leaves.values)])
