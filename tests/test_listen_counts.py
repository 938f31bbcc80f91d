"""`listen_counts`: the connection that listens is one of the pool's. The server counts."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from psycopg import OperationalError

import django_connpool
from django_connpool import PoolClosed, PoolTimeout, checks, registry
from django_connpool.status import snapshot
from tests import inside
from tests.cluster import Server
from tests.databases import Databases, connected, in_threads, pid, value
from tests.testproject.processes import wait_until

SOON = 60.0  # seconds until a notification that does not come is called missing


@pytest.fixture
def wrapper(databases: Databases) -> Any:
    return databases.add(pool={"max_size": 2, "listen_counts": True})


@pytest.fixture(autouse=True)
def nobody_listens_any_more() -> Iterator[None]:
    yield
    if inside.listening_sockets():
        gc.collect()
    wait_until(lambda: not inside.listening_sockets(), "the connection is closed")


@pytest.fixture
def of_two(cluster: Server) -> Iterator[str]:
    """A role that the server itself allows no third connection, at any moment."""
    cluster.execute("CREATE ROLE connpool_of_two LOGIN CONNECTION LIMIT 2")
    yield "connpool_of_two"
    cluster.execute("DROP ROLE connpool_of_two")


def listen(wrapper: Any, *channels: str) -> Any:
    return django_connpool.listen(wrapper.alias, *channels, timeout=SOON)


def notify(server: Server, payload: str) -> None:
    server.execute("SELECT pg_notify('orders', %s)", [payload])


def seen(wrapper: Any) -> Any:
    pools = [pool for pool in snapshot.take()["pools"] if wrapper.alias in pool["aliases"]]
    return pools[0].get("listening")


def test_while_somebody_listens_the_pool_lends_one_less(wrapper: Any, cluster: Server) -> None:
    pool = wrapper.pool
    with listen(wrapper, "orders") as one, listen(wrapper, "stock", "orders") as other:
        with pool.connection() as conn:
            assert connected(cluster, wrapper) == 2
            with pytest.raises(PoolTimeout, match=r"On loan to .*'listen\(\)' for"):
                pool.getconn(0.05)
            conn.execute("SELECT pg_notify('orders', 'by the other')")
            conn.commit()
        assert one.get(SOON).payload == other.get(SOON).payload == "by the other"
    with pool.connection(SOON), pool.connection(SOON):
        assert connected(cluster, wrapper) == 2


def test_who_listens_stands_in_line_like_everybody(wrapper: Any, cluster: Server) -> None:
    pool = wrapper.pool
    held = [pool.getconn(), pool.getconn()]
    waiting = threading.Thread(target=lambda: listen(wrapper, "orders").get(0))
    waiting.start()
    wait_until(lambda: pool.snapshot()["waiting"] == 1, "it stands in line")
    assert connected(cluster, wrapper) == 2
    pool.putconn(held.pop())
    waiting.join(SOON)
    assert not waiting.is_alive()
    pool.putconn(held.pop())


def test_no_connection_in_time_is_told_with_the_reason(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 2, "listen_counts": True, "timeout": 0.2})
    with (
        wrapper.pool.connection(SOON),
        wrapper.pool.connection(SOON),
        pytest.raises(OperationalError, match="got no connection in time"),
    ):
        listen(wrapper, "orders").get(0)


def test_a_connection_that_is_killed_is_replaced_within_the_bound(
    wrapper: Any, cluster: Server
) -> None:
    with listen(wrapper, "orders") as listener:
        killed = seen(wrapper)["backend_pid"]
        cluster.terminate(killed)
        assert listener.get(SOON).missed
        notify(cluster, "1")
        assert listener.get(SOON).payload == "1"
        assert seen(wrapper)["backend_pid"] != killed
        assert connected(cluster, wrapper) <= 2
    wait_until(lambda: wrapper.pool.snapshot()["in_use"] == 0, "it is given back")


def test_the_place_is_free_again_when_nobody_listens(wrapper: Any, cluster: Server) -> None:
    for _ in range(3):
        with listen(wrapper, "orders"):
            assert wrapper.pool.snapshot()["in_use"] == 1
        wait_until(lambda: wrapper.pool.snapshot()["in_use"] == 0, "it is given back")
    listener = listen(wrapper, "orders").__enter__()
    del listener
    gc.collect()
    wait_until(lambda: wrapper.pool.snapshot()["in_use"] == 0, "it is given back")
    assert wrapper.pool.get_stats()["loans_reclaimed"] == 0


def test_the_connection_that_listened_is_closed_when_it_is_given_back(wrapper: Any) -> None:
    for _ in range(10):
        with listen(wrapper, "orders"):
            pass
        wait_until(lambda: wrapper.pool.snapshot()["in_use"] == 0, "it is given back")
        assert wrapper.pool.snapshot()["idle"] == 0


def test_nobody_finds_in_his_session_what_was_listened_to(wrapper: Any) -> None:
    with listen(wrapper, "orders"):
        pid(wrapper)
        wrapper.close()
    for _ in range(2):
        assert value(wrapper, "SELECT count(*) FROM pg_listening_channels()") == 0
        wrapper.close()


def test_what_lasts_is_no_leak_and_hides_none(
    databases: Databases, caplog: pytest.LogCaptureFixture
) -> None:
    pool = {"max_size": 3, "listen_counts": True, "leak_after": 0.05}
    wrapper = databases.add(pool=pool)
    with listen(wrapper, "orders"), wrapper.pool.connection():
        wait_until(lambda: wrapper.pool.get_stats()["loans_leaked"] == 1, "the other is reported")
        loans = {loan["thread"]: loan["leak"] for loan in wrapper.pool.snapshot()["loans"]}
    assert loans["listen()"] is False
    assert "listen()" not in caplog.text


def test_that_all_others_wait_for_each_other_is_noticed_all_the_same(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 2, "listen_counts": True})
    with (
        listen(wrapper, "orders"),
        django_connpool.scope("work that waits for itself"),
        wrapper.pool.connection(),
        pytest.raises(PoolTimeout, match="Everybody waits for each other"),
    ):
        wrapper.pool.getconn()


def test_closing_the_pool_closes_it_too(wrapper: Any, cluster: Server) -> None:
    with listen(wrapper, "orders") as listener:
        registry.close(inside.binding(wrapper))
        assert connected(cluster, wrapper) == 0
        with pytest.raises(PoolClosed):
            listener.get(SOON)


def test_a_pool_that_is_closed_by_its_user_ends_who_listens_when_the_connection_goes(
    wrapper: Any, cluster: Server
) -> None:
    with listen(wrapper, "orders") as listener:
        wrapper.pool.close()
        cluster.terminate(seen(wrapper)["backend_pid"])
        with pytest.raises(PoolClosed):
            listener.get(SOON)


def test_a_pool_of_one_is_refused(databases: Databases) -> None:
    databases.add(pool={"max_size": 1, "listen_counts": True})
    with pytest.raises(ImproperlyConfigured, match="'listen_counts' cannot be True: there is only"):
        django_connpool.listen("spare", "orders")
    found = [found for found in checks.check_pools(None) if "listen_counts" in str(found)]
    assert len(found) == 1


# -- Never more -------------------------------------------------------------------------------


def test_the_server_never_sees_one_too_many(
    databases: Databases, cluster: Server, of_two: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses a third one, at whatever moment, and that would be an error to connect."""
    pool = {"max_size": 2, "listen_counts": True, "timeout": SOON}
    wrapper = databases.add(USER=of_two, pool=pool)

    def borrow() -> None:
        for _ in range(60):
            with wrapper.pool.connection() as conn:
                conn.execute("SELECT 1")

    def come_and_go() -> None:
        for _ in range(30):
            with listen(wrapper, "orders"):
                pass

    def kill() -> None:
        for _ in range(10):
            with listen(wrapper, "orders") as listener:
                if (one := seen(wrapper)) and one["backend_pid"]:
                    cluster.terminate(one["backend_pid"])
                    assert listener.get(SOON).missed

    with caplog.at_level(logging.INFO):
        in_threads([borrow, borrow, borrow, come_and_go, kill])
    assert "too many connections" not in caplog.text
    assert connected(cluster, wrapper) <= 2
    wrapper.pool.close()


def test_a_listener_holds_a_place_of_the_host(
    databases: Databases, cluster: Server, tmp_path: Path, settings: Any
) -> None:
    tmp_path.chmod(0o700)
    settings.CONNPOOL_HOST_DIR = str(tmp_path)
    shared = {"max_size": 2, "host_max_size": 2, "listen_counts": True}
    same = {"application_name": "listens-on-the-host"}
    one = databases.add("one", pool=shared, options=same)
    other = databases.add("two", pool={**shared, "max_waiting": 9}, options=same)
    with listen(one, "orders") as listener, other.pool.connection():
        assert connected(cluster, one) == 2
        for wrapper in (one, other):
            with pytest.raises(PoolTimeout, match="host_max_size"):
                wrapper.pool.getconn(0.05)
        notify(cluster, "1")
        assert listener.get(SOON).payload == "1"
        assert connected(cluster, one) == 2
    with other.pool.connection(SOON), other.pool.connection(SOON):
        assert connected(cluster, one) == 2


# -- Processes --------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_child_borrows_anew_and_the_parent_goes_on(cluster: Server) -> None:
    from tests.backends.test_fork import forked

    found = forked("listening_within", cluster, "forks-listening-within")

    assert found["child"] == {"first": "gap", "then": "for the child", "pid_is_another": True}
    assert found["parent"] == ["for the child", "after"]
