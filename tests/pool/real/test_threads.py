from __future__ import annotations

import pytest

from tests.pool.real.helpers import run_python

COMMON = """
    import sys, threading, time
    from django_connpool import ConnectionPool

    def until(condition):
        give_up = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < give_up, threading.enumerate()
            time.sleep(0.002)

    def threads():
        return [thread.name for thread in threading.enumerate()]

    def use(pool):
        with pool.connection() as conn:
            conn.execute("SELECT 1")
        return pool

    dsn = sys.argv[1]
"""
ONE = '["MainThread", "django-connpool-maintenance"]'


def test_ten_pools_share_one_background_thread_which_ends_with_the_last_of_them(dsn: str) -> None:
    run_python(
        COMMON
        + f"""
    assert threads() == ["MainThread"]
    pools = [use(ConnectionPool(dsn, min_size=1, max_size=2)) for _ in range(10)]
    until(lambda: threads() == {ONE})
    for pool in pools[1:]:
        pool.close()
    assert threads() == {ONE}
    pools[0].close()
    until(lambda: threads() == ["MainThread"])
    with use(ConnectionPool(dsn, min_size=0, max_size=2)):
        until(lambda: threads() == {ONE})
    until(lambda: threads() == ["MainThread"])
    """,
        dsn,
    )


def test_a_pool_that_nobody_has_used_needs_no_thread(dsn: str) -> None:
    run_python(
        COMMON
        + """
    pool = ConnectionPool(dsn, min_size=0, max_size=2)
    assert threads() == ["MainThread"]
    """,
        dsn,
    )


def test_the_thread_ends_with_a_pool_that_is_dropped(dsn: str) -> None:
    run_python(
        COMMON
        + f"""
    pool = use(ConnectionPool(dsn, min_size=0, max_size=2))
    until(lambda: threads() == {ONE})
    del pool
    until(lambda: threads() == ["MainThread"])
    """,
        dsn,
    )


def test_the_thread_stays_for_a_closed_pool_as_long_as_something_is_on_loan(dsn: str) -> None:
    run_python(
        COMMON
        + f"""
    pool = ConnectionPool(dsn, min_size=0, max_size=2)
    conn = pool.getconn()
    until(lambda: threads() == {ONE})
    pool.close()
    import logging
    logging.getLogger("django_connpool.pool").addHandler(logging.NullHandler())
    del conn
    until(lambda: pool.snapshot()["size"] == 0)
    until(lambda: threads() == ["MainThread"])
    """,
        dsn,
    )


def test_a_failure_in_the_thread_does_not_end_it(dsn: str) -> None:
    run_python(
        COMMON
        + f"""
    import logging
    from tests import inside

    logging.getLogger("django_connpool.pool").addHandler(logging.NullHandler())
    pool = use(ConnectionPool(dsn, min_size=0, max_size=1, max_idle=0.1))
    until(lambda: threads() == {ONE})
    failed = []
    inside.fail_once_in_maintenance(failed)
    until(lambda: failed)
    until(lambda: pool.snapshot()["size"] == 0)
    """,
        dsn,
    )


@pytest.mark.parametrize("error", ["ZeroDivisionError", "SystemExit"])
def test_a_pool_whose_turn_fails_or_ends_the_thread_gets_another(dsn: str, error: str) -> None:
    run_python(
        COMMON
        + f"""
    import logging

    from tests import inside

    logging.getLogger("django_connpool.pool").addHandler(logging.NullHandler())
    pool = ConnectionPool(dsn, min_size=0, max_size=1, max_idle=0.1)
    failed = []
    def fail(tick):
        as_before()
        failed.append(True)
        raise {error}
    as_before = inside.ticking_by(pool, fail)
    use(pool)
    until(lambda: failed)
    until(lambda: pool.snapshot()["size"] == 0)
    """,
        dsn,
    )


def test_no_thread_is_left_at_exit(dsn: str) -> None:
    printed = run_python(
        """
    import atexit, threading
    # Called after the hooks that are registered later, those of the pool among them.
    atexit.register(lambda: print([thread.name for thread in threading.enumerate()]))
    """
        + COMMON
        + """
    pool = use(ConnectionPool(dsn, min_size=2, max_size=2))
    until(lambda: len(threads()) == 2 and pool.snapshot()["idle"] == 2)
    """,
        dsn,
    )
    assert printed == "['MainThread']\n"
