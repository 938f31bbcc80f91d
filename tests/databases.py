"""Databases that a test adds to the site for itself, and questions about them."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.postgres.signals import get_citext_oids, get_hstore_oids
from django.db import connections

from django_connpool import registry
from tests import inside
from tests.cluster import Server
from tests.testproject.processes import wait_until

ENGINE = "django_connpool.backends.postgresql"
DEADLINE = 60.0  # seconds until something that does not happen is called a failure

_numbers = itertools.count(1)


class Databases:
    """Entries of DATABASES that live as long as a test; their name on the server is unique."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._added: list[str] = []

    def add(
        self,
        alias: str = "spare",
        *,
        engine: str = ENGINE,
        pool: Any = None,
        options: dict[str, Any] | None = None,
        server: Server | None = None,
        **changes: Any,
    ) -> Any:
        """Add an alias and return this thread's wrapper of it; `changes` go to its settings.

        It means a database of its own unless `options` repeats the application_name.
        """
        place = (server or self._server).django()
        entry = {
            "ENGINE": engine,
            "NAME": (server or self._server).params()["dbname"],
            **place,
            "OPTIONS": {
                **place["OPTIONS"],
                "application_name": f"databases-{next(_numbers)}",
                **(options or {}),
                **({} if pool is None else {"pool": pool}),
            },
            **changes,
        }
        configured = connections.configure_settings({"default": {}, alias: entry})
        connections.settings[alias] = configured[alias]
        self._added.append(alias)
        return connections[alias]

    def remove(self) -> None:
        """Take every added alias away, with its pools."""
        for alias in self._added:
            # The test may have taken it out of the settings: this thread's wrapper is still there.
            wrapper = getattr(connections._connections, alias, None)
            if wrapper is not None:
                # A test may have failed in the middle of a transaction.
                wrapper.in_atomic_block = False
                wrapper.close()
                del connections[alias]
        if any(thread.name.startswith("ThreadPoolExecutor") for thread in threading.enumerate()):
            # That in which asgiref has async tests' queries done lives on, and would take its
            # wrapper of this test's alias for that of the next test's.
            asyncio.run(sync_to_async(_forget)(self._added))
        for binding in inside.bindings():
            if binding.aliases & set(self._added):
                registry.close(binding)
                has_told_all(binding.pool)
        for alias in self._added:
            connections.settings.pop(alias, None)
        # Django remembers by alias which types a database has; the next one may have others.
        get_hstore_oids.cache_clear()
        get_citext_oids.cache_clear()


def _forget(aliases: list[str]) -> None:
    """Let go of this thread's wrappers of those aliases."""
    for alias in aliases:
        wrapper = getattr(connections._connections, alias, None)
        if wrapper is not None:
            wrapper.close()
            del connections[alias]


def has_told_all(pool: Any) -> None:
    """Wait until all that the pool has to report is in the log of this test, not of the next."""
    names = {f"{pool.name}-news", f"{pool.name}-warnings"}
    wait_until(lambda: not inside.has_news(pool), "the pool has told all")
    # Not `join`: one that is just being started cannot be joined yet.
    wait_until(
        lambda: all(thread.name not in names for thread in threading.enumerate()),
        "its teller is gone",
    )


def value(wrapper: Any, query: str, args: Any = None) -> Any:
    """The first column of the first row of a query."""
    with wrapper.cursor() as cursor:
        cursor.execute(query, args)
        return cursor.fetchone()[0]


def pid(wrapper: Any) -> int:
    """The process id of the backend that serves the wrapper."""
    return int(value(wrapper, "SELECT pg_backend_pid()"))


def in_hand(wrapper: Any) -> Any:
    """The connection that the wrapper has, or None; reading `connection` would borrow one."""
    return wrapper.in_hand


def connected(server: Server, wrapper: Any) -> int:
    """How many connections the server counts for the wrapper's database."""
    return server.backends(application_name=wrapper.settings_dict["OPTIONS"]["application_name"])


def round_trips(wrapper: Any, work: Callable[[], object]) -> int:
    """How often the server answers to some work with a connection that is in hand.

    By libpq's own record of what was sent.
    """
    # Past `connection`: who reads that may do with it what no cursor sees.
    pgconn = (getattr(wrapper, "in_hand", None) or wrapper.connection).pgconn
    with tempfile.TemporaryFile() as record:
        pgconn.trace(record.fileno())
        try:
            work()
        finally:
            pgconn.untrace()
        record.seek(0)
        lines = record.read().decode().splitlines()
    sent = [fields for line in lines if (fields := line.split("\t"))[1] == "F"]
    return sum(fields[3].rstrip() in ("Query", "Sync") for fields in sent)


def on_loan(wrapper: Any) -> int:
    """How many connections the pool has lent, those included that are on offer."""
    seen = wrapper.pool.snapshot()
    return int(seen["in_use"] + seen["offered"])


@contextmanager
def all_on_loan(wrapper: Any) -> Iterator[Callable[[], None]]:
    """Another thread has the only connection, in a transaction, until the function is called."""
    taken, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        with wrapper.pool.connection(60) as connection:
            connection.execute("SELECT 1")
            taken.set()
            go_on.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert taken.wait(30)
    try:
        yield go_on.set
    finally:
        go_on.set()
        thread.join()


def in_thread(work: Callable[[], Any]) -> Any:
    """Do the work in a new thread and return its result, or raise what it raised."""
    return in_threads([work])[0]


def in_threads(works: list[Callable[[], Any]], seconds: float = DEADLINE) -> list[Any]:
    """Do each piece of work in a thread of its own, all at the same time."""
    results: list[Any] = [None] * len(works)
    errors: list[BaseException] = []

    def run(number: int, work: Callable[[], Any]) -> None:
        try:
            results[number] = work()
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(number, work)) for number, work in enumerate(works)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds)
        assert not thread.is_alive(), "a thread hangs"
    if errors:
        raise errors[0]
    return results
