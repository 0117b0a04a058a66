"""What makes transformations: of several in a row, of a rule, of one inside a wrapper."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper, wraps
from typing import Any, ParamSpec

from jadam._errors import BadType, BadValue, door, naming
from jadam._recipe import Part, Recipe
from jadam._rule import Rule, snake_case
from jadam._transformation import GradientTransformation
from jadam._wrapper import Wrapper

P = ParamSpec("P")


def builder(function: Callable[P, GradientTransformation]) -> Callable[P, GradientTransformation]:
    """A public function that builds a transformation: it, and the errors on the way, bear the function's name."""
    call, name = door(function), function.__name__

    @wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        return GradientTransformation.of(call(*args, **kwargs).recipe, name)

    return build


@builder
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
    parts, landings = [], []
    for number, item in enumerate(transformations):
        recipe = _recipe_of(number, item)
        parts += recipe.parts
        landings += recipe.landings
    return GradientTransformation.of(Recipe(tuple(parts), tuple(landings)))


def _recipe_of(number: int, item: Any) -> Recipe:
    if isinstance(item, GradientTransformation):
        return item.recipe
    if isinstance(item, Rule):
        return Recipe((Part(item),))
    try:
        init, update = item
        return GradientTransformation(init, update).recipe
    except (TypeError, ValueError):
        raise BadType(
            f"argument {number} is {item!r}, which is not a transformation; give one of jadam's, or an (init, update) pair."
        ) from None


@builder
def identity() -> GradientTransformation:
    """Leaves updates as they are: the empty chain."""
    return chain()


def wrap(wrapper: Wrapper, inner: Any) -> GradientTransformation:
    """Puts a transformation inside a wrapper, which decides whether, how often and on which updates it runs.

    `describe`, `hyperparams`, `tx.set_hyperparams`, `with_precision`, `cautious` and `state_shardings` see through it.

    Args:
        wrapper: of a class of yours, a subclass of `Wrapper`.
        inner: a transformation, or any `(init, update)` pair.

    Raises:
        TypeError: `wrapper` is not a `Wrapper`, or `inner` not a transformation.
        ValueError: a scalar of the wrapper is called `count`.
    """
    if not isinstance(wrapper, Wrapper):
        raise BadType(f"wrap: {wrapper!r} is not a Wrapper; write a subclass of jadam.Wrapper.")
    if "count" in wrapper.scalars():
        raise BadValue(f"{wrapper.name}: a scalar cannot be called 'count', where the steps of the inside are counted.")
    with naming(wrapper.name):
        recipe = chain(inner).recipe
    return GradientTransformation.of(Recipe((Part(wrapper, inner=recipe.parts),), recipe.landings), wrapper.name)


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
    name = snake_case(rule.__name__)

    def build(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        with naming(name):
            return GradientTransformation.of(Recipe((Part(rule(*args, **kwargs)),)), name)

    # The class's docstring and arguments are the function's: editors, `help` and the docs show them.
    update_wrapper(build, rule, assigned=("__module__", "__doc__"), updated=())
    build.__signature__ = inspect.signature(rule).replace(return_annotation=GradientTransformation)  # pyright: ignore
    return build
