from __future__ import annotations

from typing import Any

import psycopg
import pytest

from django_connpool.pool.reset import session_reader
from tests.cluster import Server


def test_a_change_of_each_attribute_is_seen(cluster: Server) -> None:
    changes: dict[str, Any] = {
        "autocommit": True,
        "isolation_level": psycopg.IsolationLevel.SERIALIZABLE,
        "read_only": True,
        "deferrable": True,
    }
    with psycopg.connect(cluster.dsn()) as conn:
        read = session_reader(conn)
        assert read(conn) == (False, None, None, None)
        for name, value in changes.items():
            before = read(conn)
            setattr(conn, name, value)
            assert read(conn) != before, name
        assert read(conn) == tuple(changes.values())


@pytest.mark.parametrize("hidden", ["gone", "different"])
def test_the_properties_count_when_psycopg_keeps_the_values_elsewhere(hidden: str) -> None:
    class Elsewhere:
        autocommit = isolation_level = read_only = deferrable = "public"

    if hidden == "different":
        for name in ("_autocommit", "_isolation_level", "_read_only", "_deferrable"):
            setattr(Elsewhere, name, "stale")
    assert session_reader(Elsewhere())(Elsewhere()) == ("public",) * 4
