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
END_ALL = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND application_name = %s
"""


class WatchError(RuntimeError):
    """The server cannot tell what the demo asks it."""


class ServerWatch:
    """
    Counts the connections the site has and opens, over a connection of its own.

    Context manager: a thread looks every SAMPLE_SECONDS until the block ends, also after a restart
    of the server. ``most`` is the most it saw at once; ``opened()`` is exact, but only when the
    site is down.
    """

    def __init__(self) -> None:
        self.most = 0
        self._connection = connect()
        self._own = 0  # connections of its own since the start
        self._before = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, name="server-watch", daemon=True)

    def __enter__(self) -> ServerWatch:
        # Our own session is not in the sum until it is reported.
        self._connection.execute("SELECT pg_stat_force_next_flush()")
        self._before = _number(self._connection, OPENED)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()
        self._connection.close()

    def opened(self) -> int:
        """
        Connections opened to the database since the start but its own.

        Looks no more after this. Raises Interrupted and WatchError.
        """
        self._stop()
        # A session is in the sum when it has ended.
        deadline = time.monotonic() + SETTLE_SECONDS
        try:
            while self._open() and time.monotonic() < deadline:
                interrupts.pause()
            self._connection.execute("SELECT pg_stat_force_next_flush()")
            return _number(self._connection, OPENED) - self._before - self._own
        except psycopg.OperationalError as error:
            raise WatchError(f"The database does not answer: {error}") from error

    def end_all(self) -> int:
        """End the site's connections as the server's administrator can; how many there were."""
        return _number(self._connection, END_ALL, APPLICATION_NAME)

    def _stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stopped.wait(SAMPLE_SECONDS):
            try:
                self.most = max(self.most, self._open())
            except psycopg.OperationalError:
                self._come_back()

    def _come_back(self) -> None:
        self._connection.close()
        try:
            self._connection = connect()
        except WatchError:
            return  # the server is still away
        self._own += 1

    def _open(self) -> int:
        return _number(self._connection, OPEN, APPLICATION_NAME)


def _number(connection: psycopg.Connection[Any], query: str, *parameters: object) -> int:
    row = connection.execute(query, parameters).fetchone()
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
