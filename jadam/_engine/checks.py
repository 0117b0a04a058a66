"""What is checked of gradients and states when a step is traced."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jadam._annotations import read
from jadam._dtypes import cast, is_complex
from jadam._engine.kept import Type, Types, formats_of, kept, types
from jadam._engine.plan import Placed, Plan
from jadam._errors import BadType, BadValue
from jadam._hyper import Range
from jadam._recipe import Pair
from jadam._rows import DENSE, Rows, ill_formed
from jadam._schedules.fields import not_a_number
from jadam._state import GIVEN, OptState
from jadam._storage.slots import together
from jadam._tree import PyTree, difference, is_trained
from jadam._wrapper import Wrapper


def gradients(plan: Plan, updates: PyTree, returned_by: str = "") -> list[Any]:
    """The gradient of each leaf, checked against its parameter; those of a function of the user's, if one is named."""
    whose = f" that {returned_by} returned" if returned_by else ""
    try:
        found = plan.treedef.flatten_up_to(updates)
    except (ValueError, TypeError):
        found = [None] * len(plan.names)  # the loop below says which leaf is at fault; JAX's words name none
    for i in plan.trained:
        (shape, dtype), g = plan.shapes[i], found[i]
        if isinstance(g, Rows):
            g = _fitting(plan, i, g)
            shape = (*g.shape[:1], *shape[1:])
        if not isinstance(g, Array | np.ndarray | np.generic):
            raise BadValue(
                f"the gradients{whose} do not have the structure of the parameters: "
                f"{difference(updates, plan.names, plan.treedef)}. "
                "Differentiate with respect to the same tree, or mask out what has no gradient."
            )
        if g.shape != shape:  # nothing is broadcast: a gradient of one row would train all rows, without an error
            raise BadValue(f"the gradient{whose} at {plan.path(i)} has shape {g.shape}, its parameter {shape}.")
        if not is_trained(g) or is_complex(g.dtype) != is_complex(dtype):
            raise BadType(
                f"the gradient{whose} at {plan.path(i)} has dtype {g.dtype}, its parameter {dtype}; "
                "give a floating-point gradient, complex where the parameter is."
            )
    return found


def _fitting(plan: Plan, i: int, rows: Rows) -> Any:
    """The values of some rows of a table, whose ids fit them."""
    words, shape = f"the gradient at {plan.path(i)} is Rows", plan.shapes[i][0]
    for part, x in (("ids", rows.ids), ("values", rows.values), ("complements", rows.complement)):
        if not isinstance(x, Array | np.ndarray):
            raise BadType(f"{words}, whose {part} are {x!r}, which is not an array.")
    if not shape:
        raise BadValue(f"{words}, and its parameter has no rows: it is a scalar.")
    if words_of_ids := ill_formed(rows):
        raise BadValue(f"{words}, and its {words_of_ids}")
    if rows.values.shape[1:] != shape[1:]:
        raise BadValue(f"{words} of shape {rows.values.shape[1:]}, the rows of its parameter have {shape[1:]}.")
    return rows.values


def refuse_rows(plan: Plan, i: int, words: str) -> None:
    raise BadValue(f"the gradient at {plan.path(i)} is Rows, and {words}")


def whole(plan: Plan, one: Placed, why: str) -> None:
    """Refuses `Rows` at the leaves of a part that needs all of a parameter."""
    for i in one.at:
        if i in plan.whole:
            refuse_rows(plan, i, f"{one.rule.name} {why}; {DENSE}")


def asked(plan: Plan, values: Mapping[str, Any]) -> None:
    """Whether the keyword arguments of a step have the numbers that are asked for.

    Of an array only shape and dtype are known: its value would have to be waited for.
    """
    for one in plan.all:
        for name, annotation in ({} if isinstance(one.rule, Pair) else one.rule.asks()).items():
            if name not in values:
                continue
            value, (allowed, _) = values[name], read(annotation)
            if words := not_a_number(value):
                raise BadType(f"{name} must be a number, not {words}.")
            if isinstance(allowed, Range) and not isinstance(value, Array) and not allowed.holds(float(value)):
                raise BadValue(f"{{name}} must be {allowed.words}.", **{name: value})


def check_state(plan: Plan, state: OptState) -> None:
    """Whether a state is of this transformation, and whether a step of that makes sense."""
    for one in plan.all:
        # A clip before a loss scale would see scaled gradients, and other groups would train while it skips a step.
        alone = one is plan.row[0] and len(plan.row) == 1 and one.at == plan.trained
        if isinstance(one.rule, Wrapper) and one.rule.outermost and not alone:
            raise BadValue(f"{one.rule.name} skips whole steps; put it around all else, without a mask.")
    expected = {key for one in plan.all for key, _ in one.hypers}
    owners = {one.key for one in plan.all} | set(plan.storages)
    pairs = {one.key for one in plan.all if isinstance(one.rule, Pair)}
    scalars = {} if state.count is None else kept_scalars(plan)  # a step without a state counts nothing
    # Slots of other rules would be dropped from the new state, and with them what they have learnt.
    fits = set(state.hyperparams) == expected and set(state.given) == {key + GIVEN for key in expected}
    fits &= pairs <= set(state.slots) <= owners and set(state.scalars) == set(scalars)
    if not fits:
        of = sorted({key.rsplit(".", 1)[0] for key in state.hyperparams} | set(state.slots) | set(state.scalars))
        raise BadValue(
            f"the state belongs to another transformation: it is of {', '.join(of) or 'no rules'}, this one of "
            f"{', '.join(one.key for one in plan.all) or 'no rules'}. Use the state that this transformation's init returned."
        )
    for name, value, expected in _scalars_of(plan, state):
        check_scalar(name, value, expected)
    for key, names in scalars.items():
        if set(state.scalars[key]) != set(names):
            raise BadValue(
                f"the state has the scalars {sorted(state.scalars[key])} of {key}, where init returns {sorted(names)}."
            )


COUNT = Type((), jnp.dtype(jnp.int32))


def check_scalar(name: str, value: Any, expected: Type) -> None:
    """Whether a part of the state that all leaves share is of this type."""
    if not isinstance(value, Array | np.ndarray | np.generic) or (value.shape, value.dtype) != expected:
        found = Type(value.shape, value.dtype) if hasattr(value, "dtype") else repr(value)
        several = np.ndim(value) > len(expected.shape)
        vmapped = " For the states of many models, put jax.vmap around the call." if several else ""
        raise BadValue(f"{name} of the state is {found}, where init returns {expected}.{vmapped}")


def kept_scalars(plan: Plan) -> dict[str, dict[str, Type]]:
    """The types of the scalars in a state, by part and name."""
    kept = {}
    for one in plan.all:
        values = {} if isinstance(one.rule, Pair) else one.rule.scalars()
        own = {name: Type(np.shape(value), jnp.dtype(plan.dtype)) for name, value in values.items()}
        if own := own | ({"count": COUNT} if one.counts else {}):
            kept[one.key] = own
        if one.counter:
            kept[one.counter] = {"count": COUNT}
    return kept


def _scalars_of(plan: Plan, state: OptState) -> Iterator[tuple[str, Any, Type]]:
    """What every leaf shares in a state: where it stands, the value, and the type that it must have."""
    if state.count is not None:  # as in a step without a state
        yield "count", state.count, COUNT
    number = Type((), jnp.dtype(plan.dtype))
    for field in ("hyperparams", "given"):
        yield from ((f"{field}[{key!r}]", value, number) for key, value in getattr(state, field).items())
    for key, names in kept_scalars(plan).items():
        own = state.scalars.get(key, {})
        yield from ((f"scalars[{key!r}][{name!r}]", own[name], kind) for name, kind in names.items() if name in own)


def slots(plan: Plan, state: OptState, placed: Placed) -> dict[int, dict[str, Any]]:
    """What the state keeps for the leaves of a rule or wrapper."""
    found = _columns(plan, state, placed.key, placed.at)
    for i, rule in zip(placed.at, placed.rules, strict=True):
        found[i] = together(_checked(plan, i, found[i], kept(plan, rule, formats_of(plan, placed, i), i), rule.name))
    return found


def residues(plan: Plan, state: OptState) -> dict[int, dict[str, Array]]:
    """What is stored beside each parameter."""
    found: dict[int, dict[str, Array]] = {i: {} for i in plan.trained}
    for key, storage in plan.storages.items():
        words = f"with_precision(params={storage.key!r})"
        for i, stored in _columns(plan, state, key, plan.trained).items():
            own = plan.landings.get(i) == key  # of several calls the innermost, and of float32 parameters none
            expected = (
                {name: Type(plan.shapes[i][0], jnp.dtype(dtype)) for name, dtype in storage.residue.items()} if own else {}
            )
            found[i] |= _checked(plan, i, stored, expected, words)
    return found


def _columns(plan: Plan, state: OptState, key: str, at: Sequence[int]) -> dict[int, dict[str, Any]]:
    """What stands under a name in the slots of a state, by leaf."""
    try:
        found = {slot: plan.treedef.flatten_up_to(tree) for slot, tree in state.slots.get(key, {}).items()}
    except (ValueError, TypeError, AttributeError):
        raise BadValue(
            f"the state of {key} has another structure than the parameters: it was made for other ones. Call init with these."
        ) from None
    return {i: {slot: column[i] for slot, column in found.items() if column[i] is not None} for i in at}


def _checked(plan: Plan, i: int, found: Mapping[str, Any], expected: Types, owner: str) -> dict[str, Array]:
    """The arrays of a leaf, of which a Python number, in a state that was stored as such, gets the dtype that it must have."""
    arrays = {
        name: cast(jnp.asarray(x), expected[name].dtype) if name in expected and isinstance(x, int | float) else x
        for name, x in found.items()
    }
    if (own := types(arrays)) != expected:
        words = [", ".join(f"{name} {kind}" for name, kind in sorted(x.items())) or "nothing" for x in (expected, own)]
        raise BadValue(
            f"the state does not fit the parameter at {plan.path(i)}: {owner} keeps {words[0]}, and the state has {words[1]}. "
            "It was made for other parameters, another mask or another storage; call init with these."
        )
    return arrays


def rate_inside(placed: Placed) -> None:
    """Whether there is a learning rate for a wrapper to lower."""
    if not any(hyper.name == "learning_rate" for one in placed.inner for part in one for _, hyper in part.hypers):
        raise BadValue(
            f"{placed.rule.name} lowers the learning rate, and there is none inside it; add scale_by_learning_rate(...) there."
        )
