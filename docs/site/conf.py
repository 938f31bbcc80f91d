"""How Sphinx makes the site of docs/*.md, README.md and the other texts of the project.

    sphinx-build -W --keep-going -c docs/site . build/site

The texts stay where they are and read well in the repository: the whole project is the source, so
that a link from one to another is right in both. What docs/index.md lists is the navigation.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[2]

project = "django-connpool"
copyright = "django-connpool contributors"
author = copyright
release = metadata.version("django-connpool")

extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["docs/*.md", "*.md"]
exclude_patterns = [".*", "build"]

# The anchors of headings are those that code forges give them.
myst_heading_anchors = 4
suppress_warnings = ["myst.header"]  # logs.md has headings one after the other, without a text

html_theme = "furo"
html_title = f"django-connpool {release}"
html_extra_path = ["top"]  # index.html leads to docs/index.html
html_copy_source = False
html_show_sphinx = False
# Nothing is fetched from anywhere, neither when the site is built nor when it is read.
html_theme_options = {"navigation_with_keys": True}

# Pages that answer programs with 403 or 429, and hosts that stand for yours.
linkcheck_ignore = [r"https?://(\w+\.)*example\.com", r"https?://(localhost|127\.0\.0\.1)"]
linkcheck_timeout = 20

SECTION = re.compile(r"^## (.+)\n((?:(?!^## ).*\n)*)", re.MULTILINE)
PAGE = re.compile(r"^- \[(.+?)\]\(((?:\.\./)?[\w-]+)\.md\)", re.MULTILINE)


def contents(index: str) -> str:
    """The navigation, in Sphinx's words: the pages that docs/index.md lists, by its headings."""
    trees = []
    for caption, text in SECTION.findall(index):
        pages = [f"{title.replace('`', '')} <{page}>" for title, page in PAGE.findall(text)]
        lines = ["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"]
        trees.append("\n".join(lines))
    return "\n\n".join(trees)


def add_contents(app: object, docname: str, source: list[str]) -> None:
    """Put the navigation into the page that Sphinx begins with."""
    if docname == root_doc:
        source[0] += "\n" + contents(source[0]) + "\n"


def setup(app: object) -> None:
    app.connect("source-read", add_contents)  # type: ignore[attr-defined]
