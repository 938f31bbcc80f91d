"""The spans of a request with each agent: `python -m tests.works_with.spans AGENT WHEN`.

A page with two queries and an atomic block, and one inside it, is asked for by each alias: the
stock engine, and ours in each mode. Of each request the spans are told as pairs: the parent's name
and its own. WHEN is `before` (the agent is switched on, then Django is imported) or `after`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from tests.works_with.processes import ENGINES, MODES, database, elastic, tell

ROOT = "root"
Span = tuple[str, str, str]  # its id, its parent's id, its name
spans: list[Span] = []


class Agent:
    def on(self) -> None:
        """Patch psycopg and Django, and have each span put into `spans`."""

    def request(self) -> AbstractContextManager[Any]:
        """What is around a request where the agent needs it."""
        return nullcontext()

    def configured(self) -> None:
        """What it can only do once Django has its settings."""


class Datadog(Agent):
    def on(self) -> None:
        os.environ.update(DD_TRACE_ENABLED="true", DD_INSTRUMENTATION_TELEMETRY_ENABLED="false")
        import ddtrace
        from ddtrace.trace import TraceFilter, tracer

        class Keep(TraceFilter):
            def process_trace(self, trace: Any) -> None:
                spans.extend(
                    (str(one.span_id), str(one.parent_id), f"{one.name}: {one.resource}")
                    for one in trace
                )

        tracer.configure(trace_processors=[Keep()])
        ddtrace.patch(psycopg=True, django=True)


class Elastic(Agent):
    def on(self) -> None:
        self._client = elastic(
            lambda span: spans.append((span["id"], span["parent_id"], span["name"]))
        )

    @contextmanager
    def request(self) -> Iterator[None]:
        self._client.begin_transaction("tests")
        yield
        self._client.end_transaction("tests", "ok")


class NewRelic(Agent):
    def on(self) -> None:
        os.environ.update(
            NEW_RELIC_DEVELOPER_MODE="true",
            NEW_RELIC_LICENSE_KEY="0" * 40,
            NEW_RELIC_APP_NAME="tests",
            NEW_RELIC_LOG_LEVEL="critical",
        )
        import newrelic.agent
        from newrelic.core.application import Application

        record = Application.record_transaction

        def keep(application: Any, data: Any, *args: Any) -> Any:
            self._keep(data.root, "")
            return record(application, data, *args)

        newrelic.agent.initialize()
        Application.record_transaction = keep
        newrelic.agent.register_application(timeout=30)

    def _keep(self, node: Any, parent: str) -> None:
        name = getattr(node, "sql", None) or getattr(node, "name", None) or type(node).__name__
        spans.append((str(id(node)), parent, f"{type(node).__name__}: {name}"))
        for child in node.children:
            self._keep(child, str(id(node)))

    def request(self) -> AbstractContextManager[Any]:
        import newrelic.agent

        return newrelic.agent.BackgroundTask(newrelic.agent.application(), "request")


class OpenTelemetry(Agent):
    def on(self) -> None:
        from opentelemetry.instrumentation.django import DjangoInstrumentor
        from opentelemetry.instrumentation.psycopg import PsycopgInstrumentor
        from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

        class Keep(SpanProcessor):
            def on_end(self, span: Any) -> None:
                said = span.attributes.get("db.statement") or ""
                parent = span.parent.span_id if span.parent else ""
                spans.append((str(span.context.span_id), str(parent), f"{span.name}: {said}"))

        self._provider = TracerProvider()
        self._provider.add_span_processor(Keep())
        self._django = DjangoInstrumentor
        PsycopgInstrumentor().instrument(tracer_provider=self._provider, skip_dep_check=True)

    def configured(self) -> None:
        self._django().instrument(tracer_provider=self._provider)


class Sentry(Agent):
    def on(self) -> None:
        import sentry_sdk
        from sentry_sdk.integrations.django import DjangoIntegration

        def keep(event: Any, hint: Any) -> None:
            spans.extend(
                (one["span_id"], one["parent_span_id"], f"{one['op']}: {one['description']}")
                for one in event["spans"]
            )

        sentry_sdk.init(
            dsn="http://key@127.0.0.1:9/1",
            integrations=[DjangoIntegration()],
            traces_sample_rate=1.0,
            before_send_transaction=keep,
        )

    def request(self) -> AbstractContextManager[Any]:
        import sentry_sdk

        return sentry_sdk.start_transaction(name="request")


AGENTS: dict[str, type[Agent]] = {
    "ddtrace": Datadog,
    "elasticapm": Elastic,
    "newrelic": NewRelic,
    "opentelemetry.instrumentation.django": OpenTelemetry,
    "sentry_sdk": Sentry,
}


def page(request: Any, alias: str) -> Any:
    from django.db import connections, transaction
    from django.http import HttpResponse

    def query(number: int) -> None:
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT %s /* of the page */", [number])
            cursor.fetchall()

    query(1)
    query(2)
    with transaction.atomic(using=alias):
        query(3)
        with transaction.atomic(using=alias):
            query(4)
    return HttpResponse("all is well")


def set_up() -> None:
    import django
    from django.conf import settings
    from django.urls import path

    stock = database("django.db.backends.postgresql", CONN_MAX_AGE=None)
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={
            "default": {},
            "stock": stock,
            **{
                f"{way}-{mode}": database(engine, {"release": mode})
                for way, engine in ENGINES.items()
                for mode in MODES
            },
            "as-django": database(ENGINES["engine"], {"round_trips": "as django"}),
        },
        INSTALLED_APPS=["django_connpool"],
        # Without ours two receivers of signals know the request, of which Sentry tells, too.
        MIDDLEWARE=[
            "django_connpool.middleware.ConnectionPoolMiddleware",
            "django.middleware.common.CommonMiddleware",
        ],
        SECRET_KEY="only for tests",
        USE_TZ=True,
    )
    django.setup()
    settings.ROOT_URLCONF = (path("<alias>/", page),)


def spans_of(agent: Agent, ask: Callable[[], int]) -> list[tuple[str, str]]:
    """Parent and name of each span of the second request: the first one connects."""
    for _ in range(2):
        spans.clear()
        with agent.request():
            assert ask() == 200
    names = {one: name for one, _, name in spans}
    return sorted((names.get(parent, ROOT), name) for _, parent, name in spans)


def main(name: str, when: str) -> None:
    agent = AGENTS[name]()
    if when == "before":
        agent.on()
    set_up()
    if when == "after":
        import django_connpool.backends.postgresql.base  # noqa: F401

        agent.on()
    agent.configured()
    from django.conf import settings
    from django.test import Client

    tell(
        {
            alias: spans_of(agent, lambda alias=alias: Client().get(f"/{alias}/").status_code)
            for alias in settings.DATABASES
            if alias != "default"
        }
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
