"""Trains word vectors, of which a batch touches few, by steps on whole tables and by steps on rows.

    python examples/word_vectors.py                   # Python's own documentation (64,000 words), a minute or two
    python examples/word_vectors.py --text book.txt   # any text

Skip-gram with negative samples (Mikolov et al. 2013, arXiv:1310.4546): the vector of a word should have a large inner product
with the output vector of a word near it, and a small one with those of words drawn at random. Both runs see the same batches.
It prints the loss and the time of each, with the words that are nearest to some, and writes the losses over time to a figure.
"""

import argparse
import re
import time
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from tqdm import tqdm

import jadam

WIDTH, WINDOW, NEGATIVE, BATCH = 64, 4, 5, 32


def words_of(path):
    """The words of a text as numbers, the most frequent first, and the words by number."""
    text = Path(path).read_text() if path else " ".join(topics.values())
    words = re.findall(r"[a-z_]+", text.lower())
    vocabulary = [word for word, _ in Counter(words).most_common()]
    number = {word: n for n, word in enumerate(vocabulary)}
    return np.array([number[word] for word in words], np.int32), vocabulary


def batches(words, size, steps, seed=0):
    """Pairs of a word and one near it, and words drawn by their frequency to the power 3/4."""
    rng = np.random.default_rng(seed)
    share = np.bincount(words, minlength=size) ** 0.75
    share /= share.sum()
    for _ in range(steps):
        at = rng.integers(WINDOW, len(words) - WINDOW, BATCH)
        near = at + rng.integers(1, WINDOW + 1, BATCH) * rng.choice([-1, 1], BATCH)
        yield words[at], np.concatenate([words[near, None], rng.choice(size, (BATCH, NEGATIVE), p=share)], 1).astype(np.int32)


def loss_fn(params, words, others):
    """Of the first of `others` the product should be large, of the rest small."""
    products = jnp.einsum("bd,bnd->bn", params["input"][words], params["output"][others])
    signs = jnp.where(jnp.arange(1 + NEGATIVE) == 0, 1.0, -1.0)
    return -jnp.mean(jnp.sum(jax.nn.log_sigmoid(signs[None] * products), axis=1))


def on_tables(tx, params, state, words, others):
    """One step, whose gradients have as many rows as the tables."""
    value, grads = jax.value_and_grad(loss_fn)(params, words, others)
    return *tx.step(grads, state, params), value


def on_rows(tx, params, state, words, others):
    """The same, with respect to the rows that the batch touches."""
    size = len(params["input"])
    at = {"input": jadam.unique_rows(words, rows=size), "output": jadam.unique_rows(others, rows=size)}
    rows = jax.tree.map(lambda table, ids: table[ids], params, at)
    positions = jnp.searchsorted(at["input"], words), jnp.searchsorted(at["output"], others)
    value, grads = jax.value_and_grad(loss_fn)(rows, *positions)
    grads = jax.tree.map(lambda ids, values: jadam.Rows(ids, values, distinct=True), at, grads)
    return *tx.step(grads, state, params), value


def train(step, tx, words, size, steps):
    """The parameters, and the loss and the time in seconds after each step; compiling does not count."""
    key = jax.random.key(0)
    params = {"input": jax.random.normal(key, (size, WIDTH)) / WIDTH, "output": jnp.zeros((size, WIDTH))}
    state = tx.init(params)
    run = jax.jit(lambda *arguments: step(tx, *arguments), donate_argnums=(0, 1))
    compiled = run.lower(params, state, *next(batches(words, size, 1))).compile()
    losses, seconds, spent = [], [], 0.0
    for batch in tqdm(batches(words, size, steps), total=steps, leave=False):
        start = time.perf_counter()
        params, state, value = jax.block_until_ready(compiled(params, state, *batch))
        spent += time.perf_counter() - start
        losses.append(float(value))
        seconds.append(spent)
    return params, np.array(losses), np.array(seconds)


def nearest(params, vocabulary, word, count=5):
    """The words whose vectors have the smallest angle to that of a word."""
    table = params["input"] / jnp.linalg.norm(params["input"], axis=1, keepdims=True)
    order = jnp.argsort(-(table @ table[vocabulary.index(word)]))
    return [vocabulary[int(n)] for n in order[1 : count + 1]]


def main(arguments=None):
    """Trains both ways; returns the mean loss of the last fifth, and the seconds, of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text")
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--figure", default="figures/word_vectors.png")
    options = parser.parse_args(arguments)
    words, vocabulary = words_of(options.text)
    print(f"{len(words):,} words, {len(vocabulary):,} different; {options.steps:,} steps of {BATCH} pairs")
    tx, found, fig = jadam.adam(2e-3), {}, plt.figure(figsize=(6, 4))
    last = max(options.steps // 5, 1)
    for name, step in {"whole tables": on_tables, "rows": on_rows}.items():
        params, losses, seconds = train(step, tx, words, len(vocabulary), options.steps)
        found[name] = float(losses[-last:].mean()), float(seconds[-1])
        print(f"{name}: loss {found[name][0]:.3f} over the last {last:,} steps, {found[name][1]:.1f} s")
        for word in vocabulary[1:2] if options.text else ("class", "string"):
            print(f"  near {word}: {', '.join(nearest(params, vocabulary, word))}")
        smooth = np.convolve(losses, np.ones(last) / last, "valid")
        plt.plot(seconds[last - 1 :], smooth, label=name)
    plt.xlabel("seconds of steps")
    plt.ylabel(f"loss, mean of {last:,} steps")
    plt.legend()
    Path(options.figure).parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(options.figure, dpi=150, bbox_inches="tight")
    plt.close(fig)
    return found


if __name__ == "__main__":
    main()
