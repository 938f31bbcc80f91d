from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections
from opentelemetry import trace
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from django_connpool import PoolTimeout, signals
from django_connpool.contrib import otel
from django_connpool.contrib.otel import POOL_NAME, STATE, WAIT_SUM, ConnectionPoolInstrumentor
from tests import inside
from tests.databases import DEADLINE, Databases, in_thread, value
from tests.testproject.processes import wait_until

NAME = "measured"
OF_POOL = {POOL_NAME: NAME}
NINE = {
    "db.client.connection.count": ("{connection}", "sum"),
    "db.client.connection.idle.max": ("{connection}", "sum"),
    "db.client.connection.idle.min": ("{connection}", "sum"),
    "db.client.connection.max": ("{connection}", "sum"),
    "db.client.connection.pending_requests": ("{request}", "sum"),
    "db.client.connection.timeouts": ("{timeout}", "sum"),
    "db.client.connection.create_time": ("s", "histogram"),
    "db.client.connection.wait_time": ("s", "histogram"),
    "db.client.connection.use_time": ("s", "histogram"),
}


class Telemetry:
    """What an exporter would get."""

    def __init__(self) -> None:
        self.reader, self.other_reader = InMemoryMetricReader(), InMemoryMetricReader()
        self.meters = MeterProvider([self.reader, self.other_reader], shutdown_on_exit=False)
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.tracers.get_tracer("site")

    def collect(self, reader: InMemoryMetricReader | None = None) -> dict[str, Any]:
        """The metrics by name."""
        data = (reader or self.reader).get_metrics_data()
        return {
            metric.name: metric
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def value(self, name: str, **attributes: str) -> Any:
        """The one point of a metric with exactly these attributes and the pool's name."""
        points = self.collect()[f"db.client.connection.{name}"].data.data_points
        (found,) = [one for one in points if one.attributes == {**OF_POOL, **attributes}]
        return found

    def spans(self) -> dict[str, Any]:
        return {span.name: span for span in self.exporter.get_finished_spans()}


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    made = Telemetry()
    instrumentor = ConnectionPoolInstrumentor()
    instrumentor.instrument(tracer_provider=made.tracers, meter_provider=made.meters)
    try:
        yield made
    finally:
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()
        made.meters.shutdown()
        made.tracers.shutdown()


@pytest.fixture
def measured(telemetry: Telemetry, databases: Databases) -> Any:
    return databases.add(pool={"name": NAME, "max_size": 1, "release": "request"})


def use(wrapper: Any) -> None:
    value(wrapper, "SELECT 1")
    wrapper.close()


def wait_for_a_connection(wrapper: Any) -> None:
    """Stand in line, behind somebody who has the only connection."""
    pool, ready = wrapper.pool, threading.Event()

    def hold() -> None:
        conn = pool.getconn()
        ready.set()
        wait_until(lambda: pool.snapshot()["waiting"] == 1, "it stands in line")
        wait_until(lambda: pool.snapshot()["longest_wait"] > 0.002, "it has waited")
        pool.putconn(conn)

    holder = threading.Thread(target=hold)
    holder.start()
    assert ready.wait(DEADLINE)
    use(wrapper)
    holder.join(DEADLINE)


# -- The numbers --------------------------------------------------------------------------


def test_the_nine_instruments_are_there_as_the_conventions_have_them(
    telemetry: Telemetry, measured: Any
) -> None:
    use(measured)
    found = telemetry.collect()
    assert {
        name: (metric.unit, "histogram" if hasattr(_first(metric), "bucket_counts") else "sum")
        for name, metric in found.items()
    } == NINE
    for name, metric in found.items():
        if NINE[name][1] == "sum":
            assert metric.data.is_monotonic == (name == "db.client.connection.timeouts")


def _first(metric: Any) -> Any:
    return metric.data.data_points[0]


def test_states_and_sizes_are_those_of_the_moment(telemetry: Telemetry, measured: Any) -> None:
    value(measured, "SELECT 1")
    assert telemetry.value("count", **{STATE: "used"}).value == 1
    assert telemetry.value("count", **{STATE: "idle"}).value == 0
    measured.close()
    assert telemetry.value("count", **{STATE: "used"}).value == 0
    assert telemetry.value("count", **{STATE: "idle"}).value == 1
    assert telemetry.value("max").value == 1
    assert telemetry.value("idle.max").value == 1
    assert telemetry.value("idle.min").value == 0


def test_a_bound_that_is_shared_has_instruments_of_its_own(
    telemetry: Telemetry, databases: Databases, settings: Any
) -> None:
    settings.CONNPOOL_BUDGETS = {"shop": 3}
    use(databases.add(pool={"max_size": 2, "budget": "shop"}))
    found = telemetry.collect()
    for name, number in (("max", 3), ("held", 1)):
        point = _first(found[f"django_connpool.bound.{name}"])
        assert point.value == number
        assert point.attributes["django_connpool.bound.name"] == "budget 'shop'"


def test_who_waits_and_who_waited_in_vain_is_counted(telemetry: Telemetry, measured: Any) -> None:
    measured.ensure_connection()
    pool = measured.pool
    with pytest.raises(PoolTimeout):
        pool.getconn(timeout=0)
    assert telemetry.value("timeouts").value == 1
    waiting = threading.Thread(target=lambda: pool.putconn(pool.getconn()))
    waiting.start()
    wait_until(lambda: pool.snapshot()["waiting"] == 1, "it stands in line")
    assert telemetry.value("pending_requests").value == 1
    measured.close()
    waiting.join(DEADLINE)
    assert telemetry.value("pending_requests").value == 0


def test_each_duration_is_in_its_histogram_once(telemetry: Telemetry, measured: Any) -> None:
    for _ in range(3):
        use(measured)
    for _ in range(2):  # however often it is collected
        assert telemetry.value("wait_time").count == 3
        assert telemetry.value("use_time").count == 3
        assert telemetry.value("create_time").count == 1
    use(measured)
    assert telemetry.value("wait_time").count == 4
    snapshot = measured.pool.snapshot()["histograms"]["hold"]
    assert telemetry.value("use_time").sum == pytest.approx(snapshot["sum"], abs=1e-5)
    assert telemetry.value("use_time").explicit_bounds == inside.BOUNDS


def test_each_reader_gets_each_duration(telemetry: Telemetry, measured: Any) -> None:
    use(measured)
    telemetry.collect()
    (point,) = [
        point
        for point in telemetry.collect(telemetry.other_reader)[
            "db.client.connection.use_time"
        ].data.data_points
        if point.attributes == OF_POOL
    ]
    assert point.count == 1


def test_a_pool_that_was_there_before_is_measured_from_now_on(databases: Databases) -> None:
    wrapper = databases.add(pool={"name": NAME})
    use(wrapper)
    made = Telemetry()
    ConnectionPoolInstrumentor().instrument(meter_provider=made.meters)
    try:
        use(wrapper)
        assert made.value("use_time").count == 1
    finally:
        ConnectionPoolInstrumentor().uninstrument()
        made.meters.shutdown()


def test_collecting_opens_no_connection(telemetry: Telemetry, measured: Any) -> None:
    use(measured)
    before = measured.pool.get_stats()["connections_num"]
    measured.pool.drain()
    wait_until(lambda: measured.pool.snapshot()["size"] == 0, "it is empty")
    assert telemetry.value("count", **{STATE: "idle"}).value == 0
    assert measured.pool.get_stats()["connections_num"] == before


def test_what_is_instrumented_no_more_tells_nothing(
    telemetry: Telemetry, measured: Any, caplog: pytest.LogCaptureFixture
) -> None:
    use(measured)
    assert telemetry.collect()
    instrumentor = ConnectionPoolInstrumentor()
    instrumentor.uninstrument()
    with telemetry.tracer.start_as_current_span("GET /orders/"):
        wait_for_a_connection(measured)
    assert set(telemetry.spans()) == {"GET /orders/"}
    assert not telemetry.collect().keys() - {f"db.client.connection.{kind}" for kind in TIMES}
    instrumentor.instrument(tracer_provider=telemetry.tracers, meter_provider=telemetry.meters)
    assert telemetry.value("max").value == 1
    assert caplog.text == ""  # no instrument is made twice


TIMES = ("wait_time", "use_time", "create_time")


# -- The waits ----------------------------------------------------------------------------


def test_a_wait_is_a_span_of_its_own_in_the_trace(telemetry: Telemetry, measured: Any) -> None:
    use(measured)
    with telemetry.tracer.start_as_current_span("GET /orders/") as request:
        wait_for_a_connection(measured)
    span = telemetry.spans()["pool.acquire"]
    assert span.kind is trace.SpanKind.INTERNAL
    assert span.attributes == OF_POOL
    assert span.parent.span_id == request.get_span_context().span_id
    assert span.end_time - span.start_time > otel.WORTH_A_SPAN * 1e9
    outer = telemetry.spans()["GET /orders/"]
    assert outer.start_time <= span.start_time
    assert span.end_time <= outer.end_time


def test_the_request_has_the_sum_of_its_waits(telemetry: Telemetry, measured: Any) -> None:
    use(measured)
    with telemetry.tracer.start_as_current_span("GET /orders/"):
        for waited in (0.25, 0.0005):
            signals.connection_waited.send(None, pool=measured.pool, name=NAME, waited=waited)
    spans = [span.name for span in telemetry.exporter.get_finished_spans()]
    assert spans == ["pool.acquire", "GET /orders/"]  # the second is not worth one
    assert telemetry.spans()["GET /orders/"].attributes == {WAIT_SUM: 0.2505}


def test_a_wait_in_vain_is_a_span_that_failed(telemetry: Telemetry, measured: Any) -> None:
    error = PoolTimeout("no connection became free; on loan to 'Thread-1', GET /secret/")
    with telemetry.tracer.start_as_current_span("GET /orders/"):
        signals.borrow_timed_out.send(None, pool=measured.pool, name=NAME, waited=0.25, error=error)
    span = telemetry.spans()["pool.acquire"]
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.attributes == {**OF_POOL, "error.type": "PoolTimeout"}
    assert "secret" not in span.to_json()
    assert telemetry.spans()["GET /orders/"].attributes == {WAIT_SUM: 0.25}


def test_a_timeout_is_told_as_it_happens(telemetry: Telemetry, databases: Databases) -> None:
    wrapper = databases.add(pool={"name": NAME, "max_size": 1, "timeout": 0.05})
    conn = wrapper.pool.getconn(60)  # it is to be opened first
    with telemetry.tracer.start_as_current_span("GET /orders/"), pytest.raises(OperationalError):
        value(wrapper, "SELECT 1")
    wrapper.pool.putconn(conn)
    span = telemetry.spans()["pool.acquire"]
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.end_time - span.start_time >= 0.05 * 1e9
    assert telemetry.spans()["GET /orders/"].attributes[WAIT_SUM] >= 0.05


def test_who_is_served_at_once_leaves_no_trace(telemetry: Telemetry, measured: Any) -> None:
    use(measured)
    with telemetry.tracer.start_as_current_span("GET /orders/"):
        use(measured)
    assert set(telemetry.spans()) == {"GET /orders/"}
    assert telemetry.spans()["GET /orders/"].attributes == {}


def test_a_wait_outside_of_any_trace_makes_none(telemetry: Telemetry, measured: Any) -> None:
    use(measured)
    wait_for_a_connection(measured)
    with telemetry.tracer.start_as_current_span("quiet"), suppress_instrumentation():
        wait_for_a_connection(measured)
    assert set(telemetry.spans()) == {"quiet"}


def test_a_span_that_cannot_be_asked_gets_the_last_wait(measured: Any) -> None:
    seen = {}

    class Mute(trace.NonRecordingSpan):
        def is_recording(self) -> bool:
            return True

        def set_attribute(self, key: str, value: Any) -> None:
            seen[key] = value

    with trace.use_span(Mute(trace.INVALID_SPAN_CONTEXT)):
        signals.connection_waited.send(None, pool=measured.pool, name=NAME, waited=0.5)
    assert seen == {WAIT_SUM: 0.5}


# -- As one of OpenTelemetry's ------------------------------------------------------------


def test_opentelemetry_finds_it_by_its_entry_point() -> None:
    (found,) = entry_points(group="opentelemetry_instrumentor", name="django_connpool")
    assert found.load() is ConnectionPoolInstrumentor


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.instrumentor", None)
    monkeypatch.delitem(sys.modules, "django_connpool.contrib.otel")
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'django-connpool\[otel\]'"):
        __import__("django_connpool.contrib.otel")


def test_another_threads_wait_is_not_the_requests(telemetry: Telemetry, measured: Any) -> None:
    use(measured)
    with telemetry.tracer.start_as_current_span("GET /orders/"):
        in_thread(lambda: wait_for_a_connection(connections["spare"]))
    assert telemetry.spans()["GET /orders/"].attributes == {}
