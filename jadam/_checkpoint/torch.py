"""The state of torch's optimizers, read and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jadam._annotations import is_integer
from jadam._chain import not_ours
from jadam._checkpoint.flat import placed_like
from jadam._dtypes import cast, compute_dtype, decode, encode, full_dtype, is_complex
from jadam._engine import checks
from jadam._engine.leaf import encoded
from jadam._engine.numbers import alike
from jadam._engine.plan import Placed, Plan
from jadam._errors import BadType, BadValue, door, shown
from jadam._recipe import Recipe
from jadam._state import OptState, as_state
from jadam._storage.slots import apart, decode_slot
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree, quoted, strong
from jadam._wrapper import Wrapper

MOMENTS = {
    "adam": {"mu": "exp_avg", "nu": "exp_avg_sq"},
    "amsgrad": {"mu": "exp_avg", "nu": "exp_avg_sq", "nu_max": "max_exp_avg_sq"},
    "trace": {"trace": "momentum_buffer"},
}
"""What torch calls the slots of rules."""

Name = str | tuple[str, Sequence[int]]
Names = Mapping[Any, Name] | Sequence[Name]


@door
def from_torch(
    tx: GradientTransformation,
    params: PyTree,
    state_dict: Mapping[str, Any],
    names: Names,
    *,
    count: int | None = None,
) -> OptState:
    """The state with which a run of torch goes on: the moments of `Adam`, `AdamW` (`amsgrad` too) or `SGD` with momentum.

    Numbers such as the learning rate are those of `tx`, and not of torch's `param_groups`. torch need not be installed.

    Args:
        tx: a transformation whose slots are those of `adam`, `adamw`, `amsgrad` or `sgd`, in any storage. Around these there
            may be wrappers, averages and `lookahead`, which begin as in `tx.init`.
        params: the parameters, arrays.
        state_dict: what `optimizer.state_dict()` of torch returned; its values are anything that `numpy.asarray` reads, such as
            tensors on the CPU.
        names: the path of a parameter here, as `describe` shows it, for each key that it has in `state_dict["state"]`, an index
            or a name; a list for 0, 1, 2, ... Where axes are in another order, the path with the axes of torch's array in the
            order in which they stand here, as for `numpy.transpose`: `("dense/kernel", (1, 0))` for the weight of a
            `Linear`, `("conv/kernel", (2, 3, 1, 0))` for that of a `Conv2d`.
        count: the updates done; needed where the state_dict does not say it, as of `SGD`. Schedules count from it.

    Raises:
        ValueError: a path, a key or a moment is missing, or has another shape; parameters that share a count here have
            different ones there; a rule of `tx` keeps what torch has not, or none keeps what torch has.
        TypeError: an argument is something else.

    Example:
        >>> import jadam, jax.numpy as jnp, numpy as np
        >>> tx, params = jadam.adamw(1e-3), {"kernel": jnp.ones((3, 2))}  # Linear(3, 2, bias=False)
        >>> moments = {"step": 5.0, "exp_avg": np.ones((2, 3)), "exp_avg_sq": np.ones((2, 3))}
        >>> state = jadam.from_torch(tx, params, {"state": {0: moments}}, {0: ("kernel", (1, 0))})
        >>> int(state.count), state.slots["adam"]["mu"]["kernel"].shape
        (5, (3, 2))
    """
    tx, params, plan = _planned(tx, params)
    entries = state_dict.get("state") if isinstance(state_dict, Mapping) else None
    if not isinstance(entries, Mapping) or not all(isinstance(entry, Mapping) for entry in entries.values()):
        raise BadType(f"{shown(state_dict)} is not a state_dict; pass what optimizer.state_dict() of torch returned.")
    if count is not None and not (is_integer(count) and 0 <= count < 2**31):
        raise BadValue("{name} must be an integer in [0, 2**31).", count=count)
    fresh, table = tx.init(params), _table(names, plan)
    steps: dict[str | None, dict[int, str]] = {}
    slots, carried = dict(fresh.slots), {(name.key, moment) for name in table.values() for moment in _carried(entries, name)}
    for one, counter, moments in _with_moments(tx.recipe, plan, fresh):
        new: dict[int, dict[str, Any]] = {}
        for i in one.at:
            name = _named(table, plan, i)
            if name.key not in entries:
                known = ", ".join(map(repr, list(entries)[:8])) or "nothing"
                raise BadValue(
                    f"the state_dict has nothing for {name.key!r}, which is {quoted(name.path)} here; it has {known}."
                )
            entry = entries[name.key]
            if "step" in entry:
                steps.setdefault(counter, {}).setdefault(_step(entry, name), name.path)
            carried -= {(name.key, moment) for moment in moments.values()}
            new[i] = apart({slot: _moment(entry, theirs, name, plan, one, i, slot) for slot, theirs in moments.items()})
        slots[one.key] = plan.trees(new, slots[one.key])
    if carried:
        key, moment = min(carried, key=repr)
        raise BadValue(
            f"the state_dict has {moment} for {key!r}, which nothing in tx keeps; take it out of the state_dict to go on "
            "without."
        )
    for of_one in steps.values():
        if len(of_one) > 1:
            two = " and ".join(f"{step} of {quoted(path)}" for step, path in list(of_one.items())[:2])
            raise BadValue(
                f"the parameters have done different numbers of updates, {two}, and one count here; put those with one number "
                "into a group of a partition, which has a count of its own."
            )
    done = {counter: next(iter(of_one)) for counter, of_one in steps.items()}
    total = max(done.values(), default=None) if count is None else count
    if total is None:
        raise BadValue("the state_dict does not say how many updates were done; give count=.")
    counts = {key: fresh.scalars[key] | {"count": alike(fresh.count, done.get(key, total))} for key in tx.recipe.counters}
    state = fresh._replace(count=alike(fresh.count, done.get(None, total)), slots=slots, scalars=fresh.scalars | counts)
    return jax.tree.map(placed_like, state, fresh)


@door
def to_torch(
    tx: GradientTransformation, params: PyTree, state: OptState, names: Names
) -> dict[str, dict[Any, dict[str, np.ndarray]]]:
    """The moments and steps of a state as torch's optimizers have them, the inverse of `from_torch`.

    Put `torch.from_numpy` around each array, and load `optimizer.state_dict() | {"state": ...}`: its own `param_groups`
    stay.

    Args:
        tx: as in `from_torch`. What wrappers and averages keep is not written.
        params: the parameters.
        state: what `tx.init`, `tx.update` or `tx.step` returned.
        names: as in `from_torch`.

    Returns:
        `{"state": {key: {"step": float32 scalar, "exp_avg": ..., "exp_avg_sq": ...}}}`, or `{"momentum_buffer": ...}`, in
        torch's order of axes, float32 (float64 where the parameter is).

    Raises:
        ValueError: as `from_torch`.
        TypeError: as `from_torch`.
    """
    tx, params, plan = _planned(tx, params)
    state, table = as_state("third", state), _table(names, plan)
    checks.check_state(plan, state)
    entries: dict[Any, dict[str, np.ndarray]] = {}
    for one, counter, moments in _with_moments(tx.recipe, plan, state):
        count = state.scalars[counter]["count"] if counter else state.count
        for i, own in checks.slots(plan, state, one).items():
            name = _named(table, plan, i)
            entry = entries.setdefault(name.key, {})
            if "exp_avg" in moments.values():
                entry["step"] = np.asarray(count, np.float32)
            for slot, theirs in moments.items():
                x = np.asarray(encode(decode_slot(own[slot], plan.dtype_of(i)), full_dtype(plan.dtype_of(i))))
                entry[theirs] = x if name.axes is None else np.ascontiguousarray(x.transpose(np.argsort(name.axes)))
    return {"state": entries}


class _Named(NamedTuple):
    """A parameter of torch's: its key there, its path here, and its axes in the order that they have here."""

    key: Any
    path: str
    axes: tuple[int, ...] | None


def _planned(tx: Any, params: PyTree) -> tuple[GradientTransformation, PyTree, Plan]:
    if not isinstance(tx, GradientTransformation):
        raise not_ours(tx)
    params, values, treedef = strong("params", params, passing=True)
    return tx, params, Plan.of(tx.recipe, values, treedef)


def _table(names: Names, plan: Plan) -> dict[str, _Named]:
    """The parameters by their paths here."""
    table: dict[str, _Named] = {}
    if isinstance(names, str) or not isinstance(names, Mapping | Sequence):
        raise BadType("{name} must be a dict of paths by torch's keys, or a list of paths.", names=names)
    for key, named in names.items() if isinstance(names, Mapping) else enumerate(names):
        path, axes = named if isinstance(named, tuple) and len(named) == 2 else (named, None)
        if not isinstance(path, str) or not (axes is None or (isinstance(axes, Sequence) and all(map(is_integer, axes)))):
            raise BadType(f"names has {shown(named)} for {key!r}; write a path, or (path, axes).")
        if path not in plan.names:
            raise BadValue(f"names has {path!r}, and the parameters have {', '.join(map(quoted, plan.names[:8]))}.")
        ndim = len(plan.shapes[plan.names.index(path)][0])
        if axes is not None and sorted(axes) != list(range(ndim)):
            raise BadValue(f"names has the axes {tuple(axes)} for {path!r}, which has {ndim}; each must stand there once.")
        if path in table:
            raise BadValue(f"names has {path!r} twice, for {table[path].key!r} and {key!r}.")
        table[path] = _Named(key, path, None if axes is None else tuple(axes))
    return table


def _named(table: Mapping[str, _Named], plan: Plan, i: int) -> _Named:
    if (name := table.get(plan.names[i])) is None:
        raise BadValue(f"names has nothing for {plan.path(i)}, which is trained.")
    return name


def _with_moments(recipe: Recipe, plan: Plan, state: OptState) -> Iterator[tuple[Placed, str | None, dict[str, str]]]:
    """The rules that keep moments, who keeps their count, and what torch calls the slots."""
    for place, one in zip(recipe.all, plan.all, strict=True):
        beside = isinstance(one.rule, Wrapper) or getattr(one.rule, "keeps_zeros", False)  # an average, a lookahead
        if one.key in state.slots and not beside:
            moments = MOMENTS.get(one.rule.key, {})
            if unknown := [slot for slot in state.slots[one.key] if slot.partition(".")[0] not in moments]:
                raise BadValue(f"{one.rule.name} keeps {unknown[0]}; torch has the moments of {', '.join(MOMENTS)} alone.")
            yield one, place.counter, moments


def _carried(entries: Mapping[Any, Mapping[str, Any]], name: _Named) -> Iterator[str]:
    """The moments that torch has of a parameter; None is what it has before the first step."""
    entry = entries.get(name.key, {})
    yield from (theirs for moments in MOMENTS.values() for theirs in moments.values() if entry.get(theirs) is not None)


def _step(entry: Mapping[str, Any], name: _Named) -> int:
    step = _read(entry, "step", name)
    if step.shape != () or not (0 <= step < 2**31 and step == np.floor(step)):
        raise BadValue(f"step of {name.key!r} is {shown(entry['step'])}; it must be an integer in [0, 2**31).")
    return int(step)


def _read(entry: Mapping[str, Any], what: str, name: _Named) -> np.ndarray:
    if what in entry and entry[what] is None:
        raise BadValue(
            f"{what} of {name.key!r} is None, as torch has it before the first step; write zeros in its place, or, "
            "where no step was done, take tx.init(params)."
        )
    if what not in entry:
        raise BadValue(f"the state_dict has no {what} for {name.key!r}; it has {', '.join(map(str, entry)) or 'nothing'}.")
    try:
        x = np.asarray(entry[what])
    except (TypeError, ValueError, RuntimeError) as error:  # a tensor in bfloat16, or on a GPU
        raise BadType(f"numpy cannot read {what} of {name.key!r} ({error}); write it as a tensor.float().cpu().") from None
    if x.dtype.kind not in "fciu":
        raise BadType(f"{what} of {name.key!r} has dtype {x.dtype}, which is not a number.")
    return x


def _moment(entry: Mapping[str, Any], what: str, name: _Named, plan: Plan, one: Placed, i: int, slot: str) -> Array:
    """A slot as the state keeps it."""
    (shape, dtype), x = plan.shapes[i], _read(entry, what, name)
    if name.axes is not None and x.ndim == len(name.axes):
        x = x.transpose(name.axes)
    if x.shape != shape:
        turned = "" if name.axes is None else f" in the order {name.axes}"
        raise BadValue(
            f"{what} of {name.key!r} has shape {x.shape}{turned}, the parameter at {quoted(name.path)} {shape}; if its axes "
            f"are in another order, say so: ({name.path!r}, axes)."
        )
    if np.iscomplexobj(x) and not is_complex(dtype):
        raise BadType(f"{what} of {name.key!r} is complex, and the parameter at {quoted(name.path)} is {dtype}.")
    full = cast(decode(jnp.asarray(x)), compute_dtype(dtype))
    return encoded(full, slot, one.formats, dtype, None, one.key)
