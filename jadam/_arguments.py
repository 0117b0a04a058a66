"""Calls that do not fit a signature, in words that say what to write."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Sequence
from inspect import Parameter, Signature
from typing import Any

from jadam._neutral import ACCUMULATOR, MU, NESTEROV, elsewhere

NAMES_ELSEWHERE = {
    "lr": ["learning_rate"],
    "betas": ["b1", "b2"],
    "beta1": ["b1"],
    "beta_1": ["b1"],
    "beta2": ["b2"],
    "beta_2": ["b2"],
    "momentum": ["b1"],
    "alpha": ["decay"],
    "rho": ["decay"],
    "epsilon": ["eps"],
    "wd": ["weight_decay"],
    "weight_decay_mask": ["mask"],
}
"""Names of torch, optax and keras, and what they are called here in functions that have it."""

_XLA = "leave it out, XLA compiles the step"
WAYS_HERE = {
    "mu_dtype": MU,
    "accumulator_dtype": ACCUMULATOR,
    "amsgrad": "jadam.amsgrad is an optimizer of its own",
    "nesterov": NESTEROV,
    "maximize": "to maximize, negate the loss",
    "weight_decay": "put jadam.add_decayed_weights(...) before the learning rate in a chain, or take an optimizer that has it",
    "global_clipnorm": "write jadam.chain(jadam.clip_by_global_norm(...), tx)",
    "foreach": _XLA,
    "fused": _XLA,
    "capturable": _XLA,
}
"""Arguments of torch, optax and keras for what jadam does in another way."""
TRACED = re.compile(r"\b\w*Tracer\((\w+\[[^\]]*\])\)")
"""An array as `repr` shows it while a step is traced: nobody called the step with a `JitTracer(float32[2])`."""


def shown(value: Any) -> str:
    """A value as an error message shows it: the name of a function or class, else its `repr`, or the beginning of that."""
    if isinstance(value, type) or inspect.isroutine(value):
        return value.__name__
    try:
        text = " ".join(repr(value).split())  # an array takes several lines
    except Exception:  # an integer of 5,000 digits, an array that was donated
        return f"<{type(value).__name__}>"
    text = TRACED.sub(r"\1", text)
    return text if len(text) <= 200 else f"{text[:100]}..."


def misfit(function: str, signature: Signature, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    """What is wrong with the arguments of a call; nothing if they fit."""
    parameters = list(signature.parameters.values())
    kinds = {parameter.kind for parameter in parameters}
    positional = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    known = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    accepted = [f"*{p.name}" if p.kind is p.VAR_POSITIONAL else p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    unknown = [name for name in kwargs if name not in known]
    if unknown and Parameter.VAR_KEYWORD not in kinds:
        instead = _instead(function, unknown[0], kwargs[unknown[0]], known)
        return f"there is no {unknown[0]}; {f'{instead}. It' if instead else 'it'} accepts {_listed(accepted)}."
    if len(args) > len(positional) and Parameter.VAR_POSITIONAL not in kinds:
        by_name = [name for name in known if name not in (*positional, *kwargs)]
        written = ", ".join(f"{name}={shown(value)}" for name, value in zip(by_name, args[len(positional) :], strict=False))
        given = f"only {_listed(positional)} may be given by position" if positional else "nothing may be given by position"
        return f"{given}; write {written}." if written else f"too many arguments; it accepts {_listed(accepted)}."
    if twice := [name for name in positional[: len(args)] if name in kwargs]:
        return f"{twice[0]} is given twice, by position and by name."
    given = {*positional[: len(args)], *kwargs}
    required = [p.name for p in parameters if p.default is p.empty and p.name in known]
    if missing := [name for name in required if name not in given]:
        return f"{_listed(missing)} must be given; it accepts {_listed(accepted)}."
    return ""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "no arguments"


def _instead(function: str, name: str, value: Any, known: Sequence[str]) -> str:
    """What to write instead of an argument that a function does not have; nothing if it is like none."""
    if other := elsewhere(function, name):
        return other.instead
    meant = [here for here in NAMES_ELSEWHERE.get(name, []) if here in known]
    meant = meant or ([] if name in WAYS_HERE else difflib.get_close_matches(name, known, n=1, cutoff=0.5))
    if not meant:
        return WAYS_HERE.get(name, "")
    values = value if isinstance(value, tuple | list) and len(value) == len(meant) > 1 else [value]
    texts = list(map(shown, values)) if len(values) == len(meant) else ["..."] * len(meant)
    return f"write {', '.join(f'{here}={one}' for here, one in zip(meant, texts, strict=True))}"
