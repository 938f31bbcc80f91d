"""What is public stands in `api.txt`, and a change of it is seen."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import django_connpool
from django_connpool import aio, signals
from django_connpool.conf import PoolOptions

from . import api

DOCS = Path(__file__).parents[2] / "docs" / "api.md"
# What these need is not installed everywhere.
EXTRAS = ("django_connpool.contrib.", "django_connpool.backends.postgis.")


def test_the_public_api_is_as_it_was() -> None:
    assert api.text() == api.SNAPSHOT.read_text(), (
        "see docs/api.md, Changes: is it meant? `python -m tests.project.api --write`, "
        "and a line in CHANGELOG.md"
    )


def test_what_the_package_exports_is_public() -> None:
    assert list(api.NAMES["django_connpool"]) == sorted(django_connpool.__all__)
    assert list(api.NAMES["django_connpool.aio"]) == sorted(aio.__all__)
    assert {*api.NAMES["django_connpool.signals"]} == {
        name for name in vars(signals) if type(getattr(signals, name)).__name__ == "Signal"
    }


@pytest.mark.parametrize("module", [name for name in api.NAMES if not name.startswith(EXTRAS)])
def test_what_is_public_can_be_imported(module: str) -> None:
    there = importlib.import_module(module)
    assert [name for name in api.NAMES[module] if not hasattr(there, name)] == []


def test_each_option_is_in_the_snapshot() -> None:
    listed = api.SNAPSHOT.read_text().partition("# pool options\n")[2].partition("\n\n")[0]
    assert set(listed.split()) == set(PoolOptions.__dataclass_fields__), (
        "python -m tests.project.api --write"
    )


@pytest.mark.parametrize("module", api.NAMES)
def test_what_is_public_is_named_in_the_docs(module: str) -> None:
    (line,) = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{module}`")]
    assert [name for name in api.NAMES[module] if f"`{name}" not in line] == []


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("class scope", "class scape"),
        ("timeout: float = 30.0", "timeout: float = 31.0"),
        ('"django_connpool.E003"', '"django_connpool.E103"'),
    ],
)
def test_a_change_is_seen(
    before: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in api.PACKAGE.rglob("*.py"):
        copy = tmp_path / path.relative_to(api.PACKAGE)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text().replace(before, after))
    monkeypatch.setattr(api, "PACKAGE", tmp_path)
    try:
        seen = api.text()
    except LookupError:
        seen = ""
    assert seen != api.SNAPSHOT.read_text()
