"""Gradient transformations: rules in a row, and what can be done with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache, update_wrapper
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jadam import _engine, _init
from jadam._hyper import Driven, public_caller
from jadam._masks import EVERYTHING
from jadam._part import Opaque, Part, named, slot_codec
from jadam._rule import Rule
from jadam._state import OptState, check_is_state, readable_names
from jadam._storage import compute_dtype, decode, encode
from jadam._tree import PyTree, arrays, difference, flatten, is_trained, quoted

P = ParamSpec("P")
R = TypeVar("R")


@lru_cache(maxsize=4096)
def _bound(function: Callable[..., Any], owner: Any, _name: str) -> Any:
    return MethodType(function, owner)


class _method(Generic[P, R]):
    """A method that is the same object for equal objects: `jax.jit(tx.update)` finds the program of an equal `tx`.

    Python's own methods are equal only if their objects are identical.
    """

    def __init__(self, function: Callable[Concatenate[Any, P], R]):
        self.function = function

    def __get__(self, owner: Any, kind: Any = None) -> Callable[P, R]:
        if owner is None:
            return self.function  # pyright: ignore[reportReturnType]
        try:
            return _bound(self.function, owner, owner.name)
        except TypeError:  # not hashable: built with a tracer
            return MethodType(self.function, owner)


@dataclass(frozen=True, repr=False)
class GradientTransformation:
    """A pure `(init, update)` pair over pytrees: frozen, hashable, and equal to another that was built alike.

    `init, update = tx` gives the two functions; optax, flax, equinox and haiku take it wherever they take optax's.

    Attributes:
        parts: the rules in order, each with its mask.
        name: the function that built it, for error messages; not part of the comparison.
    """

    parts: tuple[Part, ...]
    name: str = field(default="tx", compare=False)

    @_method
    def init(self, params: PyTree) -> OptState:
        """The state before the first update.

        Args:
            params: a tree of arrays. Real and complex floating-point leaves are trained; integers, bools, PRNG keys and
                None are passed over.

        Raises:
            TypeError: a leaf is no array.
            ValueError: a mask does not fit the parameters.
        """
        return _init.init(f"{self.name}.init", self.parts, params)

    @_method
    def update(self, updates: PyTree, state: OptState, params: PyTree | None = None, **extra: Any) -> tuple[PyTree, OptState]:
        """The updates to add to the parameters, and the next state.

        Args:
            updates: the gradients, a tree like `params`; every leaf has its parameter's shape and any float dtype.
            state: what `init` or the last `update` gave.
            params: the parameters; None only where no rule uses them.
            **extra: values for rules that ask for them (`value=loss`).

        Returns:
            Updates with the structure, shapes and dtypes of the parameters, and the new state. Outside `jit` the call
            compiles itself, once for each transformation and type of tree.

        Raises:
            ValueError: structures or shapes differ, or the state belongs to another transformation or tree.
            TypeError: a leaf is no array, real meets complex, or the arguments are in another order.
        """
        return _engine.update(f"{self.name}.update", self.parts, updates, state, params, extra, apply=False)

    @_method
    def step(self, updates: PyTree, state: OptState, params: PyTree, **extra: Any) -> tuple[PyTree, OptState]:
        """`update` and `apply_updates` as one: the new parameters and the new state, in one pass over memory."""
        if params is None:
            raise ValueError(f"{self.name}.step: params is None; call step(grads, state, params).")
        return _engine.update(f"{self.name}.step", self.parts, updates, state, params, extra, apply=True)

    def set_hyperparams(self, state: OptState, **values: Any) -> OptState:
        """The state with other hyperparameters; nothing is traced or compiled again.

        Args:
            state: a state of this transformation.
            **values: numbers or arrays by the names that `hyperparams(state)` shows (`learning_rate=1e-4`). A number
                is set for all models of a `vmap`-ed state, an array of its shape for each.

        Raises:
            ValueError: an unknown name, a value out of range or of another shape, or one that a schedule drives.
        """
        where = f"{self.name}.set_hyperparams"
        check_is_state(where, "first", state)
        places = readable_names(state)
        parts = named(self.parts)
        content = {key: dict(values) for key, values in state.hyperparams.items()}
        for name, value in values.items():
            if name not in places:
                raise ValueError(f"{where}: there is no {name!r}; there are {', '.join(sorted(places))}.")
            key, stored = places[name]
            if key not in parts:
                raise ValueError(f"{where}: the state belongs to another transformation, one with {key}.")
            hyper = next(field for field in parts[key].hypers if field.stored == stored)
            driver = getattr(parts[key].rule, hyper.name)
            if callable(driver) or isinstance(driver, Driven):
                raise ValueError(f"{where}: {name} is driven by {driver!r}; build the transformation with a number to set it.")
            if callable(value):
                raise ValueError(f"{where}: {name} must be a number here; build the transformation with the schedule.")
            if np.ndim(value) == 0:
                hyper.check(f"{where}({name}={value!r})", value)
            (old,) = jax.tree.leaves(content[key][stored])  # flax.nnx keeps it in a box, which stays
            if jnp.shape(value) not in ((), old.shape):
                raise ValueError(f"{where}: {name} has shape {jnp.shape(value)}, in the state it has {old.shape}.")
            new = _like(old, hyper.store(value))
            content[key][stored] = jax.tree.structure(content[key][stored]).unflatten([new])
        return state._replace(hyperparams=content)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.update))

    def __getitem__(self, index: int) -> Callable[..., Any]:
        return (self.init, self.update)[index]

    def __len__(self) -> int:
        return 2

    def __repr__(self) -> str:
        shown = []
        for part in self.parts:
            text = repr(part.rule)
            if part.storage:
                storage = {slot: slot_codec(part.storage, slot) for slot, _ in part.storage}
                text = f"with_precision({text}, {', '.join(f'{slot}={codec!r}' for slot, codec in storage.items())})"
            shown.append(text if part.mask == EVERYTHING else f"masked({text}, {part.mask!r})")
        return shown[0] if len(shown) == 1 else f"chain({', '.join(shown)})"


def _like(old: Array, value: Any) -> Array:
    """The value with the dtype, shape and placement of an array of the state, so that no call compiles again."""
    if isinstance(value, Tracer) or isinstance(old, Tracer):
        return jnp.broadcast_to(jnp.asarray(value, old.dtype), jnp.shape(value) or old.shape)
    new = np.broadcast_to(np.asarray(value, old.dtype), old.shape)
    return jax.device_put(new, old.sharding if old.committed else None)


def chain(*transformations: Any) -> GradientTransformation:
    """Applies transformations one after another; `chain()` is the identity, and chains in chains are flat.

    Args:
        *transformations: of jadam, rules, or any `(init, update)` pairs such as optax's.

    Raises:
        TypeError: something else.

    Example:
        >>> import jadam
        >>> jadam.chain(jadam.clip_by_global_norm(1.0), jadam.sgd(0.1))
        chain(clip_by_global_norm(max_norm=1.0), scale_by_learning_rate(learning_rate=0.1))
    """
    parts: list[Part] = []
    for number, item in enumerate(transformations):
        if isinstance(item, GradientTransformation):
            parts += item.parts
        elif isinstance(item, Rule):
            parts.append(Part(item))
        else:
            try:
                parts.append(Part(Opaque(*item)))
            except TypeError:
                raise TypeError(
                    f"chain: argument {number} is {item!r}, which is no transformation; give one of jadam's, or an "
                    "(init, update) pair."
                ) from None
    return GradientTransformation(tuple(parts), public_caller("chain"))


def identity() -> GradientTransformation:
    """Leaves updates as they are: the empty chain."""
    return chain()


def block(rule: Callable[P, Rule]) -> Callable[P, GradientTransformation]:
    """Makes the function that builds a rule as a transformation of its own.

    Example:
        >>> import jadam
        >>> class ScaleByTwo(jadam.Rule):
        ...     def update(self, g, slots, p, h):
        ...         return 2 * g, slots
        >>> scale_by_two = jadam.block(ScaleByTwo)
        >>> jadam.chain(scale_by_two(), jadam.scale(0.5))
        chain(scale_by_two(), scale(step_size=0.5))
    """

    def _build(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        built = rule(*args, **kwargs)
        return GradientTransformation((Part(built),), public_caller(built.block))

    update_wrapper(_build, rule, assigned=("__module__", "__doc__"), updated=())
    _build.__signature__ = inspect.signature(rule).replace(return_annotation=GradientTransformation)  # pyright: ignore
    return _build


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """Adds updates to parameters, leaf by leaf, in the dtypes of the parameters; compiled.

    Args:
        params: a tree of arrays.
        updates: a tree like it, each leaf of its parameter's shape. None, and leaves that are not trained, leave the
            parameter as it is.

    Raises:
        ValueError: structures or shapes differ; nothing is broadcast.
    """
    return _apply(arrays("apply_updates", "params", params), arrays("apply_updates", "updates", updates))


@jax.jit
def _apply(params: PyTree, updates: PyTree) -> PyTree:
    leaves = flatten(params)
    try:
        deltas = leaves.treedef.flatten_up_to(updates)
    except (ValueError, TypeError):
        words = f"apply_updates: the updates do not have the structure of the parameters: {difference(updates, leaves)}."
        raise ValueError(words) from None
    new = []
    for path, p, u in zip(leaves.paths, leaves.values, deltas, strict=True):
        if u is None or not is_trained(p):
            new.append(p)
            continue
        if jnp.shape(u) != p.shape:
            raise ValueError(f"apply_updates: the update at {quoted(path)} has shape {jnp.shape(u)}, its parameter {p.shape}.")
        same = u.dtype == p.dtype
        new.append(lax.add(p, u) if same else encode(decode(p) + decode(u).astype(compute_dtype(p.dtype)), p.dtype))
    return leaves.treedef.unflatten(new)
