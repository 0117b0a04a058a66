"""What a state tells a logger."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.core import Tracer

from jadam._errors import BadType, door
from jadam._hyperparams import readable_names, value_of
from jadam._state import OptState, numbered, states
from jadam._tree import PyTree, flatten


@door
def metrics(state: PyTree) -> dict[str, Any]:
    """What a logger can write at every step, by names that do not depend on what else is in the chain.

    These are the learning rates, by the names of `hyperparams`; what `monitor` keeps, by its own names (`grad_norm`,
    `body.update_norm` of a group, `param_norm/dense/kernel` of a parameter); and what others keep, after the name of the rule:
    `guard.skipped`, `loss_scale.scale`, `clip_by_global_norm.clipped_share`.

    Args:
        state: an `OptState`, or any tree with such inside (of `optax.chain`, a train state).

    Returns:
        Python's floats, read from the device at once; of the states of many models, arrays. Under `jit`, arrays: return them
        from the step, and nothing waits for it. Of several states with one name, the second has `_1` after it.

    Raises:
        TypeError: there is no state of jadam inside.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.loss_scale(jadam.sgd(0.1)), jnp.ones(2)
        >>> jadam.metrics(tx.init(params))  # doctest: +NORMALIZE_WHITESPACE
        {'learning_rate': 0.10000000149011612, 'loss_scale.good_steps': 0.0, 'loss_scale.scale': 32768.0,
         'loss_scale.skipped': 0.0}
    """
    inside = list(states(state))
    if not inside:
        raise BadType(f"a {type(state).__name__} has no state of jadam inside; pass what tx.init or tx.update returned.")
    found: dict[str, Any] = {}
    for one in inside:
        for name, value in _of(one):
            found[next(free for free in numbered(name) if free not in found)] = value
    found = dict(sorted(found.items()))  # as `jit` returns it
    if any(isinstance(value, Tracer) for value in found.values()):
        return found
    return {name: float(value) if np.ndim(value) == 0 else value for name, value in jax.device_get(found).items()}


def _of(state: OptState) -> Iterator[tuple[str, Array]]:
    """The metrics of one state."""
    for name, key in readable_names(state).items():
        if re.sub(r"_\d+$", "", name).rpartition(".")[2] == "learning_rate":
            yield name, value_of(key, state.hyperparams[key])
    (count,) = jax.tree.leaves(state.count)
    for key, scalars in state.scalars.items():
        for name, stored in scalars.items():
            (value,) = jax.tree.leaves(stored)  # flax.nnx puts it in a box
            if np.shape(value) == np.shape(count):  # not a history
                yield _prefix(key) + name, value
    for key, slots in state.slots.items():
        if _is_monitor(key):
            for name, tree in slots.items():
                leaves = flatten(tree)
                yield from (
                    (f"{_prefix(key)}{name}/{path}", value) for path, value in zip(leaves.names, leaves.values, strict=True)
                )


def _is_monitor(key: str) -> bool:
    return re.fullmatch(r"monitor(_\d+)?", key.rpartition(".")[2]) is not None


def _prefix(key: str) -> str:
    """What stands before a name: the rule's key; of a `monitor` alone its group, if it has one."""
    group, dot, rule = key.rpartition(".")
    return group + dot if rule == "monitor" else f"{key}."
