"""The table of ideas in docs/ideas.md: each is explained, shown and tested where it says, or marked as missing."""

import re

import pytest
from support import ROOT, load_script

DOCS = ROOT / "docs"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (DOCS / "ideas.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| idea ")
]
SCRIPTS = ("examples/walkthrough.py", "examples/landscapes.py", "examples/adam_paper.py")
PARTS = {path: load_script(path).PARTS for path in SCRIPTS}


def anchors(page):
    """The targets that the headings of a page make."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_there_are_44_ideas():
    assert len({row[0] for row in ROWS}) == len(ROWS) == 44


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_an_idea_is_explained_shown_and_tested(row):
    idea, explained, shown, tested = row
    for cell in (explained, shown, tested):
        assert "](" in cell or "`" in cell or cell == "**not yet**", f"{idea}: {cell!r} says nowhere"
    for page, anchor in re.findall(r"\]\((\S+?\.md)(?:#(\S+?))?\)", "".join(row)):
        assert not anchor or anchor in anchors(DOCS / page), f"{idea}: {page} has no heading for #{anchor}"
    for script, part in re.findall(r"`(examples/\w+\.py)`(?:: `(\w+)`)?", shown):
        assert (ROOT / script).exists()
        assert not part or part in {function.__name__ for function in PARTS[script]}, f"{idea}: {script} has no part {part}"
    # What a named test is, tests/test_docs.py looks up, as on every page.
    assert "::test_" in tested or tested == "**not yet**", idea


def test_every_part_of_the_examples_shows_an_idea():
    shown = " ".join(row[2] for row in ROWS)
    for script, parts in PARTS.items():
        missing = [part.__name__ for part in parts if f"`{script}`: `{part.__name__}`" not in shown]
        assert not missing, f"add the ideas that {missing} of {script} show to docs/ideas.md"


def test_figures_of_the_page_are_drawn_small_and_described():
    page = (DOCS / "understanding-adam.md").read_text()
    embedded = re.findall(r"!\[([^\]]*)\]\((figures/\S+?)\)", page)
    linked = set(re.findall(r"\]\((figures/\S+?)\)", page))
    assert linked == {f"figures/{path.name}" for path in (DOCS / "figures").iterdir()}
    assert all(len(words) > 30 for words, _ in embedded)
    assert all((DOCS / path).stat().st_size < 150_000 for path in linked)
