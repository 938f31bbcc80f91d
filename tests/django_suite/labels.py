"""Which tests of Django's suite say something about a database backend's connections."""

from __future__ import annotations

from pathlib import Path

# Those that open, close, share, break, copy and forget connections, or use them from threads,
# servers and event loops; and what speaks to the server in a way of its own.
CONNECTIONS = (
    "admin_views",
    "aggregation",
    "asgi",
    "async",
    "backends",
    "bulk_create",
    "cache",
    "check_framework",
    "constraints",
    "context_processors",
    "datetimes",
    "db_utils",
    "dbshell",
    "delete",
    "fixtures",
    "fixtures_regress",
    "force_insert_update",
    "generic_views",
    "get_or_create",
    "handlers",
    "indexes",
    "inspectdb",
    "introspection",
    "logging_tests",
    "middleware",
    "migrate_signals",
    "migration_test_data_persistence",
    "migrations",
    "multiple_database",
    "postgres_tests",
    "prefetch_related",
    "queries",
    "raw_query",
    "schema",
    "select_for_update",
    "servers",
    "sessions_tests",
    "test_client",
    "test_client_regress",
    "test_runner",
    "test_utils",
    "timezones",
    "transaction_hooks",
    "transactions",
    "view_tests",
)


# Its database cannot be made on a server that comes without PostgreSQL's own extensions.
NEEDS_EXTENSIONS = "postgres_tests"


def existing(suite: Path) -> tuple[str, ...]:
    """Those of them that this version of Django has."""
    return tuple(label for label in CONNECTIONS if (suite / label).is_dir())
