"""The pages for users: what a newcomer looks for is two clicks away, and each lists all that it says it lists."""

import inspect
import re

from golden import CASES
from support import NAMESPACE, OPTIMIZERS, ROOT
from test_ideas import anchors

import jadam

DOCS = ROOT / "docs"
INDEX = (DOCS / "index.md").read_text()
SCHEDULES = {
    name
    for name, value in NAMESPACE.items()
    if callable(value) and getattr(value, "__module__", "").startswith("jadam._schedules.") and name != "Schedule"
}


def links(text):
    """The pages, with their anchors, to which a page links: in words and from cards."""
    words = re.findall(r"\]\((?!http)([\w./-]+)\.md(?:#([\w-]+))?\)", text)
    return words + [(page, "") for page in re.findall(r"^:link: (\S+)$", text, re.M)]


def test_every_page_is_in_the_contents_once():
    contents = [
        str((path.parent / name).relative_to(DOCS))
        for path in DOCS.rglob("*.md")
        for block in re.findall(r"```\{toctree\}\n(.*?)```", path.read_text(), re.S)
        for name in block.splitlines()
        if name and not name.startswith(":")
    ]
    pages = [str(path.relative_to(DOCS).with_suffix("")) for path in DOCS.rglob("*.md")]
    assert sorted([*contents, "index"]) == sorted(pages)


def test_links_lead_to_headings():
    """That the page is there, tests/test_docs.py looks up."""
    for path in DOCS.rglob("*.md"):
        for page, anchor in links(path.read_text()):
            target = path.parent / f"{page}.md"
            assert target.exists(), f"{path.name}: {page}"
            assert not anchor or anchor in anchors(target), f"{path.name}: {page}.md#{anchor}"


def test_two_clicks():
    """From the landing page a reader finds these on it, or on a page that it links to."""
    assert "pip install" in INDEX
    assert "train_step" in INDEX
    reached = {page for page, _ in links(INDEX)}
    wanted = {
        "tutorial": "## The loop",
        "choosing": "## A starting rate for each",
        "tuning": "## The loss becomes NaN",
        "recipes": "## Save and resume",
    }
    for page, heading in wanted.items():
        assert page in reached
        assert heading in (DOCS / f"{page}.md").read_text()


def test_the_landing_page_counts_what_was_compared():
    compared = set(OPTIMIZERS) & {case["factory"] for case in CASES.values()}
    assert f"**{len(compared)} of the {len(OPTIMIZERS)} optimizers were compared with their authors' code or torch**" in INDEX
    assert f"It has Adam and {len(OPTIMIZERS) - 1} other optimizers" in INDEX


def test_every_schedule_is_plotted_and_in_the_table():
    page = (DOCS / "schedules.md").read_text()
    assert len(SCHEDULES) >= 16
    missing = [name for name in SCHEDULES if f"| `{name}` |" not in page or f'"{name}": [' not in page]
    assert not missing, f"add a row and a curve for {missing} to docs/schedules.md"
    assert all(inspect.isroutine(getattr(jadam, name)) or inspect.isclass(getattr(jadam, name)) for name in SCHEDULES)


def test_every_optimizer_has_its_bytes_on_an_h100():
    page = (DOCS / "benchmarks.md").read_text()
    rows = re.findall(r"^\| (\w+) \|", page.split("### H100")[1].split("### ")[0], re.M)
    missing = set(OPTIMIZERS) - set(rows)
    assert not missing, f"run tests/bench/accelerators.py, and add {missing} to docs/benchmarks.md"


def test_every_symptom_has_a_section_that_proves_its_remedy():
    page = (DOCS / "tuning.md").read_text()
    table = page.split("## The starting recipe")[0]
    symptoms = re.findall(r"^\| \[.*?\]\(#([\w-]+)\)", table, re.M)
    assert len(symptoms) >= 6
    for section in page.split("\n## ")[1:]:
        anchor = re.sub(r"[^\w\- ]", "", section.splitlines()[0].lower()).replace(" ", "-")
        if anchor in symptoms:
            symptoms.remove(anchor)
            assert re.search(r"^:tags: \[remove-cell\]$.*?^assert ", section, re.M | re.S), f"{anchor} asserts nothing"
    assert not symptoms


def test_every_mistake_names_a_test():
    """That it exists is looked up in tests/test_docs.py, as of every page."""
    rows = re.findall(r"^\| .* \|$", (DOCS / "tuning.md").read_text().split("## Common implementation mistakes")[1], re.M)[1:]
    assert len(rows) >= 15
    assert [row for row in rows if not re.search(r"`tests/\S+::test_\w+` \|$", row)] == []
