"""A run that goes on under a transformation, or with parameters, that have changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jax.core import Tracer

from jadam._chain import not_ours
from jadam._checkpoint.moving import Moving, Old
from jadam._checkpoint.report import Migration
from jadam._checkpoint.stored import FORMAT, by_name, read
from jadam._engine.checks import COUNT, check_scalar
from jadam._engine.plan import Plan
from jadam._errors import BadType, BadValue, door, shown
from jadam._state import OptState, as_state
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree, strong

Renaming = Mapping[str, str] | Callable[[str], str] | None


@door
def migrate(
    old: OptState | Mapping[str, Any], tx: GradientTransformation, params: PyTree, *, renamed: Renaming = None
) -> tuple[OptState, Migration]:
    """Carries a run over to a transformation, or to parameters, that have changed.

    What has a name in both states is kept: rules can be added, removed, wrapped and unwrapped, and a number can become a
    schedule. A rule that moves into a group, or out of one, keeps its slots. Slots of another storage are converted, rounded to
    nearest. Where a parameter has grown, its old elements stand at the beginning of each axis, and the new ones have what
    `tx.init` gives them. What is stored beside parameters of 16 bits is converted; where that cannot be, the report says by how
    much they are off.

    The count goes on, and schedules with it. A group of a `partition` has a count of its own: one that keeps nothing begins
    at 0, and with it schedules and bias corrections. Other new slots begin at the count of their row, as the report says: a
    bias correction takes them for old, and their first steps may be `(1-b1) / sqrt(1-b2)` times as long. To avoid that, put
    them into a group.

    Args:
        old: the state, or what `to_dict` made of it.
        tx: the transformation to go on with, of jadam.
        params: its parameters, arrays.
        renamed: where parameters have moved, new paths by old ones, written as `describe` shows them, and each perhaps the
            beginning of several: `{"encoder": "body/encoder"}`. Or a function that returns the new path for an old one.

    Returns:
        The state, and a report for `print`: nothing is lost that it does not name.

    Raises:
        ValueError: the dict was damaged; `renamed` has a path that the old state has not, or makes one path of two.
        TypeError: an argument is something else.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> tx, params = jadam.adam(0.1), {"w": jnp.ones(2)}
        >>> params, state = tx.step(params, tx.init(params), params)
        >>> tx = jadam.chain(jadam.clip(1.0), jadam.lion(0.01))
        >>> state, report = jadam.migrate(state, tx, params)
        >>> print(report)
        kept:
          count
          hyperparams: learning_rate
        new:
          hyperparams: add_decayed_weights.weight_decay, clip.max_delta, lion.one_minus_b1, lion.one_minus_b2
          slots/lion/mu: w (beside a count of 1)
        dropped:
          hyperparams: adam.eps, adam.eps_root, adam.one_minus_b1, adam.one_minus_b2
          slots/adam/mu: w
          slots/adam/nu: w
    """
    if not isinstance(tx, GradientTransformation):
        raise not_ours(tx)
    arrays = read(old) if isinstance(old, Mapping) and FORMAT in old else by_name(as_state("first", old))
    if any(isinstance(x, Tracer) for x in arrays.values()):
        raise BadType("the state is traced; call migrate outside of jit.")
    if np.ndim(arrays["count"]):
        raise BadValue(
            "the state is of many models, as jax.vmap makes it; carry over one after another, and stack them: "
            "jadam.migrate(jax.tree.map(lambda x: x[0], state), tx, params). A dict must be read by from_dict first."
        )
    check_scalar("count", arrays["count"], COUNT)
    params, values, treedef = strong("params", params, passing=True)
    fresh, plan = tx.init(params), Plan.of(tx.recipe, values, treedef)
    if len(set(plan.names)) < len(plan.names):
        raise BadValue(f"two parameters have the path {max(plan.names, key=plan.names.count)!r}; give each one of its own.")
    rename = _renaming(renamed, [path for path in map(_path, arrays) if path])
    taken = Old(arrays, lambda name: _with_path(name, rename), set(by_name(fresh)))
    return Moving(taken, tx.recipe, plan, values, fresh).run()


def _path(name: str) -> str:
    """The path of the parameter in a name such as `slots/adam/mu/dense/kernel`."""
    parts = name.split("/", 3)
    return parts[3] if parts[0] == "slots" and len(parts) == 4 else ""


def _with_path(name: str, rename: Callable[[str], str]) -> str:
    path = _path(name)
    return name.removesuffix(path) + rename(path) if path else name


def _renaming(renamed: Renaming, paths: list[str]) -> Callable[[str], str]:
    """The new path of a parameter by the old one."""
    if renamed is None:
        return lambda path: path
    if callable(renamed):
        return _checked(renamed)
    if not isinstance(renamed, Mapping) or not all(isinstance(path, str) for pair in renamed.items() for path in pair):
        raise BadType("{name} must be a dict of new paths by old ones, or a function.", renamed=renamed)
    begins = [f"{path}/" for path in paths]
    for old in renamed:
        if begins and not any(begin.startswith(f"{old}/") for begin in begins):
            raise BadValue(f"renamed has {old!r}, and the old state has {', '.join(sorted(set(paths))[:5])}.")
    longest = sorted(renamed, key=len, reverse=True)

    def rename(path: str) -> str:
        old = next((old for old in longest if f"{path}/".startswith(f"{old}/")), None)
        return path if old is None else renamed[old] + path.removeprefix(old)

    return rename


def _checked(rename: Callable[[str], str]) -> Callable[[str], str]:
    def call(path: str) -> str:
        if not isinstance(new := rename(path), str):
            raise BadType(f"renamed returned {shown(new)} for {path!r}; it must return a path.")
        return new

    return call
