"""What the author of an algorithm sees: a rule for one array, its hyperparameters, and a few formulas."""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import sys
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jadam._masks import Mask
from jadam._norm import global_norm
from jadam._state import COMPLEMENT
from jadam._storage import cast, compute_dtype, decode

Slots = dict[str, Array]


@dataclass(frozen=True)
class Range:
    """The numbers that a hyperparameter may take, and the words for them."""

    words: str
    holds: Callable[[float], bool]
    complement: bool = False  # kept in the state as 1 - value, computed from the Python double


@dataclass(frozen=True)
class Option:
    """What a static option may be, and the words for it; None is always allowed where it is the default."""

    words: str
    holds: Callable[[Any], bool]


Count = Annotated[int, Option("an integer >= 1", lambda x: isinstance(x, int) and x >= 1)]
"""A static number of steps, axes or blocks."""
FixedNonNegative = Annotated[float, Option("a finite number >= 0", lambda x: 0 <= x < math.inf)]
"""A static number that is never negative: for what `init` needs, which sees no hyperparameters."""
FixedPositive = Annotated[float, Option("a finite number > 0", lambda x: 0 < x < math.inf)]
"""A static number above zero."""

_Value = float | Array | Callable[[Array], Any]

Hyper = Annotated[_Value, Range("a finite number", math.isfinite)]
"""A hyperparameter: a number, a scalar array, or a schedule."""
NonNegative = Annotated[_Value, Range("a finite number >= 0", lambda x: 0 <= x < math.inf)]
"""A `Hyper` that is never negative."""
Positive = Annotated[_Value, Range("a finite number > 0", lambda x: 0 < x < math.inf)]
"""A `Hyper` above zero."""
Decay = Annotated[_Value, Range("in [0, 1)", lambda x: 0 <= x < 1, complement=True)]
"""The decay rate of an average. It travels as its complement: float32 holds 1e-5, but not 0.99999."""


@functools.partial(jax.tree_util.register_dataclass, data_fields=["complement"], meta_fields=[])
@dataclass(frozen=True)
class DecayRate:
    """A `Decay` as a rule meets it in `h`. Use it through `ema` and `debias`; `value` is the rate itself."""

    complement: Array

    @property
    def value(self) -> Array:
        return 1 - self.complement


def ema(average: Array, x: Array, decay: DecayRate) -> Array:
    """The next exponential moving average, `m + (1-b) (x-m)`: its weights sum to one exactly."""
    return average + decay.complement * (x - average)


def debias(decay: DecayRate, t: Array) -> Array:
    """`1 - b**t`, what a zero-initialised average after `t` steps must be divided by (Kingma & Ba 2015, section 3).

    In float32 the plain formula is off by 7e-4 for b = 0.99999; this one by an ulp or two.
    """
    return -jnp.expm1(t * jnp.log1p(-decay.complement))


def zeros(p: Array) -> Array:
    """A slot of zeros like the parameter, in the dtype of the arithmetic, with the parameter's sharding."""
    return jnp.zeros_like(p, dtype=compute_dtype(p.dtype))


@dataclass(frozen=True)
class Context:
    """What `Rule.prepare` sees: everything that all leaves of a step share.

    Attributes:
        h: this rule's hyperparameters by name; a `Decay` is a `DecayRate`.
        count: int32, updates done before this one.
        t: the number of this update, from 1, in the dtype of the hyperparameters.
        scalars: what `prepare` kept in the last step.
        extra: the keyword arguments of `tx.update`.
        read_updates: gives the updates that reach this rule, as stored; runs the rules before it.
        read_params: gives the parameters this rule acts on, as stored.
        read_slot: gives a slot of this rule by name.
        read_learning_rate: gives the learning rate of this rule's parameters.
    """

    h: Any
    count: Array
    t: Array
    scalars: Mapping[str, Array]
    extra: Mapping[str, Any]
    read_updates: Callable[[], list[Array]]
    read_params: Callable[[], list[Array]]
    read_slot: Callable[[str], list[Array]]
    read_learning_rate: Callable[[], Array]

    @property
    def learning_rate(self) -> Array:
        """The learning rate that this rule's parameters have at this step: the next one in the chain, else the last before.

        Raises:
            ValueError: the chain has none that acts on all of them.
        """
        return self.read_learning_rate()

    @property
    def updates(self) -> list[Array]:
        """The updates that reach this rule, leaf by leaf, as its `update` sees them."""
        return [decode(u) for u in self.read_updates()]

    @property
    def params(self) -> list[Array]:
        """The parameters this rule acts on, in the order of `updates`.

        Raises:
            ValueError: `tx.update` was called without them.
        """
        return [decode(p) for p in self.read_params()]

    def slot(self, name: str) -> list[Array]:
        """A slot of this rule, in the order of `updates`."""
        return self.read_slot(name)

    @property
    def norm(self) -> Array:
        """The global norm of `updates`. It reads them as stored: XLA writes a cast of bfloat16 to memory first."""
        return cast(global_norm(self.read_updates()), self.t.dtype)


@dataclass(frozen=True)
class Rule(ABC):
    """One algorithm for one array: float32 in (float64 where the parameter is), float32 out.

    A rule knows nothing of trees, dtypes, masks, schedules, sharding or jit. Subclass it as a frozen dataclass. Fields
    annotated `Hyper`, `NonNegative`, `Positive` or `Decay` are hyperparameters, which `update` reads from `h`, never from
    `self`; all other fields are static options and must be hashable.

    Raises:
        ValueError: a hyperparameter is out of its range.
        TypeError: a hyperparameter is no number, scalar array or schedule.
    """

    elementwise: ClassVar[bool] = True
    """Whether every element is treated alone. Only then can it act on complex parameters, as pairs of real numbers."""

    reads_gradient: ClassVar[bool] = False
    """Whether `update` finds in `h.gradient` the gradient as it came, before the rules ahead of this one."""

    def init(self, p: Array) -> Slots:
        """Slots of one parameter `p`, arrays by name."""
        return {}

    def scalars(self) -> dict[str, float]:
        """Scalars that `prepare` keeps from step to step, with their first values."""
        return {}

    def prepare(self, context: Context) -> dict[str, Any]:
        """Constants of a step, computed once before the leaves; `update` finds them in `h` under these names.

        Those with a name that `scalars` has are kept for the next step.
        """
        return {}

    @abstractmethod
    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        """The update and the new slots of one array; `g`, the slots and `p` are float32 of one shape."""

    def __post_init__(self) -> None:
        for hyper in hyper_fields(type(self)):
            value = getattr(self, hyper.name)
            where = f"{public_caller(self.block)}({hyper.name}={value!r})"
            object.__setattr__(self, hyper.name, hyper.check(where, value))
        for name, option in _options(type(self)):
            value = getattr(self, name)
            try:
                allowed = value is None or option.holds(value)
            except TypeError:
                allowed = False
            if not allowed:
                raise ValueError(f"{public_caller(self.block)}({name}={value!r}): {name} must be {option.words}.")

    @property
    def block(self) -> str:
        """The rule's name as a block: `scale_by_adam` for `ScaleByAdam`."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    @property
    def key(self) -> str:
        """The rule's name in the state: `adam` for `ScaleByAdam`."""
        return self.block.removeprefix("scale_by_")

    def __repr__(self) -> str:
        fields = (f"{field.name}={getattr(self, field.name)!r}" for field in dataclasses.fields(self))
        return f"{self.block}({', '.join(fields)})"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Rule.__repr__  # before @dataclass, which then leaves it alone


@dataclass(frozen=True)
class Driven:
    """An array given as a hyperparameter, as a tracer or a numpy scalar: it is used at every step, whatever the state holds.

    A type of its own, so that a rule with the array 1.0 is not equal to one with the number 1.0.
    """

    value: Any

    def __repr__(self) -> str:
        return repr(self.value)


@dataclass(frozen=True)
class HyperField:
    """A hyperparameter of a rule: its name there, what it may be, and how the state holds it."""

    name: str
    allowed: Range

    @property
    def stored(self) -> str:
        """Its name in the state."""
        return COMPLEMENT + self.name if self.allowed.complement else self.name

    def store(self, value: Any) -> Any:
        """What the state holds for a value."""
        value = value.value if isinstance(value, Driven) else value
        return 1 - value if self.allowed.complement else value

    def check(self, where: str, value: Any) -> Any:
        """The value as a rule keeps it: a float, which the state holds; or what drives the state: a schedule, `Driven`."""
        if isinstance(value, Mask | str | bool | None):
            kind = "a mask" if isinstance(value, Mask) else repr(value)
            raise TypeError(f"{where}: {self.name} must be a number or a schedule, not {kind}.")
        if callable(value) or isinstance(value, Driven):
            return value
        if isinstance(value, Tracer) and value.ndim == 0:
            return Driven(value)
        if np.ndim(value) > 0:
            raise TypeError(
                f"{where}: {self.name} must be a scalar, not of shape {np.shape(value)}; for several values at once, put "
                "`jax.vmap` around `init` and `update`, or use groups."
            )
        try:
            number = float(value)
        except (TypeError, ValueError):
            kind = type(value).__name__
            raise TypeError(f"{where}: {self.name} must be a number or a schedule, not a {kind}.") from None
        if not self.allowed.holds(number):
            raise ValueError(f"{where}: {self.name} must be {self.allowed.words}.")
        return Driven(np.asarray(value)[()]) if isinstance(value, Array) else number


@functools.cache
def hyper_fields(rule: type[Rule]) -> tuple[HyperField, ...]:
    """The hyperparameters of a rule, in the order of its fields."""
    return tuple(HyperField(name, note) for name, note in _notes(rule) if isinstance(note, Range))


@functools.cache
def _options(rule: type[Rule]) -> tuple[tuple[str, Option], ...]:
    """The static options of a rule that are checked."""
    return tuple((name, note) for name, note in _notes(rule) if isinstance(note, Option))


def _notes(rule: type[Rule]) -> list[tuple[str, Any]]:
    """What the annotations of a rule's fields say beyond the type; of a `Literal`, its choices."""
    hints = typing.get_type_hints(rule, include_extras=True)
    found = []
    for field in dataclasses.fields(rule):
        hint = hints[field.name]
        for part in (hint, *typing.get_args(hint)):  # `X | None` too
            found += [(field.name, note) for note in getattr(part, "__metadata__", ())]
            if typing.get_origin(part) is typing.Literal:
                choices = typing.get_args(part)
                words = " or ".join(filter(None, [", ".join(map(repr, choices[:-1])), repr(choices[-1])]))
                found.append((field.name, Option(words, choices.__contains__)))
    return found


def public_caller(default: str) -> str:
    """The public function of jadam that the user called, for the first words of an error message."""
    found, frame = default, sys._getframe(1)
    while frame is not None and (
        frame.f_globals.get("__name__", "").startswith("jadam.") or frame.f_code.co_filename == "<string>"
    ):  # "<string>": the `__init__` that @dataclass writes
        code = frame.f_code
        if not code.co_name.startswith(("_", "<")) and code.co_varnames[:1] != ("self",):
            found = code.co_name
        frame = frame.f_back
    return found
