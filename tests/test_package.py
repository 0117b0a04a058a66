"""The package as a user meets it: its version, `help`, `import *`, links on a package index, and what it never does."""

import ast
import inspect
import pydoc
import re
import tomllib

import pytest
from support import ROOT
from test_exports import NAMES

import jadam

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCE = PROJECT["urls"]["Source"]
PAGES = ["README.md", "SECURITY.md", "CITATION.cff", "docs/changelog.md"]
FUNCTIONS = {name: thing for name in NAMES if inspect.isfunction(thing := getattr(jadam, name))}
ANOTHER_NAME = {"GradientTransformationExtraArgs": "GradientTransformation", "safe_int32_increment": "safe_increment"}
"""Second names of optax's for one thing."""


def test_one_version():
    assert re.fullmatch(r"\d+\.\d+\.\d+", jadam.__version__)
    assert f"\nversion: {jadam.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    released = re.search(r'^date-released: "(.*)"$', (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert released
    assert f"\n## {jadam.__version__} ({released[1]})\n" in (ROOT / "docs" / "changelog.md").read_text()
    assert PROJECT["dynamic"] == ["version"]  # hatch reads it off jadam/__init__.py


def test_all_names_are_imported_by_a_star():
    assert sorted(jadam.__all__) == sorted(NAMES)
    namespace = {}
    exec("from jadam import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(NAMES)


def test_help_lists_the_public_names_alone():
    """It listed four of them. The files that it lists first are all private: there is one path to a name."""
    text = pydoc.render_doc(jadam, renderer=pydoc.plaintext)
    assert f"\nVERSION\n    {jadam.__version__}\n" in text
    listed = re.findall(r"^    (?:class )?(\w+)(?:\(| = )", text[text.index("\nCLASSES\n") :], re.MULTILINE)
    assert set(listed) == {*NAMES, "__all__", "__dir__", "__getattr__"}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_of_its_own(name):
    """`help(scale_by_adam)` was that of a `_build`."""
    thing = getattr(jadam, name)
    if not callable(thing) or not getattr(thing, "__module__", "").startswith("jadam."):
        return  # the annotations: Decay, Hyper, ...
    assert thing.__name__ == thing.__qualname__ == ANOTHER_NAME.get(name, name)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_documented_arguments_are_those_of_the_signature(name):
    """Each entry of `Args` is an argument, in the order of the signature; where there are entries, every argument has one."""
    doc = inspect.getdoc(FUNCTIONS[name])
    section = re.search(r"^Args:\n((?:    .*\n|\n)+)", f"{doc}\n", re.MULTILINE)
    entries = re.findall(r"^    \*{0,2}(\w+(?:, \w+)*):", section[1], re.MULTILINE) if section else []
    documented = [argument for entry in entries for argument in entry.split(", ")]
    arguments = list(inspect.signature(FUNCTIONS[name]).parameters)
    assert documented in ([], arguments), name


@pytest.mark.parametrize("page", PAGES)
def test_links_work_on_a_package_index(page):
    """An index shows README.md without the files beside it, so that links are absolute; what they name exists here."""
    text = (ROOT / page).read_text()
    here = re.findall(rf"{re.escape(SOURCE)}/blob/main/([\w./-]+)", text)
    assert all((ROOT / path).exists() for path in here), here
    assert all(url.startswith(SOURCE) for url in re.findall(r"https://github\.com/jadam[^\s)]*", text))
    if page == "README.md":
        assert re.findall(r"\]\((?!https?://)[^)]*\)", text) == []
        assert len(here) > 10


def test_contributing_names_files_that_exist():
    targets = re.findall(r"\]\(([^)]+)\)", (ROOT / "CONTRIBUTING.md").read_text())
    assert len(targets) >= 5
    assert all((ROOT / target).exists() for target in targets), targets


def test_every_url_of_the_project_is_under_one():
    urls = PROJECT["urls"].values()
    assert all(url.startswith(SOURCE) for url in urls)
    assert f"repository-code: {SOURCE}\n" in (ROOT / "CITATION.cff").read_text()


def test_nothing_is_read_written_or_sent():
    """What SECURITY.md says: of Python's own modules none is imported that could, and nothing is opened or run."""
    found = set()
    for path in (ROOT / "jadam").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in getattr(node, "names", [])]
            if isinstance(node, ast.Import | ast.ImportFrom):
                found |= {name.split(".")[0] for name in names if name}
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("open", "eval", "exec"), path
    harmless = {"__future__", "abc", "collections", "contextlib", "copy", "dataclasses", "difflib", "functools", "importlib"}
    harmless |= {
        "inspect",
        "itertools",
        "math",
        "numbers",
        "operator",
        "re",
        "sys",
        "textwrap",
        "types",
        "typing",
        "warnings",
        "weakref",
    }
    assert found <= harmless | {"zlib", "jadam", "jax", "numpy", "optax"}
