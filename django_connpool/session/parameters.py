"""What a pooled connection is opened with, besides what its user asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from psycopg import ProgrammingError
from psycopg.conninfo import conninfo_to_dict

# libpq's parameters (PostgreSQL docs, "Parameter Key Words"). An idle pooled connection must
# outlive the memory of a NAT or a load balancer, which is minutes, and a host that has gone
# away must be noticed in less than TCP's two hours: in half a minute, also by who waits for the
# answer to a statement.
KEEPALIVES = {
    "keepalives_idle": 15,
    "keepalives_interval": 10,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,  # milliseconds; on Linux it decides instead of the count
}
CONNECT_TIMEOUT = 10  # seconds, where the user has set none
# For each of several hosts, which libpq tries one after the other: who waits for a connection, and
# for `timeout` at the most, is to reach the second when the first has vanished.
CONNECT_TIMEOUT_EACH = 3


def completed(
    conninfo: str,
    kwargs: Mapping[str, Any],
    command_timeout: float | None = None,
    connect_timeout: int | None = None,
    limits: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return `kwargs` with TCP keepalives, where the user has set none, and the time limits.

    `command_timeout` (seconds) becomes the server's `statement_timeout` at connect, so that
    RESET and DISCARD ALL return to it. `connect_timeout` (seconds) is for who has set none, and
    less where there are several hosts. `limits` (seconds) are more of the server's limits, by
    their names there.
    """
    given: dict[str, Any] = {}
    with suppress(ProgrammingError):  # connecting will say it better
        given = conninfo_to_dict(conninfo)
    asked = {**given, **kwargs}
    completed = dict(kwargs)
    if "service" not in asked and "PGSERVICE" not in os.environ:
        defaults: dict[str, Any] = dict(KEEPALIVES)
        if any(name.startswith("keepalives") for name in asked):
            del defaults["tcp_user_timeout"]  # who has patience with a network is not overruled
        if connect_timeout and "PGCONNECT_TIMEOUT" not in os.environ:
            several = any("," in str(asked.get(name) or "") for name in ("host", "hostaddr"))
            defaults["connect_timeout"] = (
                min(connect_timeout, CONNECT_TIMEOUT_EACH) if several else connect_timeout
            )
        completed.update((name, value) for name, value in defaults.items() if name not in asked)
    limits = {
        **({"statement_timeout": command_timeout} if command_timeout else {}),
        **(limits or {}),
    }
    if limits:
        told = [f"-c {name}={max(1, round(limit * 1000))}" for name, limit in limits.items()]
        completed["options"] = " ".join([asked.get("options") or "", *told]).strip()
    return completed
