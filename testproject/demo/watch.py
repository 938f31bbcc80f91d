"""The site's connections, as the server counts them."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
from django.db import connections

from . import interrupts
from .site import APPLICATION_NAME

SAMPLE_SECONDS = 0.02
SETTLE_SECONDS = 10
OLDEST_SERVER = 150000

OPEN = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = %s
"""
OPENED = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"


class WatchError(RuntimeError):
    """The server cannot tell what the demo asks it."""


class ServerWatch:
    """
    Counts the connections the site has and opens, over a connection of its own.

    Context manager: a thread looks every SAMPLE_SECONDS until the block ends. ``most`` is the most
    it saw at once; ``opened()`` is exact, but only when the site is down.
    """

    def __init__(self) -> None:
        self.most = 0
        self._connection = connect()
        self._before = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="server-watch", daemon=True)

    def __enter__(self) -> ServerWatch:
        # Our own session is not in the sum until it is reported.
        self._connection.execute("SELECT pg_stat_force_next_flush()")
        self._before = self._number(OPENED)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stopped.set()
        self._thread.join()
        self._connection.close()

    def opened(self) -> int:
        """Connections opened to the database since the start but this one. Raises Interrupted."""
        # A session is in the sum when it has ended.
        deadline = time.monotonic() + SETTLE_SECONDS
        while self._open() and time.monotonic() < deadline:
            interrupts.pause()
        return self._number(OPENED) - self._before

    def _look(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            self.most = max(self.most, self._open())

    def _open(self) -> int:
        return self._number(OPEN, APPLICATION_NAME)

    def _number(self, query: str, *parameters: object) -> int:
        row = self._connection.execute(query, parameters).fetchone()
        return int(row[0]) if row else 0


def connect() -> psycopg.Connection[Any]:
    """A connection to the site's database that no pool knows. Raises WatchError."""
    parameters = connections["default"].get_connection_params()
    # Those of Django's cursors: plain tuples and psycopg's own types will do here.
    for name in ("context", "cursor_factory"):
        parameters.pop(name, None)
    try:
        connection = psycopg.connect(**parameters, autocommit=True, connect_timeout=5)
    except psycopg.OperationalError as error:
        raise WatchError(f"The database does not answer: {error}") from error
    if connection.info.server_version < OLDEST_SERVER:
        connection.close()
        raise WatchError("The demo counts with what PostgreSQL has since version 15.")
    return connection
