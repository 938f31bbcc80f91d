"""Each scenario runs in a process of its own, which forks.

The parent and its children compare what they asked for with what they got: an answer to
somebody else's question is what sharing a socket leads to.
"""

from __future__ import annotations

import os
import sys

import pytest

from tests.pool.real.helpers import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

COMMON = """
    import os, signal, sys, threading, time
    from django_connpool import ConnectionPool

    def ask(pool, times=30):
        pids = set()
        for number in range(times):
            with pool.connection() as conn:
                question = os.getpid() * 1000 + number
                row = conn.execute("SELECT %s::bigint, pg_backend_pid()", [question]).fetchone()
                assert row[0] == question, (row, question)
                pids.add(row[1])
        return pids

    def in_child(work, leave=os._exit):
        pid = os.fork()
        if pid:
            return pid
        try:
            signal.alarm(30)
            work()
            status = 0
        except BaseException:
            import traceback
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        leave(status)

    def reap(*pids):
        for pid in pids:
            assert os.waitpid(pid, 0)[1] == 0

    def until(condition):
        give_up = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < give_up
            time.sleep(0.002)

    def tell(*numbers):
        print(" ".join(map(str, sorted(numbers))))

    pool = ConnectionPool(
        sys.argv[1], min_size=0, max_size=4, timeout=20, kwargs={"autocommit": True}
    )
"""


def test_parent_and_children_ask_at_once_over_connections_of_their_own(dsn: str) -> None:
    lines = run_python(
        COMMON
        + """
    loan = pool.getconn()
    loan.execute("SELECT 1")
    mine = ask(pool)
    children = [in_child(lambda: tell(*ask(pool))) for _ in range(3)]
    mine |= ask(pool, 100)
    assert loan.execute("SELECT 42").fetchone() == (42,)
    mine.add(loan.info.backend_pid)
    pool.putconn(loan)
    reap(*children)
    assert pool.get_stats()["connections_num"] == 2
    tell(*mine)
    """,
        dsn,
    ).splitlines()
    seen = [set(line.split()) for line in lines]
    assert len(seen) == 4
    assert len(set.union(*seen)) == sum(map(len, seen))


@pytest.mark.parametrize("end", ["sys.exit", "os._exit", "close", "drop", "kill"])
def test_however_a_child_ends_its_parent_does_not_notice(dsn: str, end: str) -> None:
    run_python(
        COMMON
        + f"""
    import gc
    end = {end!r}
    loan = pool.getconn()
    idle = ask(pool)

    def work():
        global loan, pool
        if end == "close":
            pool.close()
        elif end == "drop":
            loan.close()
            del loan, pool
            gc.collect()
        elif end != "kill":
            ask(pool)

    reap(in_child(work, sys.exit if end == "sys.exit" else os._exit))
    assert loan.execute("SELECT 42").fetchone() == (42,)
    pool.putconn(loan)
    assert ask(pool) <= idle | {{loan.info.backend_pid}}
    assert pool.get_stats()["connections_lost"] == 0
    """,
        dsn,
    )


def test_a_child_cannot_use_a_loan_of_its_parent_and_may_give_it_back(dsn: str) -> None:
    run_python(
        COMMON
        + """
    import psycopg
    loan = pool.getconn()

    def work():
        try:
            loan.execute("SELECT 1")
        except psycopg.OperationalError:
            pass
        else:
            raise AssertionError("it was served")
        pool.putconn(loan)
        ask(pool)

    reap(in_child(work))
    assert loan.execute("SELECT 42").fetchone() == (42,)
    """,
        dsn,
    )


def test_the_childs_pool_is_empty_open_and_has_its_own_maintenance(dsn: str) -> None:
    run_python(
        COMMON
        + """
    pool.resize(0, 2)
    loan = pool.getconn()
    ask(pool)
    pool.max_idle = 0.05

    def work():
        seen = pool.snapshot()
        assert (seen["size"], seen["in_use"], seen["closed"]) == (0, 0, False)
        assert threading.active_count() == 1
        ask(pool)
        until(lambda: pool.snapshot()["size"] == 0)

    reap(in_child(work))
    """,
        dsn,
    )


def test_a_grandchild_is_as_well_off_as_a_child(dsn: str) -> None:
    run_python(
        COMMON
        + """
    ask(pool)

    def work():
        ask(pool)
        child = in_child(lambda: ask(pool))
        ask(pool)
        reap(child)

    reap(in_child(work))
    ask(pool)
    """,
        dsn,
    )


def test_a_child_of_a_process_whose_other_threads_hold_every_lock_can_work(dsn: str) -> None:
    run_python(
        COMMON
        + """
    from tests import inside

    ask(pool)
    held, go_on = threading.Event(), threading.Event()

    def hold():
        with inside.lock(pool), inside.maintenance_lock():
            held.set()
            go_on.wait(20)

    def fork():
        held.wait(20)
        child = in_child(lambda: ask(pool))
        go_on.set()
        reap(child)
        ask(pool)
        done.append(True)

    done = []
    threads = [threading.Thread(target=work) for work in (hold, fork)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done
    """,
        dsn,
        # Python 3.12 and later warn whoever forks with threads.
        warnings="ignore",
    )


@pytest.mark.stress
def test_forking_while_other_threads_work_harms_nobody(dsn: str) -> None:
    run_python(
        COMMON
        + """
    errors, stop = [], threading.Event()

    def work():
        try:
            while not stop.is_set():
                ask(pool, 5)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        reap(in_child(lambda: ask(pool, 3)))
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors
    """,
        dsn,
        warnings="ignore",
    )


def test_the_parents_maintenance_goes_on_after_a_fork_in_any_thread(dsn: str) -> None:
    run_python(
        COMMON
        + """
    pool.max_idle = 0.2
    ask(pool)
    # The main thread is blocked all the while: it can run no pending call.
    def fork_and_wait():
        reap(in_child(lambda: None))
        until(lambda: pool.snapshot()["size"] == 0)
        done.append(True)

    done = []
    thread = threading.Thread(target=fork_and_wait)
    thread.start()
    thread.join()
    assert done
    """,
        dsn,
        warnings="ignore",
    )


def test_a_fork_in_another_thread_does_not_reach_into_what_the_main_thread_is_doing(
    dsn: str,
) -> None:
    run_python(
        COMMON
        + """
    from tests import inside

    ask(pool)
    signal.alarm(30)
    thread = threading.Thread(target=lambda: reap(in_child(lambda: None)))
    with inside.maintenance_lock():
        thread.start()
        until(lambda: not thread.is_alive())
    ask(pool)
    """,
        dsn,
        warnings="ignore",
    )


def test_a_child_keeps_nothing_of_its_parents_maintenance(dsn: str) -> None:
    run_python(
        COMMON
        + """
    from tests import inside

    ask(pool)
    pipe = inside.pipe_of()
    before = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in pipe}

    def work():
        for fd, file in before.items():
            try:
                assert os.readlink(f"/proc/self/fd/{fd}") != file
            except FileNotFoundError:
                pass
        ask(pool)

    reap(in_child(work))
    ask(pool)
    """,
        dsn,
    )


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="the system counts no threads")
def test_a_process_with_pools_can_fork_without_a_warning_about_threads(dsn: str) -> None:
    run_python(
        COMMON
        + """
    def threads():
        # Those that the system counts: a thread that has ended for Python may end there later.
        return len(os.listdir("/proc/self/task"))

    ask(pool)
    until(lambda: threads() == 2)
    reap(in_child(lambda: None))
    until(lambda: threads() == 2)
    """,
        dsn,
        # As an error it would be swallowed: shown, it makes run_python fail.
        warnings="always",
    )


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="fork is not the default any more")
def test_multiprocessing_by_fork_works(dsn: str) -> None:
    run_python(
        COMMON
        + """
    import multiprocessing

    context = multiprocessing.get_context("fork")
    ask(pool)
    workers = [context.Process(target=ask, args=(pool,)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    ask(pool)
    """,
        dsn,
        warnings="ignore",
    )


def test_a_child_of_a_suspended_pool_lends_nothing_until_it_resumes(dsn: str) -> None:
    lines = run_python(
        COMMON
        + """
    def work():
        from django_connpool import PoolTimeout
        try:
            pool.getconn(timeout=0.05)
        except PoolTimeout as error:
            print("suspended" in str(error))
        pool.resume()
        print(len(ask(pool)))

    ask(pool)
    pool.suspend()
    reap(in_child(work))
    pool.resume()
    print(len(ask(pool)))
    """,
        dsn,
    ).splitlines()
    assert lines == ["True", "1", "1"]


def test_in_a_child_nobody_begins_anew_before_what_it_stands_on(dsn: str) -> None:
    lines = run_python(
        COMMON
        + """
    from tests.inside import forks

    for floor in sorted(forks.Floor, reverse=True):
        for turn in (1, 2):
            forks.in_child(lambda name=floor.name, turn=turn: print(name, turn), floor)
    reap(in_child(lambda: print("work")))
    """,
        dsn,
    ).splitlines()
    floors = ["BACKGROUND", "POOLS", "REGISTRY", "WRAPPERS", "STATUS"]
    assert lines == [f"{floor} {turn}" for floor in floors for turn in (1, 2)] + ["work"]
