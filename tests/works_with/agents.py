"""Agents that watch databases, each in a process of its own, because they patch all of it.

`python -m tests.works_with.agents AGENT WHEN` with DATABASE_URL set. WHEN is `before` (the agent is
switched on, then we are imported) or `after`; in the end it is switched off again. Each way in is
used as a borrower would. What goes wrong ends in an error; the last line says in JSON what the
agent has seen, and what was logged.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.works_with.processes import ENGINES, MODES, database, elastic, tell


class Agent:
    """An agent that can be switched on and off, and tells what it has seen."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on(self) -> None:
        """Patch all that it patches."""

    def off(self) -> None:
        """Take that back."""

    @contextmanager
    def request(self) -> Iterator[None]:
        """Something under way of which it tells."""
        yield


class Datadog(Agent):
    def on(self) -> None:
        os.environ.update(DD_TRACE_ENABLED="true", DD_INSTRUMENTATION_TELEMETRY_ENABLED="false")
        import ddtrace
        from ddtrace.trace import TraceFilter, tracer

        seen = self.seen

        class Keep(TraceFilter):
            def process_trace(self, trace: Any) -> None:
                seen.extend(span.resource for span in trace)

        tracer.configure(trace_processors=[Keep()])
        ddtrace.patch(psycopg=True, django=True)

    def off(self) -> None:
        from ddtrace.contrib.internal.psycopg.patch import unpatch

        unpatch()


class Elastic(Agent):
    def on(self) -> None:
        def keep(span: Any) -> None:
            self.seen.append(span.get("context", {}).get("db", {}).get("statement", ""))

        self._client = elastic(keep)

    def off(self) -> None:
        import elasticapm

        elasticapm.uninstrument()

    @contextmanager
    def request(self) -> Iterator[None]:
        self._client.begin_transaction("tests")
        try:
            yield
        finally:
            self._client.end_transaction("tests", "ok")


class OpenTelemetry(Agent):
    def on(self) -> None:
        from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

        seen = self.seen

        class Keep(SpanProcessor):
            def on_end(self, span: Any) -> None:
                seen.append(str(span.attributes.get("db.statement", "")))

        provider = TracerProvider()
        provider.add_span_processor(Keep())
        PsycopgInstrumentor().instrument(
            tracer_provider=provider, skip_dep_check=True, enable_commenter=True
        )

    def off(self) -> None:
        from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor

        PsycopgInstrumentor().uninstrument()


class Sentry(Agent):
    def on(self) -> None:
        import sentry_sdk
        from sentry_sdk.integrations.django import DjangoIntegration

        def keep(event: Any, hint: Any) -> None:
            self.seen.extend(span.get("description", "") for span in event["spans"])

        sentry_sdk.init(
            dsn="http://key@127.0.0.1:9/1",
            integrations=[DjangoIntegration()],
            traces_sample_rate=1.0,
            before_send_transaction=keep,
        )

    @contextmanager
    def request(self) -> Iterator[None]:
        import sentry_sdk

        with sentry_sdk.start_transaction(name="tests"):
            yield


AGENTS: dict[str, type[Agent]] = {
    "ddtrace": Datadog,
    "elasticapm": Elastic,
    "opentelemetry.instrumentation.psycopg": OpenTelemetry,
    "sentry_sdk": Sentry,
}


class Log(logging.Handler):
    """Keeps what is said to be wrong."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def set_up(log: Log) -> None:
    """A site with an alias for each engine and mode."""
    import django
    from django.conf import settings

    settings.configure(
        DATABASES={
            "default": {},
            **{
                f"{way}-{mode}": database(
                    engine, {"max_size": 2, "release": mode, "name": f"{way}-{mode}"}
                )
                for way, engine in ENGINES.items()
                for mode in MODES
            },
        },
        INSTALLED_APPS=["django_connpool"],
        USE_TZ=True,
    )
    django.setup()
    logging.getLogger("django_connpool").addHandler(log)


def use_alone(agent: Agent) -> None:
    """The pool without Django."""
    from django_connpool import ConnectionPool

    with ConnectionPool(os.environ["DATABASE_URL"], min_size=0, max_size=2) as pool:
        _use_pool(agent, pool)


def _use_pool(agent: Agent, pool: Any) -> None:
    import psycopg
    from psycopg.rows import dict_row

    def one(conn: Any, query: str) -> Any:
        with conn.cursor() as cursor:
            return cursor.execute(query).fetchone()[0]

    with agent.request():
        with pool.connection() as conn:
            pid = one(conn, "SELECT pg_backend_pid() /* alone */")
            conn.execute("SET work_mem = '1234kB'")
            conn.row_factory = dict_row
        with pool.connection() as conn:
            same(one(conn, "SELECT pg_backend_pid()"), pid)
            differs(one(conn, "SHOW work_mem"), "1234kB")
            conn.execute("CREATE TEMP TABLE mine AS SELECT 1")
        with pool.connection() as conn:
            same(one(conn, "SELECT to_regclass('mine')"), None)
            conn.cursor_factory = psycopg.Cursor  # which may be a proxy of the agent's
            one(conn, "SELECT set_config('work_mem', '1234kB', false)")
        with pool.connection() as conn:
            differs(one(conn, "SHOW work_mem"), "1234kB")
            with conn.cursor("named") as cursor:
                same(cursor.execute("SELECT 1").fetchall(), [(1,)])
        same(pool.get_stats()["pool_size"], 1)

    # A cursor outlives the connection it came from: the loan goes on.
    lent = [pool.getconn()]
    cursor = lent[0].cursor()
    del lent[:]
    same(cursor.execute("SELECT 1").fetchone(), (1,))
    cursor.connection.rollback()
    pool.putconn(cursor.connection)
    same(pool.get_stats().get("returns_bad", 0), 0)

    def in_a_thread() -> None:
        with pool.connection() as conn:
            same(one(conn, "SELECT 1"), 1)

    in_threads(in_a_thread)


def use_alias(agent: Agent, alias: str) -> None:
    """Django's way, by one alias."""
    from django.db import connections, transaction

    wrapper: Any = connections[alias]

    def one(query: str) -> Any:
        with wrapper.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0]

    def request(work: Callable[[], Any]) -> Any:
        with agent.request():
            try:
                return work()
            finally:
                wrapper.close_if_unusable_or_obsolete()
                same(wrapper.pool.snapshot()["in_use"], 0)

    request(lambda: one(f"SELECT 1 /* {alias} */"))
    opened = wrapper.pool.get_stats()["connections_num"]
    request(lambda: one("SELECT set_config('work_mem', '1234kB', false)"))
    differs(request(lambda: one("SHOW work_mem")), "1234kB")
    # It was cleaned, not replaced.
    same(wrapper.pool.get_stats()["connections_num"], opened)

    def in_blocks() -> None:
        with transaction.atomic(using=alias):
            one("SELECT 1")
            with transaction.atomic(using=alias):
                one("SELECT 2")
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
            cursor.execute("SELECT 2")
            same(cursor.fetchall(), [(2,)])
            cursor.executemany("SELECT %s", [(1,), (2,)])
        with transaction.atomic(using=alias), wrapper.chunked_cursor() as cursor:
            cursor.execute("SELECT generate_series(1, 10)")
            same(len(cursor.fetchall()), 10)
        wrapper.ensure_connection()
        same(wrapper.connection.execute("SELECT 3").fetchone(), (3,))

    request(in_blocks)

    def in_a_thread() -> None:
        with agent.request():
            one_of = connections[alias]
            with one_of.cursor() as cursor:
                cursor.execute("SELECT 1")
            one_of.close_if_unusable_or_obsolete()

    in_threads(in_a_thread)
    same(wrapper.pool.snapshot()["loans"], [])


def in_threads(work: Callable[[], Any]) -> None:
    errors: list[BaseException] = []

    def careful() -> None:
        try:
            for _ in range(5):
                work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=careful) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    if errors:
        raise errors[0]


def same(one: object, other: object) -> None:
    assert one == other, f"{one!r} is not {other!r}"


def differs(one: object, other: object) -> None:
    assert one != other, f"{one!r}"


def main(name: str, when: str) -> None:
    agent, log = AGENTS[name](), Log()
    if when != "after":
        agent.on()
    set_up(log)
    if when == "after":
        import django_connpool.backends.postgresql.base
        import django_connpool.pool  # noqa: F401

        agent.on()
    use_all(agent)
    agent.off()
    seen = list(agent.seen)
    use_all(agent)  # with what was opened before
    from django_connpool import registry

    for _, pool in registry.live():
        pool.drain()
    use_all(agent)  # and with new ones
    tell({"seen": seen, "said": log.lines})


def use_all(agent: Agent) -> None:
    from django.db import connections

    use_alone(agent)
    for alias in connections:
        if alias != "default":
            use_alias(agent, alias)


if __name__ == "__main__":
    main(*sys.argv[1:])
