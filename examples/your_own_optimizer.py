"""An optimizer of your own in one file: Lion (Chen et al. 2023, Algorithm 2, arXiv:2302.06675), fitting a line.

python examples/your_own_optimizer.py         # prints the recipe, the loss and the last learning rate
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

import jadam
from jadam import Decay, Rule, zeros


@dataclass(frozen=True)
class ScaleByLion(Rule):
    """Sign of a two-speed momentum: `u = sign(b1 m + (1-b1) g)`, `m = b2 m + (1-b2) g`."""

    b1: Decay = 0.9
    b2: Decay = 0.99

    def init(self, p):  # noqa: D102 (documented by Rule)
        return {"mu": zeros(p)}

    def update(self, g, slots, p, h):  # noqa: D102 (documented by Rule)
        m = slots["mu"]
        return jnp.sign(h.b1.ema(m, g)), {"mu": h.b2.ema(m, g)}


x = jnp.arange(5.0)
params = {"slope": jnp.float32(1.0), "offset": jnp.float32(0.0)}
tx = jadam.chain(ScaleByLion(), jadam.scale_by_learning_rate(jadam.cosine_decay_schedule(0.1, 200)))
state = tx.init(params)
loss = jax.value_and_grad(lambda params: jnp.mean((params["slope"] * x + params["offset"] - 3.0) ** 2))
for _ in range(200):
    params, state = tx.step(loss(params)[1], state, params)
print(tx)
print(f"loss {loss(params)[0]:.5f}, last learning rate {jadam.hyperparams(state)['learning_rate']:.5f}")
