"""The documentation site: `make docs`."""

from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"

project = "qvl"
copyright = "the qvl authors, Apache-2.0"
html_title = "qvl"
html_theme = "furo"
html_show_sphinx = False
html_static_path, html_css_files = ["_static"], ["wide.css"]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
templates_path = ["_templates"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]
nb_execution_mode = "off"  # the notebook's own outputs; a test runs it

autosummary_generate = True
# Each has a page of its own, its modules on it.
autosummary_context = {
    "packages": [".".join(file.parent.relative_to(SOURCE).parts) for file in SOURCE.rglob("__init__.py")]
}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
autodoc_inherit_docstrings = False
add_module_names = False
suppress_warnings = ["ref.python"]  # fields of the same name in several classes
