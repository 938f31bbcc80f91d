"""However connections come and go, the server never sees more of them than `max_size`."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest

from tests import inside
from tests.cluster import Cluster
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import until

SLOTS = 6
SECONDS = 2.5


@pytest.fixture(scope="module")
def narrow_cluster() -> Iterator[Cluster]:
    """A server with one connection for the observer and `SLOTS` for the pool."""
    with Cluster(max_connections=SLOTS + 1, superuser_reserved_connections=0) as started:
        yield started


class Observer:
    """Counts the pool's connections on the server, over and over, from one of its own."""

    def __init__(self, cluster: Cluster, app: str) -> None:
        self.most = 0
        self._app = app
        self._stop = threading.Event()
        self._conn = psycopg.connect(cluster.dsn(application_name="observer"), autocommit=True)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        count = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        while not self._stop.is_set():
            row = self._conn.execute(count, [self._app]).fetchone()
            assert row is not None
            self.most = max(self.most, row[0])

    def end(self) -> int:
        self._stop.set()
        self._thread.join()
        self._conn.close()
        return self.most


def give_back(pool: Any, conn: Any) -> None:
    pool.putconn(conn)


def close_and_give_back(pool: Any, conn: Any) -> None:
    conn.close()
    pool.putconn(conn)


def drop(pool: Any, conn: Any) -> None:
    conn.commit()


def give_back_busy(pool: Any, conn: Any) -> None:
    conn.rollback()
    conn.pgconn.send_query(b"SELECT pg_sleep(1)")
    pool.putconn(conn)


def break_it(pool: Any, conn: Any) -> None:
    with pytest.raises(psycopg.OperationalError):
        conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")
    pool.putconn(conn)


def resize(pool: Any, conn: Any) -> None:
    pool.resize(0, SLOTS - 1)
    pool.putconn(conn)
    pool.resize(0, SLOTS)


def drain(pool: Any, conn: Any) -> None:
    pool.drain()
    pool.putconn(conn)


def at_rest(seen: dict[str, Any]) -> bool:
    return bool(seen["size"] == seen["idle"])


CHURN = {
    "uses": [give_back],
    "closing": [give_back, close_and_give_back],
    "dropping": [give_back, drop],
    "busy": [give_back, give_back_busy],
    "breaking": [give_back, break_it],
    "all": [give_back, close_and_give_back, drop, give_back_busy, break_it, resize, drain],
}


@pytest.mark.stress
@pytest.mark.parametrize("churn", CHURN)
def test_the_server_never_sees_more_than_max_size_and_refuses_nobody(
    make_pool: MakePool, narrow_cluster: Cluster, app: str, churn: str
) -> None:
    observer = Observer(narrow_cluster, app)
    pool = make_pool(narrow_cluster.dsn(), max_size=SLOTS, max_uses=3, timeout=30)
    errors: list[BaseException] = []
    rounds = itertools.count()
    give_up = time.monotonic() + (SECONDS if churn == "all" else SECONDS / 2)

    def work(seed: int) -> None:
        chosen = random.Random(seed)
        try:
            while time.monotonic() < give_up:
                conn = pool.getconn()
                conn.execute("SELECT 1")
                chosen.choice(CHURN[churn])(pool, conn)
                del conn
                next(rounds)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert observer.end() <= SLOTS
    assert not errors, errors
    stats = pool.get_stats()
    assert stats["connections_errors"] == 0
    assert stats["connections_num"] > 2 * SLOTS
    assert next(rounds) > 4 * SLOTS
    until(lambda: at_rest(pool.snapshot()))


@pytest.mark.stress
def test_a_configure_that_fails_does_not_exceed_max_size(
    make_pool: MakePool,
    narrow_cluster: Cluster,
    app: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside.tune(monkeypatch, first_retry=0)
    observer = Observer(narrow_cluster, app)
    attempts, failures = itertools.count(1), itertools.count()

    def configure(conn: Any) -> None:
        if next(attempts) % 4 == 0:
            next(failures)
            raise RuntimeError("not today")

    pool = make_pool(narrow_cluster.dsn(), max_size=SLOTS, max_uses=1, configure=configure)
    give_up = time.monotonic() + SECONDS / 2

    def work() -> None:
        while time.monotonic() < give_up:
            with suppress(RuntimeError), pool.connection() as conn:
                conn.execute("SELECT 1")

    threads = [threading.Thread(target=work, daemon=True) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert observer.end() <= SLOTS
    until(lambda: at_rest(pool.snapshot()))
    # The server itself has refused nobody.
    failed = next(failures)
    assert failed > SLOTS
    assert pool.get_stats()["connections_errors"] == failed
