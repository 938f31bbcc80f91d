#!/usr/bin/env python
from __future__ import annotations

import os
import sys


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "testproject.settings")
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


if __name__ == "__main__":
    main()
