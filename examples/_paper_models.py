"""The models of the paper's experiments, in small: how their parameters begin, what they predict, and their losses.

A loss is `loss(params, x, y, key)`, the mean over a batch in nats; the key is for what is drawn in it, such as dropout.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Params = Any


# Layers


def dense(key: Array, wide: int, narrow: int) -> dict[str, Array]:
    """Weights as He et al. (2015) draw them, and biases of zero."""
    return {"kernel": jax.random.normal(key, (wide, narrow)) * (2 / wide) ** 0.5, "bias": jnp.zeros(narrow)}


def apply(layer: dict[str, Array], x: Array) -> Array:
    """The affine map of a layer."""
    return x @ layer["kernel"] + layer["bias"]


def dropped(key: Array | None, x: Array, rate: float) -> Array:
    """A share of the elements set to zero, the others made larger in turn (Srivastava et al. 2014); without a key all stay."""
    if key is None or rate == 0:
        return x
    kept = jax.random.bits(key, x.shape, jnp.uint8) >= round(256 * rate)  # eight bits are enough, and quickly drawn
    return jnp.where(kept, x / (1 - rate), 0)


def cross_entropy(logits: Array, y: Array) -> Array:
    """Of the softmax of the logits, with integer labels."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))


def accuracy(logits: Array, y: Array) -> Array:
    """The share of labels whose logit is the largest."""
    return jnp.mean(jnp.argmax(logits, axis=1) == y)


# Models: each function makes `init(key)` and `predict(params, x, key)`

Model = tuple[Callable[[Array], Params], Callable[[Params, Array, Array | None], Array]]


def perceptron(widths: Sequence[int], dropout: float = 0.0, on_input: float = 0.0) -> Model:
    """ReLU networks; of two widths, logistic regression. Dropout is on the hidden layers, and on the input if wished."""

    def init(key: Array) -> Params:
        keys = jax.random.split(key, len(widths) - 1)
        layers = [dense(key, wide, narrow) for key, (wide, narrow) in zip(keys, pairwise(widths), strict=True)]
        # The last layer begins at zero: every class is equally likely, and the first loss is the logarithm of their number.
        return [*layers[:-1], jax.tree.map(jnp.zeros_like, layers[-1])]

    def predict(params: Params, x: Array, key: Array | None = None) -> Array:
        x = dropped(key, x.reshape(len(x), -1).astype(jnp.float32), on_input)
        for number, layer in enumerate(params[:-1]):
            x = dropped(key if key is None else jax.random.fold_in(key, number), jax.nn.relu(apply(layer, x)), dropout)
        return apply(params[-1], x)

    return init, predict


def convolutional(shape: Sequence[int], channels: Sequence[int], hidden: int, classes: int, dropout: float = 0.0) -> Model:
    """Convolutions of 5 by 5, each with ReLU and a pooling of 2 by 2, then a dense layer, with dropout before and after it."""
    height, width, colours = shape
    left = (height >> len(channels)) * (width >> len(channels)) * channels[-1]
    head, classify = perceptron([left, hidden, classes], dropout, dropout)

    def init(key: Array) -> Params:
        keys = jax.random.split(key, len(channels))
        layers = [
            dense(key, 25 * wide, narrow) for key, (wide, narrow) in zip(keys, pairwise([colours, *channels]), strict=True)
        ]
        return {"convolutions": layers, "head": head(key)}

    def predict(params: Params, x: Array, key: Array | None = None) -> Array:
        for layer in params["convolutions"]:
            x = pooled(jax.nn.relu(apply(layer, patches(x))))
        return classify(params["head"], x, key)

    return init, predict


def patches(x: Array) -> Array:
    """The 5 by 5 neighbourhood of each pixel as its features, zeros beyond the border.

    A convolution is then a product of matrices. Under `vmap` over kernels that stays one, where `lax.conv` becomes a grouped
    convolution, for which XLA has no fast code on CPU.
    """
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    return jnp.concatenate([x[:, i : i + height, j : j + width] for i in range(5) for j in range(5)], axis=-1)


def pooled(x: Array) -> Array:
    """The largest of 2 by 2 pixels."""
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).max((2, 4))


def classifier_loss(predict: Callable[[Params, Array, Array | None], Array]) -> Callable[..., Array]:
    """The cross entropy of what is predicted."""
    return lambda params, x, y, key: cross_entropy(predict(params, x, key), y)


# The variational auto-encoder (Kingma & Welling 2014)


def auto_encoder(pixels: int, hidden: int, latent: int) -> tuple[Callable[[Array], Params], Callable[..., Array]]:
    """One hidden layer of softplus units on either side, a Gaussian of `latent` dimensions between; `init` and the loss.

    The loss is the negative of the evidence lower bound: the cross entropy of the pixels and the divergence from the prior.
    """

    def init(key: Array) -> Params:
        sizes = {
            "encoder": (pixels, hidden),
            "code": (hidden, 2 * latent),
            "decoder": (latent, hidden),
            "image": (hidden, pixels),
        }
        keys = jax.random.split(key, len(sizes))
        return {name: dense(key, *size) for key, (name, size) in zip(keys, sizes.items(), strict=True)}

    def loss(params: Params, x: Array, y: Array, key: Array) -> Array:
        x = x.reshape(len(x), -1)
        mean, log_variance = jnp.split(apply(params["code"], jax.nn.softplus(apply(params["encoder"], x))), 2, axis=1)
        z = mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape)
        logits = apply(params["image"], jax.nn.softplus(apply(params["decoder"], z)))
        pixels = jnp.sum(jax.nn.softplus(logits) - x * logits, axis=1)
        divergence = jnp.sum(mean**2 + jnp.exp(log_variance) - log_variance - 1, axis=1) / 2
        return jnp.mean(pixels + divergence)

    return init, loss
