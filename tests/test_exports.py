"""The public names are those that `jadam/_public.py` lists, each once, annotated, documented, with an entry in the docs."""

import inspect
import re

import pytest
from support import ROOT

import jadam

PACKAGE = ROOT / "jadam"
LISTED = re.findall(r"import (\w+) as (\w+)$", (PACKAGE / "_public.py").read_text(), re.MULTILINE)
REFERENCE = "\n".join(
    page.read_text() for folder in ("reference", "optimizers") for page in (ROOT / "docs" / folder).glob("*.md")
)
NAMES = [name for name, _ in LISTED]


def test_exports_equal_the_namespace():
    assert all(own == public for own, public in LISTED)
    assert len(NAMES) == len(set(NAMES))
    assert list(jadam.__all__) == NAMES
    named = {name for name in dir(jadam) if not name.startswith("_")}
    assert set(NAMES) == named - {"optax"}  # the door, which is there once it is imported
    assert (PACKAGE / "py.typed").exists()


def test_one_public_path_to_a_name():
    assert all(path.name.startswith("_") or path.name in ("py.typed", "optax") for path in PACKAGE.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_annotated_and_documented(name):
    thing = getattr(jadam, name)
    if not callable(thing) or not hasattr(thing, "__module__") or not thing.__module__.startswith("jadam"):
        return  # the annotations: Decay, Hyper, ...
    assert inspect.getdoc(thing), f"write a docstring for {name}"
    if not (isinstance(thing, type) and issubclass(thing, Warning)):  # which nobody calls
        bare = [p.name for p in inspect.signature(thing).parameters.values() if p.annotation is p.empty]
        assert not bare, f"annotate {bare} of {name}"
    entries = re.findall(rf"^\.\. (?:autofunction|autoclass|py:data):: {name}$", REFERENCE, re.MULTILINE)
    assert len(entries) == 1, f"one page of docs/reference or docs/optimizers must have '.. autofunction:: {name}' or the like"
