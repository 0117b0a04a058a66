"""optax's own tests, as they are installed with it, with `jadam.optax` in the place of `optax`.

    python tests/bench/optax_suite.py [PART_OF_A_FILE_NAME ...] [--out FILE]

Prints, for each file of tests, how many pass; then each test that fails here and passes with optax itself; and how many pass in
all, and of those that a user of optax could have written. The others import a private module (`optax._src`, `optax.x._y`; the
tools of the tests, `optax._src.test_utils`, do not count) or name a class of states (`ScaleByAdamState`). They run too: private
modules have in the same places what stands behind the door. Which a test is, its file's imports and its own text say. The exit
status is 1 if fewer than 95 % of the users' tests pass.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import optax

SOURCE = Path(optax.__file__).parent
ROOT = Path(__file__).parents[2]
IMPORT = re.compile(r"^(\s*)(from|import) optax\b", re.MULTILINE)
GOAL = 0.95


def behind_the_door(text: str) -> str:
    """A test's source with `jadam.optax` for `optax`, in its imports alone."""
    text = re.sub(r"^(\s*)import optax$", r"\1import jadam.optax as optax", text, flags=re.MULTILINE)
    # `import optax.tree` binds `optax`.
    text = re.sub(r"^(\s*)import (optax\.[\w.]+)$", r"\1import jadam.\2; import jadam.optax as optax", text, flags=re.MULTILINE)
    return IMPORT.sub(r"\1\2 jadam.optax", text)


def private(module: str, names: list[str]) -> set[str]:
    """Which of the modules of an import are private."""
    return {name for name in names if module.startswith("optax._") or name.startswith("_")} - {"test_utils"}


def of_users(text: str) -> tuple[set[str], set[str]]:
    """The private modules that a file imports, and its tests that name a class of states."""
    tree = ast.parse(text)
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "optax":
            hidden = private(node.module or "", [alias.name for alias in node.names])
            names |= {alias.asname or alias.name for alias in node.names if alias.name in hidden}
        if isinstance(node, ast.Import):
            names |= {alias.asname or "optax" for alias in node.names if alias.name.startswith("optax.") and "._" in alias.name}
    return names, {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and _names_states(node)}


def _names_states(function: ast.FunctionDef) -> bool:
    words = {
        node.attr if isinstance(node, ast.Attribute) else node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute | ast.Name)
    }
    return any(word.endswith("State") and word != "OptState" for word in words)


def run(path: Path, text: str, timeout: int, only: Iterable[str] = ()) -> dict[str, str]:
    """What became of each test, or of some: "" where it passed or was skipped, or else what it said."""
    with tempfile.TemporaryDirectory() as folder:
        copy, report = Path(folder) / path.name, Path(folder) / "report.xml"
        copy.write_text(text)
        tests = [f"{copy}::{test.replace('.', '::', 1)}" for test in only] or [str(copy)]
        alone = ["-p", "no:cacheprovider", "-p", "no:xdist", "-c", os.devnull]  # without the settings of this project
        command = [sys.executable, "-m", "pytest", "-q", *alone, f"--junitxml={report}", *tests]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        try:
            subprocess.run(command, cwd=folder, env=environment, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return {"(timeout)": f"not done after {timeout} s"}
        if not report.exists():
            return {"(collection)": "pytest wrote no report"}
        results = {}
        for case in ET.parse(report).iter("testcase"):
            failed = [*case.iter("failure"), *case.iter("error")]
            said = (failed[0].get("message") or "").strip().splitlines() if failed else [""]
            results[f"{case.get('classname', '').split('.')[-1]}.{case.get('name')}"] = " ".join(said)[:300] or (
                "failed" if failed else ""
            )
        return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts of names of files")
    parser.add_argument("--out", type=Path, help="a JSON file of the results; files that are in it are not run again")
    parser.add_argument("--timeout", type=int, default=3600, help="for a file, in seconds")
    options = parser.parse_args()
    done = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    files = sorted(SOURCE.rglob("*_test.py"), key=lambda path: path.stat().st_size)
    for path in files:
        name = str(path.relative_to(SOURCE))
        if (options.names and not any(part in name for part in options.names)) or name in done:
            continue
        text = path.read_text()
        ours = run(path, behind_the_door(text), options.timeout)
        failed = [test for test, said in ours.items() if said]
        theirs = run(path, text, options.timeout, failed) if failed else {}
        imported, of_states = of_users(text)
        done[name] = {"private": sorted(imported), "states": sorted(of_states), "ours": ours, "theirs": theirs}
        print(f"{name}: {sum(not said for said in ours.values())} of {len(ours)}", flush=True)
        if options.out:
            options.out.write_text(json.dumps(done, indent=1))
    if not report(done):
        sys.exit(1)


def report(done: dict[str, dict[str, dict[str, str]]]) -> bool:
    """Prints what failed and the counts; whether the goal is met."""
    counts: Counter[tuple[str, bool]] = Counter()
    for name, found in done.items():
        for test, said in found["ours"].items():
            if said and found["theirs"].get(test):
                continue  # it fails with optax itself, on this machine
            states = any(test.split(".")[-1].startswith(function) for function in found["states"])
            kind = "private modules" if found["private"] else "states" if states else "users"
            counts[kind, not said] += 1
            if said:
                print(f"{name}::{test} ({kind}): {said}")
    for kind in ("users", "states", "private modules"):
        passed, all_of_them = counts[kind, True], counts[kind, True] + counts[kind, False]
        print(f"{kind}: {passed} of {all_of_them} pass")
    passed = sum(number for (_, good), number in counts.items() if good)
    print(f"all: {passed} of {counts.total()} pass, {passed / max(counts.total(), 1):.1%}")
    return counts["users", True] >= GOAL * (counts["users", True] + counts["users", False])


if __name__ == "__main__":
    main()
