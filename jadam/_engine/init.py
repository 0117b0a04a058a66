"""The initial state of a transformation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer

from jadam._engine.kept import Type, kept, new_parts, new_residue, new_slots
from jadam._engine.lost import warn_of_lost
from jadam._engine.numbers import initial
from jadam._engine.order import check_order
from jadam._engine.placement import scalar, shared_sharding, slot_sharding
from jadam._engine.plan import Placed, Plan
from jadam._engine.step import Programs
from jadam._engine.symbolic import asking_no_symbols
from jadam._engine.windows import collectors
from jadam._errors import BadType, BadValue
from jadam._recipe import Recipe
from jadam._state import OptState
from jadam._tree import PyTree, is_trained, strong


@asking_no_symbols
def init(recipe: Recipe, params: PyTree) -> OptState:
    """The initial state: slots with the sharding of their parameters, everything else replicated."""
    _, values, treedef = strong("params", params, shapes=True, passing=True)
    plan = Plan.of(recipe, values, treedef, initial=True)
    check_order(plan)
    collectors(plan)
    if values and not any(map(is_trained, values)):
        found = ", ".join(sorted({str(value.dtype) for value in values}))
        raise BadType(f"nothing in params is trained: its leaves are {found}, none real or complex floating point.")
    sharding = shared_sharding([values[i] for i in plan.trained])
    hyperparams, given = initial(recipe, plan, sharding)
    programs = Programs.of(recipe, plan)
    slots, scalars = new_parts(
        plan,
        plan.all,
        values,
        lambda one, rule, i: _slots(programs, plan, one, rule, i, values[i]),
        lambda value, dtype: scalar(value, dtype, sharding),
    )
    state = OptState(scalar(0, jnp.int32, sharding), hyperparams, slots, scalars, given)
    warn_of_lost(recipe, plan, values)
    state.slots.update(plan.residues({i: _residue(programs, plan, i, values[i]) for i in plan.landings}))
    return state


def _slots(programs: Programs, plan: Plan, one: Placed, rule: Any, i: int, value: Any) -> dict[str, Any]:
    """What a part keeps for a new leaf, of which only the shape may be given."""
    if rule.positions and isinstance(value, jax.ShapeDtypeStruct):
        raise BadType(
            f"{rule.positions[0]} of {rule.name} begins as a copy of the parameter, of which only the shape is given at "
            f"{plan.path(i)}; pass arrays, or write jax.eval_shape(tx.init, params) for the shapes of the state."
        )
    try:
        types = kept(plan, rule, one.formats, i)
        return _made(programs, new_slots, (rule, one.formats), value, types) if types else {}
    except ValueError as error:
        raise BadValue(f"the parameter at {plan.path(i)}: {error}") from None


def _residue(programs: Programs, plan: Plan, i: int, value: Any) -> dict[str, Any]:
    storage = plan.storage(i)
    types = {name: Type(value.shape, dtype) for name, dtype in storage.residue.items()}
    return _made(programs, new_residue, (storage,), value, types) if types else {}


def _made(programs: Programs, make: Callable[..., Any], of: tuple[Any, ...], value: Any, types: dict[str, Type]) -> Any:
    """`make(*of, value)`, arrays of these types by name, placed like the parameter."""
    if isinstance(value, Tracer):
        return make(*of, value)
    somewhere = getattr(value, "committed", True) and getattr(value, "sharding", None)
    places = [(name, slot_sharding(value.sharding, value.shape, t.shape)) for name, t in types.items()] if somewhere else []
    shape, p = ((value.shape, value.dtype), None) if isinstance(value, jax.ShapeDtypeStruct) else (None, value)
    return programs.new(tuple(places))(make, of, shape, p)
