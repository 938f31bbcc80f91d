from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from django.core.exceptions import ImproperlyConfigured

from django_connpool.status import activity
from tests import inside
from tests.cluster import Cluster
from tests.status.samples import wait_until


class Wrapper:
    """As much of a DatabaseWrapper as is asked for."""

    def __init__(self, params: dict[str, Any]) -> None:
        self._params = params

    def get_connection_params(self) -> dict[str, Any]:
        return self._params


def ask(params: dict[str, Any]) -> Any:
    return activity.ask(Wrapper(params))  # type: ignore[arg-type]


def wait_until_nobody_is_connected(server: Cluster) -> None:
    # A backend ends a moment after its client has said goodbye.
    wait_until(lambda: server.backends() == 0)


def test_the_server_counts_all_clients_but_the_one_that_asks(
    make_cluster: Callable[..., Cluster],
) -> None:
    server = make_cluster(max_connections=20, superuser_reserved_connections=2)
    server.execute("CREATE DATABASE elsewhere")
    wait_until_nobody_is_connected(server)
    with (
        psycopg.connect(server.dsn(), autocommit=True),
        psycopg.connect(server.dsn()) as busy,
        psycopg.connect(server.dsn(dbname="elsewhere"), autocommit=True),
    ):
        busy.execute("SELECT 1")
        found = ask(server.params())
    assert found.pop("version").startswith(f"{server.version}.")
    assert found == {
        "database": "postgres",
        "max_connections": 20,
        "reserved": 2,
        "total": 3,
        "in_database": 2,
        "states": {"idle": 2, "idle in transaction": 1},
        "states_in_database": {"idle": 1, "idle in transaction": 1},
    }


def test_an_ordinary_role_counts_the_connections_of_others_too(
    make_cluster: Callable[..., Cluster],
) -> None:
    server = make_cluster(reserved_connections=1)
    server.execute("CREATE ROLE web LOGIN")
    wait_until_nobody_is_connected(server)
    with psycopg.connect(server.dsn()):
        found = ask(server.params(user="web"))
    assert (found["total"], found["states"]) == (1, {"not visible": 1})
    assert found["reserved"] == 3 + 1


def test_a_server_of_an_older_version_has_no_setting_of_its_own_for_reserved_connections(
    make_cluster: Callable[..., Cluster],
) -> None:
    # reserved_connections came with 16; a name that no version has is what 15 makes of it.
    server = make_cluster()
    asked = inside.query_of_activity()
    query = asked.replace("reserved_connections', true", "no.such_setting', true")
    assert query != asked
    ((_, _, _, reserved, *_),) = server.execute(query)
    assert reserved == 3


def test_the_connection_is_closed(throwaway_cluster: Cluster) -> None:
    assert "error" not in ask(throwaway_cluster.params(application_name="asking"))
    wait_until_nobody_is_connected(throwaway_cluster)


def test_a_server_that_is_down_is_one_line() -> None:
    found = ask({"host": "127.0.0.1", "port": 1, "dbname": "shop"})
    assert "refused" in found["error"]
    assert "\n" not in found["error"]


def test_impossible_settings_are_one_line() -> None:
    class Misconfigured(Wrapper):
        def get_connection_params(self) -> dict[str, Any]:
            raise ImproperlyConfigured("supply the NAME")

    assert activity.ask(Misconfigured({})) == {"error": "supply the NAME"}  # type: ignore[arg-type]


def test_an_error_without_words_is_named_by_its_class() -> None:
    class Speechless(Wrapper):
        def get_connection_params(self) -> dict[str, Any]:
            raise KeyError

    assert activity.ask(Speechless({})) == {"error": "KeyError"}  # type: ignore[arg-type]
