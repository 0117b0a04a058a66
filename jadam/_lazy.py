"""Public names are imported when they are asked for: of forty optimizers a program uses one."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from types import CodeType, FunctionType, SimpleNamespace
from typing import Any

from jadam._elsewhere import answer


def _homes(module: str) -> dict[str, str]:
    """The modules from which a module that is a list of imports would import its names; it runs, and they do not."""
    homes: dict[str, str] = {}

    def note(home: str, _globals: Any, _locals: Any, names: tuple[str, ...], _level: int) -> Any:
        homes.update(dict.fromkeys(names, home))
        return SimpleNamespace(**dict.fromkeys(names))

    spec: Any = find_spec(module)
    code: CodeType = spec.loader.get_code(module)
    FunctionType(code, {"__name__": module, "__builtins__": {"__import__": note}})()
    return homes


HOMES = _homes("jadam._public")
"""The module in which each public name is at home."""


def __getattr__(name: str) -> Any:
    """A public name, from its home; for a name that is not there an error, for one of optax with what to write instead."""
    if name in HOMES:
        value = getattr(import_module(HOMES[name]), name)
        setattr(sys.modules["jadam"], name, value)  # it is asked for once
        return value
    words = answer(name)
    message = f"there is no jadam.{name}; {words}." if words else f"module 'jadam' has no attribute {name!r}"
    raise AttributeError(message, name=name, obj=sys.modules["jadam"])  # of which Python says what may have been meant


def __dir__() -> list[str]:
    return sorted({*vars(sys.modules["jadam"]), *HOMES})
