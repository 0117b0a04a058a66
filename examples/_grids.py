"""Training for every setting of a grid of hyperparameters, and for every seed, in one program."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import jadam


class Task(NamedTuple):
    """What is trained: initial parameters of a key; the loss of parameters, a batch, its labels and a key; data; batch size."""

    init: Callable[[Array], Any]
    loss: Callable[[Any, Array, Array, Array], Array]
    x: np.ndarray
    y: np.ndarray
    batch: int


def train(
    tx: jadam.GradientTransformation, task: Task, steps: int, seeds: int, **values: Iterable[float]
) -> tuple[np.ndarray, Any, Any]:
    """Losses `(settings, seeds, steps)`, and the last parameters and states, with the same two leading axes.

    All runs are one program: what differs between them is in the parameters and in the optimizer's state, over which it is
    vmapped. Runs of one seed begin alike and see the same batches, which are drawn with replacement.

    Args:
        tx: the optimizer.
        task: what is trained.
        steps: how many.
        seeds: how many, from 0.
        values: for each setting, the values of hyperparameters.
    """

    def run(values: dict[str, Array], seed: Array, x: Array, y: Array) -> tuple[Array, Any, Any]:
        key = jax.random.key(seed)
        params = task.init(key)

        def step(carry: Any, t: Array) -> tuple[Any, Array]:
            params, state = carry
            for_rows, for_loss = jax.random.split(jax.random.fold_in(key, t))
            rows = jax.random.randint(for_rows, (task.batch,), 0, len(y))
            loss, grads = jax.value_and_grad(task.loss)(params, x[rows], y[rows], for_loss)
            return tx.step(grads, state, params), loss

        state = tx.set_hyperparams(tx.init(params), **values)
        (params, state), losses = jax.lax.scan(step, (params, state), jnp.arange(steps))
        return losses, params, state

    of_seeds = jax.vmap(run, (None, 0, None, None))
    program = jax.jit(jax.vmap(of_seeds, (0, None, None, None)))
    settings = {name: jnp.asarray(list(column), jnp.float32) for name, column in values.items()}
    losses, params, states = program(settings, jnp.arange(seeds), task.x, task.y)
    return np.asarray(losses), params, states


def windows(losses: np.ndarray, count: int = 25) -> np.ndarray:
    """The mean losses of equal parts of the runs; what is not finite is infinite."""
    count = min(count, losses.shape[-1])
    length = losses.shape[-1] // count
    parts = losses[..., : count * length].reshape(*losses.shape[:-1], count, length)
    return np.nan_to_num(parts.mean(-1), nan=np.inf, posinf=np.inf)


def grid(middle: float, count: int) -> np.ndarray:
    """Learning rates, each the root of ten times the one before."""
    return middle * 10.0 ** ((np.arange(count) - count // 2) / 2)
