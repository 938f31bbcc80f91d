"""How Django's tests end with the stock engine, kept from an earlier run.

The same Django on the same server ends the same way each time, so that only ours has to be run. A
file holds the number of tests, a digest of their names and those that did not pass. It serves only
where everything is as it was when it was written, else the stock engine is run as well.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import django
import psycopg

from .running import Outcomes

FOLDER = Path(__file__).parent / "stock"


def place(server_version: str, icu: bool) -> Path:
    """The file for the Django, psycopg, Python and server at hand."""
    python = ".".join(platform.python_version_tuple()[:2])
    server = server_version.split()[0] + ("" if icu else "-without-icu")
    versions = f"django-{django.get_version()}_psycopg-{psycopg.__version__}_python-{python}"
    return FOLDER / re.sub(r"[^\w.-]", "-", f"{versions}_postgresql-{server}.json")


def keep(path: Path, stock: Outcomes) -> None:
    """Write down how the tests ended with the stock engine."""
    path.parent.mkdir(exist_ok=True)
    kept = {
        "tests": len(stock),
        "digest": _digest(stock),
        "otherwise": {
            # Of an error its last line: the rest has paths of the machine in it.
            test: {**end, "why": _last_line(end["why"])}
            for test, end in sorted(stock.items())
            if end["outcome"] != "passed"
        },
    }
    path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


def stock_of(path: Path, ours: Outcomes) -> Outcomes | None:
    """Return how those tests ended with the stock engine; None when that was not kept.

    Also None when ours ran other tests than stock did: then both have to be looked at.
    """
    if not path.exists():
        return None
    kept: Mapping[str, Any] = json.loads(path.read_text())
    if kept["digest"] != _digest(ours):
        return None
    passed = {"outcome": "passed", "why": ""}
    return {test: kept["otherwise"].get(test, passed) for test in ours}


def _digest(tests: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(sorted(tests)).encode()).hexdigest()


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1][:200] if text.strip() else ""
