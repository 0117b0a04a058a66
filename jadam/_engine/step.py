"""One step of a recipe over a tree: what is asked outside of the compiled step, and what is compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jadam._engine import checks, parts
from jadam._engine.leaf import Mode, Operands, Program
from jadam._engine.numbers import Said, acting, said, without_state
from jadam._engine.order import check_order
from jadam._engine.passes import run_rules
from jadam._engine.plan import Plan
from jadam._engine.reader import Step
from jadam._engine.restored import restored
from jadam._engine.row import Row
from jadam._engine.rows import Tables
from jadam._engine.staying import staying
from jadam._engine.symbolic import asking_no_symbols
from jadam._errors import BadValue
from jadam._recipe import Recipe
from jadam._rows import Rows
from jadam._state import OptState, as_state
from jadam._storage.params import NEAREST
from jadam._tree import PyTree, arrays, is_array, is_passed, put_back, strong


@asking_no_symbols
def update(
    recipe: Recipe, mode: Mode, updates: PyTree, state: OptState, params: PyTree, extra: dict[str, Any]
) -> tuple[PyTree, OptState]:
    """One step: the updates ("update"), or the new parameters ("step"), and the new state."""
    if recipe.keeps_nothing and not jax.tree.leaves(state):  # None or an empty state, as optax's transformations of this kind
        return _update(recipe, mode, updates, None, params, extra)[0], state
    return _update(recipe, mode, updates, as_state("second", state), params, extra)


def _update(
    recipe: Recipe, mode: Mode, updates: PyTree, state: OptState | None, params: PyTree, extra: dict[str, Any]
) -> tuple[PyTree, OptState]:
    """A step with the state of the recipe, or without any."""
    given, like = updates, updates if params is None else params
    if params is None:
        updates, leaves, treedef = strong("the gradient tree", updates, passing=True)
        passing = updates is not given
    else:
        params, leaves, treedef = strong("params", params, passing=True)
        passing = params is not like and any(map(is_passed, jax.tree.leaves(like)))
        updates, *_ = strong("the gradient tree", updates, passing=passing)  # passed over where the parameters have such too
    if params is None and (landed := [storage.key for storage, _ in recipe.landings if storage != NEAREST]):
        raise BadValue(f"with_precision(params={landed[0]!r}) needs the parameters; call update(grads, state, params).")
    plan = Plan.of(recipe, leaves, treedef)  # before anything is traced: masks are functions of the user's
    state = without_state(recipe, plan) if state is None else restored(plan, state)
    checks.asked(plan, extra)
    of_arrays = not extra or all(is_array(leaf) for leaf in jax.tree.leaves(extra))
    # Functions of the user's, pairs or arguments, would stay in the cache of the compiled step: Python runs around them.
    programs = Programs.of(recipe, plan)
    run = programs.run if plan.compiles and of_arrays else programs.step
    extra = arrays("extra", extra) if extra and of_arrays else extra
    traced = any(isinstance(leaf, Tracer) for leaf in leaves[:1])
    run = functools.partial(staying, run) if traced or run is programs.step else programs.alone
    found, state = run(mode, updates, state, params, extra, said(recipe, plan, state))
    return (put_back(found, like, like if mode == "step" else given) if passing else found), state


class Programs:
    """What is compiled for plans that are equal.

    It is freed with the last transformation that has one of them, but for the last few: whoever builds a transformation
    anew, with other numbers perhaps, finds its programs, and whoever builds many, each for other trees or with other rules,
    does not collect some 3 MB for each of them.
    """

    def __init__(self, plan: Plan) -> None:
        # Functions of its own, since JAX keeps what it traced and compiled for as long as the function lives. The plan is no
        # argument of them: JAX keeps static arguments for longer.
        rules = jax.jit(lambda program, operands: run_rules(program, operands), static_argnums=0)
        self.step = functools.partial(_run, rules, plan)
        self.run = jax.jit(self.step, static_argnums=0)  # as a part of a program
        # As a whole one. In a program with several steps each has its own arrays to stay with.
        self.alone = jax.jit(functools.partial(staying, self.step), static_argnums=0)

        def new(make: Callable[..., Any], of: tuple[Any, ...], shape: Any, p: Array) -> dict[str, Array]:
            return make(*of, jnp.zeros(*shape) if shape else p)

        # By where its arrays are placed.
        self.new = functools.cache(lambda places: jax.jit(new, static_argnums=(0, 1, 2), out_shardings=dict(places) or None))

    @staticmethod
    def of(recipe: Recipe, plan: Plan) -> Programs:
        if plan not in recipe.plans:
            # Functions of the user's in a plan stay with the user's transformation.
            recipe.plans[plan] = _recent(plan) if plan.compiles else Programs(plan)
        return recipe.plans[plan]


_alive: WeakValueDictionary[Plan, Programs] = WeakValueDictionary()


@functools.lru_cache(maxsize=8)
def _recent(plan: Plan) -> Programs:
    return _alive.setdefault(plan, Programs(plan))


def _run(
    rules: Callable[[Program, Operands], Any],
    plan: Plan,
    mode: Mode,
    updates: PyTree,
    state: OptState,
    params: PyTree,
    extra: dict[str, Any],
    code: Said,
) -> tuple[PyTree, OptState]:
    given = checks.gradients(plan, updates)
    checks.check_state(plan, state)
    check_order(plan)
    leaves = None if params is None else plan.treedef.flatten_up_to(params)
    tables = Tables.of(plan, given, leaves, state)
    own, before = tables.smaller, tables.state(state)
    parts.check(plan, dict(enumerate(given)), leaves)
    step = Step(own, tables.params(leaves), extra, acting(plan, state, code), rules, tables.ids)
    step = step._replace(collected=tables.collected, tables=tables.in_kernel(state))
    row = Row(step, own.row, tables.updates(given), checks.residues(own, before), before, mode)
    done = row.run()
    done.state.slots.update(own.residues(done.residues))
    untouched = [None if i in done.updates else _untouched(step, given, i, mode) for i in range(len(given))]
    return plan.tree(tables.landed(done, row.written, mode), untouched), tables.scattered(state, done, row.written)


def _untouched(step: Step, given: list[Any], i: int, mode: Mode) -> Any:
    """What stands for a leaf that is not trained: itself, or zeros, so that `params + updates` leaves it as it is."""
    if step.params is None:
        return jnp.zeros_like(given[i]) if i in step.plan.frozen and given[i] is not None else given[i]
    if mode == "step":
        return step.params[i]
    if isinstance(given[i], Rows):
        return given[i] * 0 if i in step.plan.frozen else given[i]
    return jnp.zeros_like(step.params[i]) if i in step.plan.frozen or isinstance(given[i], Array) else given[i]
