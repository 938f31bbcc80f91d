"""A thread that answers one request after the other goes on with the connection that it had."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connections, transaction
from django.db.backends.signals import connection_created
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings

from django_connpool import release, requests
from django_connpool.middleware import ConnectionPoolMiddleware
from tests import inside
from tests.cluster import Server
from tests.databases import (
    DEADLINE,
    Databases,
    connected,
    in_hand,
    in_thread,
    on_loan,
    pid,
    value,
)
from tests.pool.real.helpers import until_known

MODES = ["auto", "request"]


@pytest.fixture(params=MODES)
def soon(
    databases: Databases, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """An alias of one connection, whose works follow each other soon, however slow the machine."""
    inside.tune(monkeypatch, park_soon=inside.NEVER, park_for=3600.0)
    pool = {"max_size": 1, "timeout": DEADLINE, "release": request.param}
    wrapper = databases.add(pool=pool)
    until_known(wrapper.pool)
    with inside.maintenance_asleep():
        yield wrapper


def asked(view: Callable[[], Any], path: str = "/page/") -> Any:
    found = []

    def get_response(request: HttpRequest) -> HttpResponse:
        found.append(view())
        return HttpResponse()

    ConnectionPoolMiddleware(get_response)(RequestFactory().get(path))
    return found[0]


def here() -> int:
    return pid(connections["spare"])


def parked_by_a_request(wrapper: Any) -> int:
    backend = asked(lambda: pid(wrapper))
    assert inside.parked(wrapper) is not None
    return int(backend)


def test_the_next_request_goes_on_with_it_and_asks_the_pool_for_nothing(
    soon: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = parked_by_a_request(soon)
    with inside.counting_borrows(monkeypatch) as borrows:
        for _ in range(3):
            assert asked(lambda: pid(soon)) == backend
            with transaction.atomic(using="spare"):
                assert pid(soon) == backend
            close_old_connections()
    assert not borrows


def test_between_two_requests_it_is_idle_and_the_wrapper_has_none(soon: Any) -> None:
    parked_by_a_request(soon)
    assert in_hand(soon) is None and soon.connection is None
    assert inside.parked(soon) is not None
    seen = soon.pool.snapshot()
    assert (seen["idle"], seen["in_use"], seen["offered"], seen["loans"]) == (1, 0, 0, [])


def test_its_loans_are_counted_and_named_by_the_request(soon: Any) -> None:
    parked_by_a_request(soon)
    before = soon.pool.get_stats()["requests_num"]
    parked_by_a_request(soon)
    found = asked(lambda: (pid(soon), soon.pool.snapshot()["loans"]), "/second/")[1]
    assert [loan["note"] for loan in found] == ["GET /second/"]
    assert soon.pool.get_stats()["requests_num"] == before + 2


def test_who_needs_it_has_it_at_once(soon: Any) -> None:
    backend = parked_by_a_request(soon)
    assert in_thread(here) == backend
    assert asked(lambda: pid(soon)) == backend
    assert soon.pool.get_stats()["connections_num"] == 1


def test_a_transaction_begun_past_everything_does_not_stay(soon: Any) -> None:
    def begin() -> None:
        pid(soon)
        libpqs = soon.connection.pgconn  # which nobody counts
        pid(soon)
        libpqs.exec_(b"BEGIN")

    asked(begin)
    assert inside.parked(soon) is None
    assert asked(lambda: value(soon, "SELECT now() = statement_timestamp()")), "it has ended"


HIDES = (
    "CREATE OR REPLACE FUNCTION hides(x text) RETURNS void LANGUAGE plpgsql AS "
    "$$ BEGIN PERFORM set_config('app.tenant', x, false); END $$"
)
TENANT = "SELECT current_setting('app.tenant', true)"


@pytest.fixture
def without_hides(cluster: Server) -> Iterator[None]:
    """However the test ends, the function is gone."""
    yield
    cluster.execute("DROP FUNCTION IF EXISTS hides")


@pytest.fixture
def hiding(soon: Any, cluster: Server, without_hides: None) -> Any:
    """The same, on a server with a function that hides what it sets, of which no pool knows."""
    parked_by_a_request(soon)
    cluster.execute(HIDES)
    return soon


def set_tenant(wrapper: Any) -> None:
    value(wrapper, "SELECT hides('7')")


@pytest.mark.parametrize("follow", [in_thread, lambda work: asked(work)])
def test_what_calls_a_function_that_was_just_made_does_not_stay(
    databases: Databases,
    monkeypatch: pytest.MonkeyPatch,
    without_hides: None,
    follow: Callable[[Callable[[], Any]], Any],
) -> None:
    inside.tune(monkeypatch, park_soon=inside.NEVER, park_for=3600.0)
    wrapper = databases.add(pool={"max_size": 2, "timeout": DEADLINE})
    until_known(wrapper.pool)
    made, go_on = threading.Event(), threading.Event()

    def make() -> None:
        with connections["spare"].cursor() as cursor:
            cursor.execute(HIDES)
        made.set()
        assert go_on.wait(DEADLINE)

    with inside.maintenance_asleep(), ThreadPoolExecutor(1) as executor:
        parked_by_a_request(wrapper)
        maker = executor.submit(asked, make)
        try:
            assert made.wait(DEADLINE)
            asked(lambda: set_tenant(wrapper))
            assert inside.parked(wrapper) is None
            assert follow(lambda: value(connections["spare"], TENANT)) in (None, "")
        finally:
            go_on.set()
        maker.result(DEADLINE)


def test_what_stays_when_a_function_is_found_is_cleaned(hiding: Any) -> None:
    asked(lambda: set_tenant(hiding))
    assert inside.parked(hiding) is not None
    inside.lose_trust(hiding.pool)
    assert asked(lambda: value(hiding, TENANT)) in (None, "")


def test_what_one_request_did_to_the_session_the_next_does_not_see(soon: Any) -> None:
    parked_by_a_request(soon)
    asked(lambda: value(soon, "SELECT set_config('application_name', 'mine', false)"))
    assert inside.parked(soon) is None
    assert asked(lambda: value(soon, "SHOW application_name")) != "mine"
    parked_by_a_request(soon)
    asked(lambda: (pid(soon), setattr(soon.connection, "prepare_threshold", 3)))
    assert asked(lambda: (pid(soon), soon.connection.prepare_threshold))[1] is None


def test_a_request_whose_connection_died_before_it_began_has_another(
    soon: Any, cluster: Server
) -> None:
    backend = parked_by_a_request(soon)
    assert cluster.terminate(backend) == 1
    assert asked(lambda: pid(soon)) != backend


def test_it_is_not_for_other_settings(soon: Any, databases: Databases) -> None:
    backend = parked_by_a_request(soon)
    soon.settings_dict["OPTIONS"] = {**soon.settings_dict["OPTIONS"], "application_name": "new"}
    assert asked(lambda: value(soon, "SHOW application_name")) == "new"
    assert asked(lambda: pid(soon)) != backend


@pytest.mark.parametrize("end", [lambda one: one.close(), lambda one: release("spare")])
def test_who_says_give_back_parks_nothing(soon: Any, end: Callable[[Any], Any]) -> None:
    parked_by_a_request(soon)
    end(soon)
    assert inside.parked(soon) is None and len(inside.idle(soon.pool)) == 1
    parked_by_a_request(soon)


def test_a_thread_that_ends_leaves_it_to_others(soon: Any) -> None:
    backends = in_thread(lambda: [asked(here), asked(here)])
    assert asked(here) in backends
    assert on_loan(soon) == 0
    assert soon.pool.get_stats()["loans_reclaimed"] == 0


def test_a_wrapper_that_is_collected_leaves_it_to_others(soon: Any) -> None:
    def work() -> int:
        backend = asked(here)
        del connections["spare"]
        gc.collect()
        return int(backend)

    assert asked(here) == in_thread(work)
    assert soon.pool.get_stats()["loans_reclaimed"] == 0


def test_a_forked_child_does_not_use_it(soon: Any, cluster: Server) -> None:
    backend = parked_by_a_request(soon)
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, str(asked(here)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    others = int(os.read(reading, 20))
    assert others != backend
    assert asked(here) == backend


def test_a_receiver_that_was_not_there_is_told_of_it(soon: Any) -> None:
    told = []

    def receiver(connection: Any, **kwargs: Any) -> None:
        told.append(connection.alias)

    parked_by_a_request(soon)
    connection_created.connect(receiver)
    try:
        asked(here)
    finally:
        connection_created.disconnect(receiver)
    assert told == ["spare"]


def test_who_comes_seldom_parks_nothing(soon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    inside.tune(monkeypatch, park_soon=0.0)
    asked(here)
    asked(here)
    assert inside.parked(soon) is None and len(inside.idle(soon.pool)) == 1


def test_closing_the_pool_closes_it(soon: Any, cluster: Server) -> None:
    parked_by_a_request(soon)
    soon.pool.close()
    assert connected(cluster, soon) == 0


def test_threads_that_answer_requests_in_turn_never_lose_one(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, cluster: Server
) -> None:
    inside.tune(monkeypatch, park_soon=inside.NEVER)
    wrapper = databases.add(pool={"max_size": 2, "timeout": DEADLINE})
    failed: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(150):
                assert asked(lambda n=number: value(connections["spare"], f"SELECT {n}")) == number
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert not failed
    assert on_loan(wrapper) == 0 and connected(cluster, wrapper) <= 2
    stats = wrapper.pool.get_stats()
    assert stats["requests_num"] >= 750 and not stats["loans_reclaimed"]


# -- No receivers where the middleware is ---------------------------------------------------------


def receivers() -> int:
    return len(request_started.receivers) + len(request_finished.receivers)


def test_where_the_middleware_is_no_receivers_of_ours_are_called() -> None:
    requests.connect()
    before = receivers()
    ConnectionPoolMiddleware(lambda request: HttpResponse())
    assert receivers() == before - 2


LOADED = """
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
import django

settings.configure(
    DATABASES={"default": {"ENGINE": "django_connpool.backends.postgresql", "NAME": "any"}},
    MIDDLEWARE=["django_connpool.middleware.ConnectionPoolMiddleware"],
)
django.setup()
WSGIHandler()
for signal in (request_started, request_finished):
    for key, *_ in signal.receivers:
        assert "connpool" not in str(key), key
"""


def test_nor_where_it_is_the_first_that_asks_for_a_pool() -> None:
    """In a site whose apps have no models, the engine is imported after the middleware."""
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_test_that_changes_the_middleware_has_them_again() -> None:
    ConnectionPoolMiddleware(lambda request: HttpResponse())
    before = receivers()
    with override_settings(MIDDLEWARE=[]):
        assert receivers() == before + 2
