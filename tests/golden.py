"""Reads the trajectories of the authors' own code in `tests/data/`, and builds the transformation that each belongs to.

`index.json` lists the cases: `factory`, `kwargs`, `options`, and `reference`, the code that computed them in float64. The
parameters after some steps are in `cases.npz`, the problem and its recorded gradients in `problem.npz`. `matrix.json` and
`matrix.npz` are the same for newer optimizers of matrices, of which `ns_coeffs` has the polynomials of Newton-Schulz.
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
MATRIX = json.loads((DATA / "matrix.json").read_text())
CASES = {case["id"]: case for case in (*INDEX["cases"], *MATRIX["cases"])}
ARRAYS = {case["id"]: file for index, file in ((INDEX, "cases"), (MATRIX, "matrix")) for case in index["cases"]}
"""The file that has the parameters of a case."""


@dataclass(frozen=True)
class Recorded:
    """A schedule as a list of values, the first for the first update."""

    values: tuple[float, ...]

    def __call__(self, count: Any) -> Any:
        return jnp.asarray(self.values)[count]


def _adopt(*, clip: str | None = "t**0.25", **kwargs: Any) -> GradientTransformation:
    return jadam.adopt(use_clipping=clip is not None, **kwargs)


def _of_matrices(make: Callable[..., GradientTransformation]) -> Callable[..., GradientTransformation]:
    """All leaves are matrices, with outputs first as torch has them; "float64" is the dtype of the run."""

    def build(
        *, scale: str = "keller", ns_dtype: str | None = None, ns_coeffs: Any = "quintic", **kwargs: Any
    ) -> GradientTransformation:
        if scale in ("spectral", "consistent_rms"):
            kwargs = {"scale_factor": 1.0} | kwargs
        return make(
            scale=SCALES.get(scale, scale),
            ns_dtype=None if ns_dtype == "float64" else ns_dtype,
            ns_coeffs=ns_coeffs if isinstance(ns_coeffs, str) else tuple(map(tuple, ns_coeffs)),
            matrices=OUTPUTS_FIRST,
            **kwargs,
        )

    return build


OUTPUTS_FIRST = [(jadam.ndim_at_least(3), jadam.axes(-1, -2, stacked=0)), (True, jadam.axes(-1, -2))]
SCALES = {"sqrt_rows_over_cols": "unit_rms", "spectral": "moonlight", "consistent_rms": "moonlight"}
"""The scales of matrices with another name in jadam, in whose data matrices are (outputs, inputs)."""


def _cautious(make: Callable[..., GradientTransformation]) -> Callable[..., GradientTransformation]:
    """`decay="cautious"` is a combinator in jadam."""

    def build(*, decay: str | None = None, **kwargs: Any) -> GradientTransformation:
        if decay == "cautious":
            return jadam.cautious_weight_decay(make(**kwargs))
        return make(**kwargs) if decay is None else make(decay=decay, **kwargs)

    return build


def _adamh(**kwargs: Any) -> GradientTransformation:
    """All leaves are matrices, or stacks of them."""
    return jadam.hyperball(jadam.adam(**kwargs), True)


def _muonh(*, eps: float, ns_eps: float | None = None, **kwargs: Any) -> GradientTransformation:
    """Its eps is that of Newton-Schulz, which the options have too."""
    return jadam.hyperball(_of_matrices(jadam.muon)(ns_eps=eps, **kwargs), True)


BUILDERS: dict[str, Callable[..., GradientTransformation]] = {
    "adamc": lambda **kwargs: jadam.adamw(**kwargs | {"decay": "corrected"}),
    "adopt": _adopt,
    "cautious_adamw": lambda **kwargs: jadam.cautious(jadam.adamw(**kwargs)),
    "adamw": _cautious(jadam.adamw),
    "muon": _cautious(_of_matrices(jadam.muon)),
    "normuon": _cautious(_of_matrices(jadam.normuon)),
    "adamh": _adamh,
    "muonh": _muonh,
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
        kwargs = kwargs | {"weight_decay": kwargs["weight_decay"] / options.pop("peak_learning_rate", kwargs["learning_rate"])}
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
    arrays = np.load(DATA / f"{ARRAYS[case['id']]}.npz")
    names = [*case["leaves"], *(f"eval/{leaf}" for leaf in case["leaves"] if case.get("eval_params"))]
    return {name: arrays[f"{case['id']}/{step}/{name}"] for name in names}
