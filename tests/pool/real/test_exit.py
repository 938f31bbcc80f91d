from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import Cluster
from tests.pool.real.helpers import DEADLINE, ROOT, run_python, until

SURPRISED = ("unexpected EOF", "could not receive data", "could not send data")


@pytest.fixture(scope="module")
def talkative_cluster() -> Iterator[Cluster]:
    """A server that logs every client which leaves without saying goodbye."""
    with Cluster(log_min_messages="debug1", log_disconnections="on") as started:
        yield started


COMMON = """
    import os, sys, threading, time
    from django_connpool import ConnectionPool
    pool = ConnectionPool(sys.argv[1], min_size=0, max_size=4, kwargs={"autocommit": True})
    conns = [pool.getconn() for _ in range(4)]
    for conn in conns:
        conn.execute("SELECT 1")
"""
ENDINGS = {
    "idle": "for conn in conns: pool.putconn(conn)",
    "lent to the main thread": "",
    "lent and in a transaction": "for conn in conns: conn.execute('BEGIN')",
    "lent to a function": """
    def borrow():
        conn = conns.pop()
        pool.putconn(conn)
        conn = pool.getconn()
        sys.exit(0)
    borrow()
    """,
    "lent to a daemon thread": """
    for conn in conns: pool.putconn(conn)
    conns.clear()
    ready = threading.Event()
    def work():
        conn = pool.getconn()
        ready.set()
        time.sleep(600)
    threading.Thread(target=work, daemon=True).start()
    ready.wait()
    """,
    "lent to a thread that ends later": """
    for conn in conns: pool.putconn(conn)
    go_on = threading.Event()
    def work():
        conn = pool.getconn()
        go_on.wait()
        conn.execute("SELECT 1")
        pool.putconn(conn)
    threading.Thread(target=work).start()
    threading.Timer(0.1, go_on.set).start()
    """,
    "closed": "pool.close()",
    "closed and given back": """
    pool.close()
    for conn in conns: pool.putconn(conn)
    """,
    "referred to by everything": "conns.append(conns); pool.me = pool; sys.me = conns",
}


def surprises(written: str) -> list[str]:
    return [line for line in written.splitlines() if any(text in line for text in SURPRISED)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_process_that_ends_says_goodbye_for_all_its_connections(
    talkative_cluster: Cluster, ending: str
) -> None:
    log = talkative_cluster.folder / "log"
    start, before = log.stat().st_size, talkative_cluster.backends()
    run_python(COMMON + "\n    " + ENDINGS[ending], talkative_cluster.dsn())
    until(lambda: talkative_cluster.backends() == before)
    written = log.read_text()[start:]
    assert "disconnection: session time" in written
    assert not surprises(written)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_child_of_multiprocessing_says_goodbye(
    talkative_cluster: Cluster, method: str, tmp_path: Path
) -> None:
    log = talkative_cluster.folder / "log"
    start, before = log.stat().st_size, talkative_cluster.backends()
    script = tmp_path / "main.py"
    script.write_text(
        f"""
import multiprocessing, sys
from django_connpool import ConnectionPool

pool = ConnectionPool(sys.argv[1], min_size=0, max_size=4, kwargs={{"autocommit": True}})

def work():
    kept = pool.getconn()
    with pool.connection() as conn:
        conn.execute("SELECT 1")

if __name__ == "__main__":
    context = multiprocessing.get_context({method!r})
    for _ in range(3):
        child = context.Process(target=work)
        child.start()
        child.join()
        assert child.exitcode == 0
"""
    )
    subprocess.run(
        [sys.executable, str(script), talkative_cluster.dsn()],
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    until(lambda: talkative_cluster.backends() == before)
    written = log.read_text()[start:]
    assert written.count("disconnection: session time") >= 6
    assert not surprises(written)


# A daemon that is in C as the interpreter is taken down can end the process with SIGSEGV: so did,
# once on a busy machine, a child of multiprocessing (spawn) on Python 3.10.
def test_the_interpreter_is_taken_down_when_our_threads_have_ended(cluster: Cluster) -> None:
    script = """
    import atexit, sys, threading, time
    @atexit.register  # first: so it is called last
    def look():
        print("left:", [one.name for one in threading.enumerate() if one.daemon])
    import psycopg
    from django_connpool import ConnectionPool
    closes, ends = threading.Event(), threading.Event()
    class Slow(psycopg.Connection):
        def close(self):
            closes.set()
            ends.wait()
            time.sleep(0.1)  # so that without waiting for it the end is there before
            super().close()
    pool = ConnectionPool(sys.argv[1], min_size=0, max_size=4, connection_class=Slow)
    with pool.connection() as conn:
        conn.execute("SELECT 1")
    pool.drain()
    closes.wait()
    atexit.register(ends.set)  # last: so it is called first
    """
    assert run_python(script, cluster.dsn()) == "left: []\n"


def test_but_a_thread_that_does_not_end_keeps_nobody_waiting(cluster: Cluster) -> None:
    script = """
    import sys, threading
    import psycopg
    from django_connpool import ConnectionPool
    closes = threading.Event()
    class Stuck(psycopg.Connection):
        def close(self):
            closes.set()
            threading.Event().wait()
    pool = ConnectionPool(sys.argv[1], min_size=0, max_size=4, connection_class=Stuck)
    with pool.connection() as conn:
        conn.execute("SELECT 1")
    pool.drain()
    closes.wait()
    """
    assert run_python(script, cluster.dsn()) == ""


def test_an_exit_handler_that_runs_later_can_borrow(talkative_cluster: Cluster) -> None:
    log = talkative_cluster.folder / "log"
    start = log.stat().st_size
    script = """
    import atexit
    @atexit.register
    def late():
        with pool.connection() as conn:
            print(conn.execute("SELECT 42").fetchone())
    """
    script += COMMON + "\n    for conn in conns: pool.putconn(conn)"
    assert run_python(script, talkative_cluster.dsn()) == "(42,)\n"
    assert not surprises(log.read_text()[start:])


def test_a_process_that_ends_while_connections_are_being_opened_ends_at_once(
    talkative_cluster: Cluster,
) -> None:
    began = time.monotonic()
    run_python(
        """
    import sys
    from django_connpool import ConnectionPool
    pool = ConnectionPool(sys.argv[1], min_size=4, max_size=4)
    """,
        talkative_cluster.dsn(),
    )
    assert time.monotonic() - began < DEADLINE
    until(lambda: talkative_cluster.backends() == 0)


@pytest.mark.parametrize("ends", ["at exit", "before"])
def test_a_thread_that_ends_with_the_process_is_no_leak(dsn: str, ends: str) -> None:
    # As asgiref's is, in which async code has its queries done.
    script = """
import sys
from concurrent.futures import ThreadPoolExecutor
from django_connpool import ConnectionPool

pool = ConnectionPool(sys.argv[1], min_size=0, max_size=2, open=True, name="shop")
executor = ThreadPoolExecutor(1)
kept = executor.submit(pool.getconn).result()
if sys.argv[2] == "before":
    executor.shutdown()
    del kept
    pool.getconn()
    pool.getconn(timeout=30)
"""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", script, dsn, ends],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    if ends == "at exit":
        assert done.stderr == ""
    else:
        assert done.stderr.startswith("shop: a connection was never given back")
