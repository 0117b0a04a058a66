"""Code in a line that is a name of jadam, JAX or optax is a link to what it means."""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform


class Names(SphinxTransform):
    """Wraps such names as a role would; a name that no reference has stays as it is."""

    default_priority = 700

    def apply(self, **_: object) -> None:
        """Called by Sphinx for each page."""
        for literal in list(self.document.findall(nodes.literal)):
            found = re.fullmatch(r"((?:jadam|jax|optax)(?:\.\w+)+)(?:\(.*\))?", literal.astext(), re.DOTALL)
            within = literal.parent
            while within is not None and not isinstance(within, nodes.reference | nodes.title | addnodes.pending_xref):
                within = within.parent
            if found and within is None:
                link = addnodes.pending_xref("", refdomain="py", reftype="obj", reftarget=found[1], refexplicit=True)
                link["refdoc"] = self.env.docname
                literal.replace_self(link)
                link += literal


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_transform(Names)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
