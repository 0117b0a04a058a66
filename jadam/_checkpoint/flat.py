"""A state as a flat dict of numpy arrays, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jadam._chain import not_ours
from jadam._checkpoint.stored import by_name, read, write
from jadam._engine.kept import Type
from jadam._engine.plan import Plan
from jadam._engine.restored import restored
from jadam._errors import BadValue, door
from jadam._sharding import shardings_of
from jadam._state import OptState, as_state
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree, flatten, is_trained, quoted, strong


@door
def to_dict(state: OptState) -> dict[str, np.ndarray]:
    """A state as a flat dict of numpy arrays with readable names: `slots/adam/mu/dense/kernel`.

    `numpy.savez` with `numpy.load(allow_pickle=False)`, safetensors, orbax and msgpack carry it bit by bit, and `from_dict`
    reads it. What numpy has no dtype for is written as the bits of another, and its name says so: a bfloat16 as uint16 under
    `slots/adam/mu/w:bfloat16`. A checksum of each array finds what was damaged on the way. The arrays are copies on the host,
    whole ones also where a state is spread over several processes, which then all call this.

    Args:
        state: what `tx.init`, `tx.update` or `tx.step` returned.

    Raises:
        TypeError: not a state, or called under `jit`.

    Example:
        >>> import io, jadam, jax.numpy as jnp, numpy as np
        >>> tx, params = jadam.adam(1e-3), {"w": jnp.ones(2)}
        >>> params, state = tx.step(params, tx.init(params), params)
        >>> np.savez(file := io.BytesIO(), **jadam.to_dict(state))
        >>> _ = file.seek(0)
        >>> state = jadam.from_dict(tx, params, np.load(file, allow_pickle=False))
        >>> int(state.count)
        1
        >>> [name for name in jadam.to_dict(state) if name.startswith("slots")]
        ['slots/adam/mu/w', 'slots/adam/nu/w']
    """
    return write(by_name(as_state("first", state)))


@door
def from_dict(tx: GradientTransformation, params: PyTree, saved: Mapping[str, Any]) -> OptState:
    """The state that `to_dict` wrote, for the transformation and parameters that it was of.

    It is read as a whole or not at all. For a transformation that has changed since, see `migrate`. The state of many models,
    which `jax.vmap` made, is read with their parameters stacked alike.

    Args:
        tx: a transformation of jadam. Other numbers than those of the saved run act from the next update on.
        params: the parameters, or `jax.ShapeDtypeStruct`s of them; arrays are placed as `tx.init(params)` would place them.
        saved: the dict, or any mapping of these names to arrays.

    Raises:
        ValueError: a name is missing or too many, an array has another shape or dtype than `tx.init(params)` makes, is not what
            was saved, or is out of its range. The message says which.
        TypeError: not such a dict, or a `tx` that is not of jadam.
    """
    if not isinstance(tx, GradientTransformation):
        raise not_ours(tx)
    params, values, treedef = strong("params", params, shapes=True, passing=True)

    def like_one(arrays: Mapping[str, Any]) -> tuple[tuple[int, ...], list[Any], OptState]:
        models = np.shape(arrays.get("count", 0))
        ones = _of_one(models, values, treedef)
        return models, ones, jax.eval_shape(tx.init, treedef.unflatten(ones))

    found = read(saved, lambda: by_name(like_one(saved)[-1]))
    models, ones, like = like_one(found)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(models + x.shape, x.dtype), like)
    expected = by_name(like)
    if found.keys() != expected.keys():
        raise BadValue(_difference(found, expected))
    for name, leaf in expected.items():
        types = [Type(x.shape, x.dtype) for x in (found[name], leaf)]
        if types[0] != types[1]:
            raise BadValue(f"{name!r} is {types[0]}, and this transformation keeps {types[1]}; {_MIGRATE}")
    treedef_of_state = jax.tree.structure(like)
    state = treedef_of_state.unflatten([found[name] for name in expected])
    plan = Plan.of(tx.recipe, ones, treedef)
    for model in np.ndindex(models):
        restored(plan, jax.tree.map(lambda x: x[(*model, ...)], state))  # noqa: B023
    return treedef_of_state.unflatten(map(_placed, jax.tree.leaves(state), _places(like, params, values)))


def _of_one(models: tuple[int, ...], values: list[Any], treedef: Any) -> list[Any]:
    """The parameters of one of many models, which lie along the first axes of all arrays; none at all for one model."""
    if not models:
        return values
    stacked = [x.shape[: len(models)] == models for x in values]
    if wrong := [i for i, x in enumerate(values) if is_trained(x) and not stacked[i]]:
        name = flatten(treedef.unflatten(values)).names[wrong[0]]
        raise BadValue(
            f"the state is of {' x '.join(map(str, models))} models, and the parameter at {quoted(name)} has shape "
            f"{values[wrong[0]].shape}; pass the parameters of all models, stacked along the first axis as by jax.vmap."
        )
    return [jax.ShapeDtypeStruct(x.shape[len(models) :], x.dtype) if own else x for x, own in zip(values, stacked, strict=True)]


_MIGRATE = "write jadam.migrate(saved, tx, params) for what has changed since it was saved."


def _difference(found: Mapping[str, Any], expected: Mapping[str, Any]) -> str:
    missing, other = ([name for name in one if name not in two] for one, two in ((expected, found), (found, expected)))
    words = [f"{names[0]!r} {verb}" for names, verb in ((missing, "is missing"), (other, "is of another")) if names]
    more = f" ({len(missing) + len(other)} names in all)" if len(missing) + len(other) > len(words) else ""
    return f"the state is of another transformation or of other parameters: {' and '.join(words)}{more}; {_MIGRATE}"


def _places(like: OptState, params: PyTree, values: list[Any]) -> list[Any]:
    """For each leaf of a state where it is placed; None where anywhere will do, as beside parameters that may move."""
    if any(getattr(p, "sharding", None) is not None and getattr(p, "committed", True) for p in values):
        return jax.tree.leaves(shardings_of(like, params))
    return [None] * len(jax.tree.leaves(like))


def _placed(x: Any, sharding: Any) -> jax.Array:
    """A whole array on the host as one of JAX, of which each process takes its own part."""
    if sharding is None or isinstance(x, jax.Array):
        return jax.device_put(jnp.array(x), sharding)  # a copy, which does not change with the dict that it is from
    return jax.make_array_from_callback(x.shape, sharding, lambda index: np.array(x[index]))


def placed_like(x: Any, like: jax.Array) -> jax.Array:
    """The array where another is."""
    return _placed(x, like.sharding if getattr(like, "committed", False) else None)
