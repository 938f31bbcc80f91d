from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from django.db import connections
from django.http import HttpResponse
from django.test import RequestFactory

from django_connpool.middleware import ConnectionPoolMiddleware
from tests.cluster import Server
from tests.databases import Databases
from tests.sessions import corpus
from tests.sessions.state import full_state
from tests.testproject.processes import wait_until

View = Callable[[Any], Any]


@pytest.fixture(scope="module", autouse=True)
def objects(cluster: Server) -> Iterator[None]:
    """The schema, role and functions of the corpus."""
    with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        conn.execute(corpus.SETUP)
        yield

        def is_removed() -> bool:
            # A session that has just been closed may still be at dropping its temporary tables.
            with suppress(psycopg.errors.DependentObjectsStillExist):
                conn.execute(corpus.TEARDOWN)
                return True
            return False

        wait_until(is_removed, "the corpus is removed")


@pytest.fixture
def request_to(databases: Databases) -> Callable[[str, View], Any]:
    """A function that has a request served by a view, which gets this thread's wrapper."""
    kept: list[Any] = []

    def serve(alias: str, view: View) -> Any:
        found: list[Any] = []

        def get_response(request: Any) -> HttpResponse:
            found.append(view(connections[alias]))
            return HttpResponse()

        ConnectionPoolMiddleware(get_response)(RequestFactory().get("/"))
        kept.extend(found)
        return found[0]

    return serve


@pytest.fixture(scope="module")
def fresh(cluster: Server, django_db_blocker: Any, objects: None) -> dict[str, dict[str, Any]]:
    """The state of a session that nobody has used."""
    with django_db_blocker.unblock():
        added = Databases(cluster)
        try:
            return full_state(added.add("fresh", options={"application_name": ""}))
        finally:
            added.remove()
