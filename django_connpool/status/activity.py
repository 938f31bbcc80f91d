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


@final
class Activity(TypedDict):
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


def ask(wrapper: BaseDatabaseWrapper) -> Activity | Unavailable:
    """Ask the server behind `wrapper` through a connection of its own, outside every pool.

    Waits at most `CONNECT_TIMEOUT_SECONDS` for each of its hosts. Never raises.
    """
    try:
        return _query(wrapper.get_connection_params())
    except Exception as error:
        # Whatever the settings, the driver or the server have to complain about: the pools of the
        # running processes are shown all the same.
        return {"error": " ".join(str(error).split()) or type(error).__name__}


def _query(params: dict[str, Any]) -> Activity:
    own = {
        "autocommit": True,
        "connect_timeout": CONNECT_TIMEOUT_SECONDS,
        "row_factory": psycopg.rows.dict_row,
        "cursor_factory": psycopg.Cursor,
    }
    with psycopg.connect(**{**params, **own}) as connection:
        return cast("Activity", connection.execute(_QUERY).fetchone())
