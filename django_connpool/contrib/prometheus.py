"""The pools' numbers for Prometheus, by `prometheus-client`: a collector, and a view.

In one line, beside what else the site measures:

    django_connpool.contrib.prometheus.register()

What is asked is the pools' memory: that opens no connection, and costs a borrower nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import TypeAlias

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, HttpResponseBadRequest

try:
    from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImproperlyConfigured(
        "Metrics for Prometheus need prometheus-client: pip install 'django-connpool[metrics]'."
    ) from error

from django_connpool.status import metrics as described
from django_connpool.status.activity import Activity
from django_connpool.status.collect import TIMEOUT_SECONDS, Collected, of_host
from django_connpool.status.document import Process
from django_connpool.status.report import Report

PROCESS, HOST = "process", "host"
SCOPES = (PROCESS, HOST)

# Each container of a host has a process 1.
_OF_A_PROCESS = ("pid", "host")
_Pools: TypeAlias = list[tuple[list[str], described.Numbers]]  # with the values of the labels


class PoolCollector(Collector):
    """The pools of this process; with the scope "host", of all processes of this project here.

    Those are asked by their status sockets, and told apart by the labels `pid` and `host`.
    """

    def __init__(self, scope: str = PROCESS) -> None:
        if scope not in SCOPES:
            raise ValueError(f"no scope {scope!r}: there are {' and '.join(SCOPES)}")
        self.scope = scope

    def describe(self) -> Iterable[Metric]:
        """The names alone: a registry wants them before there is anything to collect."""
        if self.scope == HOST:
            yield from (*_of_pools([], _OF_A_PROCESS), _up(Collected()))
        else:
            yield from _of_pools([], ())

    def collect(self) -> Iterable[Metric]:
        if self.scope == HOST:
            return _of_processes(of_host(TIMEOUT_SECONDS))
        pools = described.of_this_process().items()
        return _with_samples(_of_pools([([name], pool) for name, pool in pools], ()))


def register(registry: CollectorRegistry = REGISTRY, scope: str = PROCESS) -> PoolCollector:
    """Have the pools' numbers be among those of a registry, by default the process's own."""
    collector = PoolCollector(scope)
    registry.register(collector)
    return collector


def usual_scope() -> str:
    """What an answer is about where nobody says: with PROMETHEUS_MULTIPROC_DIR, all processes."""
    return HOST if os.environ.get("PROMETHEUS_MULTIPROC_DIR") else PROCESS


def metrics(request: HttpRequest) -> HttpResponse:
    """The numbers of the pools alone, in the format that is asked for: text, or OpenMetrics.

    `?scope=process` or `?scope=host`: see `PoolCollector`. Asks nobody who is allowed to.
    """
    scope = request.GET.get("scope") or usual_scope()
    if scope not in SCOPES:
        return HttpResponseBadRequest(
            f"scope is {' or '.join(SCOPES)}\n", content_type="text/plain"
        )
    registry = CollectorRegistry(auto_describe=False)
    registry.register(PoolCollector(scope))
    encode, content_type = choose_encoder(request.headers.get("Accept", ""))
    return HttpResponse(encode(registry), content_type=content_type)


def render(report: Report) -> str:
    """A report of poolstatus, which has also what the servers say."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ReportCollector(report))
    return generate_latest(registry).decode()


class _ReportCollector(Collector):
    def __init__(self, report: Report) -> None:
        self._report = report

    def collect(self) -> Iterable[Metric]:
        yield from _of_processes(self._report.collected)
        yield from _with_samples(_of_servers(self._report))


def _of_processes(collected: Collected) -> Iterator[Metric]:
    pools: _Pools = [
        ([name, *_names(process)], pool)
        for process in collected.processes
        for name, pool in described.by_name(process["pools"]).items()
    ]
    yield from _with_samples([_up(collected), *_of_pools(pools, _OF_A_PROCESS)])


def _up(collected: Collected) -> Metric:
    up = GaugeMetricFamily(
        "django_connpool_process_up", "Whether the process answered.", labels=_OF_A_PROCESS
    )
    for process in collected.processes:
        up.add_metric(_names(process), 1)
    for pid in sorted({silence.pid for silence in collected.silent}):
        up.add_metric([str(pid), ""], 0)
    return up


def _names(process: Process) -> list[str]:
    return [str(process["pid"]), process["host"]]


def _of_pools(pools: _Pools, further: tuple[str, ...]) -> Iterator[Metric]:
    """Each metric, with a sample of each pool; `further` are labels beside the pool's name."""
    labels = (described.POOL_LABEL, *further)
    kinds = ((GaugeMetricFamily, described.GAUGES), (CounterMetricFamily, described.COUNTERS))
    for kind, descriptions in kinds:
        for one in descriptions:
            own = (one.label,) if one.label else ()
            metric = kind(one.name, one.meaning, labels=(*labels, *own))
            for names, pool in pools:
                for value, number in one.values(pool).items():
                    metric.add_metric([*names, value] if own else names, number)
            yield metric
    for shape in described.HISTOGRAMS:
        histogram = HistogramMetricFamily(shape.name, shape.meaning, labels=labels)
        for names, pool in pools:
            histogram.add_metric(names, *described.buckets(pool, shape.key))
        yield histogram


def _of_servers(report: Report) -> Iterator[Metric]:
    answers = report.server.items()
    up = GaugeMetricFamily(
        "django_connpool_server_up", "Whether the server could be asked.", labels=("alias",)
    )
    for alias, answer in answers:
        up.add_metric([alias], 0 if "error" in answer else 1)
    yield up
    told: list[tuple[str, Activity]] = [
        (alias, answer) for alias, answer in answers if "error" not in answer
    ]
    for key, name, meaning in (
        ("max_connections", "max_connections", "The server's max_connections."),
        ("reserved", "reserved_connections", "Of these, kept for superusers."),
    ):
        metric = GaugeMetricFamily(f"django_connpool_server_{name}", meaning, labels=("alias",))
        for alias, activity in told:
            metric.add_metric([alias], activity[key])  # type: ignore[literal-required]
        yield metric
    states = GaugeMetricFamily(
        "django_connpool_server_connections",
        "Client connections of the server, all databases.",
        labels=("alias", "state"),
    )
    for alias, activity in told:
        for state, number in activity["states"].items():
            states.add_metric([alias, state], number)
    yield states


def _with_samples(metrics: Iterable[Metric]) -> Iterator[Metric]:
    return (metric for metric in metrics if metric.samples)
