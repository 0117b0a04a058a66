"""What the walkthrough and the landscapes share: runs of an optimizer, one by one and many at once."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jadam


def run(
    tx: jadam.GradientTransformation,
    gradient: Callable[..., Any],
    theta: Any,
    steps: int,
    state: Any = None,
    project: Callable[[Any], Any] = lambda theta: theta,
) -> Any:
    """Gradients, parameters and states of a run, stacked.

    Args:
        tx: the optimizer.
        gradient: `gradient(theta, t)` at the steps t = 1, 2, ...
        theta: the initial parameters, a tree.
        steps: how many.
        state: of the optimizer; by default that of `init`.
        project: is applied to the parameters after each step.
    """
    theta = jax.tree.map(jnp.asarray, theta)

    def body(carry: Any, t: Array) -> tuple[Any, Any]:
        theta, state = carry
        g = gradient(theta, t)
        theta, state = tx.step(g, state, theta)
        theta = project(theta)
        return (theta, state), (g, theta, state)

    return jax.lax.scan(body, (theta, tx.init(theta) if state is None else state), jnp.arange(1, steps + 1))[1]


def sweep(
    tx: jadam.GradientTransformation,
    gradient: Callable[..., Any],
    theta: Any,
    steps: int,
    **values: Sequence[float] | np.ndarray,
) -> Any:
    """The parameters of a run for each value of one or more hyperparameters: one program, for they are in the state."""
    theta = jax.tree.map(jnp.asarray, theta)
    settings = [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]
    states = [tx.set_hyperparams(tx.init(theta), **setting) for setting in settings]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return jax.tree.map(np.asarray, jax.jit(jax.vmap(lambda state: run(tx, gradient, theta, steps, state)[1]))(stacked))


def first(reached: Any) -> int | None:
    """The first step, from 1, at which `reached` is true; None for never."""
    return int(np.argmax(reached)) + 1 if np.any(reached) else None


def quickest(curves: np.ndarray, goal: float) -> tuple[int, int | None]:
    """The curve that stays below the goal first, and the step from which it does; otherwise the lowest at the end, and None.

    Args:
        curves: losses of shape (runs, steps); what is not a number counts as infinite.
        goal: what they are to stay below, to the end.
    """
    curves = np.nan_to_num(curves, nan=np.inf)
    above = curves >= goal
    arrivals = np.where(above[:, -1], np.inf, curves.shape[1] - above[:, ::-1].argmax(axis=1) + 1)
    arrivals[~above.any(axis=1)] = 1
    best = int(np.lexsort(np.stack([curves[:, -1], arrivals]))[0])
    return best, int(arrivals[best]) if arrivals[best] < np.inf else None
