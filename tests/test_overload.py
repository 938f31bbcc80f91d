"""A request that gets no connection in time is answered 503."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.contrib import admin
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import got_request_exception
from django.db import OperationalError, connections
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client, override_settings
from django.urls import path, re_path

from django_connpool import TooManyRequests
from django_connpool.middleware import ConnectionPoolMiddleware
from tests import inside
from tests.databases import Databases, all_on_loan, on_loan, pid
from tests.testproject.processes import wait_until

OURS = "django_connpool.middleware.ConnectionPoolMiddleware"


# -- The site -----------------------------------------------------------------------------


def page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(pid(connections["spare"])))


async def async_page(request: HttpRequest) -> HttpResponse:
    return HttpResponse(str(await sync_to_async(_pid)()))


def direct(request: HttpRequest) -> HttpResponse:
    """Borrows from the pool itself, whose errors Django does not wrap."""
    with connections["spare"].pool.connection():
        return HttpResponse()


def caught(request: HttpRequest) -> HttpResponse:
    """Does without what it did not get."""
    with pytest.raises(OperationalError):
        _pid()
    return HttpResponse("nothing new")


def own_page(request: HttpRequest) -> HttpResponse:
    """Makes a page of its own of any error, as API frameworks can be told to."""
    try:
        return page(request)
    except OperationalError:
        return HttpResponse("failed", status=500)


def faulty(request: HttpRequest) -> HttpResponse:
    raise RuntimeError("on purpose")


def caught_and_faulty(request: HttpRequest) -> HttpResponse:
    """Does without what it did not get, and has a fault of its own."""
    caught(request)
    raise RuntimeError("on purpose")


async def async_caught_and_faulty(request: HttpRequest) -> HttpResponse:
    await sync_to_async(caught)(request)
    raise RuntimeError("on purpose")


def wrapped(request: HttpRequest) -> HttpResponse:
    """Raises an error of its own for the pool's."""
    try:
        return page(request)
    except OperationalError as error:
        raise RuntimeError("not now") from error


def stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_parts())


def late_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_late_parts())


def faulty_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(map(_divide, [0]))


class Closed:
    """A body that queries, and is to be closed."""

    times = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        return str(_pid())

    def close(self) -> None:
        Closed.times += 1


def closed_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(Closed())


def recovers(request: HttpRequest) -> HttpResponse:
    """Is refused, gets a connection later, gives it back, and has a fault of its own."""
    with pytest.raises(OperationalError):
        _pid()
    make_room[0]()
    wait_until(_queries, "there is room")
    connections["spare"].close()
    raise RuntimeError("on purpose")


make_room: list[Callable[[], None]] = []


def _queries() -> bool:
    try:
        return bool(_pid())
    except OperationalError:
        return False


def empty_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(iter(()))


async def async_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_async_parts())


async def events(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_async_parts(), content_type="text/event-stream; charset=utf-8")


async def empty_async_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_async_nothing())


async def faulty_async_stream(request: HttpRequest) -> StreamingHttpResponse:
    return StreamingHttpResponse(_async_failing())


def _pid() -> int:
    return pid(connections["spare"])


def _parts() -> Iterator[str]:
    for _ in range(2):
        yield f"{_pid()}\n"


def _late_parts() -> Iterator[str]:
    yield "first\n"
    yield f"{_pid()}\n"


def _divide(number: int) -> str:
    return str(1 // number)


async def _async_parts() -> AsyncIterator[str]:
    for _ in range(2):
        yield f"{await sync_to_async(_pid)()}\n"


async def _async_nothing() -> AsyncIterator[str]:
    for part in ():
        yield part


async def _async_failing() -> AsyncIterator[str]:
    yield _divide(0)


VIEWS: tuple[Callable[..., Any], ...] = (
    *(page, async_page, direct, caught, own_page, faulty, wrapped),
    *(caught_and_faulty, async_caught_and_faulty),
    *(recovers, closed_stream, stream, late_stream, faulty_stream, empty_stream),
    *(async_stream, events, empty_async_stream, faulty_async_stream),
)
SITE = (
    path("admin/", admin.site.urls),
    *(path(f"{view.__name__}/", view) for view in VIEWS),
)


class QueriesFirst:
    """A middleware that queries, where `process_exception` of others does not see its errors."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        _pid()
        return self.get_response(request)


class ToSpare:
    """Sends all models there."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "spare"


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=SITE):
        yield


@pytest.fixture
def full(databases: Databases) -> Iterator[Any]:
    """A database whose only connection is on loan, for longer than anybody waits."""
    wrapper = databases.add(pool={"max_size": 1, "timeout": 0.05})
    with all_on_loan(wrapper):
        yield wrapper


@pytest.fixture
def refusing(databases: Databases) -> Iterator[Any]:
    """A database where one stands in line already, and nobody else may."""
    wrapper = databases.add(pool={"max_size": 1, "timeout": 60, "max_waiting": 1})
    with all_on_loan(wrapper) as give_back:
        thread = threading.Thread(target=_borrow, args=(wrapper.pool,))
        thread.start()
        wait_until(lambda: wrapper.pool.is_awaited, "one stands in line")
        make_room[:] = [give_back]
        yield wrapper
    thread.join()


def _borrow(pool: Any) -> None:
    with pool.connection():
        pass


def get(address: str, **headers: str) -> Any:
    """What a client gets, as a server's: errors are pages."""
    return Client(raise_request_exception=False).get(address, headers=headers or None)


async def aget(address: str) -> Any:
    return await AsyncClient(raise_request_exception=False).get(address)


def ask(address: str) -> Any:
    return get(address)


def ask_async(address: str) -> Any:
    return asyncio.run(aget(address))


def overloads(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name.endswith(".overload")]


def assert_refused(response: Any) -> None:
    assert (response.status_code, response.headers["Retry-After"]) == (503, "5")
    assert response.headers["Cache-Control"] == "no-store"


# -- Who gets it --------------------------------------------------------------------------


@pytest.mark.parametrize("way", [ask, ask_async])
@pytest.mark.parametrize(
    "address",
    ["/page/", "/async_page/", "/direct/", "/own_page/", "/wrapped/", "/stream/", "/admin/"],
)
def test_who_has_waited_in_vain_is_told_to_come_again(
    full: Any, way: Callable[[str], Any], address: str
) -> None:
    if (way, address) == (ask_async, "/stream/"):
        pytest.skip("an ASGI server has sent the header when Django reads such a body")
    with override_settings(DATABASE_ROUTERS=[ToSpare()]):
        client = AsyncClient if way is ask_async else Client
        if address == "/admin/":
            cookies = {settings.SESSION_COOKIE_NAME: "of somebody who is known"}
            one: Any = client(raise_request_exception=False)
            one.cookies.load(cookies)
            response = one.get(address)
            response = asyncio.run(response) if way is ask_async else response
        else:
            response = way(address)

    assert_refused(response)


@pytest.mark.parametrize("address", ["/page/", "/direct/", "/own_page/", "/stream/"])
def test_who_may_not_even_wait_is_told_so_too(refusing: Any, address: str) -> None:
    assert_refused(get(address))


def test_an_async_stream_that_fails_before_its_first_part_is_answered_503(full: Any) -> None:
    assert_refused(ask_async("/async_stream/"))


def test_the_header_of_an_event_stream_does_not_wait_for_the_first_event(full: Any) -> None:
    async def read() -> int:
        response = await aget("/events/")
        with pytest.raises(OperationalError):
            async for _ in response.streaming_content:
                pass
        return int(response.status_code)

    assert asyncio.run(read()) == 200


def test_a_stream_that_has_begun_goes_on_until_it_fails(full: Any) -> None:
    body = iter(get("/late_stream/").streaming_content)
    assert next(body) == b"first\n"
    with pytest.raises(OperationalError):
        next(body)


def test_a_stream_that_gets_its_connections_is_whole(databases: Databases) -> None:
    spare = databases.add(pool={"max_size": 1})

    async def read() -> list[bytes]:
        return [part async for part in (await aget("/async_stream/")).streaming_content]

    assert len(list(get("/stream/").streaming_content)) == 2
    assert len(asyncio.run(read())) == 2
    assert on_loan(spare) == 0


@pytest.mark.parametrize("address", ["/empty_stream/", "/empty_async_stream/"])
def test_a_stream_without_parts_is_a_stream_without_parts(address: str) -> None:
    async def read() -> tuple[int, list[bytes]]:
        response = await aget(address)
        parts = response.streaming_content
        found = [part async for part in parts] if response.is_async else list(parts)
        return response.status_code, found

    assert asyncio.run(read()) == (200, [])
    if address == "/empty_stream/":
        assert list(get(address).streaming_content) == []


def test_another_error_of_a_stream_comes_where_it_came_before() -> None:
    async def read() -> None:
        response = await aget("/faulty_async_stream/")
        async for _ in response.streaming_content:
            pass

    response = get("/faulty_stream/")
    assert response.status_code == 200
    with pytest.raises(ZeroDivisionError):
        list(response.streaming_content)
    with pytest.raises(ZeroDivisionError):
        asyncio.run(read())


@override_settings(MIDDLEWARE=[OURS, f"{__name__}.QueriesFirst"])
def test_who_fails_in_a_middleware_is_told_so_too(full: Any) -> None:
    assert_refused(get("/page/"))


# -- Who does not -------------------------------------------------------------------------


def test_a_fault_is_no_overload(databases: Databases) -> None:
    databases.add(pool={"max_size": 1})

    assert get("/faulty/").status_code == 500


@pytest.mark.parametrize("way", [ask, ask_async])
@pytest.mark.parametrize("address", ["/caught_and_faulty/", "/async_caught_and_faulty/"])
@pytest.mark.parametrize("debug", [True, False])
def test_a_fault_of_a_view_that_did_without_is_no_overload(
    full: Any, way: Callable[[str], Any], address: str, debug: bool
) -> None:
    with override_settings(DEBUG=debug):
        assert way(address).status_code == 500


def test_a_fault_after_an_overload_that_is_over_is_no_overload(refusing: Any) -> None:
    assert get("/recovers/").status_code == 500


def test_a_body_that_is_not_sent_is_closed(full: Any) -> None:
    before = Closed.times
    response = get("/closed_stream/")
    assert_refused(response)
    response.close()

    assert Closed.times > before


def test_a_view_that_does_without_is_left_alone(full: Any) -> None:
    response = get("/caught/")

    assert (response.status_code, response.content) == (200, b"nothing new")


@pytest.mark.parametrize("address", ["/page/", "/own_page/"])
@override_settings(CONNPOOL_RETRY_AFTER=None)
def test_it_can_be_switched_off(full: Any, address: str) -> None:
    response = get(address)

    assert response.status_code == 500
    assert "Retry-After" not in response.headers


@override_settings(CONNPOOL_RETRY_AFTER=None)
def test_switched_off_no_stream_begins_early(full: Any) -> None:
    response = get("/stream/")

    assert response.status_code == 200
    with pytest.raises(OperationalError):
        list(response.streaming_content)


# -- What it says -------------------------------------------------------------------------


@override_settings(CONNPOOL_RETRY_AFTER=30)
def test_the_setting_says_when_to_come_again(full: Any) -> None:
    assert get("/page/").headers["Retry-After"] == "30"


@pytest.mark.parametrize("value", [-1, "5", 1.5, True])
def test_a_setting_that_makes_no_sense_is_named(value: Any) -> None:
    with (
        override_settings(CONNPOOL_RETRY_AFTER=value),
        pytest.raises(ImproperlyConfigured, match="CONNPOOL_RETRY_AFTER must be whole seconds"),
    ):
        ConnectionPoolMiddleware(lambda request: None)


@pytest.mark.parametrize(
    ("accept", "kind", "text"),
    [
        ("text/html,application/xhtml+xml", "text/html", "<h1>Service Unavailable</h1>"),
        ("application/json", "application/json", '{"detail": "The server is busy.'),
        ("*/*", "text/plain", "The server is busy."),
        ("", "text/plain", "The server is busy."),
    ],
)
def test_the_answer_is_of_the_kind_that_the_client_names(
    full: Any, accept: str, kind: str, text: str
) -> None:
    response = get("/page/", accept=accept)

    assert response.headers["Content-Type"].startswith(kind)
    assert text in response.content.decode()
    assert "connection" not in response.content.decode()  # of inside the site: nothing


def test_the_project_may_have_a_page_for_it(full: Any, tmp_path: Path) -> None:
    (tmp_path / "503.html").write_text("<p>Back in a minute.</p>")
    (engine,) = settings.TEMPLATES
    with override_settings(TEMPLATES=[{**engine, "DIRS": [tmp_path]}]):
        assert get("/page/", accept="text/html").content == b"<p>Back in a minute.</p>"


@pytest.mark.parametrize("way", [ask, ask_async])
@pytest.mark.parametrize("address", ["/page/", "/async_page/", "/direct/", "/async_stream/"])
@override_settings(DEBUG=True)
def test_with_debug_the_page_shows_the_error(
    full: Any, way: Callable[[str], Any], address: str
) -> None:
    if (way, address) == (ask, "/async_stream/"):
        pytest.skip("WSGI reads such a body as a whole")
    response = way(address)

    assert_refused(response)
    assert "no connection became free within" in response.content.decode()
    assert "Traceback" in response.content.decode()


# -- Who hears of it ----------------------------------------------------------------------


def test_it_is_logged_once_and_then_how_often(full: Any, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(4):
        assert_refused(get("/page/"))
    assert_refused(get("/direct/"))

    (record,) = overloads(caplog)
    assert record.levelname == "ERROR"
    assert "spare: overload, GET /page/ is answered 503: pool 'spare': no conn" in record.message
    facts: Any = record
    assert (facts.pool, facts.in_use, facts.waiting) == ("spare", 1, 0)
    assert (facts.reason, facts.work, facts.status_code) == ("timed out", "GET /page/", 503)
    assert facts.waited >= 0.05

    inside.end_bursts()
    wait_until(lambda: len(overloads(caplog)) == 2, "the others are told of")
    record = overloads(caplog)[1]
    assert "4 more within 10 s like this: spare: overload" in record.message
    assert (record.levelname, record.__dict__["repeated"]) == ("ERROR", 4)
    assert record.__dict__["pool"] == "spare"

    inside.end_bursts()
    get("/page/")
    assert len(overloads(caplog)) == 3


def test_who_is_refused_at_once_is_logged_as_such(
    refusing: Any, caplog: pytest.LogCaptureFixture
) -> None:
    get("/page/")

    (record,) = overloads(caplog)
    facts: Any = record
    assert (facts.reason, facts.waiting, facts.in_use) == ("refused", 1, 1)
    assert issubclass(TooManyRequests, Exception)
    assert "and no more than max_waiting (1) may" in record.message


def test_a_path_cannot_forge_a_line_of_the_log(full: Any, caplog: pytest.LogCaptureFixture) -> None:
    with override_settings(ROOT_URLCONF=(re_path(r"(?s)^.*$", page),)):
        get("/a%0Aspare: all is well")

    (record,) = overloads(caplog)
    assert "\n" not in record.message
    assert "GET /a\\nspare: all is well" in record.message


def test_it_is_not_an_error_of_the_sites(full: Any, caplog: pytest.LogCaptureFixture) -> None:
    failed: list[object] = []

    def note(**kwargs: object) -> None:
        failed.append(kwargs)

    got_request_exception.connect(note)
    try:
        get("/page/")
        get("/stream/")
    finally:
        got_request_exception.disconnect(note)

    assert not failed
    assert not [record for record in caplog.records if record.name.startswith("django.")]


def test_nothing_stays_on_loan(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1, "timeout": 0.05})
    with all_on_loan(wrapper):
        for address in ("/page/", "/stream/", "/direct/"):
            assert_refused(get(address))
    wrapper.pool.timeout = 60  # it may still be on its way back
    assert get("/page/").status_code == 200
    assert on_loan(wrapper) == 0
