from __future__ import annotations

import asyncio
import io
import sys
from collections.abc import Awaitable, Iterator
from typing import Any

import django
import pytest
from asgiref.sync import async_to_sync, iscoroutinefunction
from asgiref.testing import ApplicationCommunicator
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.management import call_command
from django.db import connection, connections, transaction
from django.http import FileResponse, HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings

import django_connpool
from django_connpool.middleware import ConnectionPoolMiddleware
from shop.models import Category
from tests import views
from tests.cluster import Server
from tests.databases import Databases, connected, in_thread, on_loan, pid, value
from tests.testproject.processes import wait_until

ASYNC_ONLY = [
    "django_connpool.middleware.ConnectionPoolMiddleware",
]


@pytest.fixture
def spare(databases: Databases) -> Any:
    return databases.add(pool={"max_size": 2, "timeout": 5})


@pytest.fixture(autouse=True)
def rewind() -> Iterator[None]:
    views.begun.clear()
    views.go_on.clear()
    yield
    views.go_on.set()


class Wsgi:
    """A request as a WSGI server makes it, with the signals the test client holds back."""

    def __init__(self, path: str) -> None:
        environ = RequestFactory()._base_environ(PATH_INFO=path)
        self.status = ""
        self.response: Any = WSGIHandler()({**environ, "wsgi.errors": io.StringIO()}, self._start)

    def _start(self, status: str, headers: Any, exc_info: Any = None) -> None:
        self.status = status


def asgi(path: str) -> tuple[ApplicationCommunicator, Awaitable[None]]:
    """A request as an ASGI server makes it; await the second to send it."""
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(b"host", b"testserver")],
    }
    client = ApplicationCommunicator(ASGIHandler(), scope)
    return client, client.send_input({"type": "http.request"})


async def asked(path: str) -> tuple[int, bytes]:
    """The whole answer to an ASGI request: its status and its body."""
    client, sent = asgi(path)
    await sent
    start = await client.receive_output(15)
    body, more = b"", True
    while more:
        part = await client.receive_output(15)
        body += part.get("body", b"")
        more = part.get("more_body", False)
    await client.wait(15)
    return start["status"], body


async def has_begun() -> None:
    """Wait for a slow view to have borrowed."""
    assert await asyncio.to_thread(views.begun.wait, 15)


def test_the_connection_is_given_back_before_anyone_has_read_the_response(spare: Any) -> None:
    request = Wsgi("/backend/")

    assert request.status == "200 OK"
    assert on_loan(spare) == 0
    request.response.close()


def test_two_requests_are_served_by_one_connection(spare: Any, client: Client) -> None:
    first, second = (client.get("/backend/").json() for _ in range(2))

    assert first["pid"] == second["pid"]


def test_the_loan_says_which_request_it_is_for(spare: Any, client: Client) -> None:
    assert client.get("/backend/?q=1").json()["notes"] == ["GET /backend/"]


def test_the_loan_of_an_async_view_says_so_too(spare: Any) -> None:
    found = asyncio.run(AsyncClient().get("/async_backend/")).json()

    assert found["notes"] == ["GET /async_backend/"]
    assert on_loan(spare) == 0


def test_a_loan_outside_of_a_request_is_for_nothing_in_particular(spare: Any) -> None:
    pid(spare)

    assert [loan["note"] for loan in spare.pool.snapshot()["loans"]] == [None]


def test_a_view_that_raises_gives_back(spare: Any, client: Client) -> None:
    client.raise_request_exception = False

    assert client.get("/fails/").status_code == 500
    assert on_loan(spare) == 0


def test_an_exception_that_passes_the_middleware_finds_the_connection_given_back(
    spare: Any,
) -> None:
    def get_response(request: HttpRequest) -> HttpResponse:
        pid(spare)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ConnectionPoolMiddleware(get_response)(RequestFactory().get("/"))
    assert on_loan(spare) == 0


def test_inside_atomic_the_connection_stays(spare: Any, client: Client) -> None:
    with transaction.atomic(using="spare"):
        first = pid(spare)
        assert client.get("/backend/").json()["pid"] == first
        assert on_loan(spare) == 1
    assert client.get("/atomic/").status_code == 200
    assert on_loan(spare) == 0  # also what was borrowed before the request, and is at rest


def test_the_test_client_sees_the_transaction_of_the_test_and_leaves_it(
    db: None, client: Client
) -> None:
    Category.objects.create(name="Books", slug="books")
    found = client.get("/in_transaction/").json()

    assert found == {"atomic": True, "pid": pid(connection)}
    assert Category.objects.count() == 1


def test_the_async_test_client_leaves_the_transaction_of_the_test(db: None) -> None:
    Category.objects.create(name="Books", slug="books")

    async def ask() -> Any:
        return await AsyncClient().get("/in_transaction/")

    found = async_to_sync(ask)().json()

    assert found == {"atomic": True, "pid": pid(connection)}
    assert Category.objects.count() == 1


def test_a_session_and_a_user_work_with_the_middleware_first(
    db: None, admin_client: Client
) -> None:
    assert b"Site administration" in admin_client.get("/admin/").content


def test_a_request_inside_a_view_has_a_loan_of_its_own(spare: Any, client: Client) -> None:
    found = client.get("/nested/", {"path": "/backend/"}).json()

    assert (found["status"], found["same"], found["loans"]["spare"]) == (200, True, 0)
    assert on_loan(spare) == 0


def test_a_request_inside_a_view_leaves_a_cursor_of_the_view_alone(
    spare: Any, client: Client
) -> None:
    with django_connpool.scope("outer"), spare.chunked_cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid() FROM generate_series(1, 2)")
        assert client.get("/backend/").json()["pid"] == cursor.fetchone()[0]
        assert on_loan(spare) == 1
        assert cursor.fetchone()


def test_a_streaming_body_holds_nothing_between_its_parts(spare: Any) -> None:
    request = Wsgi("/stream/")
    body = iter(request.response)
    for _ in range(3):
        assert on_loan(spare) == 0
        next(body)

    assert on_loan(spare) == 0
    request.response.close()


def test_a_streaming_body_keeps_its_connection_while_it_reads_from_a_cursor(spare: Any) -> None:
    request = Wsgi("/cursor_stream/")
    assert on_loan(spare) == 1  # its first part is made already, for the sake of the status
    body = iter(request.response)
    next(body)
    assert on_loan(spare) == 1
    assert [loan["note"] for loan in spare.pool.snapshot()["loans"]] == ["GET /cursor_stream/"]
    assert list(body) == [b"2\n", b"3\n"]

    assert on_loan(spare) == 0
    request.response.close()


@override_settings(MIDDLEWARE=ASYNC_ONLY)
def test_a_streaming_body_that_is_left_in_the_middle_gives_back(
    spare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the signal that would give back in any case.
    monkeypatch.setattr("django.core.signals.request_finished.send", lambda **kwargs: [])
    request = Wsgi("/cursor_stream/")
    next(iter(request.response))
    assert on_loan(spare) == 1
    request.response.close()

    assert on_loan(spare) == 0


def test_a_streaming_body_that_was_never_read_does_no_harm(spare: Any) -> None:
    Wsgi("/stream/").response.close()

    assert on_loan(spare) == 0


def test_two_bodies_in_one_thread_keep_their_loans_apart(spare: Any) -> None:
    first, second = (iter(Wsgi("/stream/").response) for _ in range(2))
    next(first), next(second)
    assert len(list(first)) == 2

    # One wrapper, one loan: it was the first's, and ends with it; the second borrows again.
    assert len(list(second)) == 2
    assert on_loan(spare) == 0


def test_a_body_is_streamed_by_the_test_client_too(spare: Any, client: Client) -> None:
    response = client.get("/stream/")

    assert len(set(response.getvalue().split())) == 1
    assert on_loan(spare) == 0


def test_a_body_without_queries_passes_as_it_is(spare: Any, client: Client) -> None:
    assert client.get("/stream_nothing/").getvalue() == b"ab"


def test_a_file_is_left_for_the_server_to_send_fast(spare: Any) -> None:
    environ = RequestFactory()._base_environ(PATH_INFO="/file/")
    fast = {"wsgi.file_wrapper": lambda file, size: file}
    sent: Any = WSGIHandler()({**environ, **fast}, lambda status, headers: None)

    assert sent.name == views.__file__
    assert on_loan(spare) == 0
    sent.close()


def test_a_file_response_is_not_touched(spare: Any, client: Client) -> None:
    response = client.get("/file/")

    assert isinstance(response, FileResponse)
    assert b"views" not in response.getvalue()[:3]
    assert on_loan(spare) == 0


@override_settings(MIDDLEWARE=[])
def test_without_the_middleware_the_end_of_the_request_gives_back(spare: Any) -> None:
    request = Wsgi("/backend/")
    assert on_loan(spare) == 1
    request.response.close()

    assert on_loan(spare) == 0


@override_settings(MIDDLEWARE=[])
def test_without_the_middleware_a_body_keeps_its_loan_until_the_end_of_the_request(
    spare: Any,
) -> None:
    request = Wsgi("/stream/")
    assert len(list(request.response)) == 3
    assert on_loan(spare) == 1
    request.response.close()

    assert on_loan(spare) == 0


@override_settings(MIDDLEWARE=[])
def test_without_the_middleware_an_asgi_request_gives_back_too(spare: Any) -> None:
    status, _ = asyncio.run(asked("/async_backend/"))

    assert status == 200
    assert on_loan(spare) == 0


@pytest.mark.parametrize("path", ["/backend/", "/async_backend/"])
def test_under_asgi_the_connection_is_given_back_before_the_response_is_sent(
    spare: Any, path: str
) -> None:
    async def loans_at_start() -> int:
        client, sent = asgi(path)
        await sent
        assert (await client.receive_output(15))["status"] == 200
        found = on_loan(spare)
        await client.receive_output(15)
        await client.wait(15)
        return found

    assert asyncio.run(loans_at_start()) == 0
    assert spare.pool.get_stats()["loans_reclaimed"] == 0


@override_settings(MIDDLEWARE=ASYNC_ONLY)
@pytest.mark.parametrize("path", ["/backend/", "/async_backend/"])
def test_under_asgi_with_nothing_but_async_middleware_it_is_the_same(
    spare: Any, path: str, cluster: Server
) -> None:
    for _ in range(3):
        assert asyncio.run(asked(path))[0] == 200
        assert on_loan(spare) == 0

    assert spare.pool.get_stats()["loans_reclaimed"] == 0
    assert connected(cluster, spare) == 1


@pytest.mark.parametrize("path", ["/fails/", "/async_fails/"])
def test_under_asgi_a_view_that_raises_gives_back(spare: Any, path: str) -> None:
    assert asyncio.run(asked(path))[0] == 500
    assert on_loan(spare) == 0
    assert spare.pool.get_stats()["loans_reclaimed"] == 0


@override_settings(MIDDLEWARE=ASYNC_ONLY)
@pytest.mark.parametrize("path", ["/stream/", "/async_stream/"])
def test_under_asgi_a_streaming_body_gives_back_at_its_end(
    spare: Any, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without the signal that would give back in any case.
    monkeypatch.setattr("django.core.signals.request_finished.send", lambda **kwargs: [])
    if path == "/stream/":
        with pytest.warns(Warning, match="synchronous iterators"):
            status, body = asyncio.run(asked(path))
    else:
        status, body = asyncio.run(asked(path))

    assert (status, len(body.split())) == (200, 3)
    assert on_loan(spare) == 0
    assert spare.pool.get_stats()["loans_reclaimed"] == 0


def test_under_wsgi_an_async_body_gives_back_at_its_end(spare: Any) -> None:
    request = Wsgi("/async_stream/")
    with pytest.warns(Warning, match="asynchronous iterators"):
        parts = list(request.response)
    request.response.close()

    assert len(parts) == 3
    assert on_loan(spare) == 0


@override_settings(MIDDLEWARE=ASYNC_ONLY)
def test_under_asgi_a_client_that_goes_away_in_the_middle_of_a_body_leaves_no_loan(
    spare: Any,
) -> None:
    async def leave() -> None:
        client, sent = asgi("/async_stream/")
        await sent
        await client.receive_output(15)
        await client.receive_output(15)
        await client.send_input({"type": "http.disconnect"})
        await client.wait(15)

    asyncio.run(leave())
    wait_until(lambda: on_loan(spare) == 0, "the connection is given back")
    assert spare.pool.get_stats()["loans_reclaimed"] == 0


@override_settings(MIDDLEWARE=ASYNC_ONLY)
@pytest.mark.parametrize("path", ["/slow/", "/async_slow/"])
def test_under_asgi_a_request_that_is_cancelled_gives_back(spare: Any, path: str) -> None:
    async def cancel() -> None:
        client, sent = asgi(path)
        await sent
        await has_begun()
        assert on_loan(spare) == 1
        await client.send_input({"type": "http.disconnect"})
        # A sync view is not interrupted, and Django 4.2 does not look.
        if path == "/slow/" or django.VERSION < (5,):
            views.go_on.set()
        await client.wait(15)

    asyncio.run(cancel())
    wait_until(lambda: on_loan(spare) == 0, "the connection is given back")


def test_a_task_that_is_cancelled_in_the_middleware_gives_back_before_it_ends(spare: Any) -> None:
    async def get_response(request: HttpRequest) -> HttpResponse:
        return await views.async_slow(request)

    async def cancel() -> int:
        middleware: Any = ConnectionPoolMiddleware(get_response)
        task = asyncio.create_task(middleware(RequestFactory().get("/")))
        await has_begun()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return on_loan(spare)

    assert asyncio.run(cancel()) == 0


def test_concurrent_async_requests_do_not_take_each_others_connections(
    databases: Databases,
) -> None:
    spare = databases.add(pool={"max_size": 4, "timeout": 15})

    async def many() -> list[tuple[int, bytes]]:
        return await asyncio.gather(*(asked("/async_backend/") for _ in range(12)))

    assert {status for status, _ in asyncio.run(many())} == {200}
    assert on_loan(spare) == 0
    assert spare.pool.get_stats()["loans_reclaimed"] == 0


def test_it_is_async_where_what_it_wraps_is() -> None:
    async def get_response(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    assert iscoroutinefunction(ConnectionPoolMiddleware(get_response))
    assert not iscoroutinefunction(ConnectionPoolMiddleware(lambda request: HttpResponse()))


def test_the_first_request_opens_the_minimum_in_the_background(
    databases: Databases, cluster: Server
) -> None:
    spare = databases.add(pool={"min_size": 3})
    pid(spare)
    assert connected(cluster, spare) == 1
    serve = ConnectionPoolMiddleware(lambda request: HttpResponse())
    assert spare.pool.snapshot()["size"] == 1

    serve(RequestFactory().get("/"))
    wait_until(lambda: connected(cluster, spare) == 3, "min_size connections are open")


def test_the_first_request_without_a_server_does_not_fail(databases: Databases) -> None:
    spare = databases.add(pool={"min_size": 1}, HOST="127.0.0.1", PORT=1)
    serve = ConnectionPoolMiddleware(lambda request: HttpResponse())

    assert serve(RequestFactory().get("/")).status_code == 200  # type: ignore[union-attr]
    wait_until(lambda: spare.pool.get_stats()["connections_errors"], "it was tried")


def test_building_it_tells_of_impossible_options(databases: Databases) -> None:
    databases.add(pool={"max_sise": 3})

    with pytest.raises(ImproperlyConfigured, match="max_size"):
        ConnectionPoolMiddleware(lambda request: HttpResponse())


def test_a_loan_at_rest_from_before_the_request_goes_back_first(spare: Any, client: Client) -> None:
    pid(spare)
    assert client.get("/backend/").json()["notes"] == ["GET /backend/"]

    assert on_loan(spare) == 0


def test_another_threads_loan_is_left_alone(spare: Any, client: Client) -> None:
    def hold() -> bool:
        with transaction.atomic(using="spare"):
            first = pid(connections["spare"])
            in_thread(lambda: client.get("/backend/"))
            return pid(connections["spare"]) == first

    assert in_thread(hold)


def test_the_site_passes_its_own_checks() -> None:
    call_command("check", stdout=sys.stdout)


def test_a_query_after_the_response_borrows_again(spare: Any, client: Client) -> None:
    client.get("/backend/")

    assert value(spare, "SELECT 1") == 1
    assert on_loan(spare) == 1
