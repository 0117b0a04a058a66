"""An array without a derivative in reverse. A primitive of JAX says so, in a file of its own: JAX imports it slowly."""

from __future__ import annotations

from typing import Any

from jax import Array
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jadam._errors import BadValue


def forward_only(x: Array, words: str) -> Array:
    """`x`, whose derivative in reverse is an error in these words.

    JAX says of a `while_loop` that it has none, and not whose loop that is. In reverse, what follows a loop comes before it.
    """
    return _forward_only.bind(x, words=words)


def _refuse(cotangent: Any, x: Any, words: str) -> Any:
    raise BadValue(words)


_forward_only = Primitive("forward_only")
_forward_only.def_impl(lambda x, words: x)
_forward_only.def_abstract_eval(lambda x, words: x)
ad.deflinear2(_forward_only, _refuse)
batching.defvectorized(_forward_only)
mlir.register_lowering(_forward_only, lambda _, x, words: [x])
