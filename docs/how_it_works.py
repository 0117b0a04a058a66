"""Draws the way of one gradient through jadam, for docs/how-it-works.md.

python docs/how_it_works.py         # writes docs/how-it-works.png
"""

from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch
from PIL import Image

INK, GREY = "#1f2933", "#52606d"
DATA, PYTHON, COMPILED, LEAF, RULE = "#fff3c4", "#dceefb", "#f0f4f8", "#e3f9e5", "#b8e6bf"


def box(ax, x, y, width, height, text, color, **style):
    """A rounded box around (x, y) with its text in the middle."""
    corner = (x - width / 2, y - height / 2)
    ax.add_patch(FancyBboxPatch(corner, width, height, "round,pad=0,rounding_size=1.2", fc=color, ec=INK, lw=0.9))
    ax.text(x, y, text, ha="center", va="center", color=INK, linespacing=1.25, **style)


def frame(ax, y0, y1, x0, x1, text, color):
    """A region with its name at its upper edge."""
    shape = FancyBboxPatch((x0, y0), x1 - x0, y1 - y0, "round,pad=0,rounding_size=2", fc=color, ec=GREY, lw=0.8, ls="--")
    ax.add_patch(shape)
    ax.text(50, y1 - 1.6, text, ha="center", va="top", color=GREY, style="italic")


def arrow(ax, start, end, **style):
    """An arrow from one point to another."""
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.1, "shrinkA": 0, "shrinkB": 0, **style})


def draw(ax):
    """Boxes and arrows, from top to bottom; the page is 100 wide and 172 high."""
    frame(ax, 19, 108, 2, 98, "one compiled step", COMPILED)
    frame(ax, 21.5, 72, 12, 88, "each leaf: one program a kind", LEAF)

    box(ax, 50, 166, 74, 8, "gradients, state, parameters", DATA)
    box(ax, 50, 151, 74, 11, "tx.update\nknows its name, for errors", PYTHON)
    box(ax, 50, 134, 74, 11, "step: what is asked in Python,\nand what is compiled", PYTHON)
    box(ax, 26, 117, 44, 11, "plan: who acts where\n(once a structure)", PYTHON)
    box(ax, 74, 117, 44, 11, "numbers: schedules\nare called (each step)", PYTHON)
    for start, end in (
        ((50, 162), (50, 156.5)),
        ((50, 145.5), (50, 139.5)),
        ((36, 128.5), (26, 122.5)),
        ((64, 128.5), (74, 122.5)),
    ):
        arrow(ax, start, end)

    for x, text in ((19.5, "clip"), (41, "lion"), (65, "learning\nrate")):
        box(ax, x, 89.5, 17 if x < 60 else 22, 11, text, RULE)
    box(ax, 88, 89.5, 13, 11, "…", RULE)
    for start, end in ((28, 32.5), (49.5, 54), (76, 81.5)):
        arrow(ax, (start, 89.5), (end, 89.5))
    ax.text(41, 79, "the row: rules queue, then run as one", ha="center", va="center", color=GREY, style="italic")
    arrow(ax, (26, 111.5), (26, 95.4))
    arrow(ax, (74, 111.5), (74, 95.4))
    arrow(ax, (79, 83.5), (79, 64.4))

    box(ax, 50, 60, 66, 8, "decode to float32", RULE)
    box(ax, 50, 47, 66, 8, "the rules, in order", RULE)
    box(ax, 31.5, 30, 33, 11, "encode\nthe slots", RULE)
    box(ax, 68.5, 30, 33, 11, "land on the\nparameter", RULE)
    for start, end in (((50, 56), (50, 51)), ((42, 43), (31.5, 35.6)), ((58, 43), (68.5, 35.6))):
        arrow(ax, start, end)

    box(ax, 26, 8, 40, 9, "new state", DATA)
    box(ax, 74, 8, 44, 9, "new parameters", DATA)
    arrow(ax, (31.5, 24.4), (26, 12.6))
    arrow(ax, (68.5, 24.4), (74, 12.6))


def main():
    """Writes the picture next to this script: 800 pixels wide, so that it is sharp at 400 on a phone."""
    plt.rcParams.update({"font.size": 8.2, "font.family": "DejaVu Sans"})
    figure, ax = plt.subplots(figsize=(4, 6.9))
    ax.set(xlim=(0, 100), ylim=(0, 172))
    ax.axis("off")
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.005, top=0.995)
    draw(ax)
    figure.set_dpi(200)
    canvas: Any = figure.canvas
    canvas.draw()
    few = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(32)  # colours: a small file
    few.save(Path(__file__).parent / "how-it-works.png", optimize=True)


if __name__ == "__main__":
    main()
