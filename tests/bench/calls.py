"""Calls of optax in public repositories, with jadam in its place: how many have the name, run, and give optax's numbers.

    python tests/bench/calls.py [--namespace jadam]

prints a line for each call that does not, the shares of uses, and how many of optax's names are there or answered.
`tests/data/optax_calls.json` has the calls.
"""

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType

import optax

sys.path.insert(0, str(Path(__file__).parents[1]))
import optax_calls


def answer(lib: ModuleType, name: str) -> str:
    """The words for a name that is not there."""
    try:
        getattr(lib, name)
    except AttributeError as error:
        return str(error)
    return ""


def main(argv: list[str] | None = None) -> float:
    """Prints the table; returns the share of uses, of those whose name is there, that give optax's numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--namespace", default="jadam", help="the module in the place of optax")
    lib = importlib.import_module(parser.parse_args(argv).namespace)
    found = optax_calls.verdicts(lib)
    for call, its in found:
        if its.outcome in ("refused", "other numbers"):
            print(f"{its.outcome:14} {call.uses:4} {call}: {its.words or f'{its.distance:.2g} apart'}")
    every = optax_calls.uses(found)
    named = every - optax_calls.uses(found, "missing", "not in optax")
    equal = optax_calls.uses(found, "equal")
    print(
        f"{every} uses; {named} ({named / every:.1%}) whose name is there; {equal} of these ({equal / named:.1%}) with optax's"
    )
    print(f"numbers; {optax_calls.uses(found, 'other numbers')} with others, {optax_calls.uses(found, 'refused')} refused.")
    names = [name for name in dir(optax) if not name.startswith("_")]
    names = [name for name in names if not isinstance(getattr(optax, name), ModuleType)]
    there = [name for name in names if hasattr(lib, name)]
    answered = [name for name in names if name in there or f"no {lib.__name__}.{name};" in answer(lib, name)]
    print(f"{len(names)} public names of optax: {len(there)} are there, {len(answered)} there or answered by what to write.")
    return equal / named


if __name__ == "__main__":
    main()
