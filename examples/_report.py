"""What the walkthrough and the landscapes share: parts that run one by one, their tables, figures and numbers."""

import argparse
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.figure import Figure
from PIL import Image
from tqdm import tqdm

mpl.use("agg")  # figures go to files

# Sized for a phone: at 390 pixels these fonts are 9 to 10 pixels high. The colours are those of Okabe and Ito, which
# colour-blind readers tell apart.
STYLE: dict[Any, Any] = {
    "figure.figsize": (4.5, 3.2),
    "figure.constrained_layout.use": True,
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.prop_cycle": cycler(color=["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]),
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.4,
    "svg.hashsalt": "jadam",  # the same picture is the same file
}


class Part(NamedTuple):
    """What a part returns: numbers of any nesting; a table, its header first; figures, or frames of an animation, by name."""

    numbers: dict[str, Any]
    table: Sequence[Sequence[Any]]
    figures: Mapping[str, Figure | list[Image.Image]]


def report(doc: str | None, parts: Iterable[Callable[[int], Part]], arguments: list[str] | None, steps: int) -> dict[str, Any]:
    """Runs the parts, prints their tables, writes their figures and numbers; returns the numbers by part."""
    named = {part.__name__: part for part in parts}
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=steps, help=f"length of the runs; by default {steps}")
    parser.add_argument("--only", nargs="+", choices=named, default=list(named), help="the parts to run; by default all")
    parser.add_argument("--figures", type=Path, default=Path("figures"), help="their folder; by default figures")
    parser.add_argument("--formats", nargs="+", choices=("png", "svg"), default=("png", "svg"))
    parser.add_argument("--json", type=Path, help="file for the numbers")
    options = parser.parse_args(arguments)
    if options.steps < 10:
        parser.error("--steps must be at least 10")

    options.figures.mkdir(parents=True, exist_ok=True)
    numbers = {}
    with mpl.rc_context(STYLE):
        for name in (progress := tqdm(options.only, unit="part")):
            progress.set_postfix_str(name)
            part = named[name](options.steps)
            numbers[name] = plain(part.numbers)
            tqdm.write(f"\n{name}: {(named[name].__doc__ or '').splitlines()[0]}\n{aligned(part.table)}")
            if "by hand" in part.numbers:
                apart = disagreement(part.numbers["jadam"], part.numbers["by hand"])
                tqdm.write(f"(by hand the same, to {apart:.0e})")
            for figure, drawn in part.figures.items():
                write(drawn, options.figures / figure, options.formats)
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1, allow_nan=False))
    print(f"\nfigures: {options.figures}")
    return numbers


def write(drawn: Figure | list[Image.Image], path: Path, formats: Iterable[str]) -> None:
    """A figure in each format, or frames as a GIF; with a palette of few colours files are small."""
    if isinstance(drawn, list):
        palette = drawn[-1].quantize(48)
        frames = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in drawn]
        frames[0].save(path.with_suffix(".gif"), save_all=True, append_images=frames[1:], duration=150, loop=0, optimize=True)
        return
    for suffix in formats:
        drawn.savefig(path.with_suffix(f".{suffix}"), dpi=200, metadata={"Date": None} if suffix == "svg" else None)
    if "png" in formats:
        with Image.open(path.with_suffix(".png")) as image:
            image.convert("RGB").quantize(64).save(path.with_suffix(".png"), optimize=True)
    plt.close(drawn)


def plain(x: Any) -> Any:
    """Numbers and arrays as JSON has them; what is not finite is null."""
    if isinstance(x, dict):
        return {str(key): plain(value) for key, value in x.items()}
    if x is None or isinstance(x, str | bool):
        return x
    array = np.asarray(x)
    return [plain(row) for row in array] if array.ndim else array.item() if np.isfinite(array) else None


def disagreement(found: Any, expected: Any) -> float:
    """The largest difference in what both have, as a share of the largest number of its array."""
    if isinstance(expected, dict):
        return max(disagreement(found[key], expected[key]) for key in expected)
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    return float(np.max(np.abs(found - expected)) / np.max(np.abs(expected)))


def aligned(rows: Sequence[Sequence[Any]]) -> str:
    """The rows as a table, numbers with six digits."""
    cells = [[cell if isinstance(cell, str) else "-" if cell is None else f"{cell:.6g}" for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in cells
    )
