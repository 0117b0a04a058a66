"""In which formats a transformation stores its slots and its parameters."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import product
from typing import Annotated, Any

import jax
import jax.numpy as jnp

from jadam._annotations import Option, is_integer
from jadam._chain import Transformation, builder, not_ours
from jadam._engine.lost import lost, peak_of
from jadam._engine.plan import Plan, without_numbers
from jadam._errors import BadValue, door, shown
from jadam._masks import FirstMatch
from jadam._recipe import Landing, Pair, Recipe
from jadam._scope import Scope
from jadam._storage.params import PARAM_STORAGE
from jadam._storage.slots import SLOT_STORAGE, SlotStorage
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree, strong

Size = Annotated[int, Option("an integer >= 0", lambda x: is_integer(x) and x >= 0)]


@builder
def with_precision(
    tx: Transformation,
    state: str | Mapping[str, str] | None = None,
    params: str | None = None,
    *,
    rounding: str = "stochastic",
    min_size: Size = 4096,
    seed: int = 0,
    kernel: str | None = None,
) -> GradientTransformation:
    """The same transformation with its slots, or 16-bit parameters, stored otherwise; the arithmetic stays float32.

    Which to choose, what it costs and what it risks is in a table of docs/precision.md.

    Args:
        tx: a transformation of jadam. Storage chosen inside `tx`, or for one of its groups, takes precedence. Slots of
            optimizers from elsewhere in it stay as they are. Within `optax.chain` it must come last, since parameters land on
            its updates.
        state: storage of all slots that are averages, or by slot: `{"mu": "bfloat16", "nu": "int8"}`. "float32" (4 bytes
            an element), "bfloat16" (2) or "int8" (1.125: blocks of 32 along the second last axis, each with a scale). Slots
            that begin as copies of the parameters (`z` and `x` of schedule-free, `p0` of Prodigy) change only by name. Slots of
            complex parameters stay as they are; so do, in "int8", those whose blocks would be shorter than 4.
        params: storage of bfloat16 and float16 parameters; others stay as they are. "nearest": as they are, small steps are
            lost. "stochastic": rounded so that they are right on average; no bytes. "kahan": what rounding took away is
            kept beside them; 2 bytes a parameter. "remainder": an int16 beside a bfloat16 makes a float32, exactly; 2 bytes.
            Rules see, and updates move, the sum of what is stored.
        rounding: of slots, "stochastic" or "nearest"; nearest is deterministic, but freezes slots that change by less than one
            step of the format.
        min_size: slots with fewer elements stay float32.
        seed: of the random bits, a hash of it, the step, the leaf, the slot and the index: the same on any devices and for
            every model under `vmap`.
        kernel: what computes leaves: "xla", the default, or "pallas": one Pallas kernel a matrix, in which each array is read
            and written once whatever its storage. Elementwise rules on float32 and bfloat16 leaves whose second last axis has
            32 elements or more are computed so; others by XLA. Triton compiles it on NVIDIA, Mosaic on TPU; on CPU it is
            interpreted, which is slow. docs/accelerators.md says where it has run. Of a table with `Rows`, one kernel on
            NVIDIA reads and writes the rows where they are (docs/rows.md).

    Raises:
        ValueError: an unknown storage or rounding, or a slot that no rule of `tx` keeps.
        TypeError: from `init`, a float16 parameter with "remainder".

    Example:
        >>> import jadam, jax, jax.numpy as jnp
        >>> tx = jadam.with_precision(jadam.adamw(1e-4), state="int8", params="stochastic")
        >>> params = {"w": jnp.ones((64, 64), jnp.bfloat16)}
        >>> updates, state = tx.update(params, tx.init(params), params)
        >>> sum(x.nbytes for x in jax.tree.leaves(state.slots)) / 4096
        2.25
    """
    by_name = dict(state) if isinstance(state, Mapping) else {}
    for storage in by_name.values() if isinstance(state, Mapping) else [state] * (state is not None):
        _check("state", state, storage, SLOT_STORAGE)
    if params is not None:
        _check("params", params, params, PARAM_STORAGE)
    _check("rounding", rounding, rounding, ("stochastic", "nearest"))
    if kernel is not None:
        _check("kernel", kernel, kernel, ("xla", "pallas"))
    min_size, seed = operator.index(min_size), operator.index(seed)
    rules = [place.part.rule for place in tx.recipe.all]
    known = {slot for rule in rules if not isinstance(rule, Pair) for one in _at_leaves(rule) for slot in _slots(one)}
    if unknown := set(by_name) - known:
        raise BadValue(f"no rule keeps {unknown.pop()!r}; there are {', '.join(sorted(known)) or 'no slots'}.")
    if state is not None and not known and any(isinstance(rule, Pair) for rule in rules):
        raise BadValue(f"the slots of {tx!r} come from elsewhere; use an optimizer of jadam for another storage.")

    def codec(storage: str) -> SlotStorage:
        return SLOT_STORAGE[storage](rounding, min_size, seed)  # pyright: ignore[reportArgumentType]

    landing = None if params is None else PARAM_STORAGE[params](**{"seed": seed} if params == "stochastic" else {})
    formats = tuple((slot, codec(storage)) for slot, storage in ({"": state} if isinstance(state, str) else by_name).items())
    given = (("state", state), ("params", params), ("kernel", kernel))
    said = [f"{name}={value!r}" for name, value in given if value is not None]
    storages = [*(codec for _, codec in formats), *([landing] if landing else [])]
    options = dict.fromkeys(option for storage in storages for option in storage.options)
    scope = Scope(("with_precision(", f", {', '.join([*said, *options])})"), formats=formats, kernel=kernel or "")
    recipe = tx.recipe.within(scope)
    return GradientTransformation.of(recipe + Recipe(landings=(Landing(landing, (scope,)),)) if landing else recipe)


@door
def check_precision(
    tx: GradientTransformation, params: PyTree, learning_rate: float | Callable[..., Any] | None = None
) -> list[str]:
    """Lists the parameters whose updates would be lost to rounding, one sentence each; empty if there are none.

    A bfloat16 has 8 bits: rounded to nearest, a weight of 1.0 stays where it is under steps below 0.002.

    Args:
        tx: a transformation of jadam.
        params: a tree of arrays. Of those in 16 bits or fewer that are rounded to nearest, it is computed which elements a
            step of the learning rate moves, up or down; Adam's steps are of that size. An array gets a sentence if it
            moves less than 99 % of them. Frozen ones, and those whose values are not known, are passed over.
        learning_rate: a number >= 0, or a schedule with a `peak_value`, which is taken; None is the rate that `tx` has for
            each parameter, as far as that can be known.

    Raises:
        ValueError: a mask does not fit the parameters, the rate is out of range, or the schedule has no `peak_value`.
        TypeError: `tx` is not a jadam transformation.

    Example:
        >>> import jadam, jax.numpy as jnp
        >>> [words] = jadam.check_precision(jadam.adam(1e-4), {"scale": jnp.ones(8, jnp.bfloat16)}, 1e-4)
        >>> print(words.split(";")[0])
        scale: steps of 0.0001 move 0% of its elements, which are bfloat16 rounded to nearest
    """
    if not isinstance(tx, GradientTransformation):
        raise not_ours(tx)
    given = None if learning_rate is None else peak_of(learning_rate)
    if learning_rate is not None and not (given is not None and 0 <= given < math.inf):
        raise BadValue("the learning rate must be a finite number >= 0, or a schedule with such a peak_value.")
    _, values, treedef = strong("params", params, shapes=True)
    plan = Plan.of(tx.recipe, values, treedef)
    return lost(tx.recipe, plan, values, given)


def _check(argument: str, given: Any, value: Any, allowed: Any) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise BadValue(f"{shown(value)} must be one of {', '.join(allowed)}.", **{argument: given})


def _at_leaves(rule: Any) -> list[Any]:
    """A rule without the options that it has by leaf, and with each of their values: it may keep other slots then."""
    alone = without_numbers(rule)
    options = [(name, option) for name, option in vars(rule).items() if isinstance(option, FirstMatch)]
    return [alone, *(alone.bound({name: value}) for name, option in options for _, value in option.pairs)]


def _slots(rule: Any) -> set[str]:
    """The names of all slots that a rule keeps. Vectors and matrices may have their own, and some rules refuse a rank."""
    names: set[str] = set()
    for length, ndim in product((2, 64, 4096), range(5)):
        with suppress(Exception):  # what `init` refuses there, it will refuse
            names |= set(jax.eval_shape(rule.init, jax.ShapeDtypeStruct((length,) * ndim, jnp.float32)))
    return names
