"""The last line of a training step: parameters plus updates."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._dtypes import compute_dtype, decode, encode, is_complex
from jadam._engine.placement import on_automatic_axes
from jadam._errors import BadType, BadValue, door
from jadam._rows import Rows, add_rows, ill_formed, is_rows
from jadam._tree import PyTree, arrays, difference, flatten, is_passed, is_trained, put_back, quoted, strong


@door
def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """Adds updates to parameters, leaf by leaf, in the dtypes of the parameters; compiled.

    Args:
        params: a tree of arrays.
        updates: a tree like it, each leaf of its parameter's shape, or `Rows` of a table. None, and leaves that are not
            trained, leave the parameter as it is; so do functions and strings, where the parameters have such.

    Raises:
        ValueError: structures or shapes differ; nothing is broadcast.
        TypeError: a leaf is not an array, or real meets complex.
    """
    own, *_ = strong("params", params, passing=True)
    if own is params or not any(map(is_passed, jax.tree.leaves(params))):
        return _apply(own, arrays("updates", updates))
    return put_back(_apply(own, strong("updates", updates, passing=True)[0]), params, params)


@jax.jit
def _apply(params: PyTree, updates: PyTree) -> PyTree:
    leaves = flatten(params)
    try:
        deltas = leaves.treedef.flatten_up_to(updates)
    except (ValueError, TypeError):
        words = f"the updates do not have the structure of the parameters: {difference(updates, leaves.names, leaves.treedef)}."
        raise BadValue(words) from None
    new = []
    for name, p, u in zip(leaves.names, leaves.values, deltas, strict=True):
        if u is None or not is_trained(p):
            new.append(p)
            continue
        if is_rows(u):
            new.append(_with_rows(name, p, u))
            continue
        if jnp.shape(u) != p.shape:
            raise BadValue(f"the update at {quoted(name)} has shape {jnp.shape(u)}, its parameter {p.shape}.")
        if is_complex(u.dtype) != is_complex(p.dtype):
            raise BadType(f"the update at {quoted(name)} has dtype {u.dtype}, its parameter {p.dtype}.")
        same = u.dtype == p.dtype
        new.append(lax.add(p, u) if same else encode(decode(p) + decode(u).astype(compute_dtype(p.dtype)), p.dtype))
    return leaves.treedef.unflatten(new)


def _with_rows(name: str, table: Array, rows: Rows) -> Array:
    """A table plus the update of some of its rows."""
    if words := ill_formed(rows):
        raise BadValue(f"the update at {quoted(name)} is Rows, and its {words}")
    if is_complex(rows.values.dtype) != is_complex(table.dtype):
        raise BadType(f"the update at {quoted(name)} has dtype {rows.values.dtype}, its parameter {table.dtype}.")
    if not table.ndim or rows.values.shape[1:] != table.shape[1:]:
        raise BadValue(f"the update at {quoted(name)} is Rows of shape {rows.values.shape[1:]}, its parameter {table.shape}.")
    return on_automatic_axes(add_rows, table, lambda: jax.typeof(table).sharding)(table, rows)
