"""The figures of the paper's experiments."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

ANCESTORS = ("sgd, Nesterov", "adagrad", "rmsprop", "adadelta")
DESCENDANTS = ("amsgrad", "nadam", "radam", "adabound", "adamw")


def curves_figure(found: dict[str, dict[str, Any]], steps: int, title: str, logarithmic: bool = True) -> Figure:
    """Training losses against steps: a row for each variant, the paper's methods on the left, later ones on the right.

    Args:
        found: for each variant what `compare` returns.
        steps: the length of the runs.
        title: of the figure.
        logarithmic: whether the axis of losses is logarithmic.
    """
    rows = len(found)
    figure, places = plt.subplots(rows, 2, sharex=True, sharey="row", figsize=(4.5, 1.2 + 2.1 * rows), squeeze=False)
    for row, (variant, methods) in zip(places, found.items(), strict=True):
        for axes, names in zip(row, (ANCESTORS, DESCENDANTS), strict=True):
            for number, name in enumerate(("adam", *names)):
                if (method := methods.get(name)) is None:
                    continue
                middles = (np.arange(len(method["curve"])) + 0.5) * steps / len(method["curve"])
                axes.plot(middles, method["curve"], label=name, color=f"C{number}", lw=1.6 if name == "adam" else 1.1)
                axes.fill_between(middles, method["lowest"], method["highest"], color=f"C{number}", alpha=0.2, lw=0)
        row[0].set_ylabel("training loss (nats)" + (f", {variant}" if rows > 1 else ""))
        # Where a method begins far above the others, what matters would not be seen.
        usual = np.median([method["curve"][0] for method in methods.values()])
        lowest = min(np.min(method["lowest"]) for method in methods.values())
        bottom, top = lowest * (0.9 if logarithmic else 0.98), usual * 1.15
        row[0].set_ylim(bottom, top)
        if logarithmic:
            row[0].set_yscale("log")
            row[0].yaxis.set_major_formatter("{x:g}")
            row[0].yaxis.set_minor_formatter("{x:g}" if top < 10 * bottom else NullFormatter())
            row[0].tick_params(axis="y", which="both", labelsize=7)
    for column, label in enumerate(("its ancestors", "its descendants")):
        places[0, column].set_title(f"Adam and {label}", fontsize=8.5)
        places[-1, column].set_xlabel("step")
    for axes, place in zip(places[0], ("outside lower left", "outside lower right"), strict=True):
        figure.legend(*axes.get_legend_handles_labels(), loc=place, ncols=2, fontsize=6.5, handlelength=1.2, columnspacing=1)
    figure.suptitle(title, fontsize=9)
    return figure


def bias_figure(study: dict[str, Any]) -> Figure:
    """Loss against the learning rate, with and without bias correction: a column for each b2, a row for early and for late."""
    b1, b2, rates = (np.asarray(study[name]) for name in ("b1", "b2", "rates"))
    decays = np.unique(b2)
    figure, places = plt.subplots(2, len(decays), sharex=True, sharey="row", figsize=(4.5, 4.2))
    for row, when in zip(places, ("early", "late"), strict=True):
        for axes, decay in zip(row, decays, strict=True):
            for kind, color in (("corrected", "C0"), ("not corrected", "C1")):
                for first, style in ((0.0, "--"), (0.9, "-")):
                    these = (b1 == first) & (b2 == decay)
                    label = rf"{kind}, $\beta_1$ = {first:g}"
                    axes.semilogx(rates[these], np.asarray(study[kind][when])[these], style, color=color, label=label, lw=1.2)
            if when == "early":
                axes.set_title(rf"$\beta_2$ = {decay:g}", fontsize=8.5)
            else:
                axes.set_xlabel("learning rate")
        least = min(np.min(study[kind][when]) for kind in ("corrected", "not corrected"))
        row[0].set_ylim(0.97 * least, 2 * least)  # what is above has failed
        row[0].set_ylabel(f"loss (nats), {when}")
    figure.legend(*places[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=7)
    figure.suptitle("A variational auto-encoder with and without bias correction", fontsize=9)
    return figure


def generalisation_figure(found: dict[str, dict[str, Any]], title: str) -> Figure:
    """Accuracy on the test set of every setting against its learning rate; a star marks what the validation set chose."""
    figure, axes = plt.subplots()
    for number, (name, row) in enumerate(found.items()):
        rates, decays, tests = (np.asarray(row[key]) for key in ("rates", "weight decays", "test of settings"))
        for decay, style in zip(np.unique(decays), ("--", "-"), strict=False):
            these = decays == decay
            axes.semilogx(rates[these], tests[these], style, marker=".", color=f"C{number}", label=f"{name}, decay {decay:g}")
        axes.errorbar(row["rate"], row["test"], row["deviation"], fmt="*", color=f"C{number}", ms=10, capsize=3)
    axes.set(xlabel="learning rate", ylabel="accuracy on the test set", title=title)
    axes.legend(fontsize=6.5, handlelength=4)
    return figure
