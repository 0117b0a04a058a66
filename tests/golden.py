"""Reads the trajectories of the authors' own code in `tests/data/`, and builds the transformation that each belongs to.

`index.json` lists the cases: `factory`, `kwargs`, `options`, and `reference`, the code that computed them in float64. The
parameters after some steps are in `cases.npz`, the problem and its recorded gradients in `problem.npz`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jadam
from jadam import GradientTransformation

DATA = Path(__file__).parent / "data"
INDEX = json.loads((DATA / "index.json").read_text())
CASES = {case["id"]: case for case in INDEX["cases"]}


@dataclass(frozen=True)
class Recorded:
    """A schedule as a list of values, the first for the first update."""

    values: tuple[float, ...]

    def __call__(self, count: Any) -> Any:
        return jnp.asarray(self.values)[count]


def _adopt(*, clip: str | None = "t**0.25", **kwargs: Any) -> GradientTransformation:
    return jadam.adopt(use_clipping=clip is not None, **kwargs)


def _muon(*, ns_dtype: str | None = None, **kwargs: Any) -> GradientTransformation:
    """All leaves are matrices, with outputs first as torch has them; "float64" is the dtype of the run."""
    dtype = None if ns_dtype == "float64" else ns_dtype
    return jadam.muon(ns_dtype=dtype, matrices=[(True, jadam.axes(inputs=-1, outputs=-2))], **kwargs)


BUILDERS: dict[str, Callable[..., GradientTransformation]] = {
    "adamc": lambda **kwargs: jadam.adamw(**kwargs | {"decay": "corrected"}),
    "adopt": _adopt,
    "cautious_adamw": lambda **kwargs: jadam.cautious(jadam.adamw(**kwargs)),
    "muon": _muon,
}
"""The factories that are not called like their function in jadam, or have other arguments."""

NAMES = {"peak_lr": "peak_learning_rate", "base_lr": "base_learning_rate"}
"""Options with another name in jadam."""


def build(case: Mapping[str, Any], schedules: Mapping[str, Sequence[float]]) -> GradientTransformation:
    """The transformation of a case of the index."""
    steps = case["chain"] if case["factory"] == "chain" else [[case["factory"], case["kwargs"]]]
    options = {NAMES.get(name, name): value for name, value in case.get("options", {}).items()}

    def given(value: Any) -> Any:
        named = isinstance(value, str) and value.startswith("schedule:")
        return Recorded(tuple(schedules[value.removeprefix("schedule:")])) if named else value

    built = []
    for number, (factory, kwargs) in enumerate(steps, start=1):
        builder = BUILDERS.get(factory) or getattr(jadam, factory)
        own = _own(factory, kwargs, options) if number == len(steps) else kwargs  # a chain ends with its optimizer
        built.append(builder(**{name: given(value) for name, value in own.items()}))
    return jadam.chain(*built)


def _own(factory: str, kwargs: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """Arguments and options of one optimizer in jadam's words."""
    if factory not in ("adam", "adamw", "adamc", "cautious_adamw") and options.get("eps_form") == "standard":
        options = {name: value for name, value in options.items() if name != "eps_form"}
    if factory not in ("adamw", "adamc", "cautious_adamw") and options.get("decay") == "independent":
        options = dict(options)
        kwargs = kwargs | {"weight_decay": kwargs["weight_decay"] / options.pop("peak_learning_rate")}
        del options["decay"]
    return kwargs | options


def evaluate(case: Mapping[str, Any], params: Any, state: Any) -> Any:
    """The parameters to evaluate: the averaged ones where the algorithm averages."""
    return jadam.schedule_free_params(state, params) if case.get("eval_params") else params


def distance(case: Mapping[str, Any], tx: Any, dtype: str) -> float:
    """The largest difference to the reference, over leaves and recorded steps, as a share of the distance moved."""
    params, grads = problem(case, dtype)

    @jax.jit
    def trajectory(params: Any, grads: Any) -> Any:
        def body(carry: Any, g: Any) -> Any:
            params, state = tx.step(g, carry[1], carry[0])
            return (params, state), (params, evaluate(case, params, state))

        return jax.lax.scan(body, (params, tx.init(params)), grads)[1]

    trained, evaluated = trajectory(params, grads)
    errors = []
    for step in INDEX["steps"]:
        for name, expected in recorded(case, step).items():
            leaf = name.removeprefix("eval/")
            found = (evaluated if name.startswith("eval/") else trained)[leaf][step - 1]
            errors.append(np.max(np.abs(np.asarray(found, np.float64) - expected)) / case["max_move"][leaf])
    return float(np.max(errors))  # NaN if one of them is


def problem(case: Mapping[str, Any], dtype: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first parameters of a case, and its gradients with the steps on a leading axis."""
    arrays = np.load(DATA / "problem.npz")
    params = {leaf: jnp.asarray(arrays[f"params/{leaf}"], dtype) for leaf in case["leaves"]}
    return params, {leaf: jnp.asarray(arrays[f"grads/{case['seq']}/{leaf}"], dtype) for leaf in case["leaves"]}


def recorded(case: Mapping[str, Any], step: int) -> dict[str, np.ndarray]:
    """The reference's parameters after `step` updates; where it averages, those to evaluate too, under `eval/<leaf>`."""
    arrays = np.load(DATA / "cases.npz")
    names = [*case["leaves"], *(f"eval/{leaf}" for leaf in case["leaves"] if case.get("eval_params"))]
    return {name: arrays[f"{case['id']}/{step}/{name}"] for name in names}
