"""Whose a line of code is."""

from __future__ import annotations

import asyncio
import gc
import os
import sysconfig
import threading
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from tests.inside import explain, locking, userline

from .fake import FakeServer, working_pool

STANDARD = os.path.dirname(os.__file__)
INSTALLED = "/srv/venv/lib/python3.13/site-packages"


@pytest.mark.parametrize(
    ("file", "module"),
    [
        ("/srv/shop/orders/views.py", "orders.views"),
        ("/srv/shop/manage.py", "__main__"),
        ("/srv/shop/shop/celery.py", "shop.celery"),
        ("<console>", "__console__"),
        ("/srv/shop/orders/views.py", None),
    ],
)
def test_users(file: str, module: str | None) -> None:
    assert userline.whose(file, module) == userline.USERS


@pytest.mark.parametrize(
    ("file", "module"),
    [
        (f"{STANDARD}/threading.py", "threading"),
        (f"{STANDARD}/concurrent/futures/thread.py", "concurrent.futures.thread"),
        (f"{STANDARD}/asyncio/base_events.py", "asyncio.base_events"),
        (userline.__file__, userline.__name__),
        ("<frozen importlib._bootstrap>", "importlib._bootstrap"),
        (f"{sysconfig.get_path('scripts')}/gunicorn", "__main__"),
        (f"{INSTALLED}/gunicorn/__main__.py", "__main__"),
        # Installed, and editable.
        (f"{INSTALLED}/asgiref/sync.py", "asgiref.sync"),
        ("/home/me/asgiref/asgiref/sync.py", "asgiref.sync"),
        ("/home/me/django/django/db/models/query.py", "django.db.models.query"),
        ("/home/me/psycopg/psycopg/psycopg/cursor.py", "psycopg.cursor"),
        ("/home/me/celery/celery/app/trace.py", "celery.app.trace"),
    ],
)
def test_nobodys(file: str, module: str) -> None:
    assert userline.whose(file, module) == userline.NOBODYS


@pytest.mark.parametrize(
    ("file", "module"),
    [
        (f"{INSTALLED}/rest_framework/views.py", "rest_framework.views"),
        ("/usr/lib/python3/dist-packages/oscar/views.py", "oscar.views"),
        (f"{INSTALLED}/django/contrib/admin/options.py", "django.contrib.admin.options"),
        ("/home/me/django/django/contrib/admin/options.py", "django.contrib.admin.options"),
    ],
)
def test_next_best(file: str, module: str) -> None:
    assert userline.whose(file, module) == userline.INSTALLED


class Code:
    def __init__(self, file: str) -> None:
        self.co_filename = file


class Frame:
    def __init__(self, file: str, module: str) -> None:
        self.f_code = Code(file)
        self.f_globals = {"__name__": module}


USER = Frame("/srv/shop/orders/views.py", "orders.views")
ADMIN = Frame("/django/contrib/admin/options.py", "django.contrib.admin.options")
REST = Frame(f"{INSTALLED}/rest_framework/views.py", "rest_framework.views")
DJANGO = Frame(f"{INSTALLED}/django/core/handlers/base.py", "django.core.handlers.base")


@pytest.mark.parametrize(
    ("frames", "found"),
    [
        ([DJANGO, REST, USER, ADMIN], USER),
        ([DJANGO, REST, DJANGO, ADMIN], REST),
        ([DJANGO], None),
        ([], None),
    ],
)
def test_the_innermost_of_the_users_else_of_a_package(frames: Any, found: Any) -> None:
    assert userline.best(iter(frames)) is found


class Thing:
    pass


def test_looking_keeps_nothing_alive() -> None:
    look, looked = threading.Event(), threading.Event()
    things: list[weakref.ref[Thing]] = []

    def work() -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        look.set()
        looked.wait(60)

    def ask() -> Any:
        thing = Thing()
        things.append(weakref.ref(thing))
        (loan,) = pool.snapshot()["loans"]
        return loan["at"]

    with working_pool(FakeServer(), max_size=2) as pool:
        conns = [pool.getconn()]
        gc.disable()
        try:
            thread = threading.Thread(target=work)
            thread.start()
            look.wait(60)
            assert ask().startswith(f"{__file__}:")
            looked.set()
            thread.join(60)
            assert [thing() for thing in things] == [None, None]
        finally:
            gc.enable()
            looked.set()
        pool.putconn(conns.pop())


def running_work(look: Callable[[], None]) -> None:
    """Ask for the line of work that runs at the moment, in a coroutine of this thread."""

    async def work() -> None:
        look()

    asyncio.run(work())


@pytest.mark.parametrize("what", ["waits for each other", "runs here", "runs nowhere"])
def test_who_looks_at_all_threads_keeps_nothing_alive(what: str) -> None:
    look, looked = threading.Event(), threading.Event()
    things: list[weakref.ref[Thing]] = []

    def hold() -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        look.set()
        looked.wait(60)

    def ask() -> None:
        thing = Thing()
        things.append(weakref.ref(thing))
        if what == "waits for each other":
            slot = SimpleNamespace(loans=None, note=None, lasts=False)
            assert not locking.is_locked([slot], [])  # type: ignore[list-item]
        elif what == "runs here":
            running_work(lambda: found.append(userline.of_thread(0, Note())))
        else:
            found.append(userline.of_thread(0, Note()))

    class Note:
        def coroutine(self) -> Any:
            task = asyncio.current_task() if what == "runs here" else None
            return None if task is None else task.get_coro()

    found: list[str] = []
    thread = threading.Thread(target=hold)
    thread.start()
    look.wait(60)
    gc.collect()
    gc.disable()
    try:
        ask()
        looked.set()
        thread.join(60)
        assert [thing() for thing in things] == [None, None]
        assert found == [] or what == "runs nowhere" or f"{__file__}:" in found[0]
    finally:
        gc.enable()
        looked.set()


def test_only_so_many_are_looked_for() -> None:
    me = threading.get_ident()
    loans = [{"held": float(held), "thread_id": me, "at": "GET /"} for held in range(4)]
    explain.locate(loans, 2)
    assert [bool(loan["at"]) for loan in loans] == [False, False, True, True]


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    yield
    userline.whose.cache_clear()
