"""Equations as MathML, written when the site is built: browsers lay it out themselves, without a script and offline."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator


def mathml(node: nodes.Node, display: str) -> str:
    """The equation of a node; what the converter does not know, and would print as it is, is a warning."""
    # The same rows to the converter, which knows the environment of displayed equations alone.
    written = convert(node.astext().replace("{aligned}", "{align*}"), display=display)
    if unknown := re.search(r"\\\w+|&(?!#?\w+;)", written):
        logging.getLogger(__name__).warning("latex2mathml does not know %s", unknown[0], location=node)
    return written


def inline(self: HTML5Translator, node: nodes.math) -> None:
    """An equation in a line."""
    self.body.append(mathml(node, "inline"))
    raise nodes.SkipNode


def display(self: HTML5Translator, node: nodes.math_block) -> None:
    """An equation of its own."""
    self.body.append(self.starttag(node, "div", CLASS="math") + mathml(node, "block") + "</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_html_math_renderer("mathml", (inline, None), (display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
