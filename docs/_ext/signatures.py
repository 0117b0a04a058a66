"""Signatures as their source spells them: `b1: Decay = 0.9`, and not the union of types that the name stands for.

autodoc alone would evaluate every annotation. Here a name that readers can look up stays as it is, a name for some options is
written out as these options, and a name for a checked number as the type of the number: the text below says its range.
"""

import inspect
import re
import sys
from typing import Annotated, Any, ForwardRef, Literal, get_args, get_origin

from sphinx.application import Sphinx

EXPLAINED = {
    "Hyper",
    "NonNegative",
    "Positive",
    "Decay",
    "Bound",
    "Share",
    "Negative",
    "MaskLike",
    "TransformationLike",
    "PyTree",
}


class Written:
    """An annotation as `inspect.Signature` prints it: by its repr."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def written(annotation: Any, names: dict[str, Any]) -> Written:
    """An annotation for a reader, from the string in the source where there is one."""
    if isinstance(annotation, ForwardRef):
        annotation = annotation.__forward_arg__
    if not isinstance(annotation, str):
        annotation = inspect.formatannotation(annotation)

    def explained(match: re.Match[str]) -> str:
        name, meaning = match[0], names.get(match[0])
        if name in EXPLAINED or get_origin(meaning) not in (Annotated, Literal):
            return name
        return of_type(get_args(meaning)[0] if get_origin(meaning) is Annotated else meaning)

    annotation = re.sub(r"(?<![\w.])Array\b", "jax.Array", annotation)  # which is shown without "jax.", and is a link
    annotation = re.sub(r"(?<![\w.'\"])[A-Za-z_]\w*(?![\w'\"])", explained, annotation)
    return Written(re.sub(r"Annotated\[(.*), \w+\(.*\)\]", r"\1", annotation))


def of_type(meaning: Any) -> str:
    """A type without the modules that its names come from."""
    return re.sub(r"\b(?:\w+\.)+(?=\w)", "", inspect.formatannotation(meaning))


def signature(app: Sphinx, what: str, name: str, thing: Any, options: Any, text: str | None, returns: str | None) -> Any:
    """Of a function or a class of jadam; nothing of what has none."""
    if text is None or what not in ("function", "class", "method"):
        return None
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return None
    names = vars(sys.modules[thing.__module__])
    parameters = [
        parameter
        if parameter.annotation is parameter.empty
        else parameter.replace(annotation=written(parameter.annotation, names))
        for parameter in found.parameters.values()
        if what != "method" or parameter.name != "self"
    ]
    back = None if what == "class" or found.return_annotation is found.empty else written(found.return_annotation, names).text
    return str(inspect.Signature(parameters)), back


def from_markdown(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Docstrings are Markdown: a table and a bar in it mean something else in reStructuredText; `Reference:` is a field."""
    written: list[str] = []
    text = "\n".join(lines)
    text = re.sub(r"^Reference:\n((?: +.*\n?)+)", lambda found: f":Reference: {found[1].strip()}\n", text, flags=re.MULTILINE)
    text = re.sub(r"(?<!`)\bdocs/([\w-]+)\.md\b", r":doc:`/\1`", text)
    text = re.sub(r"arXiv:(\d{4}\.\d{5}|\d{4}\.\d{4})", r"`arXiv:\1 <https://arxiv.org/abs/\1>`__", text)
    for line in text.split("\n"):
        if line.startswith("| "):
            cells = line.strip("| ").split(" | ")
            if not written or not written[-1].startswith("     -"):
                written += [".. list-table::", "   :header-rows: 1", ""]
            written += [f"   {'  ' if n else '* '}- {cell}" for n, cell in enumerate(cells)]
        elif not line.startswith("|--"):
            code = line.lstrip().startswith((">>>", "..."))
            written.append(line if code else re.sub(r"(`[^`]*`)|\|", lambda found: found[1] or r"\|", line))
    lines[:] = written


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", signature)
    app.connect("autodoc-process-docstring", from_markdown, priority=400)  # before napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}
