"""The pools that are compared, behind one interface."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any

import psycopg
import psycopg_pool
import sqlalchemy
from sqlalchemy.pool import QueuePool

from django_connpool import ConnectionPool

OURS = "django_connpool"


class Peer:
    """A pool under test: `borrow()` and `give(conn)`, as cheap as the pool itself allows."""

    name = ""
    borrow: Callable[[], Any]
    give: Callable[[Any], None]

    def close(self) -> None:
        raise NotImplementedError

    def warm(self, count: int) -> None:
        """Have `count` connections open and idle."""
        held = [self.borrow() for _ in range(count)]
        for conn in held:
            self.give(conn)


def slow(seconds: float) -> type[psycopg.Connection[Any]]:
    """A connection class that takes so much longer to connect."""

    class SlowConnection(psycopg.Connection[Any]):
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            time.sleep(seconds)
            return super().connect(*args, **kwargs)

    return SlowConnection


class Ours(Peer):
    name = OURS

    def __init__(self, dsn: str, size: int, connect_delay: float = 0, **options: Any) -> None:
        self.pool = ConnectionPool(
            dsn,
            connection_class=slow(connect_delay) if connect_delay else psycopg.Connection,
            min_size=0,
            max_size=size,
            kwargs={"autocommit": True},
            **options,
        )
        self.borrow, self.give = self.pool.getconn, self.pool.putconn

    def close(self) -> None:
        self.pool.close()


class PsycopgPool(Peer):
    name = "psycopg_pool"

    def __init__(self, dsn: str, size: int, connect_delay: float = 0, **options: Any) -> None:
        self.pool = psycopg_pool.ConnectionPool(
            dsn,
            connection_class=slow(connect_delay) if connect_delay else psycopg.Connection,
            min_size=0,
            max_size=size,
            kwargs={"autocommit": True},
            open=True,
            **options,
        )
        self.borrow, self.give = self.pool.getconn, self.pool.putconn

    def close(self) -> None:
        self.pool.close()


class CheckedPsycopgPool(PsycopgPool):
    name = "psycopg_pool, check"

    def __init__(self, dsn: str, size: int, **options: Any) -> None:
        super().__init__(dsn, size, check=psycopg_pool.ConnectionPool.check_connection, **options)


class SqlAlchemy(Peer):
    name = "QueuePool"

    def __init__(self, dsn: str, size: int, connect_delay: float = 0, **options: Any) -> None:
        chosen = slow(connect_delay) if connect_delay else psycopg.Connection
        self.pool = QueuePool(
            lambda: chosen.connect(dsn, autocommit=True),
            pool_size=size,
            max_overflow=0,
            reset_on_return=None,
        )
        self.borrow, self.give = self.pool.connect, lambda fairy: fairy.close()

    def close(self) -> None:
        self.pool.dispose()


PEERS: tuple[type[Peer], ...] = (Ours, PsycopgPool, SqlAlchemy)


def versions() -> str:
    return (
        f"psycopg {psycopg.__version__}, psycopg_pool {psycopg_pool.__version__}, "
        f"SQLAlchemy {sqlalchemy.__version__}"
    )


def quiet() -> None:
    """The peers' warnings about what the benchmark does to them on purpose."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
