"""Networks and servers that lie: nothing hangs past its bound, and no answer reaches another."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.cluster import Cluster, Server
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import Borrower, pid, pids_of, served, until, until_known
from tests.pool.real.tls import Authority, TLSFront
from tests.proxy import Cut, Proxy

AUTOCOMMIT = {"autocommit": True}
PATIENCE = 20.0  # seconds in which whatever is bounded ends


class Ledger:
    """A table in which each row tells of a statement that was executed."""

    def __init__(self, server: Server, name: str) -> None:
        self._server = server
        self.name = name
        server.execute(f"CREATE TABLE {name} (id int)")

    def rows(self) -> int:
        return int(self._server.execute(f"SELECT count(*) FROM {self.name}")[0][0])


@pytest.fixture
def ledger(cluster: Server, app: str) -> Iterator[Ledger]:
    made = Ledger(cluster, app.replace("-", "_"))
    yield made
    cluster.execute(f"DROP TABLE {made.name}")


class cut_once:
    """An `answer` that ends the next connection that is answered, after those bytes."""

    def __init__(self, last: Callable[[bytes], bytes]) -> None:
        self._last = last
        self.is_done = False

    def __call__(self, data: bytes) -> bytes:
        if self.is_done:
            return data
        self.is_done = True
        raise Cut(self._last(data))


def ready_pool(make_pool: MakePool, proxy: Proxy, **options: Any) -> Any:
    """A pool behind a network with two idle connections, whose server it knows."""
    pool = make_pool(proxy.dsn(), kwargs=AUTOCOMMIT, **options)
    until_known(pool)
    pids_of(pool, min(2, pool.max_size))
    until(lambda: not pool.snapshot()["closing"])
    return pool


def test_what_was_executed_and_never_answered_is_not_sent_again(
    make_pool: MakePool, proxy: Proxy, ledger: Ledger
) -> None:
    pool = ready_pool(make_pool, proxy)
    conn = pool.getconn()
    proxy.answer = cut_once(lambda data: b"")
    with pytest.raises(psycopg.OperationalError):
        conn.execute(f"INSERT INTO {ledger.name} VALUES (1)")
    lost = pid(conn) if not conn.closed else 0
    pool.putconn(conn)
    assert ledger.rows() == 1
    assert lost not in pids_of(pool, 2)


def test_a_reset_after_the_statement_was_sent_is_an_error_of_its_borrower_alone(
    make_pool: MakePool, proxy: Proxy, ledger: Ledger
) -> None:
    pool = ready_pool(make_pool, proxy)
    executed = threading.Event()

    def reset(data: bytes) -> bytes:
        proxy.answer = bytes
        executed.set()
        proxy.drop()
        return data

    proxy.answer = reset
    with pytest.raises(psycopg.OperationalError), pool.connection() as conn:
        conn.execute(f"INSERT INTO {ledger.name} VALUES (1)")
    assert executed.is_set()
    with pool.connection() as conn:
        assert conn.execute("SELECT 7").fetchone() == (7,)
    assert ledger.rows() == 1


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_an_answer_that_ends_in_the_middle_is_no_answer(
    make_pool: MakePool, proxy: Proxy, share: float
) -> None:
    pool = ready_pool(make_pool, proxy)
    conn = pool.getconn()
    proxy.answer = cut_once(lambda data: data[: int(len(data) * share)])
    with pytest.raises(psycopg.OperationalError):
        conn.execute("SELECT generate_series(1, 300)").fetchall()
    pool.putconn(conn)
    for number in range(4):
        with pool.connection() as conn:
            assert conn.execute("SELECT %s::int", [number]).fetchone() == (number,)


@pytest.mark.parametrize("length", [0, 1, 4, 5, 9, 20, 40])
def test_a_clean_up_whose_answer_ends_in_the_middle_costs_no_borrower(
    make_pool: MakePool, proxy: Proxy, length: int
) -> None:
    pool = ready_pool(make_pool, proxy, max_size=1)
    with pool.connection() as conn:
        conn.execute("SET search_path = pg_catalog")
        before = pid(conn)
        # At least a byte is missing: 40 can be all that there is.
        proxy.answer = cut = cut_once(lambda data: data[:-1][:length])
    with pool.connection() as conn:
        assert cut.is_done, f"nothing was answered before the loan: {pool.snapshot()}"
        assert conn.execute("SHOW search_path").fetchone() == ('"$user", public',)
        assert pid(conn) != before


@pytest.mark.parametrize("length", [0, 1, 5, 8, 10])  # of eleven bytes
def test_a_ping_whose_answer_ends_in_the_middle_costs_no_borrower(
    make_pool: MakePool, proxy: Proxy, length: int
) -> None:
    pool = ready_pool(make_pool, proxy, check="always")
    proxy.answer = cut_once(lambda data: data[:length])
    with pool.connection() as conn:
        assert conn.execute("SELECT 7").fetchone() == (7,)


def test_a_commit_whose_answer_is_lost_is_told_to_who_has_committed(
    make_pool: MakePool, proxy: Proxy, ledger: Ledger
) -> None:
    pool = make_pool(proxy.dsn())
    until_known(pool)
    conn = pool.getconn()
    conn.execute(f"INSERT INTO {ledger.name} VALUES (1)")
    proxy.answer = cut_once(lambda data: b"")
    with pytest.raises(psycopg.OperationalError):
        conn.commit()
    pool.putconn(conn)
    assert ledger.rows() == 1
    assert served(pool)


def test_the_answer_to_who_gave_up_reaches_nobody(make_pool: MakePool, proxy: Proxy) -> None:
    pool = ready_pool(make_pool, proxy, max_size=1)
    answered, go_on = threading.Event(), threading.Event()

    def hold(data: bytes) -> bytes:
        proxy.answer = bytes
        answered.set()
        go_on.wait(PATIENCE)
        return data

    conn = pool.getconn()
    proxy.answer = hold
    conn.pgconn.send_query(b"SELECT 'mine'")  # as who is interrupted before the answer leaves it
    assert answered.wait(PATIENCE)
    pool.putconn(conn)
    go_on.set()
    with pool.connection() as conn:
        assert conn.execute("SELECT 'yours'").fetchone() == ("yours",)


# -- One byte now and then ------------------------------------------------------------------


@pytest.mark.stress
def test_a_server_that_logs_in_byte_by_byte_is_given_up(make_pool: MakePool, proxy: Proxy) -> None:
    pool = make_pool(proxy.dsn(connect_timeout=2), timeout=PATIENCE, outage_patience=0)
    proxy.pace = 0.25
    waiting = Borrower(pool, PATIENCE)
    assert "timeout" in str(waiting.failed(PATIENCE)).lower()
    proxy.pace = 0.0
    assert until(lambda: served(pool))


@pytest.mark.stress
@pytest.mark.parametrize("what", ["ping", "clean-up"])
def test_what_the_pool_asks_itself_is_bounded_however_slowly_it_is_answered(
    make_pool: MakePool, proxy: Proxy, what: str
) -> None:
    pool = ready_pool(make_pool, proxy, check="always" if what == "ping" else "auto")
    with pool.connection() as conn:
        conn.execute("SELECT 1" if what == "ping" else "SET search_path = pg_catalog")
        before = pid(conn)
        proxy.pace = 0.9  # of eleven bytes at the least
    waiting = Borrower(pool, PATIENCE)
    until(lambda: pool.snapshot()["closing"] or pool.snapshot()["opening"])
    proxy.pace = 0.0
    assert waiting.got() != before
    waiting.give_back()


# -- Ways to a server -----------------------------------------------------------------------


def lends_and_mends(pool: Any, server: Server, app: str) -> None:
    """What is lent is used again, and what has died is found out."""
    first = pids_of(pool, 2)
    assert set(pids_of(pool, 2)) == set(first)
    server.terminate(application_name=app)
    assert not set(first) & set(pids_of(pool, 2))


@pytest.mark.e2e
def test_a_unix_socket(make_pool: MakePool, make_cluster: Any, app: str) -> None:
    cluster = make_cluster()
    pool = make_pool(cluster.dsn(host=cluster.socket_dir), command_timeout=5.0)
    lends_and_mends(pool, cluster, app)


class OnIPv6(Cluster):
    """A throwaway server on IPv6's loopback."""

    def _configure(self) -> None:
        super()._configure()
        with (self._data / "pg_hba.conf").open("a") as hba:
            hba.write("host all all ::1/128 trust\n")


def _has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.e2e
@pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 on this machine")
def test_ipv6(make_pool: MakePool, app: str) -> None:
    with OnIPv6(listen_addresses="127.0.0.1,::1") as cluster:
        pool = make_pool(cluster.dsn(host="::1"), command_timeout=5.0)
        lends_and_mends(pool, cluster, app)


def test_gss_is_off_or_refused_at_once(make_pool: MakePool, cluster: Server, app: str) -> None:
    lends_and_mends(make_pool(cluster.dsn(gssencmode="disable")), cluster, app)
    pool = make_pool(cluster.dsn(gssencmode="require"), timeout=600, outage_patience=600)
    with pytest.raises(psycopg.OperationalError):
        pool.getconn()


# -- Certificates ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    """Ours, which has signed for the server; and a stranger's."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command")
    folder = tmp_path_factory.mktemp("certificates")
    return Authority(folder / "ours"), Authority(folder / "strangers")


@pytest.fixture
def verified(
    cluster: Server, authorities: tuple[Authority, Authority], tmp_path: Path
) -> Iterator[dict[str, Any]]:
    """libpq's parameters of a server whose certificate is looked at, and which looks at ours."""
    if cluster.params()["host"].startswith("/"):
        pytest.skip("the server is reached through a Unix socket")
    ours, _ = authorities
    certificate, key = ours.sign("client")
    with TLSFront(cluster, *ours.sign("localhost"), ours.root) as front:
        yield {
            **{"host": "localhost", "port": front.port, "sslmode": "verify-full"},
            **{"sslrootcert": ours.root, "sslcert": certificate, "sslkey": key},
        }


@pytest.mark.e2e
def test_certificates_of_both_sides_are_looked_at(
    make_pool: MakePool, cluster: Server, verified: dict[str, Any], app: str
) -> None:
    pool = make_pool(cluster.dsn(**verified))
    with pool.connection() as conn:
        assert conn.pgconn.ssl_in_use
    lends_and_mends(pool, cluster, app)


@pytest.mark.e2e
@pytest.mark.parametrize("what", ["none", "a stranger's", "another root", "another name"])
def test_a_certificate_that_does_not_do_is_told_at_once(
    make_pool: MakePool,
    cluster: Server,
    verified: dict[str, Any],
    authorities: tuple[Authority, Authority],
    what: str,
) -> None:
    _, strangers = authorities
    if what == "a stranger's":
        certificate, key = strangers.sign("client")
        verified |= {"sslcert": certificate, "sslkey": key}
    verified |= {
        "none": {"sslcert": "/nonexistent"},
        "another root": {"sslrootcert": strangers.root},
        "another name": {"host": "127.0.0.1"},
    }.get(what, {})
    pool = make_pool(cluster.dsn(**verified), timeout=600, outage_patience=600)
    with pytest.raises(psycopg.OperationalError, match=r"certificate|alert"):
        pool.getconn()
