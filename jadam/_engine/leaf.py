"""What happens to a leaf: rules on one array, in float32, between how it is stored and how it is stored."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._after_step import AfterStep
from jadam._context import H
from jadam._dtypes import cast, compute_dtype, decode, encode, full_dtype, full_products, holds_integers
from jadam._engine import returned
from jadam._engine.missed import Gap, missed
from jadam._errors import BadValue
from jadam._recipe import SlotFormats
from jadam._rule import Rule
from jadam._shards import indices
from jadam._squares import bounded
from jadam._storage.blocks import Tile
from jadam._storage.params import ParamStorage, Stored
from jadam._storage.rounding import Noise
from jadam._storage.slots import decode_slot
from jadam._tables import Summands, numbered

Mode = Literal["between", "update", "step"]
"""What becomes of an update: the next part's, in float32; the caller's; or the new parameter."""

Measured = Literal["", "outside", "here"]
"""Whether a wrapper sums over results: one further outside, or the one right around the row, which the sums are for."""


class Program(NamedTuple):
    """What happens to a leaf, as far as its trace depends on it: rules with the storage of their slots and their names.

    A name is there only where random bits depend on it, and of the caller there is none: equal rules share their programs.
    """

    rules: tuple[tuple[Rule, SlotFormats, str], ...]
    landing: ParamStorage
    mode: Mode
    kernel: bool = False
    measured: Measured = ""
    read: frozenset[tuple[int, str]] = frozenset()  # the slots that `prepare` has read, with the place of their rule
    length: int = 0  # of the table, where the leaf is some of its rows

    @property
    def elementwise(self) -> bool:
        return all(rule.elementwise for rule, *_ in self.rules)


class Operands(NamedTuple):
    """The arrays of a leaf.

    Attributes:
        u: the update so far.
        p: the parameter as it is stored, or None.
        gradient: the raw gradient, for rules that read it.
        slots: of each rule, as they are stored.
        residue: what is stored beside the parameter.
        hs: hyperparameters and constants of each rule.
        keys: of the step and of the leaf, for random bits: their xor is the key.
        gap: how many steps its rows missed, if these are to be caught up with.
        ids: where the leaf is some rows of a table, which.
        summands: where parameter, slots and residue are whole tables, of which rows are read and written in place, what the
            update `u` is summed from.
    """

    u: Array
    p: Array | None
    gradient: Array | None
    slots: list[dict[str, Any]]
    residue: dict[str, Array]
    hs: list[dict[str, Any]]
    keys: tuple[Any, ...] | None
    gap: Gap | None = None
    ids: Array | None = None
    summands: Summands | None = None


Result = tuple[Array, list[dict[str, Any]], dict[str, Array]]
"""The update, or the new parameter; the new slots; the residue of the parameter."""


def like(operands: Operands) -> Array:
    """The array whose shape, dtype and placement the leaf has."""
    return operands.u if operands.p is None else operands.p


def run(program: Program, operands: Operands, scales: list[dict[str, Array]] | None = None, tile: Tile | None = None) -> Result:
    """The rules on one array, or on a tile of it."""
    own, p, residue = like(operands), operands.p, operands.residue
    index = index_of(operands) if tile is None else tile.index
    # Combined here and not by the caller: an operation of the caller's would be one more kernel for each leaf.
    key = None if operands.keys is None else functools.reduce(lax.bitwise_xor, operands.keys)
    g, slots_of, new = updated(program, operands)
    new_slots = []
    for at, ((_, formats, name), slots) in enumerate(zip(program.rules, slots_of, strict=True)):
        known, stored = {} if scales is None else scales[at], {}
        for slot, x in slots.items():
            stored[slot] = encoded(x, slot, formats, own.dtype, key, name, index, tile, known.get(slot))
        new_slots.append(stored)
    if program.mode == "between":
        return encode(g, full_dtype(own.dtype)), new_slots, residue
    if p is None:
        return encode(g, own.dtype), new_slots, residue
    landing = program.landing
    with jax.named_scope(landing.key):
        land = landing.step if program.mode == "step" else landing.land
        out, residue = land(g, p, residue, None if key is None else Noise(key, "params", index), new)
    if program.elementwise and not (tile and tile.in_kernel):  # others have passes of their own
        old = jax.tree.leaves(operands.slots)
        # A slot that `prepare` has read was computed there, in an earlier pass, which may write it too.
        unread = [{k: x for k, x in slots.items() if (n, k) not in program.read} for n, slots in enumerate(new_slots)]
        changed = [x for x in jax.tree.leaves(unread) if not any(x is one for one in old)]
        out = _in_one_fusion(out, [*changed, *residue.values()], operands.hs)
        if program.measured:
            new_slots = _in_the_fusion_of(out, new_slots, operands.hs)
    return out, new_slots, residue


def index_of(operands: Operands) -> Array | None:
    """Which elements of the whole parameter these are, where they are rows of it or what a device has inside `shard_map`."""
    own = like(operands)
    return indices(own) if operands.ids is None else numbered(operands.ids, own.shape)


def updated(program: Program, operands: Operands) -> tuple[Array, list[dict[str, Array]], Array | None]:
    """The update and the slots that the rules make, in the dtype of the arithmetic, and where an `AfterStep` lands.

    Parameter plus update may be another number than that: not every difference is a number of this dtype.
    """
    u, p, gradient, slots, residue, hs, _, gap, *_ = operands
    dtype = compute_dtype(like(operands).dtype)
    g = first = cast(decode(u), dtype)
    full_p = None if p is None else program.landing.decode(p, residue)
    new_slots = []
    slots = [{slot: decode_slot(value, like(operands).dtype) for slot, value in stored.items()} for stored in slots]
    all_values = [H(**jax.tree.map(lambda x: x if x.dtype == bool else cast(x, dtype), h)) for h in hs]
    late = landed = None
    if gap is not None:
        late, slots = missed([rule for rule, *_ in program.rules], program.mode, full_p, slots, all_values, gap)
        full_p = late if full_p is None else full_p + late
    for (rule, *_), own, h, values in zip(program.rules, slots, hs, all_values, strict=True):
        param: Any = _NoParams(rule) if full_p is None else full_p
        if rule.reads_gradient and gradient is not None:
            values.gradient = cast(decode(gradient), dtype)
        if isinstance(rule, AfterStep) and p is not None:
            values.stored = Stored(program.landing, p, program.mode == "step")
        g = g if rule.elementwise or g is first else _on_chip(g)
        before = _shapes(g, own)
        with jax.named_scope(rule.name), full_products():  # the name shows in profiles and in the HLO
            seen = bounded(g, rule.squares(g.shape)) if own else g
            if isinstance(rule, AfterStep):
                landed, new = returned.update(rule, rule.land(seen, own, param, values))
                out = landed - param
            else:
                out, new = returned.update(rule, rule.update(seen, own, param, values))
            own = {slot: _in_place(x, own[slot], h) if x is seen and slot in own else x for slot, x in new.items()}
        if (shapes := _shapes(out, own)) != before:
            raise BadValue(
                f"{type(rule).__name__}.update must keep the shapes of update and slots: of {before} it made {shapes}."
            )
        g = cast(out, dtype)  # float32 from rule to rule, so that the order of a chain costs no digits
        new_slots.append(own)
    return (g, new_slots, landed) if late is None else (g + late, new_slots, None)


# Where XLA cannot see that arrays are read and written in one pass, a dependency shows it: on a condition that never holds.


def _never(hs: Any) -> Array | None:
    """Whether a hyperparameter is NaN, of which no compiler knows: a scalar one, which `lax.select` accepts for any shape."""
    numbers = (x for x in jax.tree.leaves(hs) if x.shape == () and jnp.issubdtype(x.dtype, jnp.floating))
    number = next(numbers, None)
    return None if number is None else lax.ne(number, number)


def _in_place(value: Array, old: Array, h: Mapping[str, Any]) -> Array:
    """The gradient as the new value of a slot: on GPU, XLA writes over the old array only if the new one depends on it."""
    never = _never(h)
    return value if never is None else lax.select(never, old, value)


ON_CHIP = 2**25
"""Bytes of an array that is kept in the memory of a TPU's chip, which has 64 MiB or more: it is not alone there."""


def _on_chip(g: Array) -> Array:
    """The update of the rules before, for one that needs all of it at once and then each element of it.

    XLA on TPU would read slots and parameter again to compute the update once more, though it has room for it on the chip. An
    array that is larger would go to memory.
    """
    size = g.size * g.dtype.itemsize
    if not isinstance(size, int) or size > ON_CHIP:  # the size of a symbolic shape is not known
        return g
    return lax.platform_dependent(g, tpu=lax.optimization_barrier, default=lambda g: g)


def _in_one_fusion(out: Array, others: list[Array], hs: Any) -> Array:
    """The result, so that XLA on TPU computes it together with the other arrays of the leaf, and not each for itself again."""
    never, alike = _never(hs), [x for x in others if x.shape == out.shape]
    if never is None or not alike:
        return out
    return lax.platform_dependent(never, out, *alike, tpu=_depending, default=lambda never, out, *_: out)


def _depending(never: Array, out: Array, *others: Array) -> Array:
    return functools.reduce(lambda found, x: lax.select(never, cast(x, found.dtype), found), others, out)


def after(out: Array, scalar: Array, hs: Any) -> Array:
    """The result, so that XLA computes it when it has the scalar."""
    never = _never(hs)
    return out if never is None else _depending(never, out, lax.full_like(out, scalar))


def _in_the_fusion_of(out: Array, slots: list[dict[str, Any]], hs: Any) -> list[dict[str, Any]]:
    """The new slots, so that XLA on GPU computes them together with a sum over the result, and does not write it to memory
    first.
    """
    never = _never(hs)
    if never is None:
        return slots

    def dependent(never: Array, out: Array, slots: Any) -> Any:
        return jax.tree.map(lambda x: lax.select(never, cast(out, x.dtype), x) if x.shape == out.shape else x, slots)

    alone = lambda never, out, slots: slots  # noqa: E731
    return lax.platform_dependent(never, out, slots, cpu=alone, tpu=alone, default=dependent)


def encoded(
    value: Array,
    slot: str,
    formats: SlotFormats,
    dtype: Any,
    key: Any,
    owner: str,
    index: Array | None = None,
    tile: Tile | None = None,
    scales: Array | None = None,
) -> Any:
    """A slot of a parameter of this dtype as its owner stores it."""
    noise = None if key is None else Noise(key, f"{owner}/{slot}", index)
    full = value if holds_integers(value) else cast(value, compute_dtype(dtype))
    return formats.codec(slot).encode(full, dtype, noise, tile, scales)


def _shapes(u: Array, slots: dict[str, Array]) -> dict[str, tuple[int, ...]]:
    return {"update": u.shape, **{slot: value.shape for slot, value in slots.items()}}


def needs_params(rule: Any) -> str:
    return f"{rule.name} needs the parameters; call update(grads, state, params), not update(grads, state)."


class _Absent:
    """Stands for what `update` did not get; any use of it says so, and a rule that does not use it does not need it."""

    def __init__(self, words: str):
        self._words = words

    def _refuse(self, *_: Any) -> Any:
        raise BadValue(self._words)

    __jax_array__ = __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __neg__ = __abs__ = _refuse
    __pow__ = __rpow__ = __mod__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = __int__ = __float__ = _refuse

    def __getattr__(self, name: str) -> Any:
        raise BadValue(self._words) if not name.startswith("_") else AttributeError(name)


class _NoParams(_Absent):
    def __init__(self, rule: Rule):
        super().__init__(needs_params(rule))


class NoCount(_Absent):
    """The count, where there is no state."""

    def __init__(self, rule: Any, dtype: Any):
        super().__init__(f"{rule.name} counts steps; pass the state that init or the last update returned.")
        self.dtype = dtype

    def __eq__(self, other: object) -> bool:
        return self._refuse()

    __hash__ = object.__hash__
