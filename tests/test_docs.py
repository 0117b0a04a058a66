"""What README, docs and docstrings show runs; what they claim names a test or a script that exists."""

import doctest
import importlib
import pkgutil
import re
import runpy

import matplotlib.pyplot as plt
import pytest
from support import OPTIMIZERS, ROOT

import jadam

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MODULES = ["jadam", *(m.name for m in pkgutil.walk_packages(jadam.__path__, "jadam."))]
MODULES.remove("jadam.optax")  # whose docstrings are those of optax: tests/test_optax_door.py runs them


# A block that is only read, or a cell that the site executes too, which may begin with options: `:tags: [hide-input]`.
BLOCK = re.compile(r"^```(?:python|\{code-cell\} ipython3)\n(?::[\w-]+:[^\n]*\n)*(.*?)^```", re.MULTILINE | re.DOTALL)


# All their blocks are cells, which the site runs: tests/test_site.py.
BY_THE_SITE = {f"{name}.md" for name in ("recipes", "tuning", "choosing", "tutorial", "checkpoints", "beyond-first-order")}
EACH_PAGE = [pytest.param(page, id=page.name) for page in PAGES if page.name not in BY_THE_SITE]


@pytest.mark.parametrize("page", EACH_PAGE)
@pytest.mark.usefixtures("lenient")
def test_blocks_run(page, tmp_path, monkeypatch):
    """The Python blocks of a page run in order in one namespace, as a reader would run them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    namespace = {}
    for match in BLOCK.finditer(page.read_text()):
        line = page.read_text()[: match.start(1)].count("\n")
        exec(compile("\n" * line + match[1], str(page), "exec"), namespace)
    plt.close("all")


def test_cells_are_blocks_and_fit_a_column():
    """A page whose cells no test found would be unproved; code of more than 80 columns is cut off on the site."""
    assert len(BLOCK.findall((ROOT / "docs" / "tutorial.md").read_text())) > 10
    for page in PAGES:
        text = page.read_text()
        assert page.name not in BY_THE_SITE or "```python" not in text, page.name
        assert text.count("```{code-cell}") == len(re.findall(r"^```\{code-cell\} ipython3$", text, re.MULTILINE)), page.name
        assert ("```{code-cell}" in text) == text.startswith("---\nfile_format: mystnb\n"), page.name
        if page.name != "README.md":  # which the site does not have
            assert [line for code in BLOCK.findall(text) for line in code.splitlines() if len(line) > 80] == [], page.name


def test_readme_has_a_training_loop_of_15_lines():
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    assert len([line for line in blocks[0].splitlines() if line]) <= 15


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_run(name):
    module = importlib.import_module(name)
    assert doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE).failed == 0


def test_there_are_docstrings_to_run():
    found = [len(t.examples) for name in MODULES for t in doctest.DocTestFinder().find(importlib.import_module(name))]
    assert sum(found) >= 8


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_proofs_exist(page):
    """`tests/test_x.py::test_y` is a test, any other path is a file, every link leads somewhere."""
    text = page.read_text()
    for path, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        assert (ROOT / path).exists(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(), f"{path}::{test}"
    for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists(), target


def test_every_optimizer_is_in_the_docs():
    """A row in the table, a section with an example, and the signature."""
    table = (ROOT / "docs" / "optimizers.md").read_text()
    pages = "".join(page.read_text() for page in (ROOT / "docs" / "optimizers").glob("*.md"))
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", pages, re.MULTILINE | re.DOTALL))
    for name in OPTIMIZERS:
        assert f"| [`{name}`](optimizers/" in table, f"add a row for {name} to docs/optimizers.md"
        assert f".. autofunction:: {name}\n" in sections.get(name, ""), f"add a section for {name} to a page of docs/optimizers"
        assert re.search(rf"^```{{code-cell}} ipython3\n.*jadam\.{name}\(", sections[name], re.MULTILINE | re.DOTALL), name


def test_public_names_in_the_docs_exist():
    """A name that is not there any more would mislead every reader."""
    for page in PAGES:
        for name in re.findall(r"\bjadam\.(\w+)", page.read_text()):
            assert hasattr(jadam, name) or name.startswith("_"), f"{page.name}: jadam.{name}"


def test_how_it_works_names_few_files_each_once():
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    files = re.findall(r"\bjadam/[\w/]+\.py", text)
    assert len(files) == len(set(files)) <= 8
    assert all((ROOT / file).exists() for file in files)
    assert "docs/how_it_works.py" in text


def test_the_picture_is_drawn_by_its_script(tmp_path):
    """A copy of the script draws it, so that the picture in the docs stays as it is."""
    script = tmp_path / "how_it_works.py"
    script.write_text((ROOT / "docs" / script.name).read_text())
    runpy.run_path(str(script), run_name="__main__")
    assert (tmp_path / "how-it-works.png").read_bytes().startswith(b"\x89PNG")
    assert (ROOT / "docs" / "how-it-works.png").stat().st_size < 100_000


def test_an_author_needs_ten_things():
    """The first section of the page names all of them, in a table, and no more public names than that."""
    text = (ROOT / "docs" / "adding-an-optimizer.md").read_text()
    need = text.split("\n## ")[0]
    assert len(re.findall(r"^\| `", need, re.MULTILINE)) <= 10
    words = set(re.findall(r"\bjadam\.(\w+)|`(\w+)[`(]|\b(Decay|Rule|zeros)\b", need))
    assert len({word for group in words for word in group if word and hasattr(jadam, word)}) <= 10
