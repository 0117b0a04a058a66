"""Gradient transformations: parts in a row, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from jadam._engine.init import init
from jadam._engine.step import update
from jadam._errors import BadType, BadValue, method, shown
from jadam._hyperparams import set_hyperparams
from jadam._recipe import Pair, Part, Recipe
from jadam._state import OptState
from jadam._tree import PyTree


@dataclass(frozen=True, repr=False, init=False)
class GradientTransformation:
    """A pure `(init, update)` pair over pytrees: frozen, hashable, and equal to another that was built alike.

    `init, update = tx` returns the two functions; optax, flax, equinox and haiku accept it wherever they accept optax's.
    `GradientTransformation(init, update)` makes one of two functions of your own, as in optax: it may stand in chains, under
    masks and in wrappers. Its `update` receives the keyword arguments of `tx.update` that it has parameters for.

    Outside `jit` a transformation compiles its steps itself; functions of your own run outside of what it compiles, so that
    their Python may look at values.

    Args:
        init: a function of the parameters that returns a state, any pytree of arrays.
        update: a function `(updates, state, params=None)` that returns updates and the next state.

    Attributes:
        recipe: the parts in a row, each in its scope.
        name: of the function that built it, for error messages; not part of the comparison.
    """

    recipe: Recipe
    name: str

    @method
    def __init__(self, init: Callable[..., Any], update: Callable[..., Any]):
        if not (callable(init) and callable(update)):
            raise BadType(f"init and update must be functions, not {shown(init)} and {shown(update)}.")
        vars(self).update(recipe=Recipe((Part(Pair(init, update)),)), name="tx")

    @classmethod
    def of(cls, recipe: Recipe, name: str = "tx") -> GradientTransformation:
        """A transformation by its recipe."""
        made = object.__new__(cls)
        vars(made).update(recipe=recipe, name=name)
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GradientTransformation) and self.recipe == other.recipe

    def __hash__(self) -> int:
        return hash(self.recipe)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The rules, wrappers and pairs in a row."""
        return self.recipe.parts

    @property
    def init(self) -> Init:
        """The function that makes the state before the first update."""
        return self._function(Init)

    @property
    def update(self) -> Update:
        """The function that computes updates and the next state."""
        return self._function(Update)

    @property
    def step(self) -> Step:
        """The function that computes new parameters and the next state."""
        return self._function(Step)

    def _function(self, kind: type[F]) -> F:
        """One object for as long as this is one: `jax.jit` keeps its programs as long as the function lives."""
        if kind.__name__ not in vars(self):
            vars(self)[kind.__name__] = (_shared if self.recipe.of_numbers else _own)(kind, self.recipe, self.name)
        return vars(self)[kind.__name__]

    @method
    def set_hyperparams(self, state: OptState, **values: Any) -> OptState:
        """The state with other hyperparameters; nothing is traced or compiled again.

        What is set stays, also when the state is restored under code with another number.

        Args:
            state: a state of this transformation.
            **values: numbers or arrays by the names that `hyperparams(state)` shows (`learning_rate=1e-4`). A number
                is set for all models of a `vmap`-ed state, an array of its shape for each.

        Raises:
            ValueError: an unknown name, a value out of range or of another shape, or one that a schedule drives.
        """
        return set_hyperparams(self.recipe, state, values)

    @method
    def as_optax(self) -> Any:
        """The same as an `optax.GradientTransformationExtraArgs`.

        For libraries that ask for optax's class, and for optax's own wrappers: these pass the keyword arguments of `update` on
        to its instances alone.

        Raises:
            ValueError: optax is not installed.
        """
        try:
            import optax
        except ImportError:
            raise BadValue("optax is not installed; with it, this returns an instance of its class.") from None
        update: Any = self.update  # whose state has a type
        return optax.GradientTransformationExtraArgs(self.init, update)

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init, self.update))

    def __getitem__(self, index: int) -> Callable[..., Any]:
        return (self.init, self.update)[index]

    def __len__(self) -> int:
        return 2

    def __repr__(self) -> str:
        return repr(self.recipe)


GradientTransformationExtraArgs = GradientTransformation
"""The same: every transformation accepts keyword arguments, and passes them on to whoever asks."""


@dataclass(frozen=True, eq=False)
class _Function:
    """A function of a transformation, equal to that of an equal one: `jax.jit(tx.update)` finds the program of its like.

    Python's own methods are equal only if their objects are identical.
    """

    recipe: Recipe  # and not the transformation, which could not be freed while it refers to itself
    name: str

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.recipe == other.recipe

    def __hash__(self) -> int:
        return hash(self.recipe)


F = TypeVar("F", bound=_Function)


def _own(kind: type[F], recipe: Recipe, name: str) -> F:
    return kind(recipe, name)


_shared = lru_cache(maxsize=8)(_own)
"""One function for all transformations that are built alike, of numbers and nothing of the user's: a cell of a notebook that
builds one again, and compiles `tx.update`, finds the program. A few, since each keeps its programs, of some 3 MB."""


class Init(_Function):
    """`tx.init`."""

    __name__ = "init"  # in traces and profiles

    @method
    def __call__(self, params: PyTree) -> OptState:
        """The state before the first update.

        Args:
            params: a tree of arrays. Real and complex floating-point leaves are trained; integers, bools, PRNG keys and
                None are passed over.

        Raises:
            TypeError: a leaf is not an array.
            ValueError: a mask does not fit the parameters.
        """
        return init(self.recipe, params)


class Update(_Function):
    """`tx.update`."""

    __name__ = "update"  # in traces and profiles

    @method
    def __call__(self, updates: PyTree, state: OptState, params: PyTree | None = None, **extra: Any) -> tuple[PyTree, OptState]:
        """The updates to add to the parameters, and the next state.

        Args:
            updates: the gradients, a tree like `params`; every leaf has its parameter's shape and any float dtype.
            state: what `init` or the last `update` returned.
            params: the parameters; None only where no rule uses them.
            **extra: values for rules that ask for them (`value=loss`).

        Returns:
            Updates with the structure, shapes and dtypes of the parameters, and the new state. Outside `jit` the call
            compiles itself, once for each transformation and type of tree.

        Raises:
            ValueError: structures or shapes differ, or the state belongs to another transformation or tree.
            TypeError: a leaf is not an array, real meets complex, or the arguments are in another order.
        """
        return update(self.recipe, "update", updates, state, params, extra)


class Step(_Function):
    """`tx.step`."""

    __name__ = "step"  # in traces and profiles

    @method
    def __call__(self, updates: PyTree, state: OptState, params: PyTree, **extra: Any) -> tuple[PyTree, OptState]:
        """`update` and `apply_updates` as one: the new parameters and the new state, in one pass over memory."""
        if params is None:
            raise BadValue("params is None; call step(grads, state, params).")
        return update(self.recipe, "step", updates, state, params, extra)
