"""Prepare a release: move what is unreleased in CHANGELOG.md under its version, or check it.

    python .ci/release.py prepare 1.0.0    # writes CHANGELOG.md, and says what to do next
    python .ci/release.py check 1.0.0      # what the workflow of a tag does first

The version itself is that of the git tag, and stands in no file.
"""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNRELEASED = "## [Unreleased]\n"
VERSION = re.compile(r"\d+\.\d+\.\d+((a|b|rc)\d+)?")
URLS = ("Changelog", "Documentation", "Issues", "Source")


def main() -> int:
    arguments = _parse()
    changelog = arguments.root / "CHANGELOG.md"
    text = changelog.read_text()
    try:
        if not VERSION.fullmatch(arguments.version):
            raise Refused(f"{arguments.version!r} is no version such as 1.0.0 or 1.0.0rc1")
        require_urls((arguments.root / "pyproject.toml").read_text())
        if arguments.do == "check":
            require_section(text, arguments.version)
            return 0
        changelog.write_text(moved(text, arguments.version, datetime.date.today()))
    except Refused as refusal:
        print(f"not released: {refusal}", file=sys.stderr)
        return 1
    print(
        f"CHANGELOG.md has a section for {arguments.version}. Read it, then:\n"
        f"    git commit -am 'Version {arguments.version}'\n"
        f"    git tag -a v{arguments.version} -m 'Version {arguments.version}'\n"
        f"    git push origin main v{arguments.version}"
    )
    return 0


class Refused(Exception):
    """Why there can be no release."""


def moved(text: str, version: str, day: datetime.date) -> str:
    """The changelog with all that was unreleased under the version."""
    before, found, after = text.partition(UNRELEASED)
    if not found:
        raise Refused("CHANGELOG.md has no section [Unreleased]")
    if f"## [{version}]" in text:
        raise Refused(f"CHANGELOG.md has {version} already")
    if not re.match(r"\s*(### |- )", after):
        raise Refused("nothing is unreleased")
    return f"{before}{UNRELEASED}\n## [{version}] - {day.isoformat()}\n{after}"


def require_section(text: str, version: str) -> None:
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE):
        raise Refused(f"CHANGELOG.md has no section for {version}: see docs/releasing.md")


def require_urls(pyproject: str) -> None:
    """Who finds the package in an index has to find its home."""
    section = pyproject.partition("\n[project.urls]\n")[2].partition("\n[")[0]
    missing = [name for name in URLS if not re.search(rf"^{name} = \"https://", section, re.M)]
    if missing:
        raise Refused(f"[project.urls] of pyproject.toml has no {', '.join(missing)}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="release", description=__doc__)
    parser.add_argument("do", choices=("prepare", "check"))
    parser.add_argument("version", help="such as 1.0.0, without a v")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
