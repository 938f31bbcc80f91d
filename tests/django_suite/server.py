"""The server for Django's suite: one with ICU, whose collations a few of its tests want."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import Cluster, Server

DEBIAN = Path("/usr/lib/postgresql")
SETTINGS = {"max_connections": "200", "shared_buffers": "64MB", "max_locks_per_transaction": "256"}


@contextmanager
def running() -> Iterator[tuple[Server, str]]:
    """Yield a server and a sentence that says which it is and why it was chosen."""
    url = os.environ.get("DATABASE_URL")
    if url:
        server = Server.from_url(url)
        yield server, f"the server of DATABASE_URL, {_describe(server)}"
        return
    programs = debian()
    if programs:
        with Cluster(programs=programs, locale="C.UTF-8", **SETTINGS) as cluster:
            yield cluster, f"a server of {programs}, {_describe(cluster)}"
        return
    with Cluster(**SETTINGS) as cluster:
        yield (
            cluster,
            f"the server in the wheel, as there is none in {DEBIAN}, {_describe(cluster)}",
        )


def has_icu(server: Server) -> bool:
    # Since PostgreSQL 17 there is one collation of this provider even where it was left out.
    return bool(server.execute("SELECT 1 FROM pg_collation WHERE collname = 'sv-x-icu'"))


def identity(server: Server) -> tuple[str, bool]:
    """Its version, and whether it has ICU."""
    ((version,),) = server.execute("SHOW server_version")
    return str(version), has_icu(server)


def has_extensions(server: Server) -> bool:
    """Whether it comes with PostgreSQL's own extensions."""
    return bool(server.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'bloom'"))


def _describe(server: Server) -> str:
    version, icu = identity(server)
    return f"PostgreSQL {version}, {'with' if icu else 'WITHOUT'} ICU"


def debian() -> Path | None:
    """The programs of the newest PostgreSQL that Debian's packages have installed."""
    found = [path.parent for path in DEBIAN.glob("*/bin/initdb")]
    return max(found, key=lambda path: int(path.parent.name), default=None)
