"""Positions that a state keeps beside the parameters, such as their averages, put in the parameters' place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from jax import Array

from jadam._dtypes import decode, encode
from jadam._errors import BadValue
from jadam._storage.slots import decode_slot, together
from jadam._tree import PyTree, flatten, quoted


def in_place_of(
    params: PyTree, kept: Iterable[tuple[Mapping[str, PyTree], Callable[[Array, Array], Array]]], name: str
) -> PyTree:
    """The parameters, each replaced by what stands for it in a slot.

    Args:
        params: a tree of arrays. What has no such slot stays as it is.
        kept: the slots of some rules or wrappers, each with the function that returns the new value, of the slot and of the
            parameter in the dtype of the arithmetic.
        name: of the slot.

    Raises:
        ValueError: the slots are of other parameters, or a parameter has two.
    """
    leaves, values = flatten(params), {}
    for slots, read in kept:
        try:
            columns = {slot: leaves.treedef.flatten_up_to(tree) for slot, tree in slots.items()}
        except (ValueError, TypeError):
            raise BadValue("the state has another structure than the parameters: it was made for other ones.") from None
        for i, p in enumerate(leaves.values):
            own = together({slot: column[i] for slot, column in columns.items() if column[i] is not None})
            if name not in own:
                continue
            if i in values:
                raise BadValue(f"the parameter at {quoted(leaves.names[i])} has two averages; one must be inside no other.")
            values[i] = encode(read(decode_slot(own[name]), decode(p)), p.dtype)
    return leaves.treedef.unflatten([values.get(i, p) for i, p in enumerate(leaves.values)])
