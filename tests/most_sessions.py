"""How many sessions the server has, and has had at most, while a test lasts."""

from __future__ import annotations

import threading
import time
from typing import Any

import psycopg
from psycopg import sql

from tests.cluster import Server


class MostSessions:
    """A block in which a thread counts them. `most` is known when it has ended, `now` before."""

    def __init__(self, server: Server, column: str, value: str, pause: float = 0.005) -> None:
        """Those with that value in a column of pg_stat_activity; `pause` seconds between looks."""
        self.most = self.now = self.looks = 0
        self._pause = pause
        self._server = server
        query = sql.SQL("SELECT count(*) FROM pg_stat_activity WHERE {} = {}")
        self._query = query.format(sql.Identifier(column), sql.Literal(value))
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._count)

    def _count(self) -> None:
        with psycopg.connect(self._server.dsn(), autocommit=True) as conn:
            while not self._is_over.is_set():
                found: Any = conn.execute(self._query).fetchone()
                self.now = found[0]
                self.most = max(self.most, self.now)
                self.looks += 1
                time.sleep(self._pause)

    def __enter__(self) -> MostSessions:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        self._thread.join()
