"""The documentation site, built from the root of the repository: `sphinx-build -W -c docs . build/site`.

Sources are files that are also read in the repository (README.md, CONTRIBUTING.md, CHANGELOG.md, docs/, notebooks/) and
the docstrings. The site works without a network: search is local, and formulas are MathML.
"""

from importlib.metadata import version as installed_version

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

project = "vitab"
version = release = installed_version("vitab")
copyright = "the vitab authors"
html_show_copyright = False

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
root_doc = "docs/index"
include_patterns = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**", "notebooks/*.ipynb"]
exclude_patterns = ["docs/site", "docs/studies/*/paper.md", "docs/conf.py"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # notebooks are committed with their outputs

default_role = "code"  # docstrings mark code with single backticks
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}

html_theme = "pydata_sphinx_theme"
html_title = "vitab"
html_additional_pages = {"index": "redirect.html"}
templates_path = ["site"]
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_copy_source = False
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "navigation_with_keys": False,
    "footer_start": [],
    "footer_end": [],
}
html_math_renderer = "mathml"


def _inline(translator: object, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))  # type: ignore[attr-defined]
    raise nodes.SkipNode


def _block(translator: object, node: nodes.math_block) -> None:
    formula = convert(node.astext(), display="block")
    translator.body.append(f'<div class="math">{formula}</div>')  # type: ignore[attr-defined]
    raise nodes.SkipNode


def _plain_docstring(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    """Change a docstring, which is plain text with code in backticks, into reStructuredText."""
    found: list[str] = []
    for line in lines:
        if line.lstrip().startswith("- ") and found and found[-1] and not _is_item(found[-1]):
            found.append("")
        parts = line.split("`")
        parts[::2] = [part.replace("*", r"\*").replace("|", r"\|") for part in parts[::2]]
        found.append("`".join(parts))
    lines[:] = found


def _is_item(line: str) -> bool:
    return line.startswith((" ", "- "))


def setup(app: Sphinx) -> dict[str, bool]:
    """Render formulas as MathML, which browsers draw without a script."""
    app.connect("autodoc-process-docstring", _plain_docstring)
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    return {"parallel_read_safe": True}
