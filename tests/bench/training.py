"""Training on MNIST for `precision.py`: the data, a network, the runs that are compared, and a figure of their losses."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jadam


def advance(tx: Any, params: Any, state: Any, grads: Any, by: str = "step") -> tuple[Any, Any]:
    if by == "step":
        return tx.step(grads, state, params)
    updates, state = tx.update(grads, state, params)
    return jax.tree.map(jnp.add, params, updates), state


class Digits(NamedTuple):
    images: jax.Array  # uint8, (n, 784)
    labels: jax.Array  # int32, (n,)


def load(path: Path) -> Digits:
    with np.load(path) as data:
        images, labels = data["x_train"], data["y_train"]
    return Digits(jnp.asarray(images.reshape(len(images), -1)), jnp.asarray(labels, jnp.int32))


def layers(seed: jax.Array, widths: tuple[int, ...], dtype: Any) -> list[dict[str, jax.Array]]:
    """He-initialised weights and zero biases."""
    keys = jax.random.split(jax.random.key(seed), len(widths) - 1)
    shapes = zip(keys, widths[:-1], widths[1:], strict=True)
    kernels = [(2 / rows) ** 0.5 * jax.random.normal(key, (rows, columns), jnp.float32) for key, rows, columns in shapes]
    return [{"kernel": w.astype(dtype), "bias": jnp.zeros(w.shape[1:], dtype)} for w in kernels]


def cross_entropy(params: list[dict[str, jax.Array]], images: jax.Array, labels: jax.Array) -> jax.Array:
    """Of a multilayer perceptron that computes in the dtype of its weights; the logarithm in float32."""
    x = (images.astype(jnp.float32) / 255).astype(params[0]["kernel"].dtype)
    for number, layer in enumerate(params):
        x = jax.nn.relu(x) if number else x
        x = x @ layer["kernel"] + layer["bias"][None]
    log_p = jax.nn.log_softmax(x.astype(jnp.float32))
    return -jnp.mean(jnp.take_along_axis(log_p, labels[:, None], axis=1))


@partial(jax.jit, static_argnames=("tx", "dtype", "steps", "hidden", "batch"))
def losses(
    tx: Any, dtype: Any, data: Digits, seed: Any, steps: int = 1500, hidden: tuple[int, ...] = (256, 256), batch: int = 128
) -> jax.Array:
    """The loss at each step of training such a network, float32 of shape (steps,)."""
    params = layers(seed, (data.images.shape[1], *hidden, 10), dtype)
    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1), steps)
    by = "step" if isinstance(tx, jadam.GradientTransformation) else "update"

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        params, state = carry
        chosen = jax.random.randint(key, (batch,), 0, len(data.labels))
        loss, grads = jax.value_and_grad(cross_entropy)(params, data.images[chosen], data.labels[chosen])
        return advance(tx, params, state, grads, by), loss

    return jax.lax.scan(step, (params, tx.init(params)), keys)[1]


def last(curves: np.ndarray, steps: int = 100) -> float:
    """The mean loss of the last steps, of all seeds."""
    return float(np.mean(curves[:, -steps:]))


LANDED = ("stochastic", "kahan", "remainder")


def spelled(kwargs: dict[str, str]) -> str:
    """Arguments of `with_precision` as they are written."""
    return ", ".join(f'{name}="{value}"' for name, value in kwargs.items())


def runs() -> dict[str, tuple[Any, Any, str]]:
    """A transformation, the dtype of the weights, and with which run it is compared, if it has a bar; in order."""
    adam, low, base = jadam.adam, "bfloat16 weights, lr 1e-4", "float32, lr 1e-4"
    found = {base: (adam(1e-4), jnp.float32, ""), f"{low}, optax": (optax.adam(1e-4), jnp.bfloat16, "")}
    eight = {"params": "stochastic", "state": "int8"}
    for kwargs in (*({"params": params} for params in ("nearest", *LANDED)), eight, eight | {"kernel": "pallas"}):
        tx = jadam.with_precision(adam(1e-4), **kwargs)
        found[f"{low}, {spelled(kwargs)}"] = tx, jnp.bfloat16, "" if kwargs["params"] == "nearest" else base
    found["float32, lr 1e-3"] = adam(1e-3), jnp.float32, ""
    for rate, name in ((1e-4, "1e-4"), (1e-3, "1e-3")):
        for rounding in ("stochastic", "nearest"):
            tx = jadam.with_precision(adam(rate), state="int8", rounding=rounding)
            found[f'float32 weights, lr {name}, state="int8", {rounding}'] = tx, jnp.float32, f"float32, lr {name}"
    return found


def draw(curves: dict[str, np.ndarray], path: Path, window: int = 100) -> None:
    """Moving averages of the losses, and their ratio to float32's."""
    import matplotlib as mpl  # here, since only figures need it

    mpl.use("agg")
    import matplotlib.pyplot as plt

    means = {name: np.convolve(np.mean(x, 0), np.ones(window) / window, "valid") for name, x in curves.items()}
    labels = list(dict.fromkeys(name.replace(", lr 1e-4", "").replace(", lr 1e-3", "") for name in means))
    figure, axes = plt.subplots(2, 2, figsize=(13, 9), sharex=True, sharey="row", height_ratios=(3, 2), layout="constrained")
    for rate, (top, bottom) in zip(("lr 1e-4", "lr 1e-3"), axes.T, strict=True):
        base = means[f"float32, {rate}"]
        steps = np.arange(len(base)) + window
        names = [name for name in means if rate in name and name != f"float32, {rate}"]
        top.semilogy(steps, base, color="black", lw=3, label="float32")
        bottom.axhspan(0.98, 1.02, color="0.9", zorder=0)
        bottom.axhline(1, color="black", lw=1)
        for name in names:
            label = name.replace(f", {rate}", "")
            number = labels.index(label)
            style = {"color": f"C{number - 1}", "ls": ("-", "--")[number % 2], "label": label}
            top.semilogy(steps, means[name], **style)
            bottom.plot(steps, means[name] / base, **style)
        top.set_title(f"Adam, {rate}")
        top.legend(fontsize=9)
        bottom.set(xlabel="step", ylim=(0.95, 1.05))
        for axis in (top, bottom):
            axis.grid(alpha=0.3, which="both")
    axes[0, 0].set_ylabel(f"training loss, mean of {window} steps and {len(next(iter(curves.values())))} seeds")
    axes[1, 0].set_ylabel("loss / loss of float32 (grey: within 2 %)")
    figure.suptitle("784-256-256-10 on MNIST: weights and Adam's slots in few bits")
    figure.savefig(path, dpi=120)
