"""Differences that are meant: read from `explained.txt`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "explained.txt"


@dataclass(frozen=True)
class Entry:
    """A test that may end otherwise with our engine, and why that is right."""

    test: str
    versions: frozenset[str]
    modes: frozenset[str]
    reason: str

    def covers(self, version: str, mode: str) -> bool:
        return version in self.versions and mode in self.modes


def entries(version: str, mode: str) -> dict[str, Entry]:
    """Test id to entry, of those for a Django version such as "6.1" and a release mode."""
    return {entry.test: entry for entry in read(FILE.read_text()) if entry.covers(version, mode)}


def read(text: str) -> Iterator[Entry]:
    """Yield the entries of a text; raises ValueError for one that is not complete."""
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            test, versions, modes, reason = (part.strip() for part in line.split("|", 3))
            if not reason:
                raise ValueError(f"{FILE.name} gives no reason for {test}")
            yield Entry(test, frozenset(versions.split()), frozenset(modes.split()), reason)
