from __future__ import annotations

from typing import Any

from django_connpool.status import table
from django_connpool.status.collect import Collected, Silence
from django_connpool.status.report import Report
from tests.status.samples import loan, pool, process

SERVER = {
    "database": "shop",
    "version": "18.0",
    "max_connections": 100,
    "reserved": 3,
    "total": 9,
    "in_database": 8,
    "states": {"idle": 7, "active": 2},
    "states_in_database": {"idle": 6, "active": 1, "idle in transaction": 1},
}


def report(*processes: Any, silent: Any = (), server: Any = None) -> Report:
    return Report(Collected(list(processes), list(silent)), server or {})


def test_a_site_at_work() -> None:
    loans = [
        loan(held=0.012, note=None, thread="MainThread", backend_pid=913, transaction="IDLE")
        | {"offered": True},
        loan(held=75.0, transaction="INTRANS"),
    ]
    shown = table.render(
        report(
            process(pools=[pool(loans=loans), pool(aliases=["reports", "archive"], waiting=0)]),
            process(pid=12, pools=[pool(longest_wait=0.0, waiting=0)]),
            silent=[Silence(99, "did not answer within 2 s")],
            server={"default": SERVER, "reports": {"error": "connection refused"}},
        )
    )
    assert shown.splitlines() == [
        "POOL                    OPEN/MAX  IN USE  OFFERED  IDLE  WAITING  LONGEST"
        "  BORROWS  TIMEOUTS  OPENED  LOST",
        "pid 4711  gunicorn shop.wsgi --workers 2",
        "  default                   4/10       2        1     1        2   250 ms"
        "    10231         4      12     2",
        "    on loan 1m 15s  backend 4801  in transaction  ThreadPoolExecutor-0_3"
        "  GET /shop/orders/",
        "    offered  12 ms  backend 913   idle            MainThread              no request",
        "  reports, archive          4/10       2        1     1        0   250 ms"
        "    10231         4      12     2",
        "pid 12  gunicorn shop.wsgi --workers 2",
        "  default                   4/10       2        1     1        0        -"
        "    10231         4      12     2",
        "2 processes, 3 pools       12/30       6        3     3        2   250 ms"
        "    30693        12      36     6",
        "",
        "pid 99 did not answer within 2 s",
        "",
        "server of 'default': 9 of 100 connections (3 reserved), 8 in 'shop':"
        " 6 idle, 1 active, 1 idle in transaction",
        "server of 'reports' did not say: connection refused",
    ]


LISTENING: dict[str, Any] = {
    **{"channels": ["a", "b"], "listeners": 2, "backend_pid": 7, "lost": None, "error": None},
    "counts": False,
}


def test_who_listens_beside_a_pool_is_shown() -> None:
    def line(**changes: Any) -> str:
        shown = table.render(report(process(pools=[pool(listening=LISTENING | changes)])))
        return shown.splitlines()[3].strip()

    lost = {"backend_pid": None, "lost": 75.0, "error": "no\nroute"}
    assert line() == "beside the pool: backend 7 for 2 listeners to a, b"
    assert line(counts=True) == "in the pool: backend 7 for 2 listeners to a, b"
    assert line(**lost) == "beside the pool: 2 listeners without a connection for 1m 15s: no route"
    assert line(backend_pid=None) == "beside the pool: 2 listeners without a connection"
    assert "\x1b" not in line(channels=["\x1b[31m"])


def test_long_commands_and_paths_are_shortened_to_the_width() -> None:
    long = process(
        command="gunicorn " + "--option " * 30,
        pools=[pool(loans=[loan(note="GET /" + "x" * 300, thread="t" * 80)])],
    )
    for width in (80, 100, 120):
        lines = table.render(report(long), width).splitlines()
        assert len(lines[1]) == len(lines[3]) == width
        assert lines[1].endswith("...")
        assert lines[3].endswith("...")


def test_what_keeps_a_loan_is_told_whole_below_it() -> None:
    kept = loan(note="GET /" + "x" * 300, pinned="in a transaction, autocommit was switched")
    shown = table.render(report(process(pools=[pool(loans=[kept])])), 80).splitlines()
    assert shown[4] == "        pinned: in a transaction, autocommit was switched"


def test_the_line_of_a_loan_stands_below_it() -> None:
    lines = {"taken_at": "/srv/shop/orders/views.py:12 in checkout", "at": None}
    far = "/srv/" + "x" * 200 + "/orders/views.py:13 in checkout"
    loans = [loan(**lines, held=2.0), loan(at=far, held=1.0)]
    shown = table.render(report(process(pools=[pool(loans=loans)])), 80).splitlines()
    assert shown[4] == "        taken at /srv/shop/orders/views.py:12 in checkout"
    assert shown[6].startswith("        at ...xx")
    assert shown[6].endswith("xx/orders/views.py:13 in checkout")
    assert len(shown[6]) == 80


def test_a_loan_of_an_earlier_version_has_no_line() -> None:
    old = loan()
    del old["at"], old["taken_at"]
    assert "  at " not in table.render(report(process(pools=[pool(loans=[old])])))


def test_a_path_cannot_write_to_the_terminal() -> None:
    evil = process(command="\x1b[2J", pools=[pool(loans=[loan(note="GET /\x1b[31m\n")])])
    shown = table.render(report(evil))
    assert "\x1b" not in shown
    assert "GET /?[31m?" in shown


def test_unusual_states_of_a_pool_are_named() -> None:
    tired = pool(
        suspended=True, closed=True, opening=2, closing=1, last_error="refused\n\tIs it running?"
    )
    shown = table.render(report(process(pools=[tired])))
    assert "    closed, suspended, 2 opening, 1 closing\n" in shown
    assert "    last error: refused Is it running?\n" in shown


def test_a_process_without_pools_says_so() -> None:
    assert "  no pool open\n" in table.render(report(process(pools=[])))


def test_a_pool_without_an_alias_is_shown_by_its_name() -> None:
    assert "\n  shop  " in table.render(report(process(pools=[pool(alias="shop", aliases=[])])))


def test_processes_of_different_projects_are_told_apart() -> None:
    one, other = process(), process(settings="blog.settings")
    assert "blog.settings" not in table.render(report(other))
    shown = table.render(report(one, other))
    assert "--workers 2  (shop.settings)\n" in shown
    assert "--workers 2  (blog.settings)\n" in shown


def test_projects_and_hosts_are_named_where_there_are_several() -> None:
    shop = process(project="/srv/shop:config", pid=1)
    blog = process(project="/srv/blog:config", pid=1, host="web-2")
    assert "(" not in table.render(report(shop, shop))
    shown = table.render(report(shop, blog))
    assert "\npid 1 on web-1  gunicorn shop.wsgi --workers 2  (/srv/shop:config)\n" in shown
    assert "\npid 1 on web-2  gunicorn shop.wsgi --workers 2  (/srv/blog:config)\n" in shown


def test_an_error_is_shown_whole() -> None:
    error = "connection failed: " + "could not translate " * 12 + "host name db-7.internal"
    told = report(
        process(pools=[pool(last_error=error)]), server={"default": {"error": error + " (server)"}}
    )
    shown = table.render(told, 80)
    assert all(len(line) <= 80 for line in shown.splitlines() if "translate" in line)
    assert f"last error: {error} 1 process" in " ".join(shown.split())
    assert " ".join(shown.split()).endswith(f"{error} (server)")


def test_one_process_with_one_pool_has_a_singular_total() -> None:
    assert table.render(report(process())).splitlines()[-1].startswith("1 process  ")


def test_pools_that_may_ask_for_more_than_the_server_has_are_said() -> None:
    many = [process(pid=pid, pools=[pool(max_size=49)]) for pid in (1, 2)]
    shown = table.render(report(*many, server={"default": SERVER})).splitlines()
    assert shown[-1] == "  too few: the pools of 'default' may open 98 in all"
    one = process(pid=3, pools=[pool(max_size=48), pool(aliases=["other"], max_size=100)])
    other = process(pid=4, pools=[pool(max_size=49)])
    assert "too few" not in table.render(report(one, other, server={"default": SERVER}))
    theirs = process(project="blog", pools=[pool(max_size=1000)])
    assert "too few" not in table.render(report(one, theirs, server={"default": SERVER}))


def test_a_server_without_connections_has_no_states() -> None:
    empty = {**SERVER, "total": 0, "in_database": 0, "states_in_database": {}}
    assert table.render(report(server={"default": empty})) == (
        "server of 'default': 0 of 100 connections (3 reserved), 0 in 'shop'"
    )


def test_nothing_found_is_nothing_shown() -> None:
    assert table.render(report()) == ""
