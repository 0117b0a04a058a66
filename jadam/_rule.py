"""What the author of an algorithm sees: a rule for one array, what it may see of a step, and a few formulas."""

from __future__ import annotations

import dataclasses
import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from jadam._hyper import hyper_fields, options, public_caller
from jadam._masks import as_mask
from jadam._norm import global_norm
from jadam._storage import cast, compute_dtype, decode

Slots = dict[str, Array]


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
        bound: what the engine does to an update before this rule's `update`.
        read_params: gives the parameters this rule acts on, in the dtype of the arithmetic.
        read_slot: gives a slot of this rule by name.
        read_learning_rate: gives the learning rate of this rule's parameters.
    """

    h: Any
    count: Array
    t: Array
    scalars: Mapping[str, Array]
    extra: Mapping[str, Any]
    read_updates: Callable[[], list[Array]]
    bound: Callable[[Array], Array]
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
        return [self.bound(decode(u)) for u in self.read_updates()]

    @property
    def finite(self) -> Array:
        """Whether there is neither NaN nor inf in the updates that reach this rule."""
        each = [jnp.isfinite(u).all() for u in self.read_updates()]
        return functools.reduce(lax.bitwise_and, each, jnp.asarray(True))

    @property
    def params(self) -> list[Array]:
        """The parameters this rule acts on, in the order of `updates`.

        Raises:
            ValueError: `tx.update` was called without them.
        """
        return self.read_params()

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

        Those with a name that `scalars` has are kept for the next step. Where the bool `accept` is among them and False, the
        whole step is left out: updates are zero, and of the state only these scalars change.
        """
        return {}

    @abstractmethod
    def update(self, g: Array, slots: Slots, p: Array, h: Any) -> tuple[Array, Slots]:
        """The update and the new slots of one array; `g`, the slots and `p` are float32 of one shape."""

    def __post_init__(self) -> None:
        if "mask" in vars(self):
            object.__setattr__(self, "mask", as_mask(public_caller(self.block), vars(self)["mask"]))
        for hyper in hyper_fields(type(self)):
            value = getattr(self, hyper.name)
            where = f"{public_caller(self.block)}({hyper.name}={value!r})"
            object.__setattr__(self, hyper.name, hyper.check(where, value))
        for name, option in options(type(self)):
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
        hypers = {hyper.name for hyper in hyper_fields(type(self))}
        values = ((field.name, getattr(self, field.name), field.default) for field in dataclasses.fields(self))
        shown = (f"{name}={value!r}" for name, value, default in values if name in hypers or value != default)
        return f"{self.block}({', '.join(shown)})"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__repr__ = Rule.__repr__  # before @dataclass, which then leaves it alone
