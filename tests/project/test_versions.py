"""The versions of docs/supported-versions.md are those that are promised and tested."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import django
from django.db.backends.postgresql.features import DatabaseFeatures

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "supported-versions.md").read_text()
PROJECT = (ROOT / "pyproject.toml").read_text()
TOX = (ROOT / "tox.ini").read_text()


def table(title: str) -> dict[str, list[str]]:
    """The rows of a table, by their first column."""
    rows = DOCS.partition(f"| {title} | until |")[2].partition("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {row[0]: row[1:] for row in cells}


def classified(name: str) -> set[str]:
    return set(re.findall(rf'"{name} :: (\d+\.\d+)",', PROJECT))


def in_tox(factor: str) -> set[str]:
    """As `313` of `py313`, written as a version."""
    named = set(re.findall(rf"\b{factor}(\d\d+)\b", TOX.partition("[testenv]")[0]))
    named |= set(re.findall(rf"^ +{factor}(\d\d+): ", TOX, re.MULTILINE))
    split = 1  # of 3.13 and of 6.1
    return {f"{one[:split]}.{one[split:]}" for one in named}


def test_pythons_are_those_of_the_classifiers_and_of_tox() -> None:
    assert set(table("Python")) == classified("Programming Language :: Python")
    assert set(table("Python")) == in_tox("py")


def test_djangos_are_those_of_the_classifiers_and_of_tox() -> None:
    assert set(table("Django")) == classified("Framework :: Django")
    assert set(table("Django")) == in_tox("django")


def test_each_has_a_date() -> None:
    for title in ("Python", "Django", "PostgreSQL"):
        for version, row in table(title).items():
            assert datetime.strptime(row[0], "%B %Y"), version


def test_the_oldest_server_of_this_django_is_told() -> None:
    row = table("Django")[".".join(map(str, django.VERSION[:2]))]
    (least,) = DatabaseFeatures.minimum_database_version
    assert row[2] == f"{least} and later"


def test_the_oldest_python_and_psycopg_are_those_that_are_required() -> None:
    oldest = min(table("Python"), key=lambda version: int(version.partition(".")[2]))
    assert f'requires-python = ">={oldest}"' in PROJECT
    assert '"psycopg>=3.2"' in PROJECT and "psycopg 3.2 and later" in DOCS
