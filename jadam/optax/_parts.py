"""One transformation behind the door: optax's own, its arguments, and how jadam computes it where it can."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jadam._errors import BadType, BadValue
from jadam._transformation import GradientTransformation

State = Any


@dataclass(frozen=True)
class Ours:
    """How jadam computes one of optax's transformations.

    Attributes:
        make: jadam's transformation of optax's arguments.
        slots: what jadam calls the trees in optax's state, by field.
        when: whether jadam's has these arguments.
        dtypes: the argument that gives a tree its dtype, by field; without one a tree is kept in float32 at least.
        schedule: the argument that may be a schedule.
        but: in words, with which arguments it is optax's own.
    """

    make: Callable[[Any], GradientTransformation]
    slots: Mapping[str, str] = field(default_factory=dict)
    when: Callable[[Any], bool] = lambda arguments: True
    dtypes: Mapping[str, str] = field(default_factory=dict)
    schedule: str = ""
    but: str = ""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["value"], meta_fields=[])
@dataclass(frozen=True)
class Constant:
    """A schedule whose value for this step is known."""

    value: Array

    def __call__(self, count: Any) -> Array:
        return self.value


class Part:
    """A transformation as the call that made it.

    Attributes:
        original: the function of optax that makes it.
        of: what stands for that function in comparisons, if not itself.
        pair: optax's own.
        leaves: the arguments, of which those numbered in `dynamic` are arrays that a compiled step takes.
        ours: how jadam computes it; None if optax does.
    """

    def __init__(self, original: Callable[..., Any], args: Any, kwargs: Any, ours: Ours | None = None, of: Any = None):
        self.original, self.of = original, of
        self.pair = optax.with_extra_args_support(original(*args, **kwargs))
        self.leaves, self.treedef = jax.tree.flatten((args, kwargs), is_leaf=_is_whole)
        self.dynamic = [i for i, leaf in enumerate(self.leaves) if _is_number(leaf)]
        self.arguments = SimpleNamespace() if ours is None else _bound(original, args, kwargs)
        # optax multiplies what is kept in 16 bits in 16 bits, jadam in float32, and XLA in either if it compiles optax.
        dtypes = [vars(self.arguments)[name] for name in (() if ours is None else ours.dtypes.values())]
        self.narrow = any(dtype is not None and jnp.dtype(dtype).itemsize < 4 for dtype in dtypes)
        self.ours = ours if ours is not None and self._is_ours(ours) else None

    @classmethod
    def foreign(cls, tx: Any) -> Part:
        """A transformation from elsewhere: anything with `init` and `update`."""
        return cls(lambda: tx, (), {}, of=Foreign)

    def _is_ours(self, ours: Ours) -> bool:
        if self.narrow or not ours.when(self.arguments):
            return False
        arguments = vars(self.arguments)
        if ours.schedule and callable(arguments[ours.schedule]):
            arguments = arguments | {ours.schedule: 1.0}
        try:
            ours.make(SimpleNamespace(**arguments))
        except BadValue:  # a number that only optax has a meaning for
            return False
        except BadType:
            if any(isinstance(leaf, Array | np.ndarray | complex) for leaf in self.leaves):
                return False  # for each of several elements, or of complex ones
            raise
        return True

    def made(self, state: State) -> GradientTransformation | None:
        """The transformation of jadam, with the number that a schedule has at this step; None where it is for optax."""
        if self.ours is None:
            return None
        arguments = vars(self.arguments)
        if self.schedule is not None:
            arguments = arguments | {self.ours.schedule: self.schedule(state.count)}
            if jnp.ndim(arguments[self.ours.schedule]):
                return None
        try:
            return self.ours.make(SimpleNamespace(**arguments))
        except BadValue:  # as in `_is_ours`, of what a schedule returned
            return None

    @property
    def schedule(self) -> Callable[[Any], Any] | None:
        """The schedule among the arguments, if jadam computes this transformation."""
        value = None if self.ours is None else vars(self.arguments).get(self.ours.schedule)
        return value if callable(value) else None

    @property
    def slots(self) -> Mapping[str, str]:
        """What jadam calls the trees in optax's state, by field."""
        return {} if self.ours is None else self.ours.slots

    @functools.cached_property
    def key(self) -> Hashable:
        """Equal for parts that are built alike, up to their arrays; None if functions of the user's are in it."""
        if self.of is Foreign or self.narrow:
            return None
        of = [None if i in self.dynamic else static(leaf) for i, leaf in enumerate(self.leaves)]
        key = (self.of or self.original, self.treedef, tuple(of))
        try:
            hash(key)
        except TypeError:
            return None
        return None if any(isinstance(one, Unknown) for one in of) else key

    @property
    def arrays(self) -> list[Any]:
        return [self.leaves[i] for i in self.dynamic]

    def of_arrays(self, arrays: list[Any]) -> Part:
        """This one with other arrays among its arguments."""
        return self._of_leaves(self.leaves, dict(zip(self.dynamic, arrays, strict=True))) if arrays else self

    def _of_leaves(self, leaves: list[Any], other: Mapping[int, Any]) -> Part:
        args, kwargs = jax.tree.unflatten(self.treedef, [other.get(i, leaf) for i, leaf in enumerate(leaves)])
        return Part(self.original, args, kwargs, self.ours, self.of)

    def resolved(self, updates: Any, state: State) -> Part:
        """This one with what the user's functions say: a schedule at this step, a mask of these leaves."""
        other = {}
        for i, leaf in enumerate(self.leaves):
            if not isinstance(static(leaf), Unknown):
                continue
            if self.schedule is not None and leaf is self.schedule:
                other[i] = Constant(jnp.asarray(leaf(state.count), float))  # an argument of what is compiled
            elif self.of is None and callable(leaf) and any(leaf is value for value in self._of_trees()):
                other[i] = leaf(updates)
        return self._of_leaves(self.leaves, other) if other else self

    def _of_trees(self) -> list[Any]:
        """The arguments that may be functions of the parameters."""
        arguments = vars(_bound(self.original, *self._call))
        return [arguments.get(name) for name in ("mask", "param_labels")]

    @property
    def _call(self) -> tuple[Any, Any]:
        return jax.tree.unflatten(self.treedef, self.leaves)

    def init(self, params: Any) -> State:
        """The state of optax; moments of parameters in 16 bits in float32, unless an argument says otherwise."""
        state: Any = self.pair.init(params)
        if self.ours is None:
            return state
        own = [name for name in self.ours.slots if vars(self.arguments).get(self.ours.dtypes.get(name, "")) is None]
        return state._replace(**{name: jax.tree.map(_widened, getattr(state, name)) for name in own}) if own else state

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Part) or self.key is None or self.arrays or other.arrays:
            return self is other
        return self.key == other.key

    def __hash__(self) -> int:
        return id(self) if self.key is None else hash(self.key)

    def __repr__(self) -> str:
        args, kwargs = self._call
        texts = [*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())]
        return repr(self.pair) if self.of is Foreign else f"{self.original.__name__}({', '.join(texts)})"


class Unknown:
    """A function of the user's, of which nothing is known."""


class Foreign:
    """What made a transformation from elsewhere."""


def _bound(original: Callable[..., Any], args: Any, kwargs: Any) -> SimpleNamespace:
    bound = inspect.signature(original).bind(*args, **kwargs)
    bound.apply_defaults()
    return SimpleNamespace(**bound.arguments)


def _is_whole(x: Any) -> bool:
    return x is None or isinstance(x, optax.GradientTransformation)


def _is_number(x: Any) -> bool:
    """Whether this is an array of floats, which a compiled step takes as an argument."""
    return isinstance(x, Array | np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating)


def static(leaf: Any) -> Any:
    """An argument as it is compared: with its type, since True is 1."""
    if isinstance(leaf, Array | np.ndarray):
        return Unknown()
    known = isinstance(leaf, bool | int | float | complex | str | bytes | np.generic | np.dtype) or leaf is None
    if known or _is_dtype(leaf):
        return type(leaf), leaf
    if isinstance(leaf, optax.GradientTransformation):
        row = getattr(leaf.update, "row", None)
        return row if row is not None and row.compares else Unknown()
    return leaf if getattr(leaf, "of_the_door", False) else Unknown()


def _is_dtype(x: Any) -> bool:
    try:
        return not isinstance(x, str) and jnp.dtype(x) is not None and x is not None
    except TypeError:
        return False


def _widened(x: Any) -> Any:
    return x.astype(jnp.float32) if getattr(x, "dtype", None) in (jnp.bfloat16, jnp.float16) else x
