"""What the pages of docs list is whole: options with their defaults, settings, checks."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields

from django_connpool.conf import PoolOptions
from django_connpool.readers import READERS

from .test_house import PACKAGE

ROOT = PACKAGE.parent
CHECK = re.compile(r"\b(?:django_connpool\.)?([EW]0\d\d)\b")
SAID = {None: "none", (): "none", False: "`False`"}


def default(value: object) -> str:
    """A default as the page writes it."""
    if isinstance(value, str):
        return f'`"{value}"`'
    if isinstance(value, bool) or value is None or value == ():
        return SAID[value]  # type: ignore[index]
    return f"{value:g}"


def test_each_option_is_listed_with_its_default() -> None:
    page = " ".join((ROOT / "docs" / "options.md").read_text().split())
    defaults = {one.name: default(one.default) for one in fields(PoolOptions)}
    defaults["name"] = "the alias"
    assert set(defaults) == set(READERS)
    missing = [
        f"{name}: {value}"
        for name, value in defaults.items()
        if not re.search(rf"\*\*`{name}`\*\* \({re.escape(value)}[ ,)]", page)
    ]
    assert not missing, "docs/options.md: a paragraph with **`NAME`** (DEFAULT) for each of these"


def test_each_setting_of_ours_is_listed() -> None:
    names = {
        name
        for file in PACKAGE.rglob("*.py")
        for name in re.findall(r"\bCONNPOOL_[A-Z_]+\b", file.read_text())
    }
    page = (ROOT / "docs" / "options.md").read_text()
    missing = [name for name in sorted(names) if f"**`{name}`**" not in page]
    assert not missing, "docs/options.md: tell of each of these, as **`NAME`**"


def test_each_check_is_listed_once_and_in_order() -> None:
    page = (ROOT / "docs" / "checks.md").read_text()
    listed = re.findall(r"^\| `django_connpool\.([EW]\d+)`", page, re.MULTILINE)
    told = {
        number for file in PACKAGE.glob("*checks.py") for number in CHECK.findall(file.read_text())
    }
    assert not [number for number, times in Counter(listed).items() if times > 1]
    assert set(listed) == told, "docs/checks.md: a row for each check, and for nothing else"
    assert listed == sorted(listed)
