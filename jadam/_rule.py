"""What the author of an algorithm sees: a rule for one array."""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from jadam._context import Context as Context
from jadam._decay import DecayRate as DecayRate
from jadam._dtypes import compute_dtype
from jadam._errors import BadType, door, naming, shown
from jadam._hyper import Declared, HyperField
from jadam._rows import DENSE

Slots = dict[str, Array]
Self = TypeVar("Self", bound="Block")


@door
def zeros(p: Array) -> Array:
    """A slot of zeros like the parameter, in the dtype of the arithmetic, with the parameter's sharding."""
    if not hasattr(p, "dtype"):
        raise BadType(f"{shown(p)} is not an array; pass the parameter.")
    return jnp.zeros_like(p, dtype=compute_dtype(p.dtype))


@dataclass(frozen=True)
class Block(ABC):  # noqa: B024 (what is built are rules and wrappers)
    """What stands in a chain: a frozen dataclass of hyperparameters and options, which may keep slots and scalars.

    Fields annotated `Hyper`, `NonNegative`, `Positive` or `Decay` are hyperparameters, which are read from `h`, never from
    `self`; all other fields are static options and must be hashable.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is not a number, scalar array or schedule; the class has fields and is not a dataclass.
    """

    positions: ClassVar[tuple[str, ...]] = ()
    """Slots that begin as a copy of the parameter; a storage for all slots leaves them in float32."""

    exact: ClassVar[tuple[str, ...]] = ()
    """Slots that a storage for all slots leaves as they are too: counts, norms and weights, which rounding would spoil. Of all
    slots only these may be integers."""

    real: ClassVar[bool] = False
    """Whether it acts on real parameters alone. Who mixes the elements of a parameter need not say so."""

    @property
    def needs_all_rows(self) -> str:
        """Why it cannot act on some rows of a table alone, as `Rows` ask it to, and what to write; empty where it can."""
        return ""

    def init(self, p: Array) -> Slots:
        """Slots of one parameter `p`, arrays by name."""
        return {}

    def scalars(self) -> dict[str, Any]:
        """What stays from step to step for all parameters together, with its initial values: numbers, or arrays of numbers."""
        return {}

    def asks(self) -> dict[str, Any]:
        """The keyword arguments of `tx.update` that must be scalars where they are given, with the annotation of each."""
        return {}

    def __new__(cls, *_: Any, **__: Any) -> Any:
        Declared.by(cls)  # here, since without @dataclass `__init__` would complain of arguments first
        if missing := sorted(cls.__abstractmethods__):
            arguments = ", ".join(inspect.signature(getattr(cls, missing[0])).parameters)
            raise BadType(f"class {cls.__name__} must have a method {missing[0]}({arguments}).")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        with naming(self.name):
            vars(self).update({name: note.check(name, getattr(self, name)) for name, note in Declared.by(type(self)).notes})

    @property
    def hypers(self) -> tuple[HyperField, ...]:
        """Its hyperparameters."""
        return Declared.by(type(self)).hypers

    def bound(self: Self, values: Mapping[str, Any]) -> Self:
        """The same with other values, which are not checked: those of one leaf, or marks for numbers that the state has."""
        new = copy.copy(self)
        vars(new).update(values)
        return new

    @property
    def name(self) -> str:
        """How it is called in a chain: `scale_by_adam` for `ScaleByAdam`."""
        return snake_case(type(self).__name__)

    @property
    def key(self) -> str:
        """How it is called in the state: `adam` for `ScaleByAdam`."""
        return self.name.removeprefix("scale_by_")

    @property
    def summary(self) -> str:
        """How `describe` calls it; that of a leaf may say more than `key`."""
        return self.key

    def measuring(self: Self) -> Self:
        """The same, but keeping scalars for `metrics`, if it has something to show: `monitor` puts that inside."""
        return self

    def arguments(self) -> str:
        """All hyperparameters, and the options that are not the defaults, as one would write them."""
        hypers = {hyper.name for hyper in self.hypers}
        values = ((field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self))
        return ", ".join(
            f"{name}={value!r}"
            for name, value, default in values
            if name in hypers or isinstance(value, Tracer) or value != default
        )

    def __repr__(self) -> str:
        return f"{self.name}({self.arguments()})"

    def __eq__(self, other: object) -> bool:
        # Python's 1, 1.0 and True are equal, and a rule that tells them apart must not run the program of another.
        return type(other) is type(self) and _typed(self) == _typed(other)

    def __hash__(self) -> int:
        values = [getattr(self, field.name) for field in dataclasses.fields(self) if field.compare]
        return hash((type(self), *(id(value) if isinstance(value, Tracer) else value for value in values)))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("__repr__", "__eq__", "__hash__"):
            if name not in vars(cls):
                setattr(cls, name, vars(Block)[name])  # before @dataclass, which then writes none of its own


def _typed(value: Any) -> Any:
    """A value as it is compared: options and what is in tuples with their types."""
    if isinstance(value, Block):
        return [_typed(getattr(value, field.name)) for field in dataclasses.fields(value) if field.compare]
    if isinstance(value, Tracer):  # it has no value to compare
        return id(value)
    return (type(value), *map(_typed, value)) if type(value) is tuple else (type(value), value)


@functools.cache
def snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


@dataclass(frozen=True)
class Rule(Block):
    """One algorithm for one array: float32 in (float64 where the parameter is), float32 out.

    A rule knows nothing of trees, dtypes, masks, schedules, sharding or jit. Subclass it as a frozen dataclass.
    """

    elementwise: ClassVar[bool] = True
    """Whether every element is treated alone. Only then can it act on complex parameters, as pairs of real numbers."""

    on_matrices: ClassVar[tuple[str, ...] | None] = None
    """For a rule that treats each matrix of its option `matrices` for itself: which of its slots are of the parameter's shape.
    The others have what belongs to each matrix along a first axis, where there are several. With the axes of a stack for
    `matrices` it may meet those of many parameters at once, where they are spread over devices; it sees no parameter there.
    Others treat a parameter without such axes as a whole."""

    @property
    def exchanged(self) -> str | None:
        """Of a rule on matrices, the dtype to which it rounds them at first and at last: between devices they go in that."""
        return None

    keeps_zeros: ClassVar[bool] = False
    """Whether an update of zeros stays one, whatever else the rule meets. A parameter whose update is set to zero, with only
    such rules after that, is frozen: nothing acts on it, and norms do not count it."""

    @property
    def needs_all_rows(self) -> str:
        if self.elementwise:
            return ""
        return f"mixes the elements of a parameter; {DENSE}"

    averages: ClassVar[Mapping[str, tuple[str, float]]] = {}
    """Slots that are averages from zero: by name, the `Decay`, and with which power of the slot an update without a gradient
    grows. So `lazy` knows what steps would have done that a row missed. Of Adam, `{"mu": ("b1", 1), "nu": ("b2", -0.5)}`.
    All slots must be such, and `prepare` may look at `h`, `t` and `count` alone, which are then an array of rows."""

    linear: ClassVar[bool] = False
    """Whether it multiplies an update by what does not depend on it, or adds a share of the parameter, and no more: `lazy` lets
    the sum of many updates pass it at once."""

    observes: ClassVar[bool] = False
    """Whether it returns updates as they are, and only keeps something: such a rule may follow an `AfterStep`."""

    reads_gradient: ClassVar[bool] = False
    """Whether `update` finds in `h.gradient` the raw gradient, before the rules ahead of this one."""

    def prepare(self, context: Context) -> dict[str, Any]:
        """Constants of a step, computed once before the leaves; `update` finds them in `h` under these names.

        Those with a name that `scalars` has are kept for the next step. None may be called like a hyperparameter.
        """
        return {}

    def squares(self, shape: tuple[int, ...]) -> int:
        """How many squares of gradients it adds up: if it has slots, `update` sees gradients cut so that the sum is finite.

        Sixteen are enough for rules that square elements, or up to four times them; what is below that counts as sixteen,
        and by 0 it says that it squares none, and sees them as they are.
        """
        return 16

    @abstractmethod
    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        """The update and the new slots of one array; `g`, the slots and `p` are float32 of one shape."""
