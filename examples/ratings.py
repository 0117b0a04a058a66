"""Fits ratings of items by users, of whom a batch touches few: by steps on whole tables, on rows, and on rows that catch up.

    python examples/ratings.py                  # 200,000 users, 20,000 items, a minute or two

The data are made by a model that is known, so that it is known how well they can be fitted: a rating is the sum of a mean, what
is the user's, what is the item's, the inner product of two vectors of 4, and noise of standard deviation 0.5. Some items are
rated far more often than others: the n-th in proportion to 1 / n. It prints the root mean square error on ratings that are kept
back, with the time, and writes the error over time to a figure.
"""

import argparse
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

import jadam

NOISE, HIDDEN, WIDTH, BATCH = 0.5, 4, 8, 2048


def made(users, items, ratings, seed=0):
    """Users, items and ratings, as three arrays."""
    rng = np.random.default_rng(seed)
    of_user, of_item = 0.3 * rng.standard_normal(users), 0.5 * rng.standard_normal(items)
    taste, kind = rng.standard_normal((users, HIDDEN)), 0.3 * rng.standard_normal((items, HIDDEN))
    share = 1 / np.arange(1, items + 1)
    user, item = rng.integers(0, users, ratings), rng.choice(items, ratings, p=share / share.sum())
    rating = 3.5 + of_user[user] + of_item[item] + np.sum(taste[user] * kind[item], 1) + NOISE * rng.standard_normal(ratings)
    return user.astype(np.int32), item.astype(np.int32), rating.astype(np.float32)


def predict(params, user, item):
    """The last number of a row is what is the user's or the item's alone."""
    u, i = params["user"][user], params["item"][item]
    return params["mean"] + u[:, -1] + i[:, -1] + jnp.sum(u[:, :-1] * i[:, :-1], axis=1)


def loss_fn(params, user, item, rating):
    """Mean square error."""
    return jnp.mean((predict(params, user, item) - rating) ** 2)


def on_tables(tx, params, state, user, item, rating):
    """One step, whose gradients have as many rows as the tables."""
    return tx.step(jax.grad(loss_fn)(params, user, item, rating), state, params)


def on_rows(tx, params, state, user, item, rating):
    """The same with respect to the rows of each rating: those of one user are summed by the step."""
    rows = params | {"user": params["user"][user], "item": params["item"][item]}
    grads = jax.grad(loss_fn)(rows, jnp.arange(BATCH), jnp.arange(BATCH), rating)
    tables = {"user": jadam.Rows(user, grads["user"]), "item": jadam.Rows(item, grads["item"])}
    return tx.step(grads | tables, state, params)


def train(step, tx, params, data, test, steps):
    """The errors on ratings that were kept back, and the seconds of steps until then."""
    state = tx.init(params)
    params = jax.tree.map(jnp.copy, params)
    rng = np.random.default_rng(1)
    run = jax.jit(lambda *arguments: step(tx, *arguments), donate_argnums=(0, 1))
    error = jax.jit(lambda params: jnp.sqrt(loss_fn(params, *test)))
    batch = lambda: [x[at] for at in [rng.integers(0, len(data[0]), BATCH)] for x in data]  # noqa: E731
    compiled, errors, seconds, spent = run.lower(params, state, *batch()).compile(), [], [], 0.0
    for number in tqdm(range(1, steps + 1), leave=False):
        own = batch()
        start = time.perf_counter()
        params, state = jax.block_until_ready(compiled(params, state, *own))
        spent += time.perf_counter() - start
        if number % max(steps // 20, 1) == 0:
            errors.append(float(error(params)))
            seconds.append(spent)
    return errors, seconds


def main(arguments=None):
    """Trains three ways; returns the last error and the seconds of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--ratings", type=int, default=4_000_000)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--figure", default="figures/ratings.png")
    options = parser.parse_args(arguments)
    data = made(options.users, options.items, options.ratings)
    kept = options.ratings // 20
    data, test = [x[kept:] for x in data], [x[:kept] for x in data]
    keys = jax.random.split(jax.random.key(0))
    params = {
        "mean": jnp.asarray(data[2].mean()),
        "user": 0.1 * jax.random.normal(keys[0], (options.users, WIDTH)),
        "item": 0.1 * jax.random.normal(keys[1], (options.items, WIDTH)),
    }
    rate = jadam.cosine_decay_schedule(1e-2, options.steps)
    tx = jadam.adam(rate, b2=0.99)
    print(f"{options.ratings:,} ratings; noise of {NOISE}, and {float(np.std(test[2])):.2f} around the mean")
    ways = {
        "whole tables": (on_tables, tx),
        "rows": (on_rows, tx),
        "rows that catch up": (on_rows, jadam.lazy(tx, catch_up=True)),
    }
    found, fig = {}, plt.figure(figsize=(6, 4))
    for name, (step, own) in ways.items():
        errors, seconds = train(step, own, params, data, test, options.steps)
        found[name] = errors[-1], seconds[-1]
        print(f"{name}: error {errors[-1]:.3f}, {seconds[-1]:.1f} s")
        plt.plot(seconds, errors, label=name)
    plt.axhline(NOISE, color="grey", linestyle=":", label="the noise")
    plt.xlabel("seconds of steps")
    plt.ylabel("root mean square error")
    plt.legend()
    Path(options.figure).parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(options.figure, dpi=150, bbox_inches="tight")
    plt.close(fig)
    return found


if __name__ == "__main__":
    main()
