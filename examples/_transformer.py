"""A small transformer that predicts the next character (Vaswani et al. 2017; normalised before each block, as in GPT-2)."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

Params = Any


class Sizes(NamedTuple):
    """Of the model: distinct characters, features of a character, blocks, heads, and how many characters it looks back."""

    characters: int
    width: int = 64
    blocks: int = 2
    heads: int = 4
    context: int = 64


def init(key: Array, sizes: Sizes) -> Params:
    """Weights in float32. Those that end a block, and the head, begin at zero: at first every character is equally likely."""
    keys = iter(jax.random.split(key, 2 + 2 * sizes.blocks))
    width = sizes.width

    def normal(*shape: int) -> Array:
        return jax.random.normal(next(keys), shape) * width**-0.5

    def block() -> Params:
        return {
            "attention": {"gain": jnp.ones(width), "qkv": normal(width, 3 * width), "out": jnp.zeros((width, width))},
            "mlp": {"gain": jnp.ones(width), "up": normal(width, 4 * width), "down": jnp.zeros((4 * width, width))},
        }

    return {
        "embed": {"character": normal(sizes.characters, width), "position": normal(sizes.context, width)},
        "blocks": [block() for _ in range(sizes.blocks)],
        "head": {"gain": jnp.ones(width), "kernel": jnp.zeros((width, sizes.characters))},
    }


def predict(params: Params, text: Array, heads: int) -> Array:
    """Logits `(n, time, characters)` in float32 for what comes after each character of `(n, time)`; in the weights' dtype."""
    x = params["embed"]["character"][text] + params["embed"]["position"][: text.shape[1]]
    for block in params["blocks"]:
        x = x + attention(block["attention"], x, heads)
        hidden = jax.nn.gelu(normalised(x, block["mlp"]["gain"]) @ block["mlp"]["up"])
        x = x + hidden @ block["mlp"]["down"]
    logits = normalised(x, params["head"]["gain"]) @ params["head"]["kernel"]
    return logits.astype(jnp.float32)


def attention(weights: Params, x: Array, heads: int) -> Array:
    """Every position looks at itself and at those before it."""
    n, time, width = x.shape
    qkv = (normalised(x, weights["gain"]) @ weights["qkv"]).reshape(n, time, 3, heads, width // heads)
    seen = jax.nn.dot_product_attention(qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2], is_causal=True)
    return seen.reshape(n, time, width) @ weights["out"]


def normalised(x: Array, gain: Array) -> Array:
    """Divided by the root mean square over the features, which is taken in float32 (Zhang & Sennrich 2019)."""
    square = jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1, keepdims=True)
    return x * jax.lax.rsqrt(square + 1e-6).astype(x.dtype) * gain


def cross_entropy(params: Params, text: Array, following: Array, heads: int) -> Array:
    """Mean loss in nats a character, of windows of text and, of the same shape, what follows each of their characters."""
    logits = jax.nn.log_softmax(predict(params, text, heads))
    return -jnp.mean(jnp.take_along_axis(logits, following[..., None].astype(jnp.int32), axis=-1))


@partial(jax.jit, static_argnames=("heads", "length"))
def sample(params: Params, start: Array, key: Array, heads: int, length: int, temperature: float = 0.8) -> Array:
    """So many characters after the window `start`, drawn one by one."""

    def draw(window: Array, key: Array) -> tuple[Array, Array]:
        character = jax.random.categorical(key, predict(params, window[None], heads)[0, -1] / temperature)
        return jnp.append(window[1:], character.astype(window.dtype)), character

    return jax.lax.scan(draw, start, jax.random.split(key, length))[1]
