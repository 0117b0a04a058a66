"""Calls of optax in public repositories, made in another namespace and in optax, and compared.

`data/optax_calls.json` has their shapes: name, positional arguments and keywords (a literal where the source has one, "?" for
anything else, "*" and "**" for what is unpacked), and how often each was found in how many repositories. `values` says what
stands for "?".
"""

import inspect
import json
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

TOLERANCE = 1e-5
STEPS = 20
RNG = np.random.default_rng(0)
START = {"kernel": RNG.standard_normal((6, 4)), "bias": RNG.standard_normal(4)}
COUNTS = [*range(40), 100, 500, 1000, 3000]
GRADS = [{name: RNG.standard_normal(x.shape) + 0.5 for name, x in START.items()} for _ in range(STEPS)]

Outcome = Literal["missing", "not in optax", "refused", "equal", "other numbers"]


@dataclass(frozen=True)
class Call:
    """A call as it was found."""

    name: str
    args: list[Any]
    kwargs: dict[str, Any]
    uses: int
    repos: int

    def __str__(self) -> str:
        words = [*map(str, self.args), *(f"{name}={value}" for name, value in self.kwargs.items())]
        return f"{self.name}({', '.join(words)})"


@dataclass(frozen=True)
class Verdict:
    """What became of a call.

    Attributes:
        outcome: "missing" is a name that the namespace has not; "refused", a call or a step of it that raised.
        words: of the error, or how the numbers are compared.
        distance: of the numbers after all steps, as a share of how far optax went.
    """

    outcome: Outcome
    words: str = ""
    distance: float = 0.0


def read(path: Path = Path(__file__).parent / "data" / "optax_calls.json") -> list[Call]:
    return [Call(**call) for call in json.loads(path.read_text())]


def find(lib: Any, name: str) -> Any:
    """What a dotted name stands for in a namespace; None if it has not got it."""
    try:
        return reduce(getattr, name.split("."), lib)
    except AttributeError:
        return None


def verdict(call: Call, lib: Any, reference: ModuleType = optax) -> Verdict:
    """Makes a call in a namespace and in optax, and compares what they make over 20 steps.

    Where they differ in float32, but not in float64, the difference is an error of rounding, most often optax's, and counts
    as none.
    """
    theirs, ours = find(reference, call.name), find(lib, call.name)
    if ours is None:
        return Verdict("missing")
    if theirs is None:
        return Verdict("not in optax")
    if ours is theirs:
        return Verdict("equal", "the same object")
    arguments(call, lib)
    try:
        found = _run(call, ours, lib, jnp.float32)
    except Exception as error:
        return Verdict("refused", f"{type(error).__name__}: {error}".splitlines()[0])
    apart = _apart(found, _run(call, theirs, reference, jnp.float32))
    if apart <= TOLERANCE:
        return Verdict("equal", "in float32", apart)
    with _x64():
        wide = _apart(_run(call, ours, lib, jnp.float64), _run(call, theirs, reference, jnp.float64))
    return Verdict("equal", "in float64", wide) if wide <= TOLERANCE else Verdict("other numbers", distance=min(apart, wide))


def verdicts(lib: Any, calls: Iterable[Call] | None = None, reference: ModuleType = optax) -> list[tuple[Call, Verdict]]:
    return [(call, verdict(call, lib, reference)) for call in (read() if calls is None else calls)]


def uses(found: Iterable[tuple[Call, Verdict]], *outcomes: Outcome) -> int:
    """How many uses had one of these outcomes; of all, if none is named."""
    return sum(call.uses for call, its in found if not outcomes or its.outcome in outcomes)


def _x64() -> Any:
    return jax.enable_x64(True) if hasattr(jax, "enable_x64") else jax.experimental.enable_x64()


# What stands for "?"


class UnknownError(Exception):
    """Nothing is said of what stands for an argument."""


def arguments(call: Call, lib: Any) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call, of objects of the namespace where it has objects."""
    known = find(optax, call.name)
    parameters = list(inspect.signature(known).parameters.values())
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)]
    args: list[Any] = []
    for number, given in enumerate(call.args):
        parameter = positional[min(number, len(positional) - 1)]
        if parameter.kind is parameter.VAR_POSITIONAL:
            args += _row(lib)[:2] if given == "*" else [_row(lib)[len(args) % 4]]
        else:
            args.append(_value(call.name, parameter.name, lib) if given in ("?", "*") else given)
    kwargs = {
        name: _value(call.name, name, lib) if given == "?" else given for name, given in call.kwargs.items() if name != "**"
    }
    if "**" in call.kwargs:
        taken = {p.name for p in positional[: len(args)]} | set(kwargs)
        required = [p for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
        kwargs |= {p.name: _value(call.name, p.name, lib) for p in required if p.name not in taken}
    return args, kwargs


def _row(lib: Any) -> list[Any]:
    """What a chain is made of."""
    decay = lib.add_decayed_weights(0.01)
    return [lib.clip_by_global_norm(1.0), lib.scale_by_adam(), decay, lib.scale(-0.1)]


def _tree(numbers: Any, dtype: Any = None) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, dtype or jnp.result_type(float)), numbers)


def halve_init(params: Any) -> Any:
    return {"seen": jnp.int32(0)}


def halve_update(updates: Any, state: Any, params: Any = None, **extra: Any) -> Any:
    return jax.tree.map(lambda u: -u / 2, updates), {"seen": state["seen"] + 1}


LABELS, MASK = {"kernel": "matrix", "bias": "vector"}, {"kernel": True, "bias": False}
DTYPES = ("mu_dtype", "accumulator_dtype", "dtype_momentum", "hyperparam_dtype")
NUMBERS = {
    **{"learning_rate": 0.01, "b1": 0.85, "b2": 0.98, "b3": 0.97, "eps": 1e-6, "weight_decay": 0.02, "rho": 0.95},
    **{"momentum": 0.9, "decay": 0.9, "decay_rate": 0.8, "weight_decay_rate": 1e-3, "epsilon": 1e-30, "step_size": 0.1},
    **{"cosine_kwargs": [{"init_value": 0.0, "peak_value": 1.0, "warmup_steps": 3, "decay_steps": 20}] * 2, "clipping": 0.1},
    **{"max_norm": 0.5, "max_delta": 0.5, "threshold": 0.5, "initial_accumulator_value": 0.1, "eps_root": 1e-16},
    **{"init_value": 0.5, "end_value": 0.1, "peak_value": 1.0, "value": 0.3, "power": 2.0, "alpha": 0.1, "exponent": 1.5},
    **{"transition_steps": 12, "decay_steps": 30, "warmup_steps": 5, "transition_begin": 2, "update_period": 3, "steps": 6},
    **{"clipping_threshold": 1.0, "min_dim_size_to_factor": 128, "decay_offset": 0, "step_offset": 0, "count": 3, "order": 1},
    **{"multiply_by_parameter_scale": True, "factored": True, "nesterov": False, "debias": False, "every_k_schedule": 3},
    **{"boundaries_and_scales": {5: 0.5, 10: 0.1}, "boundaries": [5], "max_consecutive_errors": 5, "max_linesearch_steps": 10},
    **{"l2_norm_clip": 1.0, "noise_multiplier": 0.1, "sync_period": 2, "slow_step_size": 0.5},
}
OBJECTS: dict[str, Callable[[Any], Any]] = {
    "init": lambda lib: halve_init,
    "update": lambda lib: halve_update,
    "inner": lambda lib: lib.adam(0.01),
    "opt": lambda lib: lib.adam(0.01),
    "inner_factory": lambda lib: lib.adam,
    "transforms": lambda lib: {"matrix": lib.adam(0.01), "vector": lib.sgd(0.1)},
    "param_labels": lambda lib: LABELS,
    "mask": lambda lib: MASK,
    "schedules": lambda lib: [lib.linear_schedule(0.0, 1.0, 5), lib.constant_schedule(0.5)],
    "step_size_fn": lambda lib: lib.linear_schedule(-0.1, -0.01, 10),
    "should_transform_fn": lambda lib: lambda step, *_, **__: step % 2 == 0,
    "params": lambda lib: _tree(START),
    "updates": lambda lib: _tree(GRADS[0]),
    "new_tensors": lambda lib: _tree(GRADS[0]),
    "old_tensors": lambda lib: _tree(START),
    "moment": lambda lib: _tree(GRADS[0]),
    "moments": lambda lib: _tree(GRADS[1]),
    "mu": lambda lib: _tree(GRADS[0]),
    "nu": lambda lib: _tree(GRADS[1]),
    "ema": lambda lib: _tree(GRADS[0]),
    "optimizer": lambda lib: lib.adam(0.01),
    "fast_optimizer": lambda lib: lib.adam(0.01),
    "adv_optimizer": lambda lib: lib.sgd(0.05),
    "weight_dimension_numbers": lambda lib: (
        lambda params: jax.tree.map(lambda _: lib.contrib.MuonDimensionNumbers(0, 1), params)
    ),
    "linesearch": lambda lib: lib.scale_by_backtracking_linesearch(max_backtracking_steps=10),
    "decay_rate_fn": lambda lib: lambda i, exponent: 1.0 - jnp.asarray(i + 1, jnp.result_type(float)) ** -exponent,
}
ELSEWHERE = {  # what the value is in one function alone
    ("incremental_update", "step_size"): 0.005,
    ("sgd", "nesterov"): True,
    ("trace", "nesterov"): True,
    ("adam", "eps_root"): 1e-8,
    ("adamw", "eps_root"): 1e-8,
    ("scale_by_adam", "eps_root"): 1e-8,
    ("adabelief", "eps"): 1e-16,
    ("safe_increment", "count"): 7,
    ("warmup_cosine_decay_schedule", "decay_steps"): 2000,
}


def _value(function: str, parameter: str, lib: Any) -> Any:
    if parameter in DTYPES:
        return None if parameter != "dtype_momentum" else jnp.float32
    own = ELSEWHERE.get((function.rpartition(".")[2], parameter))
    if own is not None:
        return own
    if parameter in OBJECTS:
        return OBJECTS[parameter](lib)
    if parameter not in NUMBERS:
        raise UnknownError(f"say in tests/optax_calls.py what stands for {parameter} of {function}")
    return NUMBERS[parameter]


# What is compared


def _run(call: Call, function: Callable[..., Any], lib: Any, dtype: Any) -> Any:
    """A tree of numbers: of steps, of values of a schedule, or what the function returned."""
    args, kwargs = arguments(call, lib)
    made = function(*args, **kwargs)
    if call.name.endswith("inject_hyperparams"):
        made = made(learning_rate=0.01)
    if call.name.endswith("scale_by_muon"):
        made = lib.masked(made, MASK)  # it is for matrices
    if call.name.endswith("lookahead") and hasattr(lib, "LookaheadParams"):
        made = _of_fast(made, lib.LookaheadParams)
    if hasattr(made, "init") and hasattr(made, "update"):
        if asked := [words for name, words in ASK_FOR_MORE.items() if name in call.name]:
            return _down_a_bowl(made, dtype, asked[0])
        return _steps(made, dtype, per_example="private" in call.name or "dpsgd" in call.name)
    if callable(made) and not isinstance(made, type):
        return np.asarray([made(jnp.int32(count)) for count in COUNTS], np.float64)
    return made


def _of_fast(tx: Any, both: Any) -> optax.GradientTransformation:
    """A lookahead of optax's as a transformation of the fast parameters, which are those that jadam's has."""

    def update(updates: Any, state: Any, params: Any) -> Any:
        inner, slow = state
        moved, inner = tx.update(updates, inner, both(params, slow))
        return moved.fast, (inner, optax.apply_updates(slow, moved.slow))

    return optax.GradientTransformation(lambda params: (tx.init(both.init_synced(params)), params), update)


def _steps(tx: Any, dtype: Any, per_example: bool = False) -> Any:
    """How far parameters moved in all steps, with gradients for each of some examples where these are asked for."""
    start = params = _tree(START, dtype)
    state = tx.init(params)
    for number, grads in enumerate(GRADS):
        grads = _tree(grads, dtype)
        if per_example:
            grads = jax.tree.map(lambda *x: jnp.stack(x), grads, _tree(GRADS[number - 1], dtype))
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return jax.tree.map(operator.sub, params, start)


SEARCH = ("value", "grad", "value_fn")
ASK_FOR_MORE = {"lbfgs": SEARCH, "linesearch": SEARCH, "sam": ("grad_fn",), "reduce_on_plateau": ("value",)}
"""What functions take beside the gradient, by a part of their names."""


def _down_a_bowl(tx: Any, dtype: Any, asked: Iterable[str]) -> Any:
    """How far parameters moved down a bowl."""

    def bowl(params: Any) -> Any:
        return sum(jnp.sum((1 + jnp.arange(x.size, dtype=x.dtype)) * (x.ravel() - 0.5) ** 2) for x in params.values())

    start = params = _tree(START, dtype)
    state = tx.init(params)
    for _ in range(5):  # it is at the bottom soon, where rounding decides
        value, grads = jax.value_and_grad(bowl)(params)
        more = {"value": value, "grad": grads, "value_fn": bowl, "grad_fn": lambda params, _: jax.grad(bowl)(params)}
        updates, state = tx.update(jax.tree.map(jnp.negative, grads), state, params, **{word: more[word] for word in asked})
        params = optax.apply_updates(params, updates)
    return jax.tree.map(operator.sub, params, start)


def _apart(found: Any, expected: Any) -> float:
    """The largest difference of two trees, leaf by leaf, as a share of the largest number there."""
    ours, theirs = (jax.tree.leaves(tree) for tree in (found, expected))
    if len(ours) != len(theirs):
        return float("inf")
    pairs = [[np.asarray(x, np.float64) for x in pair] for pair in zip(ours, theirs, strict=True)]
    if any(x.shape != y.shape for x, y in pairs):
        return float("inf")
    shares = [np.max(np.abs(x - y), initial=0.0) / (np.max(np.abs(y), initial=0.0) or 1.0) for x, y in pairs]
    return float(max(shares, default=0.0))
