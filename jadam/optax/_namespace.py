"""The namespace of optax with what stands behind the door in its place, modules and all."""

from __future__ import annotations

import functools
import inspect
import sys
import types
from collections.abc import Mapping
from typing import Any

import optax

from jadam.optax._door import alias, behind, chain, factory, inject_hyperparams, schedule
from jadam.optax._table import OURS

WITHOUT_ANNOTATION = {"monitor", "scale_by_factored_rms"}


def _makes(function: Any, name: str) -> str:
    """Whether a public function makes a "transformation" or a "schedule"."""
    if not inspect.isfunction(function):
        return ""
    returns = inspect.signature(function).return_annotation
    if name in WITHOUT_ANNOTATION or (isinstance(returns, type) and issubclass(returns, optax.GradientTransformation)):
        return "transformation"
    return "schedule" if name in vars(optax.schedules) and returns == optax.Schedule else ""


def _here() -> dict[Any, Any]:
    """What stands for which of optax's functions."""
    here: dict[Any, Any] = {optax.chain: chain, optax.inject_hyperparams: inject_hyperparams}
    public: dict[Any, str] = {
        value: name for name, value in vars(optax).items() if callable(value) and not name.startswith("_")
    }
    aliases = [function for name, function in vars(optax.contrib).items() if _makes(function, name) == "transformation"]
    for function, name in public.items():
        made = _makes(function, name)
        if function in here or not made or function is optax.with_extra_args_support:
            continue
        if made == "schedule":
            here[function] = schedule(function)
        elif function.__module__ == optax.adam.__module__:
            aliases.append(function)
        else:
            here[function] = factory(function, OURS.get(name))
    for function in aliases:
        here[function] = alias(function, here)
    for partial in public:
        if isinstance(partial, functools.partial) and partial.func in here:
            here[partial] = _partial(here[partial.func], partial)
    return here


def _partial(function: Any, of: functools.partial[Any]) -> Any:
    made = functools.partial(function, *of.args, **of.keywords)
    made.__doc__, made.of_the_door = of.__doc__, True  # pyright: ignore[reportAttributeAccessIssue]
    return made


HERE = _here()


def mirrored(module: types.ModuleType, name: str, here: Mapping[Any, Any]) -> types.ModuleType:
    """A module under another name with what stands for its functions; itself where that is all of it the same."""
    inner = {key: value for key, value in vars(module).items() if _is_inside(value, module)}
    modules = {key: mirrored(value, f"{name}.{key}", here) for key, value in inner.items()}
    names = {key: modules.get(key, value) for key, value in vars(module).items()}
    names = {key: value if isinstance(value, types.ModuleType) else behind(value, here) for key, value in names.items()}
    made = module
    if any(names[key] is not value for key, value in vars(module).items()):
        made = types.ModuleType(name, module.__doc__)
        vars(made).update(names | {"__name__": name})
    sys.modules[name] = made
    return made


def _is_inside(value: Any, module: types.ModuleType) -> bool:
    return isinstance(value, types.ModuleType) and value.__name__.rpartition(".")[0] == module.__name__
