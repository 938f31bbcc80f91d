#!/usr/bin/env python
"""Commands of the site. A project of yours has one already, by `django-admin startproject`."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
    be_a_sample()
    try:
        import environ  # noqa: F401
        from django.core.management import execute_from_command_line
    except ImportError as error:
        sys.exit(f"{error}. Install what this project needs: pip install -e '.[demo]'")
    from testproject.embedded import EmbeddedServerError

    try:
        execute_from_command_line(sys.argv)
    except EmbeddedServerError as error:
        sys.exit(str(error))


def be_a_sample() -> None:
    """Not to be copied: in a fresh clone, where nothing is set, commands run as with DEBUG."""
    told = (Path(__file__).parent / ".env").exists() or {"DEBUG", "SECRET_KEY"} & set(os.environ)
    if not told:
        os.environ["DEBUG"] = "on"


if __name__ == "__main__":
    main()
