"""Trains a small transformer on a text in bfloat16, to the loss of float32; and compares jadam's optimizers on it.

    python examples/char_lm.py                       # on Python's manual, `pydoc_data.topics`
    python examples/char_lm.py --data FILE           # on any text
    python examples/char_lm.py --compare             # a table of all optimizers at their tuned rates, on a smaller model
    python examples/char_lm.py --tune adamw lion     # losses at a grid of rates around the tuned ones

Its weights are bfloat16, with 16 bits more beside them that make them exact. The rate rises and falls, embeddings and gains do
not decay, steps that are not finite or far too long are skipped, and an average of the weights is kept. It trains once more in
float32, prints both validation losses and a sample of what was learned, and writes a figure, as PNG and SVG, and a JSON of the
numbers.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from _grids import Task, grid, train
from _report import STYLE, aligned, plain, write
from _transformer import Sizes, cross_entropy, init, sample
from matplotlib.figure import Figure
from tqdm import tqdm

import jadam

BATCH = 32


class Text(NamedTuple):
    """The characters that there are, and the text as their numbers: what is trained on, and the last tenth for validation."""

    characters: str
    train: np.ndarray
    held: np.ndarray


def read(path: Path | None) -> Text:
    """The text of a file, or Python's manual."""
    text = "\n".join(topics.values()) if path is None else path.read_text(encoding="utf-8")
    characters = "".join(sorted(set(text)))
    numbers = {character: number for number, character in enumerate(characters)}
    codes = np.array([numbers[character] for character in text], np.min_scalar_type(len(characters)))
    return Text(characters, *np.split(codes, [len(codes) * 9 // 10]))


def windows(codes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Every piece of the text of this length, and the piece one character further."""
    pieces = np.lib.stride_tricks.sliding_window_view(codes, length)
    return pieces[:-1], pieces[1:]


def validation_loss(params: Any, text: Text, sizes: Sizes) -> float:
    """In nats a character, on at most 256 pieces that do not overlap."""
    x, y = (pieces[:: sizes.context][:256] for pieces in windows(text.held, sizes.context))
    return float(jax.jit(cross_entropy, static_argnames="heads")(params, x, y, heads=sizes.heads))


# One model in two precisions


def optimizer(steps: int, rate: float = 3e-3) -> jadam.GradientTransformation:
    """From inside to outside: groups behind a clip; bad steps skipped; norms watched; weights averaged; exact in 16 bits."""
    schedule = jadam.warmup_cosine_decay_schedule(0.0, rate, warmup_steps=steps // 10, decay_steps=steps)
    groups = jadam.partition(
        [
            (jadam.match("embed/**"), jadam.adam(schedule), "embed"),
            (jadam.ndim_at_least(2), jadam.adamw(schedule, weight_decay=0.1), "matrices"),
            (True, jadam.adam(schedule), "gains"),
        ]
    )
    guarded = jadam.guard(jadam.chain(jadam.clip_by_global_norm(1.0), groups))
    return jadam.with_precision(jadam.average(jadam.monitor(guarded), decay=0.98), params="remainder")


WATCHED = {"gradient norm": "grad_norm", "rate": "matrices.learning_rate", "skipped": "guard.skipped"}


def train_one(dtype: Any, text: Text, sizes: Sizes, steps: int) -> tuple[Any, Any, dict[str, np.ndarray]]:
    """The weights, their average, and what was watched at every step."""
    tx = optimizer(steps)
    params = jax.tree.map(lambda p: p.astype(dtype), init(jax.random.key(0), sizes))
    state = tx.init(params)

    @jax.jit
    def step(params: Any, state: Any, x: Any, y: Any) -> Any:
        loss, grads = jax.value_and_grad(cross_entropy)(params, x, y, sizes.heads)
        params, state = tx.step(grads, state, params, value=loss)
        metrics = jadam.metrics(state)
        return params, state, {"loss": loss} | {name: metrics[key] for name, key in WATCHED.items()}

    if dtype == jnp.bfloat16:
        print(jadam.describe(tx, params))
    x, y = windows(text.train, sizes.context)
    rng, rows = np.random.default_rng(0), []
    for _ in tqdm(range(steps), desc=jnp.dtype(dtype).name, unit="step", mininterval=0.5):
        chosen = rng.integers(0, len(x), BATCH)
        params, state, row = step(params, state, x[chosen], y[chosen])
        rows.append(row)
    return (
        params,
        jadam.averaged_params(state, params),
        {name: np.array([float(row[name]) for row in rows]) for name in rows[0]},
    )


def in_two_precisions(text: Text, steps: int) -> tuple[dict[str, Any], Figure]:
    """Trains in bfloat16 and in float32, prints both losses and a sample; returns the numbers and a figure."""
    sizes, averaged, watched = Sizes(len(text.characters)), None, {}
    numbers: dict[str, Any] = {"steps": steps, "characters": len(text.train) + len(text.held)}
    for dtype in (jnp.float32, jnp.bfloat16):
        name = jnp.dtype(dtype).name
        params, averaged, watched[name] = train_one(dtype, text, sizes, steps)
        numbers["parameters"] = sum(p.size for p in jax.tree.leaves(params))
        numbers[name] = {"weights": validation_loss(params, text, sizes), "average": validation_loss(averaged, text, sizes)}
        numbers[name]["skipped steps"] = watched[name]["skipped"][-1]

    rows = [[""], ["validation loss of the weights"], ["of their average"]]
    for name in ("float32", "bfloat16"):
        for row, cell in zip(rows, (name, numbers[name]["weights"], numbers[name]["average"]), strict=True):
            row.append(cell)
    tried = f"{steps} steps of {BATCH} windows of {sizes.context}"
    print(f"\n{numbers['parameters']} parameters, {numbers['characters']} characters, {tried}\n{aligned(rows)}")
    gap = numbers["bfloat16"]["average"] / numbers["float32"]["average"] - 1
    print(f"the loss in bfloat16 is {100 * gap:+.2f} % above that in float32")

    start = jnp.asarray(text.held[: sizes.context])
    drawn = np.asarray(sample(averaged, start, jax.random.key(1), sizes.heads, 300))
    before, numbers["sample"] = ("".join(text.characters[code] for code in codes) for codes in (np.asarray(start), drawn))
    print(f"\na sample, after {before!r}:\n{numbers['sample']}")
    return numbers, figure_of(watched)


def figure_of(watched: dict[str, dict[str, np.ndarray]]) -> Figure:
    """Loss and gradient norm in both precisions, and the rate."""
    figure, (top, middle, bottom) = plt.subplots(3, sharex=True, figsize=(4.5, 4.8), height_ratios=(3, 2, 1))
    for (name, rows), style in zip(watched.items(), ("-", "--"), strict=True):
        top.plot(rows["loss"], style, label=name, lw=1)
        middle.semilogy(rows["gradient norm"], style, lw=1)
    bottom.plot(watched["bfloat16"]["rate"], color="C2")
    top.set(ylabel="loss (nats a character)", title="A transformer in float32 and in bfloat16")
    middle.set_ylabel("gradient norm")
    bottom.set(xlabel="step", ylabel="rate")
    top.legend()
    return figure


# All optimizers

MATRICES = jadam.ndim_at_least(2) & ~jadam.match("embed/**", "head/**")
# A function where something beside the rate has to be said, and the rate that `--tune` found for the default text and steps.
TUNED: dict[str, tuple[Callable[..., jadam.GradientTransformation], float]] = {
    "sgd": (partial(jadam.sgd, momentum=0.9, nesterov=True), 0.3),
    "rmsprop": (jadam.rmsprop, 1e-2),
    "adagrad": (jadam.adagrad, 1e-1),
    "adadelta": (jadam.adadelta, 10.0),
    "adam": (jadam.adam, 1e-2),
    "adamw": (jadam.adamw, 1e-2),
    "adamax": (jadam.adamax, 3e-2),
    "amsgrad": (jadam.amsgrad, 1e-2),
    "radam": (jadam.radam, 3e-2),
    "adabelief": (jadam.adabelief, 1e-2),
    "yogi": (jadam.yogi, 3e-2),
    "adopt": (jadam.adopt, 3e-3),
    "laprop": (jadam.laprop, 3e-3),
    "nadam": (jadam.nadam, 1e-2),
    "nadamw": (jadam.nadamw, 1e-2),
    "ademamix": (jadam.ademamix, 1e-2),
    "lion": (jadam.lion, 3e-3),
    "schedule_free_adamw": (jadam.schedule_free_adamw, 3e-2),
    "prodigy": (partial(jadam.prodigy, safeguard_warmup=True), 0.3),
    "muon": (partial(jadam.muon, matrices=MATRICES, adam_ratio=0.3), 3e-2),
    "normuon": (partial(jadam.normuon, matrices=MATRICES, adam_ratio=0.3), 3e-2),
    "adabound": (partial(jadam.adabound, base_learning_rate=1e-2), 3e-2),  # its final rate is ten times as high
    "adan": (jadam.adan, 0.1),
    "mars_adamw": (jadam.mars_adamw, 1e-2),
    "adam_atan2": (jadam.adam_atan2, 1e-2),
    "lamb": (jadam.lamb, 3e-2),
    "stable_adamw": (jadam.stable_adamw, 1e-2),
    "adafactor": (jadam.adafactor, 0.1),
    "big_vision_adafactor": (jadam.big_vision_adafactor, 3e-3),
    "adam_mini": (jadam.adam_mini, 1e-2),
    "soap": (jadam.soap, 3e-2),
}


def trained(name: str, text: Text, steps: int, seeds: int, rates: np.ndarray) -> np.ndarray:
    """Validation losses `(rates, seeds)` of an optimizer behind a clip; its rate rises and falls."""
    make, middle = TUNED[name]
    sizes = Sizes(len(text.characters), width=32, blocks=1, context=32)
    task = Task(
        partial(init, sizes=sizes),
        lambda params, x, y, key: cross_entropy(params, x, y, sizes.heads),
        *windows(text.train, sizes.context),
        BATCH // 2,
    )
    shape = jadam.warmup_cosine_decay_schedule(0.0, 1.0, warmup_steps=steps // 10, decay_steps=steps)
    if name == "schedule_free_adamw":
        tx = jadam.chain(jadam.clip_by_global_norm(1.0), jadam.schedule_free_adamw(middle, warmup_steps=steps // 10))
    else:
        tx = jadam.chain(jadam.clip_by_global_norm(1.0), make(middle), jadam.scale_by_schedule(shape))
    _, params, states = train(tx, task, steps, seeds, learning_rate=rates)
    if name == "schedule_free_adamw":
        params = jax.vmap(jax.vmap(jadam.schedule_free_params))(states, params)
    x, y = (jnp.asarray(pieces[:: sizes.context][:256]) for pieces in windows(text.held, sizes.context))
    losses = jax.jit(jax.vmap(jax.vmap(lambda params: cross_entropy(params, x, y, sizes.heads))))(params)
    return np.nan_to_num(np.asarray(losses), nan=np.inf)


def compare(names: list[str], text: Text, steps: int, seeds: int, path: Path) -> dict[str, Any]:
    """Prints a table of the optimizers at their tuned rates, the best first; returns its numbers.

    What a file of an earlier run has of other optimizers stays, if its text, steps and seeds were these.
    """
    numbers: dict[str, Any] = {"characters": len(text.train) + len(text.held), "steps": steps, "seeds": seeds}
    earlier = json.loads(path.read_text()) if path.exists() else {}
    found = earlier["optimizers"] if earlier.items() >= numbers.items() else {}
    for name in tqdm(names, unit="optimizer"):
        losses = trained(name, text, steps, seeds, np.array([TUNED[name][1]]))[0]
        found[name] = {"rate": TUNED[name][1], "loss": losses.mean(), "deviation": losses.std(ddof=1), "of seeds": losses}
    found = dict(sorted(found.items(), key=lambda item: item[1]["loss"]))
    table = [[name, *list(row.values())[:3]] for name, row in found.items()]
    print(aligned([["", "rate", "validation loss", "deviation"], *table]))
    return numbers | {"optimizers": found}


def tune(names: list[str], text: Text, steps: int) -> dict[str, Any]:
    """Prints losses at rates around the tuned ones; returns them."""
    found = {}
    for name in tqdm(names, unit="optimizer"):
        rates = grid(TUNED[name][1], 5)
        losses = trained(name, text, steps, 1, rates)[:, 0]
        found[name] = {"rates": rates, "losses": losses}
        tqdm.write(f"{name}, best at {rates[losses.argmin()]:.2g}" + " (an edge)" * (losses.argmin() in (0, 4)))
        tqdm.write(aligned([["rate", *rates], ["validation loss", *losses]]))
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Trains, compares or tunes; returns the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="a text in UTF-8; by default Python's manual")
    parser.add_argument("--steps", type=int, help="by default 400; of --compare and --tune 500")
    parser.add_argument(
        "--compare", nargs="*", choices=TUNED, help="optimizers, whose rows in the JSON are made anew; without a name all"
    )
    parser.add_argument("--tune", nargs="*", choices=TUNED, help="optimizers; without a name all")
    parser.add_argument("--seeds", type=int, default=3, help="of --compare")
    parser.add_argument("--figures", type=Path, default=Path("figures"), help="the folder of the figure and of the numbers")
    parser.add_argument("--formats", nargs="+", choices=("png", "svg"), default=("png", "svg"))
    options = parser.parse_args(arguments)
    text, short = read(options.data), options.steps or 500
    options.figures.mkdir(parents=True, exist_ok=True)
    if options.tune is not None:
        name, numbers = "char_lm_tuning", tune(options.tune or list(TUNED), text, short)
    elif options.compare is not None:
        name = "char_lm_optimizers"
        names, path = options.compare or list(TUNED), options.figures / f"{name}.json"
        numbers = compare(names, text, short, options.seeds, path)
    else:
        name = "char_lm"
        with mpl.rc_context(STYLE):
            numbers, figure = in_two_precisions(text, options.steps or 400)
            write(figure, options.figures / name, options.formats)
    numbers = plain(numbers)
    (options.figures / f"{name}.json").write_text(json.dumps(numbers, indent=1, allow_nan=False))
    return numbers


if __name__ == "__main__":
    main()
