"""Whether Django's own ways to a cursor are in their place, so that calls can be saved.

They are replaced at run time by packages that connect again, and by Django's tests to forbid
connecting; and classes of other packages may have ways of their own.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import FunctionType
from typing import Any

import django
from django.db.backends.base.base import BaseDatabaseWrapper

CONNECTING = frozenset({"_cursor", "close_if_health_check_failed", "ensure_connection"})

_DJANGO = f"{Path(django.__file__).parent}{os.sep}"


def as_django_has_it(name: str) -> Any:
    """A method of Django's; None when somebody has put another in its place already."""
    found: Any = getattr(BaseDatabaseWrapper, name)
    own = type(found) is FunctionType and found.__code__.co_filename.startswith(_DJANGO)
    return found if own else None


ENSURE: Any = as_django_has_it("ensure_connection")
CURSOR: Any = as_django_has_it("_cursor")
