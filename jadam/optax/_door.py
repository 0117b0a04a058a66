"""The functions of optax, as they stand behind the door: their transformations are rows of parts."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import optax

from jadam._chain import chain as jadam_chain
from jadam._errors import door, naming
from jadam._transformation import GradientTransformation
from jadam._tree import PyTree
from jadam.optax._parts import Foreign, Ours, Part, Unknown, static
from jadam.optax._rows import Row

Factory = Callable[..., optax.GradientTransformation]


class _Function:
    """A function of a transformation, equal to that of one that was built alike: `jax.jit(tx.update)` finds its program."""

    __name__ = ""

    def __init__(self, row: Row):
        self.row = row

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.row == other.row

    def __hash__(self) -> int:
        return hash(self.row)

    def __repr__(self) -> str:
        return f"<{self.__name__} of {self.row!r}>"


class Init(_Function):
    """`tx.init`."""

    __name__ = "init"

    def __call__(self, params: PyTree) -> Any:
        """The state before the first update, as optax has it."""
        return self.row.init(params)


class Update(_Function):
    """`tx.update`."""

    __name__ = "update"

    def __call__(self, updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any) -> tuple[PyTree, Any]:
        """The updates to add to the parameters, and the next state, as optax has it."""
        with naming(f"{self.row.name}.update"):
            return self.row.update(updates, state, params, extra_args)


def transformation(row: Row) -> optax.GradientTransformationExtraArgs:
    return optax.GradientTransformationExtraArgs(Init(row), Update(row))


def factory(original: Factory, ours: Ours | None = None, of: Any = None) -> Factory:
    """A function of optax's that makes one transformation."""

    @functools.wraps(original)
    def build(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _as_of_optax(args, kwargs)
        return transformation(Row(Part(original, args, kwargs, ours, of), original.__name__))

    return _published(door(build, original.__name__))


def alias(original: Factory, here: Mapping[Any, Any]) -> Factory:
    """A function of optax's that puts others together: the same, of those that stand behind the door.

    Its code runs with other globals, so that its defaults and what it does with its arguments are optax's in every version.
    """

    @functools.cache  # when all that stand behind the door are there
    def body() -> Factory:
        names = {name: behind(value, here) for name, value in original.__globals__.items()}
        made = types.FunctionType(original.__code__, names, original.__name__, original.__defaults__, original.__closure__)
        made.__kwdefaults__ = original.__kwdefaults__
        return made

    @functools.wraps(original)
    def build(*args: Any, **kwargs: Any) -> Any:
        args, kwargs = _as_of_optax(args, kwargs)
        made: Any = body()(*args, **kwargs)
        tree = made.update.row.tree if isinstance(made.update, Update) else Part(body(), args, kwargs)
        return transformation(Row(tree, original.__name__))

    return _published(door(build, original.__name__))


def behind(value: Any, here: Mapping[Any, Any]) -> Any:
    """What stands for something of optax's."""
    if isinstance(value, types.ModuleType) and value.__name__.split(".")[0] == "optax":
        return _Module(value, here)
    return here.get(value, value) if callable(value) and isinstance(value, Hashable) else value


class _Module:
    """A module of optax's, of whose names some stand for others."""

    def __init__(self, module: types.ModuleType, here: Mapping[Any, Any]):
        self.module, self.here = module, here

    def __getattr__(self, name: str) -> Any:
        return behind(getattr(self.module, name), self.here)


class Schedule:
    """A schedule of optax's: equal to one that was built alike, so that a step that was compiled with it is found."""

    of_the_door = True

    def __init__(self, original: Callable[..., Any], args: Any, kwargs: Any):
        self.function, self.text = original(*args, **kwargs), f"{original.__name__}({_listed(args, kwargs)})"
        leaves, treedef = jax.tree.flatten((args, kwargs), is_leaf=lambda x: x is None)
        self.of = (original, treedef, tuple(map(static, leaves)))
        self.known = not any(isinstance(leaf, Unknown) for leaf in self.of[2])

    def __call__(self, count: Any) -> Any:
        return self.function(count)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self.of == other.of

    def __hash__(self) -> int:
        return hash(self.of)

    def __repr__(self) -> str:
        return self.text


def schedule(original: Callable[..., Any]) -> Callable[..., Any]:
    """A function of optax's that makes a schedule."""

    @functools.wraps(original)
    def build(*args: Any, **kwargs: Any) -> Any:
        made = Schedule(original, args, kwargs)
        return made if made.known else made.function

    return _published(build)


@door
@functools.wraps(optax.chain)
def chain(*args: Any) -> optax.GradientTransformationExtraArgs:
    return transformation(Row(tuple(map(_tree, args)), "chain"))


@functools.wraps(optax.inject_hyperparams)
def inject_hyperparams(inner_factory: Factory, static_args: Any = (), hyperparam_dtype: Any = None) -> Factory:
    static = (static_args,) if isinstance(static_args, str) else tuple(static_args)
    of = optax.inject_hyperparams, inner_factory, static, hyperparam_dtype
    injected = optax.inject_hyperparams(_of_optax(inner_factory), static, hyperparam_dtype)
    return factory(injected, of=of if hasattr(inner_factory, "of_the_door") else Foreign)


def _of_optax(factory: Factory) -> Factory:
    """A function whose transformations optax knows as its own."""
    return functools.wraps(factory)(lambda *args, **kwargs: _as_optax(factory(*args, **kwargs)))


def _published(function: Any) -> Any:
    function.__module__, function.of_the_door = "jadam.optax", True
    return function


def _tree(tx: Any) -> Any:
    # A rule or a bare pair is a transformation in jadam; what is none is an error in its words.
    tx = _as_optax(tx if hasattr(tx, "init") and hasattr(tx, "update") else jadam_chain(tx))
    return tx.update.row.tree if isinstance(tx.update, Update) else Part.foreign(tx)


def _is_transformation(x: Any) -> bool:
    return isinstance(x, optax.GradientTransformation | GradientTransformation)


def _as_of_optax(args: Any, kwargs: Any) -> Any:
    """The arguments of a call with jadam's transformations as optax knows them."""
    return jax.tree.map(_as_optax, (args, kwargs), is_leaf=lambda x: x is None or _is_transformation(x))


def _as_optax(x: Any) -> Any:
    """A transformation of jadam's as optax knows one."""
    return x.as_optax() if isinstance(x, GradientTransformation) else x


def _listed(args: Any, kwargs: Any) -> str:
    return ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
