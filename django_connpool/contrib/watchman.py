"""For django-watchman: whether the pools can serve, from the process's memory.

    WATCHMAN_CHECKS = ["django_connpool.contrib.watchman.pools", "watchman.checks.storage"]

It borrows nothing and asks no server, which the package's own check of databases does.
"""

from __future__ import annotations

from typing import Any

from django_connpool import registry
from django_connpool.status import readiness
from django_connpool.status.snapshot import glance


def pools() -> dict[str, list[dict[str, dict[str, Any]]]]:
    """One entry for each pool that there is; a check in the form that watchman wants."""
    limits = readiness.Limits.from_settings()
    found = []
    for names, pool in registry.live():
        seen = glance(names, pool)
        trouble = readiness.judge(seen, limits)
        told = {"ok": True} if trouble is None else {"ok": False, "error": str(trouble)}
        found.append({seen["alias"]: told})
    return {"pools": found}
