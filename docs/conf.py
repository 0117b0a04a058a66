"""The site.

sphinx-build -W -d site/doctrees docs site/html     # site/html/index.html then opens in a browser, without a network
"""

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
    "tables",
    "signatures",
]
exclude_patterns = ["_ext"]

# Pages. A page with code cells is run, and a cell that fails is a page that fails.
myst_enable_extensions = ["amsmath", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "cache"  # what did not change is not run again
nb_execution_cache_path = str(HERE.parent / "site" / "cache")
nb_execution_timeout = 120
nb_execution_raise_on_error = True

# Signatures and docstrings, which are in Google's convention and have Markdown's single backticks.
default_role = "code"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
napoleon_use_rtype = False

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "jadam"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
