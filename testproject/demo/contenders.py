"""Who is compared: the same shop, with connections of three kinds."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import django


@dataclass(frozen=True)
class Contender:
    """One kind; `demo/settings.py` makes the settings for its key."""

    key: str
    name: str
    how: str


STOCK = Contender("stock", "stock Django", "a new connection for each request")
DJANGO = Contender(
    "django",
    "Django's pool",
    '"pool" in OPTIONS; with CONN_HEALTH_CHECKS, or it would lend dead connections',
)
OURS = Contender("ours", "django-connpool", "its engine, with the defaults of its options")

# In the order in which they come: ours stays for `--keep`.
ALL = {one.key: one for one in (STOCK, DJANGO, OURS)}


def absent(contender: Contender) -> str:
    """Why this one cannot take part; nothing if it can."""
    if contender is not DJANGO:
        return ""
    if django.VERSION < (5, 1):
        return f"Django {django.get_version()} has no pool of its own; 5.1 and later have"
    if importlib.util.find_spec("psycopg_pool") is None:
        return "Django's pool needs psycopg_pool: pip install -e '.[demo]'"
    return ""


def sized(database: dict[str, Any]) -> dict[str, Any]:
    """The settings of the database, with a pool of four unless they say something of its size."""
    options = database.get("OPTIONS", {})
    if not {"pool", "pool_max_size"} & set(options):
        options = {**options, "pool_max_size": 4}
    return {**database, "OPTIONS": options}
