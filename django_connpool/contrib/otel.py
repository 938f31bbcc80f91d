"""The pools for OpenTelemetry: its own nine instruments, and a span for each wait that is felt.

`opentelemetry-instrument` finds it by itself. By hand, where the site sets up its telemetry:

    ConnectionPoolInstrumentor().instrument()

Nothing of it runs where connections are borrowed, but for whoever has waited. All numbers are read
when a reader collects: also those of the histograms, of which the pool keeps each duration until
then. An instrument of OpenTelemetry's for that, an observable histogram, does not exist.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Collection, Iterable
from typing import Any

from django.core.exceptions import ImproperlyConfigured

try:
    from opentelemetry import metrics, trace
    from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
    from opentelemetry.instrumentation.utils import is_instrumentation_enabled
except ImportError as error:
    raise ImproperlyConfigured(
        "Telemetry needs the packages of OpenTelemetry: pip install 'django-connpool[otel]'."
    ) from error

import django_connpool
from django_connpool import signals

POOL_NAME = "db.client.connection.pool.name"
STATE = "db.client.connection.state"
BOUND = "django_connpool.bound.name"
SPAN = "pool.acquire"
WAIT_SUM = "django_connpool.wait_time"  # of the span in which somebody waited, in seconds
WORTH_A_SPAN = 0.001  # seconds

_WAITS = (signals.connection_waited, signals.borrow_timed_out)
_PREFIX = "db.client.connection."
_HISTOGRAMS = {
    "wait": ("wait_time", "The time it took to obtain an open connection from the pool."),
    "hold": ("use_time", "The time between borrowing a connection and returning it to the pool."),
    "connect": ("create_time", "The time it took to create a new connection."),
}
_CONNECTIONS, _REQUESTS, _TIMEOUTS, _SECONDS = "{connection}", "{request}", "{timeout}", "s"


class ConnectionPoolInstrumentor(BaseInstrumentor):
    """Takes `tracer_provider` and `meter_provider`, by default OpenTelemetry's global ones."""

    _instruments: _Instruments | None = None
    _tracer: trace.Tracer

    def instrumentation_dependencies(self) -> Collection[str]:
        return ("Django >= 4.2",)

    def _instrument(self, **kwargs: Any) -> None:
        version = django_connpool.__version__
        self._tracer = trace.get_tracer(__name__, version, kwargs.get("tracer_provider"))
        provider = kwargs.get("meter_provider") or metrics.get_meter_provider()
        # What a provider has made once it has for ever.
        if self._instruments is None or self._instruments.provider is not provider:
            self._instruments = _Instruments(provider)
        self._instruments.is_active = True
        signals.pool_created.connect(_keep_durations, dispatch_uid=__name__)
        for signal in _WAITS:
            signal.connect(self._note_wait, dispatch_uid=__name__)
        # Not imported for it: `opentelemetry-instrument` comes before gevent and the settings.
        if "django_connpool.registry" in sys.modules:
            _durations()

    def _uninstrument(self, **kwargs: Any) -> None:
        signals.pool_created.disconnect(dispatch_uid=__name__)
        for signal in _WAITS:
            signal.disconnect(dispatch_uid=__name__)
        if self._instruments is not None:
            self._instruments.is_active = False

    def _note_wait(
        self, name: str, waited: float, error: BaseException | None = None, **kwargs: Any
    ) -> None:
        """In the borrower's thread: tell the present span, and give the wait one of its own."""
        span = trace.get_current_span()
        if not span.is_recording() or not is_instrumentation_enabled():
            return
        if waited > WORTH_A_SPAN:
            now = time.time_ns()
            wait = self._tracer.start_span(
                SPAN,
                kind=trace.SpanKind.INTERNAL,
                attributes={POOL_NAME: name},
                start_time=now - int(waited * 1e9),
            )
            if error is not None:
                wait.set_attribute("error.type", type(error).__qualname__)
                wait.set_status(trace.StatusCode.ERROR)
            wait.end(now)
        before = getattr(span, "attributes", None) or {}  # not all there are can be asked
        span.set_attribute(WAIT_SUM, before.get(WAIT_SUM, 0.0) + waited)


class _Instruments:
    """The instruments of one provider. They cannot be taken back, only have nothing to tell."""

    def __init__(self, provider: metrics.MeterProvider) -> None:
        self.provider = provider
        self.is_active = False
        meter = metrics.get_meter(__name__, django_connpool.__version__, provider)
        self._histograms = {
            key: meter.create_histogram(
                _PREFIX + name,
                _SECONDS,
                meaning,
                explicit_bucket_boundaries_advisory=_bounds(),
            )
            for key, (name, meaning) in _HISTOGRAMS.items()
        }
        for name, unit, meaning, key in (
            ("idle.max", _CONNECTIONS, "The most connections that may be idle.", "max_size"),
            ("idle.min", _CONNECTIONS, "The fewest connections kept open.", "min_size"),
            ("max", _CONNECTIONS, "The most connections that may be open.", "max_size"),
            ("pending_requests", _REQUESTS, "Borrowers that wait for a connection.", "waiting"),
        ):
            meter.create_observable_up_down_counter(
                _PREFIX + name, [self._observing(key)], unit, meaning
            )
        for name, meaning, key in (
            ("max", "The most connections that all who share the bound may have.", "most"),
            ("held", "Of these, the pool's.", "held"),
        ):
            meter.create_observable_up_down_counter(
                "django_connpool.bound." + name, [self._observing_bound(key)], _CONNECTIONS, meaning
            )
        meter.create_observable_up_down_counter(
            _PREFIX + "count", [self._observe_states], _CONNECTIONS, "Connections, by state."
        )
        meter.create_observable_counter(
            _PREFIX + "timeouts",
            [self._observe_timeouts],
            _TIMEOUTS,
            "Borrowers that waited as long as they may and got no connection.",
        )

    def _observing(self, key: str) -> Any:
        def observe(options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
            for name, pool in self._pools().items():
                yield metrics.Observation(pool[key], {POOL_NAME: name})

        return observe

    def _observing_bound(self, key: str) -> Any:
        def observe(options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
            for name, pool in self._pools().items():
                for bound, number in _by_bound(pool, key).items():
                    yield metrics.Observation(number, {POOL_NAME: name, BOUND: bound})

        return observe

    def _observe_states(self, options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        from django_connpool.status.metrics import by_state

        self._record_durations()
        for name, pool in self._pools().items():
            for state, number in by_state(pool).items():
                yield metrics.Observation(number, {POOL_NAME: name, STATE: state})

    def _observe_timeouts(self, options: metrics.CallbackOptions) -> Iterable[metrics.Observation]:
        for name, pool in self._pools().items():
            yield metrics.Observation(pool["stats"]["requests_timeouts"], {POOL_NAME: name})

    def _pools(self) -> dict[str, Any]:
        if not self.is_active or "django_connpool.registry" not in sys.modules:
            return {}
        from django_connpool.status.metrics import of_this_process

        return dict(of_this_process())

    def _record_durations(self) -> None:
        """A reader collects: whoever else does gets what is recorded here, too."""
        if not self.is_active or "django_connpool.registry" not in sys.modules:
            return
        for name, told in _durations():
            for key, histogram in self._histograms.items():
                for seconds in told[key]:
                    histogram.record(seconds, {POOL_NAME: name})


def _keep_durations(pool: Any, **kwargs: Any) -> None:
    pool.durations()  # from the first question on


def _durations() -> list[tuple[str, dict[str, list[float]]]]:
    from django_connpool import registry

    return [(pool.name, pool.durations()) for _, pool in registry.live()]


def _by_bound(pool: Any, key: str) -> dict[str, int]:
    from django_connpool.status.metrics import by_bound

    return by_bound(pool, key)


def _bounds() -> tuple[float, ...]:
    from django_connpool.pool.stats import BOUNDS

    return BOUNDS
