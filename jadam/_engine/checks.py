"""What is checked of gradients and states when a step is traced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jadam._engine.plan import Plan
from jadam._errors import BadType, BadValue
from jadam._recipe import Pair
from jadam._state import GIVEN, OptState
from jadam._tree import PyTree, difference, is_trained
from jadam._wrapper import Wrapper


def gradients(plan: Plan, updates: PyTree) -> list[Any]:
    """The gradient of each leaf, checked against its parameter."""
    try:
        found = plan.treedef.flatten_up_to(updates)
    except (ValueError, TypeError):
        found = [None] * len(plan.names)  # the loop below says which leaf is at fault; JAX's words name none
    for i in plan.trained:
        (shape, dtype), g = plan.shapes[i], found[i]
        if not isinstance(g, Array | np.ndarray | np.generic):
            raise BadValue(
                "the gradients do not have the structure of the parameters: "
                f"{difference(updates, plan.names, plan.treedef)}. "
                "Differentiate with respect to the same tree, or mask out what has no gradient."
            )
        if g.shape != shape:  # nothing is broadcast: a gradient of one row would train all rows, without an error
            raise BadValue(f"the gradient at {plan.path(i)} has shape {g.shape}, its parameter {shape}.")
        kinds = [jnp.issubdtype(kind, jnp.complexfloating) for kind in (g.dtype, dtype)]
        if not is_trained(g) or kinds[0] != kinds[1]:
            raise BadType(
                f"the gradient at {plan.path(i)} has dtype {g.dtype}, its parameter {dtype}; "
                "give a floating-point gradient, complex where the parameter is."
            )
    return found


def check_state(plan: Plan, state: OptState) -> None:
    """Whether a state is of this transformation, and whether a step of that makes sense."""
    for one in plan.all:
        # A clip before a loss scale would see scaled gradients, and other groups would train while it skips a step.
        alone = one is plan.row[0] and len(plan.row) == 1 and one.at == plan.trained
        if isinstance(one.rule, Wrapper) and one.rule.outermost and not alone:
            raise BadValue(f"{one.rule.name} skips whole steps; put it around all else, without a mask.")
    expected = {key for one in plan.all for key, _ in one.hypers}
    owners = {one.key for one in plan.all} | set(plan.storages)
    # Slots of other rules would be dropped from the new state, and with them what they have learnt.
    fits = set(state.hyperparams) == expected and set(state.given) == {key + GIVEN for key in expected}
    keeping = {one.key for one in plan.all if one.counts or (not isinstance(one.rule, Pair) and one.rule.scalars())}
    if not fits or set(state.slots) - owners or set(state.scalars) != keeping:
        of = sorted({key.rsplit(".", 1)[0] for key in state.hyperparams} | set(state.slots) | set(state.scalars))
        raise BadValue(
            f"the state belongs to another transformation: it is of {', '.join(of) or 'no rules'}, this one of "
            f"{', '.join(one.key for one in plan.all) or 'no rules'}. Use the state that this transformation's init returned."
        )


def columns(plan: Plan, state: OptState, key: str, at: Sequence[int]) -> dict[int, dict[str, Any]]:
    """What the state keeps under a name, by leaf."""
    try:
        found = {slot: plan.treedef.flatten_up_to(tree) for slot, tree in state.slots.get(key, {}).items()}
    except (ValueError, TypeError):
        raise BadValue(
            f"the state of {key} has another structure than the parameters: it was made for other ones. Call init with these."
        ) from None
    return {i: {slot: column[i] for slot, column in found.items() if column[i] is not None} for i in at}


def residues(plan: Plan, state: OptState) -> dict[int, dict[str, Array]]:
    """What is stored beside each parameter."""
    found: dict[int, dict[str, Array]] = {i: {} for i in plan.trained}
    for key, storage in plan.storages.items():
        for i, stored in columns(plan, state, key, plan.trained).items():
            own = plan.landings.get(i) == key  # of several calls the innermost, and of float32 parameters none
            expected = dict.fromkeys(storage.residue, plan.shapes[i][0]) if own else {}
            if jax.tree.map(jnp.shape, stored) != expected:
                names = ", ".join(expected) or "nothing"
                raise mismatch(plan, i, f"with_precision(params={storage.key!r}) keeps {names} beside it")
            found |= {i: stored} if own else {}
    return found


def mismatch(plan: Plan, i: int, words: str) -> BadValue:
    return BadValue(
        f"the state does not fit the parameter at {plan.path(i)}: {words}. "
        "It was made for other parameters, another mask or another storage; call init with these."
    )
