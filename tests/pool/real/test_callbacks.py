from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.pq import TransactionStatus

from django_connpool import PoolTimeout
from tests import inside
from tests.pool.real.conftest import MakePool
from tests.pool.real.fake_server import FakeServer
from tests.pool.real.helpers import (
    Borrower,
    holder_of,
    in_line,
    pid,
    pids_of,
    served,
    until,
    until_idle,
    until_known,
    until_waiting,
)

Logged = Callable[[str], list[str]]


def test_configure_runs_once_for_each_physical_connection(make_pool: MakePool) -> None:
    configured: list[int] = []
    pool = make_pool(configure=lambda conn: configured.append(pid(conn)))
    pids = pids_of(pool, 2)
    pids_of(pool, 2)
    assert sorted(configured) == sorted(pids)


def test_what_configure_sets_is_what_a_returned_session_goes_back_to(make_pool: MakePool) -> None:
    def configure(conn: Any) -> None:
        conn.autocommit = True

    pool = make_pool(max_size=1, configure=configure)
    with pool.connection() as conn:
        conn.autocommit = False
        conn.read_only = True
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    with pool.connection() as conn:
        assert (conn.autocommit, conn.read_only, conn.isolation_level) == (True, None, None)


def test_a_connection_whose_configure_raises_is_closed_and_the_next_one_is_tried(
    make_pool: MakePool, backends: Callable[[], int], logged: Logged
) -> None:
    failures = [RuntimeError("not today")]

    def configure(conn: Any) -> None:
        if failures:
            raise failures.pop()

    pool = make_pool(configure=configure)
    with pytest.raises(RuntimeError, match="not today"):
        pool.getconn()
    assert backends() == 0
    # The thread that tried writes the line after it has told the borrower.
    until(lambda: logged("connecting failed: not today"))
    assert until(lambda: served(pool))
    assert backends() == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_configure_that_ends_its_thread_is_tried_again(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    exits = [SystemExit(), SystemExit()]

    def configure(conn: Any) -> None:
        if exits:
            raise exits.pop()

    pool = make_pool(max_size=1, configure=configure)
    assert len(pids_of(pool, 1)) == 1
    assert backends() == 1
    assert pool.get_stats()["connections_errors"] == 2


def test_a_connection_that_configure_leaves_in_a_transaction_is_closed(
    make_pool: MakePool, backends: Callable[[], int], logged: Logged
) -> None:
    pool = make_pool(configure=lambda conn: conn.execute("SELECT 1"))
    with pytest.raises(psycopg.ProgrammingError, match="INTRANS"):
        pool.getconn()
    assert backends() == 0
    until(lambda: logged("INTRANS"))


def test_reset_runs_at_each_return_and_never_on_a_new_connection(make_pool: MakePool) -> None:
    resets: list[int] = []
    pool = make_pool(max_size=1, reset=lambda conn: resets.append(pid(conn)))
    conn = pool.getconn()
    assert resets == []
    pool.putconn(conn)
    pids_of(pool, 1)
    assert resets == [pid(conn)] * 2


def test_reset_always_forgets_what_a_borrower_set_on_the_server(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, reset="always")
    with pool.connection() as conn:
        before = pid(conn)
        conn.execute("SET search_path TO nowhere")
        for _ in range(6):
            conn.execute("SELECT %s::int", [1])
    with pool.connection() as conn:
        assert pid(conn) == before
        assert conn.execute("SHOW search_path").fetchone() == ('"$user", public',)
        for _ in range(6):
            conn.execute("SELECT %s::int", [1])


@pytest.mark.parametrize("how", ["raises", "leaves a transaction open"])
def test_a_session_whose_reset_fails_is_replaced(
    make_pool: MakePool, logged: Logged, how: str
) -> None:
    def reset(conn: Any) -> None:
        conn.execute("SELECT 1")
        if how == "raises":
            raise RuntimeError("not today")

    pool = make_pool(max_size=1, reset=reset)
    first, second = pids_of(pool, 1), pids_of(pool, 1)
    assert first != second
    assert logged("cleaning a session failed")


def test_a_connection_that_fails_its_check_is_never_seen(
    make_pool: MakePool, logged: Logged
) -> None:
    refused: list[int] = []

    def check(conn: Any) -> None:
        if pid(conn) in refused:
            raise RuntimeError("not this one")

    pool = make_pool(max_size=1, check=check)
    refused += pids_of(pool, 1)
    assert pids_of(pool, 1) != refused
    assert logged("failed its check: not this one")


def test_a_check_is_asked_before_every_loan_of_new_connections_too(make_pool: MakePool) -> None:
    asked: list[int] = []
    pool = make_pool(max_size=2, check=lambda conn: asked.append(pid(conn)))
    lent = [pids_of(pool, 1)[0] for _ in range(20)]
    assert asked == lent


def test_a_check_is_asked_before_every_loan_of_those_in_line_too(make_pool: MakePool) -> None:
    asked: list[int] = []
    pool = make_pool(max_size=1, check=lambda conn: asked.append(pid(conn)))
    holder = holder_of(pool)
    waiters = in_line(pool, 3)
    for borrower in (holder, *waiters):
        assert borrower.got() == asked[-1]
        borrower.give_back()
    assert len(asked) == 4


def test_always_asks_those_in_line_too(
    make_pool: MakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = inside.pings(monkeypatch)
    pool = make_pool(max_size=1, check="always")
    until_known(pool)  # a session that is cleaned needs no ping
    holder = holder_of(pool)
    waiter = Borrower(pool)
    until_waiting(pool, 1)
    before = len(asked)
    holder.give_back()
    waiter.got()
    assert len(asked) == before + 1
    waiter.give_back()


def test_a_new_connection_that_is_refused_by_its_check_is_followed_by_another(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    seen: list[int] = []

    def check(conn: Any) -> None:
        seen.append(pid(conn))
        if len(seen) < 4:
            raise LookupError("not this one")

    pool = make_pool(max_size=1, check=check)
    assert served(pool) == seen[3]
    assert len(set(seen)) == 4
    assert pool.snapshot()["last_error"] is None
    assert backends() == 1


def test_a_check_that_refuses_everything_is_the_cause_of_the_timeout(
    make_pool: MakePool, logged: Logged
) -> None:
    errors = [LookupError(f"not number {number}") for number in range(1000)]
    raised: list[Exception] = []

    def check(conn: Any) -> None:
        raised.append(errors[len(raised)])
        raise raised[-1]

    pool = make_pool(check=check)
    with pytest.raises(PoolTimeout, match="the check of a new connection: not number") as caught:
        pool.getconn(timeout=0.5)
    assert caught.value.__cause__ is raised[-1]
    # With pauses that grow: no storm of connections that nobody will use.
    assert len(raised) < 10


def test_connections_that_are_refused_do_not_keep_others_from_those_who_wait(
    make_pool: MakePool,
) -> None:
    mode = ["serve"]

    def check(conn: Any) -> None:
        if mode == ["refuse"]:
            raise LookupError("not now")

    pool = make_pool(max_size=2, check=check)
    holder = holder_of(pool)
    mode[0] = "refuse"
    waiter = Borrower(pool)
    until(lambda: pool.snapshot()["last_error"])
    mode[0] = "serve"
    waiter.got()
    assert pool.snapshot()["last_error"] is None
    for borrower in (holder, waiter):
        borrower.give_back()


def test_a_check_may_leave_a_transaction_behind(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, check=lambda conn: conn.execute("SELECT 1"))
    before = pids_of(pool, 1)
    with pool.connection() as conn:
        assert [pid(conn)] == before
        assert conn.info.transaction_status == TransactionStatus.IDLE


@pytest.mark.parametrize("autocommit", [True, False])
def test_check_connection_of_the_pool_can_be_the_check(
    make_pool: MakePool, cluster: Any, app: str, autocommit: bool
) -> None:
    pool = make_pool(max_size=2, kwargs={"autocommit": autocommit})
    inside.change(pool, check=pool.check_connection, ping_after=0.0)
    before = pids_of(pool, 2)
    assert sorted(pids_of(pool, 2)) == sorted(before)
    cluster.terminate(application_name=app)
    assert not set(pids_of(pool, 2)) & set(before)


@pytest.mark.parametrize("reset", ["auto", "always", lambda conn: None])
def test_checking_the_pool_keeps_what_is_good_and_replaces_what_is_not(
    make_pool: MakePool, cluster: Any, reset: Any
) -> None:
    pool = make_pool(min_size=3, max_size=3, reset=reset)
    pool.wait()
    before = sorted(pids_of(pool, 3))
    pool.check()
    assert sorted(pids_of(pool, 3)) == before
    cluster.terminate(before[0])
    pool.check()
    until_idle(pool, 3)
    assert before[0] not in pids_of(pool, 3)


def test_connection_parameters_may_come_from_functions_asked_each_time(
    make_pool: MakePool, dsn: str
) -> None:
    names = iter(["one", "two"])
    pool = make_pool(lambda: dsn, kwargs=lambda: {"application_name": next(names)}, max_size=1)
    seen = []
    for _ in range(2):
        with pool.connection() as conn:
            seen.append(conn.info.parameter_status("application_name"))
        pool.drain()
    assert seen == ["one", "two"]


def test_parameters_that_cannot_be_had_fail_the_borrower_and_are_asked_for_again(
    make_pool: MakePool, dsn: str
) -> None:
    failures: list[Exception] = [LookupError("no secret")]

    def conninfo() -> str:
        if failures:
            raise failures.pop()
        return dsn

    pool = make_pool(conninfo)
    with pytest.raises(LookupError, match="no secret"):
        pool.getconn()
    assert until(lambda: served(pool))


def test_reconnect_failed_is_called_once_for_each_outage(
    make_pool: MakePool, fake_server: FakeServer, dsn: str
) -> None:
    where, calls = [fake_server.dsn()], []
    fake_server.refusal = ("28000", "go away")
    pool = make_pool(
        lambda: where[0], min_size=1, reconnect_timeout=0.05, reconnect_failed=calls.append
    )
    until(lambda: calls)
    attempts = fake_server.attempts
    until(lambda: fake_server.attempts >= attempts + 2)
    where[0] = dsn
    until_idle(pool, 1)
    assert calls == [pool]
    where[0] = fake_server.dsn()
    pool.drain()
    until(lambda: len(calls) == 2)


def test_a_reconnect_failed_that_raises_is_logged_and_retries_go_on(
    make_pool: MakePool, fake_server: FakeServer, logged: Logged
) -> None:
    def fail(pool: Any) -> None:
        raise RuntimeError("and no mail either")

    fake_server.refusal = ("28000", "go away")
    make_pool(fake_server.dsn(), min_size=1, reconnect_timeout=0, reconnect_failed=fail)
    until(lambda: fake_server.attempts >= 3)
    assert logged("reconnect_failed")
