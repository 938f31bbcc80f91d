from __future__ import annotations

import json
from pathlib import Path

from django_connpool.status import prometheus
from django_connpool.status.collect import Collected, Silence
from django_connpool.status.report import Report
from tests.status.samples import loan, pool, process
from tests.status.test_table import SERVER

EVERYTHING = Report(
    Collected(
        processes=[
            process(pools=[pool(loans=[loan()]), pool(alias="reports", aliases=["reports"])]),
            process(pid=12),
        ],
        silent=[Silence(99, "did not answer within 2 s")],
        directories=[Path("/run/user/1000/django-connpool")],
        refused=["/tmp/x is a symbolic link"],
    ),
    {"default": SERVER, "reports": {"error": "connection refused"}},
)


def test_json_has_everything() -> None:
    found = json.loads(EVERYTHING.as_json())
    assert found == {
        "version": 1,
        "processes": EVERYTHING.processes,
        "unanswered": [{"pid": 99, "problem": "did not answer within 2 s"}],
        "directories": ["/run/user/1000/django-connpool"],
        "refused": ["/tmp/x is a symbolic link"],
        "server": {"default": SERVER, "reports": {"error": "connection refused"}},
    }
    assert {"alias", "min_size", "max_size", "size", "idle", "in_use", "waiting"} <= set(
        found["processes"][0]["pools"][0]
    )


def test_json_without_indent_is_one_line() -> None:
    assert "\n" not in EVERYTHING.as_json(indent=None)


def test_one_alias_has_only_its_pools_and_its_server() -> None:
    found = EVERYTHING.only("reports")
    assert [process["pid"] for process in found.processes] == [4711]
    assert [pool["alias"] for pool in found.processes[0]["pools"]] == ["reports"]
    assert list(found.server) == ["reports"]
    assert found.collected.silent == EVERYTHING.collected.silent


def test_an_alias_that_shares_its_pool_finds_it() -> None:
    shared = Report(Collected([process(pools=[pool(aliases=["default", "replica"])])]))
    assert len(shared.only("replica").processes) == 1
    assert shared.only("replica").server == {}


def test_prometheus_has_every_number_with_pid_and_alias() -> None:
    lines = prometheus.render(EVERYTHING).splitlines()
    for expected in (
        'django_connpool_process_up{pid="4711",host="web-1"} 1',
        'django_connpool_process_up{pid="99"} 0',
        "# TYPE db_client_connection_count gauge",
        'db_client_connection_count{pid="4711",host="web-1",alias="default",state="idle"} 1',
        'db_client_connection_count{pid="4711",host="web-1",alias="reports",state="used"} 3',
        'db_client_connection_max{pid="12",host="web-1",alias="default"} 10',
        'db_client_connection_pending_requests{pid="12",host="web-1",alias="default"} 2',
        "# TYPE db_client_connection_timeouts_total counter",
        'db_client_connection_timeouts_total{pid="12",host="web-1",alias="default"} 4',
        'django_connpool_borrows_total{pid="12",host="web-1",alias="default"} 10231',
        "# TYPE db_client_connection_wait_time_seconds histogram",
        'db_client_connection_wait_time_seconds_bucket{pid="12",host="web-1",alias="default",'
        'le="0.001"} 7',
        'db_client_connection_wait_time_seconds_bucket{pid="12",host="web-1",alias="default",'
        'le="0.1"} 9',
        'db_client_connection_wait_time_seconds_bucket{pid="12",host="web-1",alias="default",'
        'le="+Inf"} 10',
        'db_client_connection_wait_time_seconds_sum{pid="12",host="web-1",alias="default"} 1.5',
        'db_client_connection_wait_time_seconds_count{pid="12",host="web-1",alias="default"} 10',
        'db_client_connection_use_time_seconds_count{pid="12",host="web-1",alias="default"} 10',
        'db_client_connection_create_time_seconds_count{pid="12",host="web-1",alias="default"} 10',
        'django_connpool_connections_lost_total{pid="12",host="web-1",alias="default"} 2',
        'django_connpool_longest_wait_seconds{pid="12",host="web-1",alias="default"} 0.25',
        'django_connpool_server_up{alias="default"} 1',
        'django_connpool_server_up{alias="reports"} 0',
        'django_connpool_server_max_connections{alias="default"} 100',
        'django_connpool_server_connections{alias="default",state="idle"} 7',
    ):
        assert expected in lines


def test_prometheus_tells_the_process_1_of_each_container_apart() -> None:
    silent = [Silence(1, "hangs"), Silence(1, "hangs")]
    containers = Report(Collected([process(pid=1), process(pid=1, host="web-2")], silent))
    lines = prometheus.render(containers).splitlines()
    assert len(set(lines)) == len(lines)
    assert 'django_connpool_process_up{pid="1",host="web-2"} 1' in lines


def test_prometheus_describes_each_metric_once_before_its_samples() -> None:
    described: list[str] = []
    for line in prometheus.render(EVERYTHING).splitlines():
        if line.startswith("# TYPE "):
            described.append(line.split()[2])
        elif not line.startswith("# HELP "):
            assert line.startswith(described[-1])
    assert len(described) == len(set(described))


def test_prometheus_labels_are_escaped() -> None:
    odd = Report(Collected([process(pools=[pool(alias='a"b\\c\nd')])]))
    assert r'alias="a\"b\\c\nd"' in prometheus.render(odd)


def test_prometheus_of_nothing_is_nothing() -> None:
    assert prometheus.render(Report()) == ""
