"""What a package's own settings become: its databases are on our server, by the engine at hand."""

from __future__ import annotations

import json
import os
from typing import Any

CHOSEN: dict[str, Any] = json.loads(os.environ["CONNPOOL_STACK"])
KEPT = {"ATOMIC_REQUESTS", "AUTOCOMMIT", "CONN_HEALTH_CHECKS", "TIME_ZONE"}
MIDDLEWARE = "django_connpool.middleware.ConnectionPoolMiddleware"


def databases(theirs: dict[str, Any]) -> dict[str, Any]:
    """Their DATABASES, with PostgreSQL as chosen; those of other servers are left out."""
    found = {alias: one for alias, one in theirs.items() if one["ENGINE"].endswith(".sqlite3")}
    for alias in CHOSEN["aliases"]:
        entry = {**CHOSEN["entry"], "NAME": f"{CHOSEN['entry']['NAME']}_{alias}"}
        kept = {key: value for key, value in theirs[alias].items() if key in KEPT}
        if said := theirs[alias].get("OPTIONS", {}).get("options"):  # of the server's
            entry["OPTIONS"] = {**entry["OPTIONS"], "options": said}
        test = {key: value for key, value in theirs[alias].get("TEST", {}).items() if key != "NAME"}
        found[alias] = {**entry, **kept, "TEST": test}
    return found


def changes(theirs: dict[str, Any]) -> dict[str, Any]:
    """All that is different from their settings: ours is installed as README tells it."""
    changed = {"DATABASES": databases(theirs["DATABASES"]), **CHOSEN["settings"]}
    if CHOSEN["installed"] and "INSTALLED_APPS" in theirs:
        changed["INSTALLED_APPS"] = ["django_connpool", *theirs["INSTALLED_APPS"]]
    if CHOSEN["installed"] and theirs.get("MIDDLEWARE"):
        changed["MIDDLEWARE"] = [MIDDLEWARE, *theirs["MIDDLEWARE"]]
    return changed
