from __future__ import annotations

import gc
import os
import sys
import threading
from collections import Counter
from pathlib import Path
from socket import gethostname
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.test import RequestFactory
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest, multiprocess

import django_connpool
from django_connpool import PoolTimeout, registry
from django_connpool.contrib import prometheus
from django_connpool.status import server
from django_connpool.status.activity import Activity
from django_connpool.status.collect import Collected, Silence
from django_connpool.status.metrics import POOL_LABEL, by_name
from django_connpool.status.report import Report
from tests import inside
from tests.cluster import Server
from tests.contrib.scraping import PROMISED, Scrape
from tests.databases import DEADLINE, Databases, connected, in_thread, pid, value
from tests.proxy import Proxy
from tests.status.samples import answering, pool, process
from tests.status.script import running
from tests.status.test_poolstatus import environ
from tests.testproject.processes import wait_until

NAME = "measured"


@pytest.fixture
def measured(databases: Databases) -> Any:
    return databases.add(pool={"name": NAME, "max_size": 2, "timeout": DEADLINE})


def ask(path: str = "/metrics", **headers: str) -> Any:
    return prometheus.metrics(RequestFactory().get(path, headers=headers))


def scrape(path: str = "/metrics") -> Scrape:
    answer = ask(path)
    assert answer.status_code == 200
    return Scrape(answer.content)


def test_every_promised_metric_is_there_with_its_kind(measured: Any) -> None:
    value(measured, "SELECT 1")
    shown = scrape()
    assert shown.kinds.items() >= PROMISED.items()
    assert {sample.labels[POOL_LABEL] for sample in shown.samples} >= {NAME}


def test_a_scrape_has_the_numbers_of_the_moment(measured: Any) -> None:
    assert pid(measured)
    shown = scrape()
    # Nobody needs it between two statements: it is on offer, and counts as used all the same.
    assert shown.value("db_client_connection_count", NAME, state="used") == 1
    assert shown.value("django_connpool_connections_offered", NAME) == 1
    assert shown.value("db_client_connection_count", NAME, state="idle") == 0
    measured.close()
    shown = scrape()
    assert shown.value("db_client_connection_count", NAME, state="used") == 0
    assert shown.value("db_client_connection_count", NAME, state="idle") == 1
    assert shown.value("db_client_connection_max", NAME) == 2
    assert shown.value("db_client_connection_idle_max", NAME) == 2
    assert shown.value("db_client_connection_idle_min", NAME) == 0
    assert shown.value("db_client_connection_pending_requests", NAME) == 0
    assert shown.value("db_client_connection_use_time_seconds_count", NAME) == 1
    assert shown.value("db_client_connection_create_time_seconds_count", NAME) == 1


def test_who_is_served_at_once_is_in_the_histogram_of_waits(measured: Any) -> None:
    for _ in range(3):
        value(measured, "SELECT 1")
        measured.close()
    shown = scrape()
    # The first has waited for the connection to be opened.
    assert shown.value("django_connpool_borrow_waited_total", NAME) == 1
    assert shown.value("db_client_connection_wait_time_seconds_count", NAME) == 3
    at_once = shown.value("db_client_connection_wait_time_seconds_bucket", NAME, le="0.0001")
    assert at_once >= 2


def test_the_buckets_of_a_histogram_include_those_below(measured: Any) -> None:
    value(measured, "SELECT 1")
    measured.close()
    for name in ("wait_time", "use_time", "create_time"):
        found = scrape().values(
            f"db_client_connection_{name}_seconds_bucket", "le", **{POOL_LABEL: NAME}
        )
        counts = list(found.values())
        assert counts == sorted(counts)
        assert list(found)[-1] == "+Inf"
        assert counts[-1] == 1


def test_timeouts_waiters_and_failures_are_counted(databases: Databases) -> None:
    wrapper = databases.add(pool={"name": NAME, "max_size": 1, "release": "request"})
    wrapper.ensure_connection()
    with pytest.raises(PoolTimeout):
        wrapper.pool.getconn(timeout=0)
    waiting = threading.Thread(target=lambda: wrapper.pool.putconn(wrapper.pool.getconn()))
    waiting.start()
    wait_until(lambda: wrapper.pool.snapshot()["waiting"] == 1, "it stands in line")
    shown = scrape()
    assert shown.value("db_client_connection_pending_requests", NAME) == 1
    assert shown.value("django_connpool_wait_longest_seconds", NAME) > 0
    wrapper.close()
    waiting.join(DEADLINE)
    shown = scrape()
    assert shown.value("db_client_connection_timeouts_total", NAME) == 1
    assert shown.value("django_connpool_borrow_failed_total", NAME) == 1
    assert shown.value("django_connpool_borrow_waited_total", NAME) == 2
    assert shown.value("db_client_connection_pending_requests", NAME) == 0


def test_a_session_that_was_changed_counts_as_cleaned(measured: Any) -> None:
    # Until the pool knows the server's functions, it cleans after each loan.
    wait_until(lambda: _is_known(measured), "the functions of the server are known")
    before = scrape().value("django_connpool_cleaned_total", NAME)
    value(measured, "SELECT 1")
    measured.close()
    assert scrape().value("django_connpool_cleaned_total", NAME) == before
    with measured.cursor() as cursor:
        cursor.execute("SET work_mem = '5MB'")
    measured.close()
    assert scrape().value("django_connpool_cleaned_total", NAME) == before + 1


def test_a_new_connection_that_only_asks_something_does_not(databases: Databases) -> None:
    fresh = databases.add(pool={"name": NAME, "min_size": 1}).pool
    fresh.warm()
    wait_until(lambda: fresh.snapshot()["idle"] == 1, "it is open")
    assert scrape().value("django_connpool_cleaned_total", NAME) == 0


def _is_known(wrapper: Any) -> bool:
    value(wrapper, "SELECT 1")
    wrapper.close()
    return inside.knows_functions(wrapper.pool)


def test_connections_closed_are_counted_by_the_reason(measured: Any) -> None:
    value(measured, "SELECT 1")
    measured.close()
    reasons = scrape().values("django_connpool_closed_total", "reason", **{POOL_LABEL: NAME})
    assert set(reasons.values()) == {0}  # from the start: what appears late has no rate
    measured.pool.drain()
    wait_until(lambda: measured.pool.snapshot()["size"] == 0, "it is closed")
    after = scrape().values("django_connpool_closed_total", "reason", **{POOL_LABEL: NAME})
    assert after == {**reasons, "drained": 1}
    assert "pool_closed" in after


def test_a_loan_is_one_leak_whether_reported_or_never_given_back(databases: Databases) -> None:
    wrapper = databases.add(pool={"name": NAME, "max_size": 2, "leak_after": 0.01})
    assert scrape().values("django_connpool_leaks_total", POOL_LABEL).get(NAME, 0) == 0
    kept = [wrapper.pool.getconn()]
    wait_until(
        lambda: scrape().value("django_connpool_leaks_total", NAME) == 1, "the leak is reported"
    )
    kept.clear()
    gc.collect()
    wait_until(lambda: wrapper.pool.get_stats()["loans_reclaimed"], "it is reclaimed")
    assert scrape().value("django_connpool_leaks_total", NAME) == 1


def test_a_loan_that_its_borrower_dies_with_is_a_leak(measured: Any) -> None:
    in_thread(lambda: bool(measured.pool.getconn()))
    wait_until(lambda: measured.pool.get_stats()["loans_reclaimed"], "it is reclaimed")
    shown = scrape()
    assert shown.value("django_connpool_leaks_total", NAME) == 1
    assert shown.value("django_connpool_dead_holders", NAME) == 0


def test_a_loan_that_outlives_its_thread_has_a_dead_holder(measured: Any) -> None:
    kept: list[Any] = []

    def lend_and_die() -> None:
        kept.append(measured.pool.getconn())
        kept[0].lock.acquire()  # as another thread would that works with it

    in_thread(lend_and_die)
    inside.tick(measured.pool)
    assert scrape().value("django_connpool_dead_holders", NAME) == 1
    kept[0].lock.release()
    measured.pool.putconn(kept.pop())
    assert scrape().value("django_connpool_dead_holders", NAME) == 0


def test_who_listens_is_measured_where_anybody_does(databases: Databases, proxy: Proxy) -> None:
    place = proxy.params()
    wrapper = databases.add(HOST=place["host"], PORT=place["port"], pool={"name": NAME})
    assert not any("listener" in sample.name for sample in scrape().samples)

    def told() -> list[float]:
        shown, names = scrape(), ("listeners", "listener_channels", "listener_connections")
        return [shown.value(f"django_connpool_{name}", NAME) for name in names]

    lost = "django_connpool_listener_lost_seconds"
    with (
        django_connpool.listen(wrapper.alias, "a", "b") as one,
        django_connpool.listen(wrapper.alias, "a"),
    ):
        assert told() == [2, 2, 1]
        assert scrape().value(lost, NAME) == 0
        proxy.refuse()
        proxy.drop()
        wait_until(lambda: told() == [2, 2, 0], "it is lost")
        wait_until(lambda: scrape().value(lost, NAME) > 0, "it tells for how long")
        proxy.allow()
        assert one.get(DEADLINE).missed
        assert told() == [2, 2, 1]


def test_who_listens_by_two_pools_of_one_name_is_added_up() -> None:
    connected = {"channels": ["a"], "listeners": 1, "backend_pid": 7, "lost": None, "error": None}
    lost = {**connected, "backend_pid": None, "lost": 5.0, "error": "no route"}
    pools = [pool(name=NAME, listening=connected), pool(name=NAME, listening=lost)]
    (found,) = by_name(pools).values()
    assert found["listening"] == {"listeners": 2, "channels": 2, "connected": 1, "lost": 5.0}


def test_a_scrape_opens_no_connection_and_needs_none(databases: Databases, cluster: Any) -> None:
    wrapper = databases.add(pool={"name": NAME, "max_size": 1, "release": "request"})
    wrapper.ensure_connection()
    before = Counter(name for name, _ in registry.live())
    # In another thread: this one's wrapper has the only connection there is.
    shown = in_thread(scrape)
    assert shown.value("db_client_connection_count", NAME, state="used") == 1
    assert Counter(name for name, _ in registry.live()) == before
    assert connected(cluster, wrapper) == 1


def test_who_has_how_much_of_a_bound_is_told_by_the_bound(
    databases: Databases, settings: Any
) -> None:
    settings.CONNPOOL_BUDGETS = {"shop": 3}
    value(databases.add(pool={"name": NAME, "max_size": 2, "budget": "shop"}), "SELECT 1")
    shown, bound = scrape(), {"bound": "budget 'shop'"}
    assert shown.value("django_connpool_bound_max", NAME, **bound) == 3
    assert shown.value("django_connpool_bound_held", NAME, **bound) == 1
    assert shown.value("django_connpool_bound_waiting", NAME, **bound) == 0


def test_two_pools_of_one_name_are_one(databases: Databases) -> None:
    for alias in ("spare", "second"):
        wrapper = databases.add(alias, pool={"name": NAME, "max_size": 2})
        value(wrapper, "SELECT 1")
    shown = scrape()
    assert shown.value("db_client_connection_max", NAME) == 4
    assert shown.value("db_client_connection_count", NAME, state="used") == 2
    assert shown.value("db_client_connection_create_time_seconds_count", NAME) == 2


# -- Registered beside what else a site measures ------------------------------------------


def test_one_line_adds_the_pools_to_a_registry(measured: Any) -> None:
    value(measured, "SELECT 1")
    site = CollectorRegistry(auto_describe=True)
    prometheus.register(site)
    shown = Scrape(generate_latest(site))
    assert shown.value("db_client_connection_max", NAME) == 2
    assert site.get_sample_value("db_client_connection_max", {POOL_LABEL: NAME}) == 2


def test_the_page_of_django_prometheus_has_the_pools(measured: Any) -> None:
    exports = pytest.importorskip("django_prometheus.exports")
    value(measured, "SELECT 1")
    collector = prometheus.register()
    try:
        page = exports.ExportToDjangoView(RequestFactory().get("/metrics"))
    finally:
        REGISTRY.unregister(collector)
    assert Scrape(page.content).value("db_client_connection_max", NAME) == 2


def test_registering_asks_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "of_host", lambda seconds: pytest.fail("it was asked"))
    site = CollectorRegistry(auto_describe=True)
    prometheus.register(site, scope="host")
    with pytest.raises(ValueError, match="Duplicated"):
        prometheus.register(site)


def test_an_unknown_scope_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="process and host"):
        prometheus.PoolCollector("cluster")
    answer = ask("/metrics?scope=cluster")
    assert answer.status_code == 400
    assert answer.content == b"scope is process or host\n"


def test_a_scraper_gets_the_format_that_it_asks_for(measured: Any) -> None:
    value(measured, "SELECT 1")
    assert ask()["Content-Type"].startswith("text/plain; version=")
    answer = ask(accept="application/openmetrics-text; version=1.0.0")
    assert answer["Content-Type"].startswith("application/openmetrics-text; version=")
    shown = Scrape(answer.content, openmetrics=True)
    assert shown.kinds.items() >= PROMISED.items()


# -- All processes of the host ------------------------------------------------------------


def test_all_processes_of_the_host_are_told_apart_by_pid(status_dir: Path, measured: Any) -> None:
    value(measured, "SELECT 1")
    server.start()
    with answering(status_dir / "4711.sock", process(pools=[pool(name=NAME, max_size=7)])):
        shown = scrape("/metrics?scope=host")
    most = shown.values("db_client_connection_max", "pid", **{POOL_LABEL: NAME})
    assert sorted(most.values()) == [2, 7]
    assert most["4711"] == 7
    assert shown.values("django_connpool_process_up", "pid") == dict.fromkeys(most, 1)


@pytest.mark.e2e
def test_real_processes_are_asked_for_their_pools(status_dir: Path, cluster: Server) -> None:
    env = environ(status_dir, cluster.url())
    with (
        running("borrow", status_dir, **env) as one,
        running("borrow", status_dir, **env) as other,
    ):
        shown = scrape("/metrics?scope=host")
    used = shown.values("db_client_connection_count", "pid", state="used", host=gethostname())
    assert used[str(one.pid)] == used[str(other.pid)] == 1
    assert set(used) <= {str(process.pid) for process in (one, other)} | {str(os.getpid())}
    up = shown.values("django_connpool_process_up", "pid")
    assert up == dict.fromkeys((str(one.pid), str(other.pid), str(os.getpid())), 1)


def test_pools_of_one_name_in_a_process_are_one_for_the_host_too(status_dir: Path) -> None:
    with answering(status_dir / "4711.sock", process(pools=[pool(), pool()])):
        shown = scrape("/metrics?scope=host")
    assert shown.values("db_client_connection_max", "pid")["4711"] == 20
    assert shown.values("django_connpool_wait_longest_seconds", "pid")["4711"] == 0.25


@pytest.mark.usefixtures("status_dir")
def test_the_process_that_is_asked_is_there_without_a_socket(measured: Any) -> None:
    value(measured, "SELECT 1")
    server.stop()
    shown = scrape("/metrics?scope=host")
    here = str(os.getpid())
    assert shown.values("django_connpool_process_up", "pid") == {here: 1}
    assert shown.values("db_client_connection_max", "pid", **{POOL_LABEL: NAME}) == {here: 2}


def test_where_metrics_are_those_of_many_processes_so_is_the_answer(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with answering(status_dir / "4711.sock", process()):
        assert scrape().values("django_connpool_process_up", "pid")["4711"] == 1
    alone = scrape("/metrics?scope=process")
    assert not alone.values("django_connpool_process_up", "pid")
    assert not list(tmp_path.iterdir())  # nothing is written for others to add up


def test_a_page_of_many_processes_takes_the_pools_beside_the_files(
    status_dir: Path, tmp_path: Path
) -> None:
    site = CollectorRegistry()
    multiprocess.MultiProcessCollector(site, str(tmp_path))
    prometheus.register(site, scope="host")
    with answering(status_dir / "4711.sock", process()):
        shown = Scrape(generate_latest(site))
    assert shown.values("db_client_connection_max", "pid")["4711"] == 10


# -- What poolstatus prints ---------------------------------------------------------------

ACTIVITY: Activity = {
    "database": "shop",
    "version": "16.1",
    "max_connections": 100,
    "reserved": 3,
    "total": 9,
    "in_database": 7,
    "states": {"idle": 7, "active": 2},
    "states_in_database": {"idle": 7},
}


def test_a_report_has_the_silent_and_what_the_servers_say() -> None:
    silent = [Silence(99, "hangs"), Silence(99, "hangs")]
    report = Report(
        Collected([process(), process(pid=12), process(host="web-2")], silent),
        {"default": ACTIVITY, "reports": {"error": "connection refused"}},
    )
    shown = Scrape(prometheus.render(report))
    assert {
        (one.labels["pid"], one.labels["host"]): one.value
        for one in shown.samples
        if one.name == "django_connpool_process_up"
    } == {("4711", "web-1"): 1, ("12", "web-1"): 1, ("4711", "web-2"): 1, ("99", ""): 0}
    assert shown.values("django_connpool_server_up", "alias") == {"default": 1, "reports": 0}
    assert shown.values("django_connpool_server_max_connections", "alias") == {"default": 100}
    assert shown.values("django_connpool_server_reserved_connections", "alias") == {"default": 3}
    connections = shown.values("django_connpool_server_connections", "state", alias="default")
    assert connections == {"idle": 7, "active": 2}
    assert shown.value("db_client_connection_count", "shop", state="used", pid="12", host="web-1")


def test_no_series_appears_twice() -> None:
    silent = [Silence(99, "hangs"), Silence(99, "hangs")]
    report = Report(Collected([process(pid=1), process(pid=1, host="web-2")], silent))
    samples = Scrape(prometheus.render(report)).samples
    keys = Counter((one.name, tuple(sorted(one.labels.items()))) for one in samples)
    assert set(keys.values()) == {1}


def test_what_an_earlier_version_says_is_shown_as_far_as_it_goes() -> None:
    older = pool()
    del older["name"], older["offered"]
    shown = Scrape(prometheus.render(Report(Collected([process(pools=[older])]))))
    assert shown.value("db_client_connection_count", "default", state="used", **WHERE) == 2
    assert shown.value("django_connpool_dead_holders", "default", **WHERE) == 0
    assert shown.value("db_client_connection_timeouts_total", "default", **WHERE) == 4


WHERE = {"pid": "4711", "host": "web-1"}


def test_what_stands_in_a_label_is_escaped() -> None:
    odd = 'a"b\\c\nd'
    shown = prometheus.render(Report(Collected([process(pools=[pool(name=odd)])])))
    assert 'a"b\\c' not in shown
    assert Scrape(shown).value("db_client_connection_max", odd, **WHERE) == 10


def test_a_report_of_nothing_is_nothing() -> None:
    assert prometheus.render(Report()) == ""


def test_without_its_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "django_connpool.contrib.prometheus")
    with pytest.raises(ImproperlyConfigured, match=r"pip install 'django-connpool\[metrics\]'"):
        __import__("django_connpool.contrib.prometheus")
