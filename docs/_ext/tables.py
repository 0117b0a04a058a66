"""Tables and code that fit a phone.

A wide table is shown there as a card for each row, whose cells carry the title of their column. What a cell of code printed
is broken into lines that fit, except where it is in columns. Code in a line may be broken after its punctuation alone.
"""

import re
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.writers.html5 import HTML5Translator

LONG = 24  # characters of a name that is not torn where it can stand in one line
DESK = 96  # characters of a printed line at 1366 px; longer ones in columns are set smaller
PHONE = 44  # characters of a row beside each other at 390 px


class Cards(SphinxPostTransform):
    """Marks printed columns, and tables that are wider than a phone: each of their cells has the title of its column."""

    default_priority = 900

    def run(self, **_: object) -> None:
        """Called by Sphinx for each page."""
        for block in [*self.document.findall(nodes.literal_block), *self.document.findall(nodes.doctest_block)]:
            if len(re.findall(r"^(?!>>>|\.\.\.).*\S {2,}\S", block.astext(), re.MULTILINE)) > 1:
                block["classes"] += ["columns", "wide"][: 1 + (max(map(len, block.astext().splitlines())) > DESK)]
        for group in self.document.findall(nodes.tgroup):
            rows = list(group.findall(nodes.row))
            columns = zip(*([entry.astext() for entry in row] for row in rows), strict=True)
            if (
                sum(max(map(len, column)) for column in columns) <= PHONE
                or group.first_child_matching_class(nodes.thead) is None
            ):
                continue
            table: Any = group.parent
            table["classes"].append("cards")
            titles = [entry.astext() for entry in rows[0]]
            for row in rows[1:]:
                for entry, title in zip(row, titles, strict=True):
                    entry["title"] = title if entry.astext().strip() else ""


def entry(self: HTML5Translator, node: nodes.entry) -> None:
    """A cell, with the title of its column as an attribute that the style sheet shows."""
    HTML5Translator.visit_entry(self, node)
    if node.get("title"):
        start, _, rest = self.body[-1].rpartition(">")
        self.body[-1] = f'{start} data-title="{escape(node["title"])}">{rest}'


def begin_literal(self: HTML5Translator, node: nodes.literal) -> None:
    """Code in a line, from its first tag."""
    node["start"] = len(self.body)
    HTML5Translator.visit_literal(self, node)


def end_literal(self: HTML5Translator, node: nodes.literal) -> None:
    """Code in a line: what has been written since its first tag."""
    marks = "/_:.,(=|" if len(node.astext()) > LONG else "/:,(=|"
    for at in range(node["start"], len(self.body)):
        self.body[at] = re.sub(rf"(<[^>]+>|&\w+;)|(?<=[{marks}])(?=\w)", lambda found: found[1] or "<wbr>", self.body[at])
    HTML5Translator.depart_literal(self, node)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_post_transform(Cards)
    app.add_node(nodes.literal, override=True, html=(begin_literal, end_literal))
    app.add_node(nodes.entry, override=True, html=(entry, HTML5Translator.depart_entry))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
