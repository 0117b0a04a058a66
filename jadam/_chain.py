"""What makes transformations: of several in a row, of a rule, of one inside a wrapper."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import update_wrapper, wraps
from typing import Annotated, Any, ParamSpec

from jadam._annotations import check_arguments, uncalled
from jadam._errors import BadType, BadValue, door, shown
from jadam._recipe import Part, Recipe
from jadam._rule import Rule, snake_case
from jadam._transformation import GradientTransformation, Init, Update
from jadam._wrapper import Wrapper

P = ParamSpec("P")


def builder(function: Callable[P, GradientTransformation]) -> Callable[P, GradientTransformation]:
    """A public function that builds a transformation: it, and the errors on the way, bear the function's name.

    Its arguments are checked against their annotations, as the fields of rules are: some meet no rule.
    """

    @wraps(function)
    def build(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        check_arguments(function, args, kwargs)
        return GradientTransformation.of(function(*args, **kwargs).recipe, function.__name__)

    return door(build)


class _AsTransformation:
    """As an annotation: the argument is a transformation, or anything that can be one."""

    def check(self, name: str, value: Any) -> Any:
        recipe_of(name, value)
        return value


class _Ours:
    """As an annotation: the argument is a transformation of jadam, whose rules can be seen."""

    def check(self, name: str, value: Any) -> Any:
        if not isinstance(value, GradientTransformation):
            recipe_of(name, value)
            raise not_ours(value)
        return value


TransformationLike = Annotated[Any, _AsTransformation()]
"""A transformation, a rule, or any `(init, update)` pair or object with both such as optax's."""
Transformation = Annotated[GradientTransformation, _Ours()]
"""A transformation of jadam."""


def recipe_of(place: str, item: Any) -> Recipe:
    """The recipe of what can be a transformation; `place` says where it stands, for error messages."""
    if isinstance(item, GradientTransformation):
        return item.recipe
    if isinstance(item, Rule):
        return Recipe((Part(item),))
    pair = _pair(item)
    if not pair and not isinstance(item, type) and callable(getattr(item, "init", None)):
        pair = item.init, getattr(item, "update", None)  # such as optax's MultiSteps, which is no tuple
    init, update = pair if len(pair) == 2 else (None, None)
    if not callable(init) or not callable(update):
        raise BadType(f"{place} is {_no_transformation(item)}.")
    if isinstance(init, Init) and isinstance(update, Update) and init.recipe == update.recipe:
        return init.recipe  # of `tx.as_optax()`, or unpacked
    return GradientTransformation(init, update).recipe


def _pair(item: Any) -> tuple[Any, ...]:
    """What may be an (init, update) pair; nothing for what has two items for another reason, or is not yet called."""
    try:
        pair = () if isinstance(item, str | Mapping | list) else tuple(item)
    except TypeError:
        return ()
    return () if any(map(uncalled, pair)) else pair


def _no_transformation(item: Any) -> str:
    """What something is that is not a transformation, and what to write instead."""
    if isinstance(item, type) or inspect.isroutine(item):
        kind, name = "class" if isinstance(item, type) else "function", getattr(item, "__name__", "it")
        return f"the {kind} {name}; call it: {name}(...)"
    if isinstance(item, Wrapper):
        return f"a wrapper; put a transformation into it: jadam.wrap({shown(item)}, tx)"
    of_several = isinstance(item, tuple) and any(isinstance(x, tuple | GradientTransformation) or uncalled(x) for x in item)
    if isinstance(item, list) or of_several:
        return f"a {type(item).__name__}; for several transformations in a row, write jadam.chain(*items)"
    return f"{shown(item)}, which is not a transformation; give one of jadam's, or an (init, update) pair"


def not_ours(tx: Any) -> BadType:
    kind = type(tx).__name__
    return BadType(f"a {kind} is not a jadam transformation; write jadam.adam(...), or jadam.chain(...) around it.")


@builder
def chain(*transformations: Any) -> GradientTransformation:
    """Applies transformations one after another; `chain()` is the identity, and chains in chains are flat.

    Args:
        *transformations: of jadam, rules, or any `(init, update)` pairs, or objects with both, such as optax's.

    Raises:
        TypeError: something else.

    Example:
        >>> import jadam
        >>> jadam.chain(jadam.clip_by_global_norm(1.0), jadam.sgd(0.1))
        chain(clip_by_global_norm(max_norm=1.0), scale_by_learning_rate(learning_rate=0.1))
    """
    parts, landings = [], []
    for number, item in enumerate(transformations):
        recipe = recipe_of(f"argument {number}", item)
        parts += recipe.parts
        landings += recipe.landings
    return GradientTransformation.of(Recipe(tuple(parts), tuple(landings)))


@builder
def identity() -> GradientTransformation:
    """Leaves updates as they are: the empty chain."""
    return chain()


@door
def wrap(wrapper: Wrapper, inner: TransformationLike) -> GradientTransformation:
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
        called = isinstance(wrapper, type) and issubclass(wrapper, Wrapper)
        advice = f"call it: {wrapper.__name__}(...)" if called else "write a subclass of jadam.Wrapper"
        raise BadType(f"{shown(wrapper)} is not a Wrapper; {advice}.")
    if "count" in wrapper.scalars():
        raise BadValue(f"a scalar of {wrapper.name} cannot be called 'count', where the steps of the inside are counted.")
    recipe = recipe_of("inner", inner)
    return GradientTransformation.of(Recipe((Part(wrapper, inner=recipe.parts),), recipe.landings), wrapper.name)


@door
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
    _check_is_rule(rule)
    name = snake_case(rule.__name__)
    call = door(rule, name)

    def build(*args: P.args, **kwargs: P.kwargs) -> GradientTransformation:
        made = call(*args, **kwargs)
        if not isinstance(made, Rule):
            raise BadType(f"{name}: it returned {shown(made)}, which is not a rule.")
        return GradientTransformation.of(Recipe((Part(made),)), name)

    # The class's docstring and arguments are the function's: editors, `help` and the docs show them.
    update_wrapper(build, rule, assigned=("__module__", "__doc__"), updated=())
    build.__name__ = build.__qualname__ = name
    build.__signature__ = inspect.signature(rule).replace(return_annotation="GradientTransformation")  # pyright: ignore
    return build


def _check_is_rule(rule: Any) -> None:
    """Of a function it is seen when it is called."""
    if not (callable(rule) and hasattr(rule, "__name__")) or (isinstance(rule, type) and not issubclass(rule, Rule)):
        raise BadType(f"{shown(rule)} is not a class of rules; write a subclass of jadam.Rule.")
