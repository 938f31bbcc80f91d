from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg

from django_connpool.status import activity, sides
from django_connpool.status.collect import Collected
from django_connpool.status.report import Report
from tests.cluster import Cluster
from tests.databases import Databases
from tests.status.samples import loan, pool, process, wait_until


def session(pid: int, **changes: Any) -> dict[str, Any]:
    return {
        "pid": pid,
        "database": "shop",
        "role": "web",
        "application": "",
        "client": "10.0.0.1",
        "state": "idle",
        "transaction": None,
        **changes,
    }


def told(*sessions: Any, started: str = "today", **changes: Any) -> dict[str, Any]:
    return {
        "database": "shop",
        "version": "18.0",
        "max_connections": 100,
        "reserved": 3,
        "total": len(sessions),
        "in_database": len(sessions),
        "states": {},
        "states_in_database": {},
        "started": started,
        "role": "web",
        "role_limit": -1,
        "database_limit": -1,
        "sessions": list(sessions),
        **changes,
    }


def report(*processes: Any, **server: Any) -> Report:
    return Report(Collected(list(processes)), server)


def test_the_connection_that_listens_is_ours() -> None:
    mine = process(pools=[pool(backends=[11], listening={"backend_pid": 12})])
    found = told(session(11), session(12), session(13))

    ours, foreign = sides.split(report(mine, default=found), ["default"], found)
    assert [one["pid"] for one in ours] == [11, 12]
    assert [one["pid"] for one in foreign] == [13]


def test_ours_and_foreign_sessions_stand_side_by_side() -> None:
    found = told(
        session(11, state="active"),
        session(12),
        session(13, application="psql", client="here", state="idle in transaction")
        | {"transaction": 75.0, "role": "bob"},
        session(14, application="psql", client="here", role="bob"),
    )
    mine = process(pools=[pool(backends=[11, 12, 99])])
    assert sides.render(report(mine, default=found), 100).splitlines() == [
        "sessions of the server of 'default'",
        "  STATE                OURS  FOREIGN",
        "  active                  1        0",
        "  idle                    1        1",
        "  idle in transaction     0        1",
        "  all                     2        2",
        "  foreign: 2 of psql as bob in shop from here, in a transaction for 1m 15s",
    ]


def locks(*sessions: Any) -> list[str]:
    mine = process(pools=[pool(backends=[11, 12, 13])])
    shown = sides.render(report(mine, default=told(*sessions)), 200)
    return [line.strip() for line in shown.splitlines() if " lock of " in line]


def test_whose_lock_the_pools_wait_for_is_told_by_its_pid() -> None:
    psql = session(20, application="psql", state="idle in transaction", transaction=75.0)
    queue = [session(11, blocked_by=[20]), session(12, blocked_by=[11, 20])]
    assert locks(psql, *queue, session(30, blocked_by=[20])) == [
        "2 sessions of ours wait for a lock of backend 20, foreign: psql as web in shop from "
        "10.0.0.1; idle in transaction, transaction of 1m 15s"
    ]
    own = session(13, state="active", transaction=None)
    assert locks(own, session(11, blocked_by=[13])) == [
        "1 session of ours waits for a lock of backend 13, a loan; active"
    ]


def test_who_waits_for_somebody_that_is_not_there_or_in_a_ring_ends_nothing() -> None:
    assert locks(session(11, blocked_by=[99])) == [
        "1 session of ours waits for a lock of backend 99"
    ]
    assert locks(session(11, blocked_by=[12]), session(12, blocked_by=[11])) == []


def test_a_real_server_tells_who_waits_for_whom(make_cluster: Callable[..., Cluster]) -> None:
    server = make_cluster()
    with psycopg.connect(server.dsn()) as first, psycopg.connect(server.dsn()) as second:
        first.execute("CREATE TABLE things ()")
        first.commit()
        first.execute("LOCK TABLE things")
        waiter = threading.Thread(target=second.execute, args=["TABLE things"])
        waiter.start()

        class Wrapper:
            def get_connection_params(self) -> dict[str, Any]:
                return server.params()

        def blocked() -> dict[int, list[int]]:
            found: Any = activity.ask(Wrapper(), details=True)  # type: ignore[arg-type]
            return {
                one["pid"]: one["blocked_by"] for one in found["sessions"] if "blocked_by" in one
            }

        try:
            wait_until(lambda: bool(blocked()))
            assert blocked() == {second.info.backend_pid: [first.info.backend_pid]}
        finally:
            first.rollback()
            waiter.join()


def test_aliases_of_one_server_are_one_and_a_pid_of_another_server_is_no_session_of_ours() -> None:
    server = {
        "default": told(session(11)),
        "reports": told(session(11)),
        "archive": told(session(11), started="yesterday"),
    }
    shown = sides.render(report(process(pools=[pool(backends=[11])]), **server), 100)
    assert (
        "the server of 'default', 'reports'\n  STATE  OURS  FOREIGN\n  idle      1        0"
        in shown
    )
    assert "the server of 'archive'\n  STATE  OURS  FOREIGN\n  idle      0        1" in shown


def test_of_an_earlier_version_the_loans_are_known() -> None:
    old = process(pools=[pool(loans=[loan(backend_pid=11)])])
    ours, foreign = sides.split(report(old), ["default"], told(session(11), session(12)))  # type: ignore[arg-type]
    assert ([one["pid"] for one in ours], [one["pid"] for one in foreign]) == ([11], [12])


def test_many_clients_are_counted_and_none_writes_to_the_terminal() -> None:
    found = told(*(session(pid, application=f"\x1b[2J{pid}") for pid in range(15)))
    shown = sides.render(report(default=found), 100)
    assert "\x1b" not in shown
    assert shown.endswith("  foreign: 5 more clients")


def test_a_server_that_did_not_say_is_passed_over() -> None:
    assert sides.render(report(default={"error": "it is down"}), 100) == ""


def test_a_real_server_tells_them_apart(
    make_cluster: Callable[..., Cluster], databases: Databases
) -> None:
    server = make_cluster()
    wrapper = databases.add("spare", pool={"max_size": 2}, server=server)
    conn = wrapper.pool.getconn()
    with psycopg.connect(server.dsn(application_name="a report"), autocommit=True):
        wait_until(lambda: server.backends() == 2)
        found = activity.ask(wrapper, details=True)
    seen: Any = {"pools": [{**wrapper.pool.snapshot(), "aliases": ["spare"]}]}
    ours, foreign = sides.split(Report(Collected([seen])), ["spare"], found)  # type: ignore[arg-type]
    assert [one["pid"] for one in ours] == [conn.info.backend_pid]
    assert [one["application"] for one in foreign] == ["a report"]
    wrapper.pool.putconn(conn)


def test_the_text_of_a_query_is_not_asked_for(make_cluster: Callable[..., Cluster]) -> None:
    server = make_cluster()
    with psycopg.connect(server.dsn(), autocommit=True) as busy:
        busy.execute("SELECT 'a secret'")

        class Wrapper:
            def get_connection_params(self) -> dict[str, Any]:
                return server.params()

        found = activity.ask(Wrapper(), details=True)  # type: ignore[arg-type]
    assert len(found["sessions"]) == 1  # type: ignore[typeddict-item]
    assert "secret" not in str(found)
