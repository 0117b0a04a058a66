"""Products of matrices in anyone's rule are float32, whatever the platform's default or the user's."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp

import jadam


@dataclass(frozen=True)
class ScaleByProducts(jadam.Rule):
    """Multiplies matrices wherever a rule can."""

    elementwise: ClassVar[bool] = False

    def init(self, p):
        return {"square": p @ p}

    def prepare(self, context):
        return {"trace": sum(jnp.vdot(u, u) for u in context.updates)}

    def update(self, g, slots, p, h):
        return slots["square"] @ g * h.trace, {"square": g @ p}


def programs(function, *args):
    return str(jax.make_jaxpr(function)(*args)).replace("\n", " ").split("dot_general[")[1:]


def test_rules_multiply_in_float32():
    tx, params = jadam.chain(ScaleByProducts(), jadam.scale(-1.0)), {"w": jnp.ones((4, 4))}
    state = tx.init(params)
    for default in ("default", "tensorfloat32", None):
        with jax.default_matmul_precision(default):
            for function, args, number in ((tx.init, (params,), 1), (tx.step, (params, state, params), 3)):
                found = programs(function, *args)
                assert len(found) == number
                assert all("Precision.HIGHEST, Precision.HIGHEST" in " ".join(product.split()) for product in found)


def test_what_a_rule_has_rounded_is_multiplied_fast():
    tx, params = jadam.muon(0.1, ns_dtype="bfloat16"), {"w": jnp.ones((4, 4))}
    found = programs(tx.step, params, tx.init(params), params)
    assert len(found) == 15 + 3  # one step after the other, and a loop for TPU
    assert not any("HIGHEST" in product.split("]")[0] for product in found)
