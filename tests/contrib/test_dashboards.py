"""The dashboard and the alerts ask for nothing but what a scrape has."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from django_connpool.contrib import prometheus
from django_connpool.status.collect import Collected
from django_connpool.status.metrics import POOL_LABEL
from django_connpool.status.report import Report
from tests import inside
from tests.contrib.scraping import PROMISED, Scrape
from tests.status.samples import pool, process

CONTRIB = Path(prometheus.__file__).parent
DASHBOARD = json.loads((CONTRIB / "grafana.json").read_text())
PANELS = DASHBOARD["panels"]
RULES = yaml.safe_load((CONTRIB / "alerts.yml").read_text())["groups"][0]["rules"]
ALERTS = {
    "ConnectionPoolTimeouts",
    "ConnectionPoolSlowWaits",
    "ConnectionPoolStuck",
    "ConnectionPoolCannotConnect",
    "ConnectionPoolLeak",
}

NAME = re.compile(r"\b(?:db_client|django_connpool)_[a-z0-9_]+")
SELECTOR = re.compile(r"\b((?:db_client|django_connpool)_[a-z0-9_]+)\{([^}]*)\}")
MATCHER = re.compile(r'([a-z_]+)\s*(=~|=|!=|!~)\s*"([^"]*)"')
LABELS = re.compile(r"\b(?:by|without|ignoring|on)\s*\(([^)]*)\)")
# What Prometheus adds itself.
SCRAPED = {"job", "instance"}

Exposed = dict[str, dict[str, set[str]]]  # metric: label: its values


@pytest.fixture(scope="module")
def exposed() -> Exposed:
    """What the collector says of a pool, with every bucket and every reason."""
    bounds = {**dict.fromkeys(map(str, inside.BOUNDS), 1), "+Inf": 0}
    histograms = {
        key: {"count": 3, "sum": 1.0, "buckets": bounds} for key in ("wait", "hold", "connect")
    }
    report = Report(Collected([process(pools=[pool(histograms=histograms)])]))
    found: Exposed = defaultdict(lambda: defaultdict(set))
    for sample in Scrape(prometheus.render(report)).samples:
        for label, value in sample.labels.items():
            found[sample.name][label].add(value)
    return found


def wrong(expression: str, exposed: Exposed) -> list[str]:
    """What an expression names that is not there."""
    found = [
        f"no metric {name}"
        for name in set(NAME.findall(expression)) - {POOL_LABEL}
        if name not in exposed
    ]
    for name, matchers in SELECTOR.findall(expression):
        for label, operator, value in MATCHER.findall(matchers):
            values = exposed[name].get(label)
            if values is None and label not in SCRAPED:
                found.append(f"{name} has no label {label}")
            elif values is not None and operator == "=" and value not in values:
                found.append(f"{name} has no {label}={value}")
    everywhere = {label for labels in exposed.values() for label in labels} | SCRAPED
    for labels in LABELS.findall(expression):
        found += [
            f"no label {label}" for label in re.split(r"[,\s]+", labels) if label not in everywhere
        ]
    return found


def expressions() -> list[str]:
    asked = [target["expr"] for panel in PANELS for target in panel["targets"]]
    return asked + [rule["expr"] for rule in RULES]


@pytest.mark.parametrize("expression", expressions())
def test_an_expression_asks_for_what_there_is(expression: str, exposed: Exposed) -> None:
    assert wrong(expression, exposed) == []


@pytest.mark.parametrize(
    ("expression", "complaint"),
    [
        ("rate(django_connpool_leeks_total[5m])", "no metric django_connpool_leeks_total"),
        ('db_client_connection_max{state="idle"}', "db_client_connection_max has no label state"),
        (
            'db_client_connection_count{state="busy"}',
            "db_client_connection_count has no state=busy",
        ),
        ("sum by (pool) (db_client_connection_max)", "no label pool"),
        (
            'db_client_connection_wait_time_seconds_bucket{le="0.2"}',
            "db_client_connection_wait_time_seconds_bucket has no le=0.2",
        ),
    ],
)
def test_what_is_not_there_is_noticed(expression: str, complaint: str, exposed: Exposed) -> None:
    assert wrong(expression, exposed) == [complaint]


# -- The dashboard ------------------------------------------------------------------------


def test_the_dashboard_shows_every_promised_metric() -> None:
    asked = {name for target in _targets() for name in NAME.findall(target["expr"])}
    bare = {re.sub(r"_(bucket|count|sum)$", "", name) for name in asked} | asked
    # As many may be idle as may be open.
    assert PROMISED.keys() - bare == {"db_client_connection_idle_max"}


def _targets() -> list[Any]:
    return [target for panel in PANELS for target in panel["targets"]]


def test_each_panel_says_what_it_shows_and_asks_the_chosen_source() -> None:
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
    for target in _targets():
        assert target["datasource"]["uid"] == "${datasource}"
        assert f'{POOL_LABEL}=~"$pool"' in target["expr"]
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_each_variable_is_there_before_it_is_asked_for(exposed: Exposed) -> None:
    known: set[str] = set()
    for variable in DASHBOARD["templating"]["list"]:
        query = variable["query"] if isinstance(variable["query"], str) else variable["definition"]
        assert set(re.findall(r"\$(\w+)", query)) <= known
        assert wrong(query, exposed) == []
        known.add(variable["name"])
    own = {"__rate_interval", "__range"}
    assert {name for target in _targets() for name in re.findall(r"\$(\w+)", target["expr"])} <= (
        known | own
    )


def test_no_panel_lies_on_another() -> None:
    for one, other in combinations((panel["gridPos"] for panel in PANELS), 2):
        assert (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert one["x"] + one["w"] <= 24


# -- The alerts ---------------------------------------------------------------------------


def test_each_alert_has_its_sentences() -> None:
    assert {rule["alert"] for rule in RULES} == ALERTS
    for rule in RULES:
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert f"{{{{ $labels.{POOL_LABEL} }}}}" in rule["annotations"]["summary"]
        assert "{{ $value" in rule["annotations"]["description"]
        for sentence in rule["annotations"].values():
            assert sentence.endswith(".")
            assert "\n" not in sentence


@pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool, of Prometheus")
def test_prometheus_takes_the_rules_and_they_fire_when_they_should() -> None:
    played = Path(__file__).with_name("alerts_test.yml")
    done = subprocess.run(
        ["promtool", "test", "rules", played], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(re.findall(r"ConnectionPool\w+", played.read_text())) == ALERTS
