"""Trains through bad batches, and through two kills from which it resumes; shows what was noticed on the way.

    python examples/robust_training.py                     # scikit-learn's digits, in a minute
    python examples/robust_training.py --data mnist.npz    # MNIST as Keras stores it

The weights are bfloat16, and four micro-batches make a step. One micro-batch in a hundred has NaN in its images: it is
dropped from its step. One in a hundred has a loss that is a thousand times too large: most of these steps are skipped, and
a clip shortens the rest. The run is a process of its own, which is killed twice (SIGKILL), in the middle of a window of
micro-batches, and started again from its checkpoint. A run that is not killed ends with the same weights, bit for bit.

It prints how many micro-batches were dropped and steps skipped, and the test accuracy (0.97 or so for digits) of the weights
and of their average. What was monitored goes to a CSV file and a figure.
"""

import argparse
import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from digits import init_params, load, predict
from tqdm import tqdm

import jadam

BATCH, EVERY, SAVE_EVERY = 32, 4, 100  # SAVE_EVERY is no multiple of a window: a save may come in the middle of one
FIELDS = {
    "accumulate.value": "loss",
    "grad_norm": "gradient norm",
    "update_norm": "update norm",
    "guard.skipped": "skipped steps",
    "accumulate.dropped": "dropped micro-batches",
    "learning_rate": "learning rate",
}


def optimizer(steps):
    """From inside to outside: clipped AdamW, whose bad steps are skipped; monitored, averaged, four micro-batches a step."""
    schedule = jadam.warmup_cosine_decay_schedule(0.0, 2e-3, warmup_steps=steps // 20, decay_steps=steps)
    adamw = jadam.adamw(schedule, weight_decay=0.05, mask=~jadam.match("**/bias"))
    guarded = jadam.guard(jadam.chain(jadam.clip_by_global_norm(1.0), adamw))
    averaged = jadam.average(jadam.monitor(guarded), decay=0.98)
    return jadam.with_precision(jadam.accumulate(averaged, EVERY), params="stochastic")


def loss(params, x, y, factor):
    """Mean cross entropy, its logarithm in float32."""
    logits = predict(params, x.astype(jnp.bfloat16)).astype(jnp.float32)
    return -factor * jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1))


def micro_batch(number, x, y, seed):
    """What micro-step `number` trains on: it depends on the number alone, so that a resumed run sees the same."""
    rng = np.random.default_rng((seed, number))
    chosen, chance = rng.integers(0, len(x), BATCH), rng.random()
    images = x[chosen] * np.float32(np.nan if chance < 0.01 else 1)
    # The guard knows what is usual after 64 steps.
    return images, y[chosen], np.float32(1000 if chance > 0.99 and number > 70 * EVERY else 1)


def save(path, number, params, state):
    """Writes a checkpoint in one piece: a kill leaves the old one or the new one, and never half of one."""
    arrays = {f"params/{layer}/{name}": np.asarray(x, np.float32) for layer, own in params.items() for name, x in own.items()}
    arrays |= {"number": np.asarray(number), **jadam.to_dict(state)}
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def restore(path, tx, params):
    """The checkpoint: how many micro-steps are done, parameters and state."""
    with np.load(path, allow_pickle=False) as file:
        saved = dict(file)
    number = int(saved.pop("number"))
    params = {
        layer: {name: jnp.asarray(saved.pop(f"params/{layer}/{name}"), x.dtype) for name, x in own.items()}
        for layer, own in params.items()
    }
    return number, params, jadam.from_dict(tx, params, saved)


def train(options, data, folder, kill_at=None):
    """Trains, from the checkpoint in the folder if there is one; the last thing it does at `kill_at` is to be killed."""
    x, y, _, _ = data
    micro_steps, tx = options.steps * EVERY, optimizer(options.steps)
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), init_params(jax.random.key(0), [x.shape[1], 256, 256, 10]))
    done, state, log = 0, tx.init(params), folder / "log.csv"
    if (folder / "run.npz").exists():
        done, params, state = restore(folder / "run.npz", tx, params)
    lines = log.read_text().splitlines()[1:] if log.exists() else []
    rows = list(csv.reader(lines))[: done // EVERY]  # those after the checkpoint are written again

    @jax.jit
    def step(params, state, x, y, factor):
        value, grads = jax.value_and_grad(loss)(params, x, y, factor)
        params, state = tx.step(grads, state, params, value=value)
        return params, state, jadam.metrics(state)

    with log.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["step", *FIELDS.values()], *rows])
        for number in tqdm(range(done, micro_steps), initial=done, total=micro_steps, unit="micro-step", mininterval=0.5):
            if number == kill_at:
                file.flush()
                os.kill(os.getpid(), signal.SIGKILL)
            params, state, metrics = step(params, state, *micro_batch(number, x, y, 0))
            if (number + 1) % EVERY == 0:
                writer.writerow([number // EVERY, *(float(metrics[name]) for name in FIELDS)])
            if (number + 1) % SAVE_EVERY == 0 or number + 1 == micro_steps:
                file.flush()
                save(folder / "run.npz", number + 1, params, state)
    return params, state


def plot(log, kills, path):
    """Loss, norms and rate of every step; what was dropped and skipped; where the run was killed."""
    with log.open() as file:
        table = {name: np.array(column, float) for name, *column in zip(*csv.reader(file), strict=True)}
    steps = table["step"]
    figure, axes = plt.subplots(3, sharex=True, figsize=(7, 8), layout="constrained", height_ratios=(3, 3, 1))
    spoiled = np.diff(table["skipped steps"], prepend=0) > 0
    dropped = np.diff(table["dropped micro-batches"], prepend=0) > 0
    for axis, names in zip(axes, (["loss"], ["gradient norm", "update norm"], ["learning rate"]), strict=True):
        for number, name in enumerate(names):
            axis.plot(steps, np.where(spoiled, np.nan, table[name]), color=f"C{number}", lw=1, label=name)
            if name in ("loss", "gradient norm"):
                shown = {"color": "C3", "marker": "x", "ls": "", "ms": 5, "label": "skipped"}
                axis.plot(steps[spoiled], table[name][spoiled], **shown)
        for kill in kills:
            axis.axvline(kill / EVERY, color="0.5", ls=":", label="killed, and resumed" if kill == kills[0] else None)
        axis.grid(alpha=0.3)
    axes[0].plot(steps[dropped], table["loss"][dropped], "o", color="C1", ms=4, mfc="none", label="NaN: a micro-batch dropped")
    axes[0].set(yscale="log", ylabel="loss (nats)", title="Training through bad batches and two kills")
    axes[1].set(yscale="log", ylabel="norm")
    axes[2].set(xlabel="step", ylabel="learning rate")
    for axis in axes[:2]:
        axis.legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(arguments=None):
    """Trains in processes that are killed, and once more without; returns what was counted and reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="an mnist.npz as Keras stores it; without it, scikit-learn's digits")
    parser.add_argument("--steps", type=int, default=600, help="steps, each of 4 micro-batches of 32")
    parser.add_argument("--folder", type=Path, default=Path("robust"), help="where checkpoint, CSV file and figure go")
    parser.add_argument("--kill-at", type=int, help=argparse.SUPPRESS)  # a process that is to be killed
    options = parser.parse_args(arguments)
    data = load(options.data)
    if options.kill_at is not None:
        train(options, data, options.folder, options.kill_at)
        return None

    options.folder.mkdir(parents=True, exist_ok=True)
    for old in ("run.npz", "log.csv"):
        (options.folder / old).unlink(missing_ok=True)
    kills = [options.steps * EVERY // 3 + 1, options.steps * EVERY * 3 // 4 + 2]
    for kill in kills:
        command = [sys.executable, __file__, *(sys.argv[1:] if arguments is None else arguments), "--kill-at", str(kill)]
        code = subprocess.run(command).returncode
        print(f"killed before micro-step {kill}: the process ended with {code}")
    params, state = train(options, data, options.folder)
    uninterrupted = options.folder / "uninterrupted"
    uninterrupted.mkdir(exist_ok=True)
    (uninterrupted / "run.npz").unlink(missing_ok=True)
    other, _ = train(options, data, uninterrupted)
    equal = jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), params, other))
    print(f"the run that was killed twice ends with the weights of one that was not: {equal}")

    _, _, x_test, y_test = data
    found: dict[str, float] = {"equal": equal}
    for name, weights in (("the weights", params), ("their average", jadam.averaged_params(state, params))):
        logits = predict(weights, jnp.asarray(x_test, jnp.bfloat16))
        found[name] = float(jnp.mean(jnp.argmax(logits, axis=1) == y_test))
        print(f"test accuracy of {name}: {found[name]:.4f}")
    metrics = jadam.metrics(state)
    found |= {"dropped": int(metrics["accumulate.dropped"]), "skipped": int(metrics["guard.skipped"])}
    print(f"micro-batches dropped: {found['dropped']}; steps skipped: {found['skipped']}")
    plot(options.folder / "log.csv", kills, options.folder / "robust.png")
    print(f"figure: {options.folder / 'robust.png'}, log: {options.folder / 'log.csv'}")
    return found


if __name__ == "__main__":
    main()
