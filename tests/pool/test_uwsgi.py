"""uWSGI as a pool sees it: a module of its name, and forks in C that Python is not told of."""

from __future__ import annotations

import os
import sys
import types
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from django_connpool import ConnectionPool, PoolTimeout
from tests import inside
from tests.inside import uwsgi
from tests.pool.real.helpers import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")


class Host(types.ModuleType):
    """Its module, in a process that loads unless one of the numbers says otherwise."""

    def __init__(self, worker: int = 0, mule: int = 0, spooler: Any = None, threads: int = 1):
        super().__init__("uwsgi")
        self.worker_id, self.mule_id = lambda: worker, lambda: mule
        self.i_am_the_spooler = lambda: spooler
        self.has_threads, self.opt = threads, dict[str, bytes]()


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes this a process of uWSGI's, with the arguments of `Host`."""

    def become(**kwargs: Any) -> Host:
        made = Host(**kwargs)
        monkeypatch.setitem(sys.modules, "uwsgi", made)
        return made

    inside.warn_of_uwsgi_again(monkeypatch)
    return become


def test_elsewhere_nothing_loads_and_nothing_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not uwsgi.is_loading()
    assert not uwsgi.stands_still()
    # A project's own module of that name.
    monkeypatch.setitem(sys.modules, "uwsgi", types.ModuleType("uwsgi"))
    assert not uwsgi.is_loading()
    assert not uwsgi.stands_still()


@pytest.mark.parametrize(
    ("kwargs", "loads"),
    [({}, True), ({"worker": 1}, False), ({"mule": 1}, False), ({"spooler": True}, False)],
)
def test_what_is_no_worker_mule_or_spooler_loads(host: Any, kwargs: Any, loads: bool) -> None:
    host(**kwargs)
    assert uwsgi.is_loading() is loads


def test_a_child_that_the_loading_process_forks_itself_loads_nothing(
    host: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host()
    inside.be_a_child_of_python(monkeypatch)
    assert not uwsgi.is_loading()


def test_the_hooks_of_others_are_called_too_and_later(host: Any) -> None:
    called: list[str] = []
    made = host()
    made.post_fork_hook = lambda: called.append("theirs")
    uwsgi.call_after_fork(lambda: called.append("ours"))
    uwsgi.call_after_fork(lambda: called.append("ours"))
    made.post_fork_hook()
    assert called == ["ours", "theirs"]


def test_who_takes_its_place_is_called_later_when_all_is_loaded(host: Any) -> None:
    called: list[str] = []
    made = host()
    uwsgi.call_after_fork(lambda: called.append("ours"))
    made.post_fork_hook = lambda: called.append("theirs")
    uwsgi.call_after_fork(lambda: called.append("ours"))
    made.post_fork_hook()
    assert called == ["ours", "theirs"]


def test_a_process_whose_threads_stand_still_is_told_so_once(
    host: Any, caplog: pytest.LogCaptureFixture
) -> None:
    host(worker=1, threads=0)
    for _ in range(2):
        ConnectionPool("", min_size=0, max_size=1).close()
    (message,) = caplog.messages
    assert "enable-threads" in message


def test_its_timeouts_say_so_too(host: Any, dsn: str) -> None:
    with ConnectionPool(dsn, min_size=0, max_size=1) as pool, pool.connection():
        with pytest.raises(PoolTimeout) as usual:
            pool.getconn(timeout=0)
        host(worker=1, threads=0)
        with pytest.raises(PoolTimeout) as still:
            pool.getconn(timeout=0)
    assert "enable-threads" not in str(usual.value)
    assert "enable-threads = true" in str(still.value)


# Loads, queries, and forks as uWSGI does: holding the interpreter, and telling Python nothing.
LOADED = """
    import ctypes, os, sys, threading, types
    host = sys.modules["uwsgi"] = types.ModuleType("uwsgi")
    host.opt, host.has_threads, worker = {}, 1, 0
    host.worker_id, host.mule_id, host.i_am_the_spooler = lambda: worker, lambda: 0, lambda: None
    from django_connpool import ConnectionPool

    pool = ConnectionPool(sys.argv[1], min_size=2, max_size=3, kwargs={"autocommit": True})
    assert pool.snapshot()["size"] == 0

    def ask():
        backends = set()
        for number in range(200):
            question = os.getpid() * 1000 + number
            with pool.connection() as conn:
                row = conn.execute("SELECT %s::bigint, pg_backend_pid()", [question]).fetchone()
            assert row[0] == question, (row, question)
            backends.add(row[1])
        return backends

    mine = ask()
    loan = pool.getconn()
    assert len(mine) == 1
    assert threading.active_count() == 1, threading.enumerate()
    fork = ctypes.PyDLL(None).fork
    children = []
    for worker in (1, 2):
        child = fork()
        if not child:
            host.post_fork_hook()
            assert pool.snapshot()["size"] == 0
            theirs = ask()
            assert theirs.isdisjoint(mine)
            pool.putconn(loan)
            print(*theirs, flush=True)
            pool.wait()
            assert pool.snapshot()["size"] >= 2
            pool.close()
            os._exit(0)
        children.append(child)
    worker = 0
    assert ask().isdisjoint(mine)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    pool.putconn(loan)
    print(*mine)
"""


def test_what_was_opened_as_the_application_was_loaded_stays_with_the_process_that_did(
    dsn: str,
) -> None:
    backends = run_python(LOADED, dsn).split()
    assert len(set(backends)) == len(backends) >= 3


def test_whoever_waits_for_the_minimum_as_it_is_loaded_gets_it(host: Any, dsn: str) -> None:
    host()
    with ConnectionPool(dsn, min_size=2, max_size=2, open=False) as pool:
        assert pool.snapshot()["size"] == 0
        pool.wait()
        assert pool.snapshot()["size"] == 2


def test_a_server_that_is_away_is_not_waited_for_as_it_is_loaded(host: Any, dsn: str) -> None:
    host()
    nowhere = make_conninfo(dsn, host="127.0.0.1", port="1")
    pool = ConnectionPool(nowhere, min_size=0, max_size=1, timeout=600, outage_patience=600)
    with pool, pytest.raises(psycopg.OperationalError, match="refused"):
        pool.getconn()
