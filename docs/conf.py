"""How Sphinx builds the site; ``make docs`` runs it, with every warning an error."""

import importlib.metadata
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "pytest-readonly-vm"
author = "The pytest-readonly-vm developers"
copyright = author
release = importlib.metadata.version(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "command_help",
    "example_project",
    "outside_links",
    "public_names",
    "settings_list",
]
exclude_patterns = ["_ext"]
highlight_language = "none"  # of blocks that name none: what a terminal shows

myst_heading_anchors = 4

default_role = "code"  # of what docstrings have between single backticks
python_use_unqualified_type_names = True
autodoc_preserve_defaults = True
# Python's own names lead nowhere, as the site is built without a network, nor do those within the package. Public names
# must lead somewhere.
nitpick_ignore_regex = [("py:.*", r"(?!pytest_readonly_vm\.).*"), ("py:.*", r"pytest_readonly_vm\.\w+\..*")]

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
