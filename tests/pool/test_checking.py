"""When the server is asked whether a connection lives: seldom."""

from __future__ import annotations

from typing import Any

import pytest

from tests import inside

from .fake import FakeClock, FakeServer, working_pool

PING = b""


@pytest.mark.parametrize(
    ("check", "idle_for", "pings"),
    [("auto", 29.0, 0), ("auto", 31.0, 1), ("always", 1.1, 1), (False, 3000.0, 0)],
)
def test_a_ping_is_sent_after_a_long_idle_only(check: Any, idle_for: float, pings: int) -> None:
    clock = FakeClock()
    day = 86400.0
    with working_pool(FakeServer(), check=check, max_lifetime=day, max_idle=day) as pool:
        clock.now = inside.clock(pool)()  # the maintenance thread's own
        inside.set_clock(pool, clock)
        conn = pool.getconn()
        pool.putconn(conn)
        conn.pgconn.statements.clear()  # it may have been idle for long already, on a busy machine
        clock.now += idle_for
        assert pool.getconn() is conn
        pool.putconn(conn)
        assert conn.pgconn.statements == [PING] * pings
