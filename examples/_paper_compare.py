"""The ten optimizers of the paper's experiments, each at the best rate of a grid."""

from collections.abc import Callable, Mapping
from typing import Any

from _grids import Task, grid, train, windows
from tqdm import tqdm

import jadam

# Name, and the function with the rate in the middle of its grid. The paper compares the first five.
OPTIMIZERS: dict[str, tuple[Callable[..., jadam.GradientTransformation], float]] = {
    "adam": (jadam.adam, 1e-3),
    "sgd, Nesterov": (lambda rate: jadam.sgd(rate, momentum=0.9, nesterov=True), 3e-2),
    "adagrad": (jadam.adagrad, 1e-2),
    "rmsprop": (jadam.rmsprop, 1e-3),
    "adadelta": (jadam.adadelta, 1.0),
    "amsgrad": (jadam.amsgrad, 1e-3),
    "nadam": (jadam.nadam, 1e-3),
    "radam": (jadam.radam, 1e-3),
    "adabound": (jadam.adabound, 1e-3),  # whose final rate stays 100 times the rate, as by default
    "adamw": (jadam.adamw, 1e-3),
}


def compare(
    name: str,
    task: Task,
    steps: int,
    seeds: int,
    rates: int,
    then: Mapping[str, jadam.GradientTransformation] | None = None,
    middles: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """The ten optimizers, each at the rate of its grid whose last loss, the mean over the seeds, is lowest.

    Args:
        name: of the experiment, for the progress bar.
        task: what is trained.
        steps: how many.
        seeds: how many.
        rates: the size of a grid.
        then: a decay of the steps, which follows an optimizer, by its name.
        middles: of the grids of optimizers whose usual rates do not suit the task.
    """
    found = {}
    for optimizer, (make, middle) in (progress := tqdm(OPTIMIZERS.items(), desc=name, unit="optimizer")):
        progress.set_postfix_str(optimizer)
        decay, middle = (then or {}).get(optimizer), (middles or {}).get(optimizer, middle)
        tried = grid(10 * middle if decay else middle, rates)  # a rate that falls begins higher
        tx = jadam.chain(make(middle), decay or jadam.identity())
        curves = windows(train(tx, task, steps, seeds, learning_rate=tried)[0])
        last = curves[..., -1].mean(1)
        best = int(last.argmin())
        found[optimizer] = {
            "rate": tried[best],
            "loss": last[best],
            "of seeds": curves[best, :, -1],
            "rates": tried,
            "loss of rates": last,
            # How much tuning matters: of the grid, how many rates are within a tenth of the best.
            "rates within 10 %": int((last <= 1.1 * last[best]).sum()),
            "at the edge": best in (0, rates - 1),
            "curve": curves[best].mean(0),
            "lowest": curves[best].min(0),
            "highest": curves[best].max(0),
        }
    return found
