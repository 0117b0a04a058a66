"""Runs rules on one array: the inner loop of the engine, which is traced once for each kind of array."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._dtypes import cast, compute_dtype, decode, encode, full_dtype, full_products
from jadam._engine import returned
from jadam._engine.placement import on_automatic_axes, tied
from jadam._errors import BadValue
from jadam._norm import bounded
from jadam._recipe import SlotFormats
from jadam._rule import H, Rule
from jadam._storage.blocks import BLOCK, Int8Blocks, Tile, as_array, block_axis, in_blocks, joined, scales_of
from jadam._storage.params import ParamStorage
from jadam._storage.rounding import Noise
from jadam._storage.slots import decode_slot

Mode = Literal["between", "update", "step"]
"""What becomes of an update: the next part's, in float32; the caller's; or the new parameter."""


class Program(NamedTuple):
    """What happens to a leaf, as far as its trace depends on it: rules with the storage of their slots and their names.

    A name is there only where random bits depend on it, and of the caller there is none: equal rules share their programs.
    """

    rules: tuple[tuple[Rule, SlotFormats, str], ...]
    landing: ParamStorage
    mode: Mode

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
        keys: of the step and of the leaf, for random bits.
    """

    u: Array
    p: Array | None
    gradient: Array | None
    slots: list[dict[str, Any]]
    residue: dict[str, Array]
    hs: list[dict[str, Any]]
    keys: tuple[Any, Any] | None


Result = tuple[Array, list[dict[str, Any]], dict[str, Array]]
"""The update, or the new parameter; the new slots; the residue of the parameter."""


def run_rules(program: Program, operands: Operands) -> Result:
    """The rules on one array."""
    like = _like(operands)

    def shardings() -> Any:
        return jax.tree.map(lambda x: jax.typeof(x).sharding, (like, operands.slots, operands.residue))

    in_8_bits = any(isinstance(stored, Int8Blocks) for slots in operands.slots for stored in slots.values())
    run = _in_two_passes if in_8_bits and program.elementwise else _run
    return on_automatic_axes(functools.partial(run, program), like, shardings)(operands)


def _like(operands: Operands) -> Array:
    return operands.u if operands.p is None else operands.p


def _in_two_passes(program: Program, operands: Operands) -> Result:
    """A code needs the largest element of its block. The first pass finds that and keeps nothing else; the second repeats it.

    XLA would write what both compute to memory, in 32 bits, if it knew that they are the same.
    """
    shape = _like(operands).shape
    tile = Tile.whole(shape)

    def at_once(blocks: Operands) -> list[dict[str, Array]]:
        return scales(blocks, tile.inside)

    def row_by_row(blocks: Operands) -> list[dict[str, Array]]:
        """On CPU, where barriers are not kept and halves of blocks are written to memory."""

        def with_row(k: Array, found: list[dict[str, Array]]) -> list[dict[str, Array]]:
            row = functools.partial(lax.dynamic_slice_in_dim, start_index=k, slice_size=1, axis=-2)
            at_row = mapped(blocks, lambda x: Int8Blocks(row(x.codes), x.scales) if isinstance(x, Int8Blocks) else row(x))
            return jax.tree.map(joined, found, scales(at_row, None if tile.inside is None else row(tile.inside)))

        none = jax.tree.map(lambda x: jnp.full(x.shape, -0.0, x.dtype), jax.eval_shape(at_once, blocks))
        return lax.fori_loop(0, BLOCK, with_row, none)

    def scales(blocks: Operands, inside: Array | None) -> list[dict[str, Array]]:
        return [
            {slot: scales_of(x, inside) for slot, x in slots.items() if isinstance(stored[slot], Int8Blocks)}
            for slots, stored in zip(_updated(program, blocks)[1], operands.slots, strict=True)
        ]

    def on_blocks(operands: Operands, blocks: Operands, scales: list[dict[str, Array]]) -> Result:
        result = _run(program, *lax.optimization_barrier((blocks, scales)), tile)
        return jax.tree.map(
            lambda x: x.as_array(shape) if isinstance(x, Int8Blocks) else as_array(x, shape), result, is_leaf=_is_stored
        )

    def on_arrays(operands: Operands, blocks: Operands, scales: list[dict[str, Array]]) -> Result:
        if block_axis(shape) == -1:
            scales = jax.tree.map(lambda x: x[..., 0], scales)
        return _run(program, *lax.optimization_barrier((operands, scales)))

    blocks = mapped(operands, lambda x: x.in_blocks() if isinstance(x, Int8Blocks) else in_blocks(x))
    found = lax.platform_dependent(lax.stop_gradient(blocks), cpu=row_by_row, default=at_once)
    return lax.platform_dependent(operands, blocks, found, tpu=on_blocks, default=on_arrays)


def _is_stored(x: Any) -> bool:
    return isinstance(x, Int8Blocks)


def mapped(operands: Operands, change: Callable[[Any], Any]) -> Operands:
    """The operands with each array of the leaf changed."""
    u, p, gradient, slots, residue, *shared = operands
    return Operands(*jax.tree.map(change, (u, p, gradient, slots, residue), is_leaf=_is_stored), *shared)


def _run(
    program: Program, operands: Operands, scales: list[dict[str, Array]] | None = None, tile: Tile | None = None
) -> Result:
    """The rules on one array, or on a tile of it."""
    like, p, residue = _like(operands), operands.p, operands.residue
    index = None if tile is None else tile.index
    # Combined here and not by the caller: an operation of the caller's would be one more kernel for each leaf.
    key = None if operands.keys is None else lax.bitwise_xor(*operands.keys)
    g, updated = _updated(program, operands)
    new_slots = []
    for at, ((_, formats, name), slots) in enumerate(zip(program.rules, updated, strict=True)):
        own = {slot: tied(x, like, g.shape) for slot, x in slots.items()}
        known = {} if scales is None else scales[at]
        new_slots.append(
            {slot: encoded(x, slot, formats, like.dtype, key, name, tile, known.get(slot)) for slot, x in own.items()}
        )
    if program.mode == "between":
        return encode(g, full_dtype(like.dtype)), new_slots, residue
    if p is None:
        return encode(g, like.dtype), new_slots, residue
    landing = program.landing
    with jax.named_scope(landing.key):
        land = landing.step if program.mode == "step" else landing.land
        out, residue = land(g, p, residue, None if key is None else Noise(key, "params", index))
    if program.elementwise and not (tile and tile.in_kernel):  # others have passes of their own
        old = jax.tree.leaves(operands.slots)
        changed = [x for x in jax.tree.leaves(new_slots) if not any(x is one for one in old)]
        out = _in_one_fusion(out, [*changed, *residue.values()], operands.hs)
    return out, new_slots, residue


def _updated(program: Program, operands: Operands) -> tuple[Array, list[dict[str, Array]]]:
    """The update and the slots that the rules make, in the dtype of the arithmetic."""
    u, p, gradient, slots, residue, hs, _ = operands
    dtype = compute_dtype(_like(operands).dtype)
    g = cast(decode(u), dtype)
    full_p = None if p is None else program.landing.decode(p, residue)
    new_slots = []
    for (rule, *_), stored, h in zip(program.rules, slots, hs, strict=True):
        param: Any = _NoParams(rule) if full_p is None else full_p
        own = {slot: cast(decode_slot(value), dtype) for slot, value in stored.items()}
        values = H(**jax.tree.map(lambda x: x if x.dtype == bool else cast(x, dtype), h))
        if rule.reads_gradient and gradient is not None:
            values.gradient = cast(decode(gradient), dtype)
        before = _shapes(g, own)
        with jax.named_scope(rule.name), full_products():  # the name shows in profiles and in the HLO
            seen = bounded(g, rule.squares(g.shape)) if own else g
            out, new = returned.update(rule, rule.update(seen, own, param, values))
            own = {slot: _in_place(x, own[slot], h) if x is seen and slot in own else x for slot, x in new.items()}
        if (shapes := _shapes(out, own)) != before:
            raise BadValue(
                f"{type(rule).__name__}.update must keep the shapes of update and slots: of {before} it made {shapes}."
            )
        g = cast(out, dtype)  # float32 from rule to rule, so that the order of a chain costs no digits
        new_slots.append(own)
    return g, new_slots


# Where XLA cannot see that arrays are read and written in one pass, a dependency shows it: on a condition that never holds.


def _never(hs: Any) -> Array | None:
    """Whether a hyperparameter is NaN, of which no compiler knows."""
    number = next((x for x in jax.tree.leaves(hs) if jnp.issubdtype(x.dtype, jnp.floating)), None)
    return None if number is None else lax.ne(number, number)


def _in_place(value: Array, old: Array, h: Mapping[str, Any]) -> Array:
    """The gradient as the new value of a slot: on GPU, XLA writes over the old array only if the new one depends on it."""
    never = _never(h)
    return value if never is None else lax.select(never, old, value)


def _in_one_fusion(out: Array, others: list[Array], hs: Any) -> Array:
    """The result, so that XLA on TPU computes it together with the other arrays of the leaf, and not each for itself again."""
    never, alike = _never(hs), [x for x in others if x.shape == out.shape]
    if never is None or not alike:
        return out

    def dependent(never: Array, out: Array, *alike: Array) -> Array:
        return functools.reduce(lambda found, x: lax.select(never, cast(x, found.dtype), found), alike, out)

    return lax.platform_dependent(never, out, *alike, tpu=dependent, default=lambda never, out, *_: out)


def encoded(
    value: Array,
    slot: str,
    formats: SlotFormats,
    dtype: Any,
    key: Any,
    owner: str,
    tile: Tile | None = None,
    scales: Array | None = None,
) -> Any:
    """A slot of a parameter of this dtype as its owner stores it."""
    noise = None if key is None else Noise(key, f"{owner}/{slot}", None if tile is None else tile.index)
    return formats.codec(slot).encode(cast(value, compute_dtype(dtype)), dtype, noise, tile, scales)


def _shapes(u: Array, slots: dict[str, Array]) -> dict[str, tuple[int, ...]]:
    return {"update": u.shape, **{slot: value.shape for slot, value in slots.items()}}


def needs_params(rule: Any) -> str:
    return f"{rule.name} needs the parameters; call update(grads, state, params), not update(grads, state)."


class _NoParams:
    """Stands for the parameter where `update` got none; any use of it says so, and a rule that uses none needs none."""

    def __init__(self, rule: Rule):
        self._words = needs_params(rule)

    def _refuse(self, *_: Any) -> Any:
        raise BadValue(self._words)

    __jax_array__ = __add__ = __radd__ = __mul__ = __rmul__ = __sub__ = __rsub__ = __neg__ = __abs__ = _refuse

    def __getattr__(self, name: str) -> Any:
        raise BadValue(self._words) if not name.startswith("_") else AttributeError(name)
