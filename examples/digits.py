"""Trains a classifier of handwritten digits, and shows what jadam says on the way.

    python examples/digits.py                     # scikit-learn's digits (1,797 images of 8x8), in seconds
    python examples/digits.py --data mnist.npz    # MNIST as Keras stores it, 5 epochs

It prints the table of parameters, the learning rate read from the optimizer's state, and the test accuracy (0.98 or so for
either), and writes the loss and the learning rate of every step to a figure.
"""

import argparse
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tqdm import tqdm

import jadam

BATCH = 128


def load(path):
    """Images as rows in [0, 1] and labels: `(x_train, y_train, x_test, y_test)`."""
    if path is None:
        x, y = load_digits(return_X_y=True)
        x_train, x_test, y_train, y_test = map(
            np.asarray, train_test_split(x / 16, y, test_size=0.2, stratify=y, random_state=0)
        )
    else:
        with np.load(path) as data:
            x_train, y_train, x_test, y_test = (data[key] for key in ("x_train", "y_train", "x_test", "y_test"))
        x_train, x_test = (x.reshape(len(x), -1) / 255 for x in (x_train, x_test))
    return x_train.astype(np.float32), y_train.astype(np.int32), x_test.astype(np.float32), y_test.astype(np.int32)


def init_params(key, widths):
    """A layer of He-initialised weights and zero biases for each pair of widths."""
    params = {}
    for number, (wide, narrow) in enumerate(itertools.pairwise(widths)):
        key, own = jax.random.split(key)
        kernel = jax.random.normal(own, (wide, narrow)) * (2 / wide) ** 0.5
        params[f"layer{number}"] = {"kernel": kernel, "bias": jnp.zeros(narrow)}
    return params


def predict(params, x):
    """Logits of a multilayer perceptron."""
    *hidden, last = params.values()
    for layer in hidden:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return x @ last["kernel"] + last["bias"]


def loss(params, x, y):
    """Mean cross entropy."""
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(predict(params, x)), y[:, None], axis=1))


def batches(x, y, steps, seed):
    """Random batches, epoch after epoch."""
    rng, order = np.random.default_rng(seed), np.array([], int)
    for _ in range(steps):
        if len(order) < BATCH:
            order = rng.permutation(len(x))
        chosen, order = order[:BATCH], order[BATCH:]
        yield x[chosen], y[chosen]


def plot(losses, rates, path):
    """Writes the loss and the learning rate of every step as a figure."""
    figure, (top, bottom) = plt.subplots(2, sharex=True, figsize=(7, 6), layout="constrained")
    window = max(len(losses) // 50, 1)
    smooth = np.convolve(losses, np.ones(window) / window, mode="valid")
    top.semilogy(losses, alpha=0.3, label="each step")
    top.semilogy(np.arange(len(smooth)) + window - 1, smooth, color="C0", label=f"mean of {window} steps")
    top.set(ylabel="training loss (nats)", title="Training with jadam.adamw")
    top.legend()
    bottom.plot(rates, color="C1")
    bottom.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    for axes in (top, bottom):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments=None):
    """Trains, prints, plots; returns the test accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="an mnist.npz as Keras stores it; without it, scikit-learn's digits")
    parser.add_argument("--steps", type=int, help="training steps; by default 50 epochs of digits, 5 of MNIST")
    parser.add_argument("--figure", default="digits.png", help="where the figure goes")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    x, y, x_test, y_test = load(options.data)
    steps = options.steps or (5 if options.data else 50) * len(x) // BATCH
    params = init_params(jax.random.key(options.seed), [x.shape[1], 512, 256, 10])

    schedule = jadam.warmup_cosine_decay_schedule(0.0, 2e-3, warmup_steps=steps // 20, decay_steps=steps)
    decay = ~jadam.match("**/bias")
    tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.adamw(schedule, weight_decay=0.05, mask=decay))
    state = tx.init(params)
    print(jadam.describe(tx, params))

    @jax.jit
    def step(params, state, x, y):
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, state = tx.update(grads, state, params)
        return jadam.apply_updates(params, updates), state, value

    losses, rates = [], []
    progress = tqdm(batches(x, y, steps, options.seed), total=steps, unit="step", mininterval=0.5)
    for batch in progress:
        params, state, value = step(params, state, *batch)
        losses.append(value)
        rates.append(jadam.hyperparams(state)["learning_rate"])
        if len(losses) % 20 == 0:
            progress.set_postfix(loss=f"{value:.4f}", refresh=False)

    accuracy = float(jnp.mean(jnp.argmax(predict(params, x_test), axis=1) == y_test))
    print(f"learning rate of the last step: {rates[-1]:.2e} (peak {max(rates):.2e})")
    print(f"test accuracy after {steps} steps: {accuracy:.4f}")
    plot(np.array(losses), np.array(rates), options.figure)
    print(f"figure: {options.figure}")
    return accuracy


if __name__ == "__main__":
    main()
