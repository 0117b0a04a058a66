"""The site.

sphinx-build -W -d site/doctrees docs site/html     # site/html/index.html then opens in a browser, without a network
"""

import hashlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "jadam"
author = "the jadam authors"
copyright = "the jadam authors, Apache-2.0"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "names",
    "tables",
    "signatures",
]
# The names of others that pages speak of, in Sphinx's first format, which is text: the site is built without a network.
intersphinx_mapping = {
    "jax": ("https://docs.jax.dev/en/latest/", "_inventories/jax.txt"),
    "optax": ("https://optax.readthedocs.io/en/latest/", "_inventories/optax.txt"),
}
exclude_patterns = ["_ext"]

# Pages. A page with code cells is run, and a cell that fails is a page that fails.
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "cache"  # what did not change is not run again
# Until the library changes: what a page printed before would not be what it prints now.
library = b"".join(file.read_bytes() for file in sorted((HERE.parent / "jadam").rglob("*.py")))
nb_execution_cache_path = str(HERE.parent / "site" / "cache" / hashlib.sha256(library).hexdigest()[:16])
nb_execution_in_temp = True  # what cells write is not left beside the pages
nb_execution_timeout = 600
nb_execution_show_tb = True
nb_merge_streams = True
nb_code_prompt_show = "Show the {type}"
nb_output_stderr = "remove"  # progress bars, and warnings with the path of a temporary file

# Signatures and docstrings, which are in Google's convention and have Markdown's single backticks.
default_role = "code"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
napoleon_use_rtype = False
napoleon_use_ivar = True

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "jadam"
html_logo = html_favicon = "_static/logo.svg"
html_theme_options = {
    "source_repository": "https://github.com/jadam-dev/jadam",
    "source_branch": "main",
    "source_directory": "docs/",
    "top_of_page_buttons": ["edit"],
}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = html_show_sourcelink = False
