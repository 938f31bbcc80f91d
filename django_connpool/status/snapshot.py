"""What this process says of itself when it is asked."""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any, cast

from django_connpool import registry, switchboard
from django_connpool.connection_pool import ConnectionPool
from django_connpool.status import origin
from django_connpool.status.document import VERSION, Pool, Process

# What a URL has before its host; what follows a word for a secret, perhaps as the next argument.
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/\s]+(?=@)")
_SECRET = re.compile(r"((?:passw(?:or)?d|secret|token)[=\s])[^\s&]+", re.IGNORECASE)


BEGAN = time.time()  # as a rule when the process did, or soon after


def take(started: float = BEGAN) -> Process:
    """What the pools of this process do now. Opens no connection and makes no pool."""
    return {
        "version": VERSION,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "command": command(getattr(sys, "argv", [])),
        "settings": os.environ.get("DJANGO_SETTINGS_MODULE", ""),
        "project": origin.project(),
        "started": started,
        "pools": [_pool(aliases, pool) for aliases, pool in registry.live()],
    }


def command(argv: list[str]) -> str:
    """The command line, short and without the credentials in it."""
    if not argv:
        return "python"
    program = Path(argv[0])
    # `python -m gunicorn` has the path of gunicorn/__main__.py here.
    name = program.parent.name if program.name == "__main__.py" else program.name
    shown = _URL_CREDENTIALS.sub("***", " ".join([name or "python", *argv[1:]]))
    return _SECRET.sub(r"\1***", shown)


def glance(aliases: tuple[str, ...], pool: ConnectionPool[Any]) -> Pool:
    """One pool, but for what takes time to find out."""
    return _with_aliases(aliases, pool, pool.glance())


def _pool(aliases: tuple[str, ...], pool: ConnectionPool[Any]) -> Pool:
    return _with_aliases(aliases, pool, pool.snapshot())


def _with_aliases(
    aliases: tuple[str, ...], pool: ConnectionPool[Any], found: dict[str, Any]
) -> Pool:
    alias = aliases[0] if aliases else pool.name
    found = {"alias": alias, "aliases": list(aliases), **found, **switchboard.of(pool)}
    return cast("Pool", found)
