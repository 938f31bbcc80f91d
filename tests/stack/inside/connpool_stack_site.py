"""What a package's own settings become: its databases are on our server, by the engine at hand."""

from __future__ import annotations

import json
import os
from typing import Any

CHOSEN: dict[str, Any] = json.loads(os.environ["CONNPOOL_STACK"])


def databases(theirs: dict[str, Any]) -> dict[str, Any]:
    """Their DATABASES, of which those that mean PostgreSQL are ours to say."""
    found = dict(theirs)
    for alias in CHOSEN["aliases"]:
        entry = {**CHOSEN["entry"], "NAME": f"{CHOSEN['entry']['NAME']}_{alias}"}
        test = dict(theirs[alias].get("TEST", {}))
        test.pop("NAME", None)
        found[alias] = {**entry, "TEST": test}
        kept = ("ATOMIC_REQUESTS", "AUTOCOMMIT", "TIME_ZONE", "CONN_HEALTH_CHECKS")
        found[alias].update({key: theirs[alias][key] for key in kept if key in theirs[alias]})
    return found


def changes(theirs: dict[str, Any]) -> dict[str, Any]:
    """All that is different from their settings."""
    changed = {"DATABASES": databases(theirs["DATABASES"]), **CHOSEN["settings"]}
    if CHOSEN["installed"]:
        changed["INSTALLED_APPS"] = ["django_connpool", *theirs["INSTALLED_APPS"]]
        if theirs.get("MIDDLEWARE"):
            ours = "django_connpool.middleware.ConnectionPoolMiddleware"
            changed["MIDDLEWARE"] = [ours, *theirs["MIDDLEWARE"]]
    return changed
