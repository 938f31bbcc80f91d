from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import Server
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import pid, pids_of, served, until
from tests.pool.real.tls import TLSFront, make_certificate

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")


@pytest.fixture
def front(cluster: Server, tmp_path: Path) -> Iterator[TLSFront]:
    if cluster.params()["host"].startswith("/"):
        pytest.skip("the server is reached through a Unix socket")
    with TLSFront(cluster, make_certificate(tmp_path)) as front:
        yield front


@pytest.fixture
def secure_dsn(cluster: Server, front: TLSFront) -> str:
    return cluster.dsn(host="127.0.0.1", port=front.port, sslmode="require")


def test_a_healthy_connection_is_lent_again_and_again(make_pool: MakePool, secure_dsn: str) -> None:
    pool = make_pool(secure_dsn, max_size=1)
    with pool.connection() as conn:
        assert conn.pgconn.ssl_in_use
        before = pid(conn)
    assert {served(pool) for _ in range(20)} == {before}


def test_what_the_server_says_to_an_idle_connection_does_not_cost_it(
    make_pool: MakePool, secure_dsn: str, cluster: Server
) -> None:
    pool = make_pool(secure_dsn, max_size=1, kwargs={"autocommit": True})
    with pool.connection() as conn:
        conn.execute("LISTEN somebody")
    before = pids_of(pool, 1)
    cluster.execute("NOTIFY somebody")
    assert pids_of(pool, 1) == before


def test_a_killed_one_is_never_seen(
    make_pool: MakePool, secure_dsn: str, cluster: Server, front: TLSFront, app: str
) -> None:
    pool = make_pool(secure_dsn, max_size=3)
    before: list[Any] = pids_of(pool, 3)
    cluster.terminate(application_name=app)
    until(lambda: front.serving == 0)  # their last words have arrived
    assert served(pool) not in {0, *before}
    assert not set(before) & set(pids_of(pool, 3))


def test_a_ping_is_answered(make_pool: MakePool, secure_dsn: str) -> None:
    pool = make_pool(secure_dsn, max_size=1, check="always")
    before = pids_of(pool, 1)
    assert pids_of(pool, 1) == before
    pool.check()
    assert pids_of(pool, 1) == before
