"""Four programs written for optax, in the styles of purejaxrl, flax, equinox and haiku, before and after one changed line.

python examples/swap.py [--steps 200]         # prints the last loss with optax and with jadam.optax

    before: import optax
    after:  import jadam.optax as optax
"""

import argparse
from typing import Any, NamedTuple

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import optax as before
from flax.training.train_state import TrainState

import jadam.optax as after

X = jax.random.normal(jax.random.key(0), (256, 8))
LABELS = jnp.argmax(X @ jax.random.normal(jax.random.key(1), (8, 4)), axis=1)


class Net(nn.Module):
    """Two layers in flax."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """The logits."""
        return nn.Dense(4)(nn.tanh(nn.Dense(32)(x)))


def purejaxrl(optax: Any, steps: int) -> jax.Array:
    """The whole training in one `scan`, with a rate that falls by a function of the step and a clip around Adam."""
    config = {"LR": 3e-2, "MAX_GRAD_NORM": 0.5, "ANNEAL_LR": True}
    network = Net()

    def linear_schedule(count: jax.Array) -> jax.Array:
        return config["LR"] * (1.0 - count / steps)

    tx = optax.chain(
        optax.clip_by_global_norm(config["MAX_GRAD_NORM"]),
        optax.adam(learning_rate=linear_schedule if config["ANNEAL_LR"] else config["LR"], eps=1e-5),
    )
    train_state = TrainState.create(apply_fn=network.apply, params=network.init(jax.random.key(2), X), tx=tx)

    def update_step(train_state: TrainState, _: None) -> tuple[TrainState, jax.Array]:
        def loss_fn(params: Any) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(network.apply(params, X), LABELS).mean()

        loss, grads = jax.value_and_grad(loss_fn)(train_state.params)
        return train_state.apply_gradients(grads=grads), loss

    return jax.jit(lambda state: jax.lax.scan(update_step, state, None, steps))(train_state)[1][-1]


def flax(optax: Any, steps: int) -> jax.Array:
    """A rate that is read from the state, and lowered in it half way."""
    network = Net()
    tx = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1, momentum=0.9)
    state = TrainState.create(apply_fn=network.apply, params=network.init(jax.random.key(2), X)["params"], tx=tx)

    @jax.jit
    def train_step(state: TrainState) -> tuple[TrainState, jax.Array]:
        def loss_fn(params: Any) -> jax.Array:
            logits = state.apply_fn({"params": params}, X)
            return optax.softmax_cross_entropy(logits=logits, labels=jax.nn.one_hot(LABELS, 4)).mean()

        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        return state.apply_gradients(grads=grads), loss

    loss = jnp.inf
    for step in range(steps):
        if step == steps // 2:
            hyperparams: Any = state.opt_state.hyperparams  # pyright: ignore[reportAttributeAccessIssue]
            hyperparams["learning_rate"] = hyperparams["learning_rate"] / 10
        state, loss = train_step(state)
    return jnp.asarray(loss)


def equinox(optax: Any, steps: int) -> jax.Array:
    """A model that is a tree with functions in it; weights of matrices alone decay."""
    model = eqx.nn.MLP(8, 4, 32, 1, key=jax.random.key(2))
    optim = optax.adamw(3e-2, weight_decay=1e-2, mask=lambda params: jax.tree.map(lambda p: p.ndim > 1, params))
    opt_state = optim.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_value_and_grad
    def loss_fn(model: eqx.nn.MLP) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(X), LABELS).mean()

    @eqx.filter_jit
    def make_step(model: eqx.nn.MLP, opt_state: Any) -> tuple[jax.Array, eqx.nn.MLP, Any]:
        loss, grads = loss_fn(model)
        updates, opt_state = optim.update(grads, opt_state, eqx.filter(model, eqx.is_inexact_array))
        return loss, eqx.apply_updates(model, updates), opt_state

    loss = jnp.inf
    for _ in range(steps):
        loss, model, opt_state = make_step(model, opt_state)
    return jnp.asarray(loss)


class TrainingState(NamedTuple):
    """What a step of haiku's example carries."""

    params: Any
    avg_params: Any
    opt_state: Any


def haiku(optax: Any, steps: int) -> jax.Array:
    """A target network that follows the trained one."""
    network = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([32, 4], activation=jnp.tanh)(x)))
    optimiser = optax.adam(1e-2)
    initial_params = network.init(jax.random.PRNGKey(2), X)
    state = TrainingState(initial_params, initial_params, optimiser.init(initial_params))

    def loss_fn(params: Any) -> jax.Array:
        return jnp.mean(optax.l2_loss(network.apply(params, X), jax.nn.one_hot(LABELS, 4)).sum(axis=1))

    @jax.jit
    def update(state: TrainingState) -> TrainingState:
        updates, opt_state = optimiser.update(jax.grad(loss_fn)(state.params), state.opt_state)
        params = optax.apply_updates(state.params, updates)
        return TrainingState(params, optax.incremental_update(params, state.avg_params, step_size=0.05), opt_state)

    for _ in range(steps):
        state = update(state)
    return loss_fn(state.avg_params)


def main(arguments: list[str] | None = None) -> dict[str, tuple[float, float]]:
    """The last losses of each program, before and after."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    steps = parser.parse_args(arguments).steps
    print(f"{'':10} {'optax':>10} {'jadam.optax':>12}")
    losses = {}
    for program in (purejaxrl, flax, equinox, haiku):
        a, b = losses[program.__name__] = float(program(before, steps)), float(program(after, steps))
        print(f"{program.__name__:10} {a:10.6f} {b:12.6f}")
    return losses


if __name__ == "__main__":
    main()
