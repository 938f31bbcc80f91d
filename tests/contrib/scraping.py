"""What a scraper reads: the samples of an exposition, by name and labels."""

from __future__ import annotations

from typing import Any

from prometheus_client import parser
from prometheus_client.openmetrics import parser as openmetrics_parser

from django_connpool.status.metrics import POOL_LABEL

# The set that others' dashboards may count on: names of OpenTelemetry's where it has one.
PROMISED = {
    "db_client_connection_count": "gauge",
    "db_client_connection_max": "gauge",
    "db_client_connection_idle_min": "gauge",
    "db_client_connection_idle_max": "gauge",
    "db_client_connection_pending_requests": "gauge",
    "db_client_connection_timeouts_total": "counter",
    "db_client_connection_wait_time_seconds": "histogram",
    "db_client_connection_use_time_seconds": "histogram",
    "db_client_connection_create_time_seconds": "histogram",
    "django_connpool_borrow_waited_total": "counter",
    "django_connpool_closed_total": "counter",
    "django_connpool_cleaned_total": "counter",
    "django_connpool_leaks_total": "counter",
    "django_connpool_wait_longest_seconds": "gauge",
    "django_connpool_dead_holders": "gauge",
}


class Scrape:
    """An exposition, read as Prometheus would."""

    def __init__(self, text: str | bytes, openmetrics: bool = False) -> None:
        shown = text.decode() if isinstance(text, bytes) else text
        read: Any = openmetrics_parser if openmetrics else parser
        self.families = list(read.text_string_to_metric_families(shown))
        self.samples = [sample for family in self.families for sample in family.samples]
        self.kinds = {
            family.name + ("_total" if family.type == "counter" else ""): family.type
            for family in self.families
        }

    def value(self, name: str, pool: str, **labels: str) -> float:
        """The one sample of that name, of a pool, with exactly these further labels."""
        wanted = {POOL_LABEL: pool, **labels}
        (found,) = [one.value for one in self.samples if (one.name, one.labels) == (name, wanted)]
        return float(found)

    def values(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """The samples of that name that have these labels, by another of their labels."""
        return {
            one.labels[label]: one.value
            for one in self.samples
            if one.name == name and labels.items() <= one.labels.items()
        }
