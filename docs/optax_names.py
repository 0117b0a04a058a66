"""Writes the table of docs/optax-names.md: what stands behind each name of `jadam.optax`.

python docs/optax_names.py         # writes docs/optax-names.md between its two marks
"""

import functools
import inspect
from pathlib import Path
from typing import Any

import optax

import jadam.optax as door
from jadam.optax._table import OTHER_NUMBERS, OURS

PAGE = Path(__file__).parent / "optax-names.md"
MARKS = "<!-- the table -->\n", "<!-- its end -->\n"
ARGUMENTS = {
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.1,
    "eta": 0.1,
    "gamma": 0.1,
    "alpha": 0.1,
    "beta": 0.1,
    "key": 0,
}
SAME = "optax's own object"


def row(name: str) -> tuple[str, str]:
    """Whose a name is, and why."""
    theirs, ours = getattr(optax, name), getattr(door, name)
    if ours is theirs:
        return "optax", SAME
    if theirs in (optax.chain, optax.inject_hyperparams):
        return (
            "jadam",
            "what stands in it runs in one pass" if theirs is optax.chain else "around what is in this table it compiles",
        )
    if name in OURS:
        return "jadam", f"optax's with {OURS[name].but}" if OURS[name].but else ""
    if name in OTHER_NUMBERS:
        return "optax", OTHER_NUMBERS[name]
    if name in vars(optax.schedules):
        return "optax", "to the bit, and equal where it was built alike"
    function = theirs.func if isinstance(theirs, functools.partial) else theirs
    if function.__module__ != optax.adam.__module__:
        return "optax", "compiled outside `jit`"
    return of_parts(name, inspect.signature(theirs), ours)


def of_parts(name: str, signature: inspect.Signature, ours: Any) -> tuple[str, str]:
    """Of a function that puts others together: its parts with arguments that take them in."""
    given = {key: value for key, value in ARGUMENTS.items() if key in signature.parameters}
    parts = ours(**given).update.row.parts
    by_jadam = {part.original.__name__.replace("<lambda>", "a line search"): part.ours is not None for part in parts}
    whose = (
        "jadam"
        if all(by_jadam.values())
        else "both"
        if any(part for key, part in by_jadam.items() if "learning" not in key)
        else "optax"
    )
    by_optax = [f"`{key}`" for key, part in by_jadam.items() if not part]
    return whose, f"{', '.join(by_optax)} optax's" if by_optax else ""


def names() -> list[str]:
    """The public names of optax, without its submodules."""
    return [name for name in sorted(vars(optax)) if not name.startswith("_") and not inspect.ismodule(getattr(optax, name))]


def table() -> str:
    """How many names are whose, a row for each that is not optax's own object, and a list of those that are."""
    rows = {name: row(name) for name in names()}
    same = [name for name, (_, why) in rows.items() if why == SAME]
    lines = ["| name | whose | |", "|---|---|---|"]
    lines += [f"| `{name}` | {whose} | {why} |" for name, (whose, why) in rows.items() if name not in same]
    counts = {whose: sum(found == whose for found, _ in rows.values()) for whose in ("jadam", "both", "optax")}
    said = ", ".join(f"{count} {whose}" for whose, count in counts.items())
    objects = ", ".join(f"`{name}`" for name in same)
    return (
        f"{len(rows)} names: {said}.\n\n"
        + "\n".join(lines)
        + f"\n\n{SAME[0].upper()}{SAME[1:]}, {len(same)} names: {objects}.\n"
    )


def page(text: str) -> str:
    """The page with the table of now."""
    before, rest = text.split(MARKS[0])
    return before + MARKS[0] + "\n" + table() + "\n" + MARKS[1] + rest.split(MARKS[1])[1]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
    print(f"wrote {PAGE.name}")
