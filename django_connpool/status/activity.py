"""What the server itself says about its connections."""

from __future__ import annotations

from typing import Any, TypedDict, cast, final

import psycopg
from django.db.backends.base.base import BaseDatabaseWrapper

CONNECT_TIMEOUT_SECONDS = 3

# Without pg_read_all_stats the rows of other roles have neither state nor backend_type, and
# would go missing from the total if they were asked for a backend_type.
_QUERY = """
WITH clients AS (
    SELECT datname = current_database() AS here, coalesce(state, 'not visible') AS state
    FROM pg_stat_activity
    WHERE datid IS NOT NULL
        AND usesysid IS NOT NULL
        AND coalesce(backend_type, 'client backend') = 'client backend'
        AND pid <> pg_backend_pid()
)
SELECT
    current_database() AS database,
    current_setting('server_version') AS version,
    current_setting('max_connections')::int AS max_connections,
    current_setting('superuser_reserved_connections')::int
        + coalesce(current_setting('reserved_connections', true), '0')::int AS reserved,
    (SELECT count(*) FROM clients) AS total,
    (SELECT count(*) FROM clients WHERE here) AS in_database,
    coalesce(
        (SELECT json_object_agg(state, n) FROM
            (SELECT state, count(*) AS n FROM clients GROUP BY state) AS s), '{}'
    ) AS states,
    coalesce(
        (SELECT json_object_agg(state, n) FROM
            (SELECT state, count(*) AS n FROM clients WHERE here GROUP BY state) AS s), '{}'
    ) AS states_in_database
"""

# Asked for only when it is shown. No text of a query: it may hold anything.
_MORE = """
SELECT
    pg_postmaster_start_time()::text AS started,
    current_user AS role,
    (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_limit,
    (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database_limit,
    coalesce(
        (SELECT json_agg(json_build_object(
            'pid', pid,
            'database', datname,
            'role', usename,
            'application', coalesce(application_name, ''),
            'client', coalesce(host(client_addr), CASE WHEN state IS NULL THEN '?' ELSE 'here' END),
            'state', coalesce(state, 'not visible'),
            'transaction', extract(epoch FROM clock_timestamp() - xact_start)
        )) FROM pg_stat_activity
        WHERE datid IS NOT NULL
            AND usesysid IS NOT NULL
            AND coalesce(backend_type, 'client backend') = 'client backend'
            AND pid <> pg_backend_pid()), '[]'
    ) AS sessions
"""

# Who waits for a lock, and for whom. Not every engine that speaks PostgreSQL's language can tell.
_BLOCKED = """
SELECT pid, pg_blocking_pids(pid) AS by
FROM pg_stat_activity
WHERE wait_event_type = 'Lock' AND datid IS NOT NULL AND pid <> pg_backend_pid()
"""


class _LaterSession(TypedDict, total=False):
    """What is not told of each session."""

    blocked_by: list[int]  # pids of those that have the lock it waits for, or are before it


@final
class Session(_LaterSession):
    """A connection of a client's; `transaction` is how old its transaction is, in seconds."""

    pid: int
    database: str
    role: str
    application: str
    client: str
    state: str
    transaction: float | None


class Details(TypedDict, total=False):
    """What is asked for with `details`. A limit below 0 is none."""

    started: str  # the same for two aliases: they are on the same server
    role: str
    role_limit: int
    database_limit: int
    sessions: list[Session]


@final
class Activity(Details):
    """The client connections of a server, without the one that asked.

    `reserved` of the `max_connections` are kept for superusers and `pg_use_reserved_connections`;
    `states` counts all databases.
    """

    database: str
    version: str
    max_connections: int
    reserved: int
    total: int
    in_database: int
    states: dict[str, int]
    states_in_database: dict[str, int]


@final
class Unavailable(TypedDict):
    """Why a server did not say, in one line."""

    error: str


def ask(wrapper: BaseDatabaseWrapper, details: bool = False) -> Activity | Unavailable:
    """Ask the server behind `wrapper` through a connection of its own, outside every pool.

    With `details` also who is connected, and how many may be. Waits at most
    `CONNECT_TIMEOUT_SECONDS` for each of its hosts. Never raises.
    """
    try:
        with _connection(wrapper) as connection:
            return _query(connection, details)
    except Exception as error:
        # Whatever the settings, the driver or the server have to complain about: the pools of the
        # running processes are shown all the same.
        return {"error": " ".join(str(error).split()) or type(error).__name__}


def _connection(wrapper: BaseDatabaseWrapper) -> psycopg.Connection[dict[str, Any]]:
    own = {
        "autocommit": True,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "row_factory": psycopg.rows.dict_row,
        "cursor_factory": psycopg.Cursor,
    }
    parameters = {**wrapper.get_connection_params(), **own}
    # One of ours knows `credentials`.
    beside = getattr(wrapper, "open_beside_pools", None)
    made = _connect(parameters) if beside is None else beside(parameters, _connect)
    return cast("psycopg.Connection[dict[str, Any]]", made)


def _connect(parameters: dict[str, Any]) -> Any:
    return psycopg.connect(**parameters)


def _query(connection: psycopg.Connection[dict[str, Any]], details: bool) -> Activity:
    found = cast("dict[str, Any]", connection.execute(_QUERY).fetchone())
    if details:
        found |= cast("dict[str, Any]", connection.execute(_MORE).fetchone())
        blocked = _blocked(connection)
        for session in found["sessions"]:
            if session["pid"] in blocked:
                session["blocked_by"] = blocked[session["pid"]]
    return cast("Activity", found)


def _blocked(connection: psycopg.Connection[dict[str, Any]]) -> dict[int, list[int]]:
    try:
        rows = connection.execute(_BLOCKED).fetchall()
    except psycopg.Error:
        return {}
    return {row["pid"]: row["by"] for row in rows if row["by"]}
