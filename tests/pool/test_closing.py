"""A place is free when the server has let go of it, and not before."""

from __future__ import annotations

import threading

from tests.inside import (
    await_end,
    end_of,
    say_goodbye,
)

from .fake import FakeConnection, FakeServer, working_pool
from .test_interrupts import until


def test_a_place_is_not_free_while_the_backend_still_exits() -> None:
    server = FakeServer()
    server.lingers = True
    with working_pool(server, max_size=1) as pool:
        conn = pool.getconn()
        conn.pgconn.transaction_status = 1  # in the middle of a statement: not worth keeping
        pool.putconn(conn)
        until(lambda: conn.closed)
        assert pool.snapshot()["closing"] == len(server.connections) == 1
        server.lingers = False
        server.reap()
        until(lambda: pool.snapshot()["size"] == 0)


def test_the_end_of_the_backend_is_waited_for_after_the_goodbye() -> None:
    server = FakeServer()
    server.lingers = True
    conn = FakeConnection.connect(server=server)
    end = end_of(conn.pgconn)
    assert end is not None
    assert say_goodbye(conn, conn.pgconn, conn.lock) is None
    assert conn.closed
    waiting = threading.Thread(target=await_end, args=(end, 10.0))
    waiting.start()
    assert waiting.is_alive()
    server.reap()
    waiting.join(10.0)
    assert not waiting.is_alive()
    assert end.fileno() < 0


def test_a_backend_that_does_not_exit_is_not_waited_for_for_ever() -> None:
    server = FakeServer()
    server.lingers = True
    conn = FakeConnection.connect(server=server)
    end = end_of(conn.pgconn)
    assert end is not None
    say_goodbye(conn, conn.pgconn, conn.lock)
    await_end(end, 0.01)
    assert end.fileno() < 0
    server.reap()


def test_what_a_backend_is_busy_with_is_interrupted_until_it_ends() -> None:
    server = FakeServer()
    server.lingers = True
    conn = FakeConnection.connect(server=server)
    end = end_of(conn.pgconn)
    say_goodbye(conn, conn.pgconn, conn.lock)
    requests = []

    def interrupt(deadline: float) -> None:
        requests.append(deadline)
        if len(requests) == 2:
            server.reap()

    await_end(end, 10.0, interrupt)
    assert len(requests) == 2


def test_a_lost_connection_leaves_nothing_to_wait_for() -> None:
    conn = FakeConnection.connect(server=FakeServer())
    conn.pgconn.lose()
    assert end_of(conn.pgconn) is None
    assert say_goodbye(conn, conn.pgconn, conn.lock) is None
    await_end(None)
