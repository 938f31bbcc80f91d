"""`listen()`: notifications on one connection of a process, which comes back by itself."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError as DjangosError
from django.db import transaction
from psycopg import OperationalError

import django_connpool
from django_connpool import PoolClosed, aio, registry
from django_connpool.listening import Notification
from django_connpool.status import snapshot
from tests import inside
from tests.cluster import Cluster, Server
from tests.databases import Databases, connected, in_threads, pid, value
from tests.interrupter import Interrupter, is_safe
from tests.proxy import Proxy
from tests.testproject.processes import wait_until

SOON = 60.0  # seconds until a notification that does not come is called missing


@pytest.fixture
def wrapper(databases: Databases) -> Any:
    return databases.add(pool={"max_size": 2})


@pytest.fixture(autouse=True)
def nobody_listens_any_more() -> Iterator[None]:
    yield
    if inside.listening_sockets():
        gc.collect()
    wait_until(lambda: not inside.listening_sockets(), "the connection is closed")


def notify(server: Server, channel: str, *payloads: str) -> None:
    for payload in payloads:
        server.execute("SELECT pg_notify(%s, %s)", [channel, payload])


def listen(wrapper: Any, *channels: str, timeout: float | None = SOON) -> Any:
    return django_connpool.listen(wrapper.alias, *channels, timeout=timeout)


def payloads(listener: Any, number: int) -> list[str]:
    return [listener.get(SOON).payload for _ in range(number)]


def of_connection(wrapper: Any) -> int:
    """The backend of the connection that listens."""
    return int(seen(wrapper)["backend_pid"])


def seen(wrapper: Any) -> Any:
    """What the status tells of who listens beside the wrapper's pool."""
    pools = [pool for pool in snapshot.take()["pools"] if wrapper.alias in pool["aliases"]]
    return pools[0].get("listening")


def test_what_is_told_comes_in_order_with_its_channel_and_backend(
    wrapper: Any, cluster: Server
) -> None:
    with listen(wrapper, "orders", "Stock of 'the \"shop\"'") as listener:
        notify(cluster, "orders", "1", "2")
        notify(cluster, "Stock of 'the \"shop\"'", "ä€")
        found = [listener.get(SOON) for _ in range(3)]

    assert [(one.channel, one.payload, one.missed) for one in found] == [
        ("orders", "1", False),
        ("orders", "2", False),
        ("Stock of 'the \"shop\"'", "ä€", False),
    ]
    assert found[0].pid > 0


def test_a_loop_ends_after_a_silence(wrapper: Any, cluster: Server) -> None:
    with listen(wrapper, "orders", timeout=0.3) as listener:
        notify(cluster, "orders", "1", "2")
        first = next(iter(listener))
        rest = [first, *listener]

    assert [one.payload for one in rest] == ["1", "2"]


def test_a_loop_needs_no_block(wrapper: Any, cluster: Server) -> None:
    listener = listen(wrapper, "orders")
    assert listener.get(0) is None
    notify(cluster, "orders", "1")

    for one in listener:
        assert one.payload == "1"
        listener.close()


def test_who_waits_is_woken_when_another_thread_closes(wrapper: Any) -> None:
    with listen(wrapper, "orders", timeout=None) as listener:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.extend(listener))
        thread.start()
        listener.close()
        thread.join(SOON)

        assert not thread.is_alive()
    assert found == []


def test_only_what_is_listened_to_comes(wrapper: Any, cluster: Server) -> None:
    with listen(wrapper, "orders") as orders, listen(wrapper, "stock") as stock:
        notify(cluster, "stock", "s")
        notify(cluster, "orders", "o")

        assert (payloads(orders, 1), payloads(stock, 1)) == (["o"], ["s"])
        assert orders.get(0) is stock.get(0) is None


def test_all_listeners_share_one_connection_outside_of_the_bound(
    wrapper: Any, cluster: Server
) -> None:
    with ExitStack() as stack:
        listeners = [stack.enter_context(listen(wrapper, name)) for name in "abcabc"]
        for name in "abc":
            notify(cluster, name, name)
        assert [payloads(one, 1) for one in listeners] == [[name] for name in "abcabc"]
        assert connected(cluster, wrapper) == 1
        assert wrapper.pool.snapshot()["size"] == 0
        with wrapper.pool.connection(), wrapper.pool.connection():
            assert connected(cluster, wrapper) == 3


def test_the_connection_closes_with_the_last_listener(wrapper: Any, cluster: Server) -> None:
    with listen(wrapper, "orders") as one:
        with listen(wrapper, "stock"):
            assert seen(wrapper)["channels"] == ["orders", "stock"]
        notify(cluster, "orders", "1")
        assert payloads(one, 1) == ["1"]
        assert connected(cluster, wrapper) == 1
    wait_until(lambda: connected(cluster, wrapper) == 0, "it is closed")

    assert seen(wrapper) is None


def test_who_is_forgotten_listens_no_more(wrapper: Any, cluster: Server) -> None:
    listener = listen(wrapper, "orders").__enter__()
    assert connected(cluster, wrapper) == 1
    del listener
    gc.collect()
    wait_until(lambda: connected(cluster, wrapper) == 0, "it is closed")


def test_a_channel_that_nobody_listens_to_any_more_is_left(wrapper: Any, cluster: Server) -> None:
    with listen(wrapper, "orders"):
        with listen(wrapper, "stock"):
            pass
        with listen(wrapper, "more") as more:  # after which UNLISTEN has been answered
            notify(cluster, "more", "1")
            assert payloads(more, 1) == ["1"]
        wait_until(lambda: seen(wrapper)["channels"] == ["orders"], "one is left")


def test_a_connection_that_is_killed_comes_back_and_each_is_told_of_the_gap(
    wrapper: Any, cluster: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with listen(wrapper, "orders") as orders, listen(wrapper, "stock") as stock:
        for _ in range(2):
            killed = of_connection(wrapper)
            cluster.terminate(killed)
            for listener in (orders, stock):
                assert listener.get(SOON).missed
            notify(cluster, "orders", "after")
            assert payloads(orders, 1) == ["after"]
            assert of_connection(wrapper) != killed
        assert stock.get(0) is None
    assert "the connection that listens was lost" in caplog.text
    assert "listening again, after" in caplog.text


def test_who_comes_after_the_gap_is_told_of_none(wrapper: Any, cluster: Server) -> None:
    with listen(wrapper, "orders") as first:
        cluster.terminate(of_connection(wrapper))
        assert first.get(SOON).missed
        with listen(wrapper, "orders") as second:
            notify(cluster, "orders", "1")
            assert payloads(second, 1) == ["1"]


@pytest.mark.e2e
def test_a_server_that_was_away_is_listened_to_again(
    databases: Databases, throwaway_cluster: Cluster
) -> None:
    wrapper = databases.add(server=throwaway_cluster, pool={"timeout": 1})
    with listen(wrapper, "orders") as listener:
        throwaway_cluster.stop("immediate")
        wait_until(lambda: seen(wrapper)["backend_pid"] is None, "it is noticed")
        wait_until(lambda: seen(wrapper)["error"], "it is told why")
        with pytest.raises(OperationalError, match="got no connection in time"):
            listen(wrapper, "stock").get(0)
        assert listener.get(0) is None
        throwaway_cluster.start()
        assert listener.get(SOON).missed
        notify(throwaway_cluster, "orders", "after")
        assert payloads(listener, 1) == ["after"]
        assert seen(wrapper)["error"] is None


def test_a_network_that_has_forgotten_the_connection_is_noticed(
    databases: Databases, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.ask_after(monkeypatch, 0.3)
    place = proxy.params()
    wrapper = databases.add(HOST=place["host"], PORT=place["port"])
    with listen(wrapper, "orders") as listener:
        first = of_connection(wrapper)
        proxy.blackhole()
        wait_until(lambda: seen(wrapper)["backend_pid"] != first, "it is given up")
        proxy.allow()
        assert listener.get(SOON).missed


def test_who_comes_to_a_channel_that_is_just_being_left_waits_for_it(
    databases: Databases, proxy: Proxy
) -> None:
    place = proxy.params()
    wrapper = databases.add(HOST=place["host"], PORT=place["port"], pool={"timeout": SOON})
    with listen(wrapper, "kept"):
        with listen(wrapper, "orders"):
            proxy.blackhole()
        wait_until(inside.is_leaving_channels, "UNLISTEN is under way")
        wrapper.pool.timeout = 0.5
        with pytest.raises(OperationalError, match="in time"):
            listen(wrapper, "orders").get(0)
        proxy.allow()


def test_a_connection_on_which_nothing_is_told_is_asked_and_kept(
    wrapper: Any, cluster: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listen(wrapper, "orders") as listener:
        first = of_connection(wrapper)
        inside.ask_after(monkeypatch, 1)
        with listen(wrapper, "stock"):  # which has it looked at
            pass
        asked = "SELECT query = '' FROM pg_stat_activity WHERE pid = %s"
        wait_until(lambda: cluster.execute(asked, [first]) == [(True,)], "it is asked")
        inside.ask_after(monkeypatch, SOON)
        notify(cluster, "orders", "1")
        assert payloads(listener, 1) == ["1"]
        assert of_connection(wrapper) == first


def test_a_database_that_is_not_there_is_told_at_once(databases: Databases) -> None:
    wrapper = databases.add(NAME="there_is_none", pool={"timeout": 60})
    with pytest.raises(OperationalError, match='"there_is_none" does not exist'):
        listen(wrapper, "orders").get()


def test_no_server_is_told_in_time(databases: Databases) -> None:
    wrapper = databases.add(PORT="1", pool={"timeout": 0.2})
    with (
        pytest.raises(OperationalError, match=r"got no connection in time: .*refused"),
        listen(wrapper, "orders"),
    ):
        pass


def test_after_a_failure_the_next_try_begins_anew(databases: Databases, cluster: Server) -> None:
    cluster.execute("CREATE ROLE connpool_nobody NOLOGIN")
    try:
        wrapper = databases.add(USER="connpool_nobody")
        listener = listen(wrapper, "orders")
        with pytest.raises(OperationalError, match="not permitted to log in"):
            listener.get(0)
        cluster.execute("ALTER ROLE connpool_nobody LOGIN")
        assert listener.get(0) is None
        notify(cluster, "orders", "1")
        assert payloads(listener, 1) == ["1"]
        listener.close()
    finally:
        cluster.terminate(application_name=wrapper.settings_dict["OPTIONS"]["application_name"])
        cluster.execute("DROP ROLE connpool_nobody")


def test_closing_the_pool_ends_who_listens(wrapper: Any, cluster: Server) -> None:
    """Whoever drops or copies a database closes its pools first."""
    with listen(wrapper, "orders") as listener:
        notify(cluster, "orders", "1")
        wait_until(lambda: connected(cluster, wrapper) == 1, "it listens")
        registry.close(inside.binding(wrapper))
        assert connected(cluster, wrapper) == 0
        with pytest.raises(PoolClosed):
            for one in listener:
                assert one.payload == "1"


def test_two_aliases_of_one_database_share_the_connection(
    databases: Databases, wrapper: Any, cluster: Server
) -> None:
    same = {"NAME": wrapper.settings_dict["NAME"], "options": wrapper.settings_dict["OPTIONS"]}
    twin = databases.add("twin", **same)
    with listen(wrapper, "orders") as one, listen(twin, "orders") as two:
        notify(cluster, "orders", "1")
        assert payloads(one, 1) == payloads(two, 1) == ["1"]
        assert connected(cluster, wrapper) == 1


def test_what_a_transaction_tells_comes_when_it_is_committed(wrapper: Any) -> None:
    with listen(wrapper, "orders") as listener:
        with transaction.atomic(wrapper.alias):
            value(wrapper, "SELECT pg_notify('orders', '1')")
            assert listener.get(0) is None
        assert payloads(listener, 1) == ["1"]


def test_the_connection_is_opened_as_the_pools_are(databases: Databases, cluster: Server) -> None:
    asked = []

    def password(parameters: dict[str, Any]) -> dict[str, Any]:
        asked.append(parameters)
        return {"application_name": "by-credentials"}

    wrapper = databases.add(pool={"credentials": password})
    with listen(wrapper, "orders"):
        assert cluster.backends(application_name="by-credentials") == 1
    assert len(asked) == 1


def test_who_does_not_keep_up_is_told_that_he_has_missed_something(
    wrapper: Any, cluster: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.keep_notifications(monkeypatch, 3)
    with listen(wrapper, "orders") as listener, listen(wrapper, "orders") as other:
        for payload in "12345":  # one by one, or several are given up together
            notify(cluster, "orders", payload)
            assert payloads(other, 1) == [payload]

        assert listener.get(SOON).missed
        assert payloads(listener, 1) == ["5"]


def test_what_comes_just_before_the_wait_is_not_slept_over(wrapper: Any) -> None:
    told = Notification("orders", "1", 0)
    with listen(wrapper, "orders") as listener:
        with inside.after_a_look(listener, lambda: listener.put(told)):
            assert in_threads([listener.get], seconds=10) == [told]

        async def work() -> Any:
            with inside.after_a_look(listener, lambda: listener.put(told)):
                return await asyncio.wait_for(listener.aget(), 10)

        assert run(work) == told


def test_each_item_goes_to_one_of_several_threads(wrapper: Any, cluster: Server) -> None:
    with listen(wrapper, "orders") as listener:
        works = [lambda: listener.get(SOON).payload for _ in range(4)]
        notify(cluster, "orders", *"1234")
        assert sorted(in_threads(works)) == list("1234")


@pytest.mark.parametrize(
    ("channels", "error"),
    [
        ((), ValueError),
        (("",), ValueError),
        (("a\0b",), ValueError),
        (("é" * 32,), ValueError),
        ((5,), TypeError),
    ],
)
def test_a_name_that_no_channel_can_have_is_refused(
    wrapper: Any, channels: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        django_connpool.listen(wrapper.alias, *channels)


def test_a_name_as_long_as_it_may_be_is_listened_to(wrapper: Any, cluster: Server) -> None:
    with listen(wrapper, "x" * 63) as listener:
        notify(cluster, "x" * 63, "1")
        assert payloads(listener, 1) == ["1"]


def test_who_listens_behind_a_pooler_that_loses_notifications_is_told(databases: Databases) -> None:
    databases.add("bounced", pool={"behind": "pgbouncer"})
    with pytest.raises(ImproperlyConfigured, match="'bounced' stands behind a pooler"):
        django_connpool.listen("bounced", "orders")


def test_a_database_without_a_pool_is_refused(databases: Databases) -> None:
    databases.add("bare", pool=False)
    with pytest.raises(ImproperlyConfigured, match="'bare' is not pooled"):
        django_connpool.listen("bare", "orders")


def test_a_closed_one_does_not_begin_again(wrapper: Any) -> None:
    with listen(wrapper, "orders") as listener:
        pass
    assert listener.get(SOON) is None
    assert list(listener) == []
    with pytest.raises(OperationalError, match="is closed"), listener:
        pass


def test_listening_starts_no_thread_that_lasts(wrapper: Any, cluster: Server) -> None:
    pid(wrapper)
    wrapper.close()
    with listen(wrapper, "orders") as listener:
        notify(cluster, "orders", "1")
        payloads(listener, 1)
        names = {thread.name for thread in threading.enumerate()}
    assert f"{wrapper.pool.name}-listener" not in names


def test_the_status_tells_of_it(wrapper: Any, cluster: Server) -> None:
    with listen(wrapper, "b", "a"), listen(wrapper, "b"):
        told = seen(wrapper)
        asked = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%'"
        assert (told["backend_pid"],) in cluster.execute(asked)
        assert {**told, "backend_pid": 0} == {
            "channels": ["a", "b"],
            "listeners": 2,
            "counts": False,
            "backend_pid": 0,
            "lost": None,
            "error": None,
        }


def test_a_failing_connection_is_logged_without_a_secret(
    databases: Databases, caplog: pytest.LogCaptureFixture
) -> None:
    secret = "".join(["s3", "cret"])
    wrapper = databases.add(PORT="1", PASSWORD=secret, pool={"timeout": 0.1})
    with caplog.at_level(logging.DEBUG), pytest.raises(OperationalError):
        listen(wrapper, "orders").get()

    assert "connecting to listen failed" in caplog.text
    assert secret not in caplog.text


# -- Interrupts -------------------------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.usefixtures("little_garbage")
def test_an_interrupt_at_any_line_leaves_nobody_who_listens(
    wrapper: Any, cluster: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.ask_after(monkeypatch, 1)
    code = inside.code_of_listening()

    def concerns(frame: FrameType) -> bool:
        return frame.f_code.co_filename in code

    def listen_once() -> None:
        with listen(wrapper, "orders") as listener:
            value(wrapper, "SELECT pg_notify('orders', '1')")
            assert listener.get(SOON).payload == "1"

    listen_once()
    struck = 0
    for n in itertools.count(1):
        with (
            suppress(KeyboardInterrupt),
            Interrupter(n, KeyboardInterrupt, concerns, is_safe) as it,
        ):
            listen_once()
        if not it.where:
            break
        struck += 1
        gc.collect()
        wait_until(lambda: seen(wrapper) is None and not inside.listening_sockets(), it.where)
    listen_once()

    assert struck > 50


# -- asyncio ----------------------------------------------------------------------------------


def run(work: Callable[[], Any]) -> Any:
    async def all_of_it() -> Any:
        return await asyncio.wait_for(work(), SOON)

    return asyncio.run(all_of_it())


def test_the_async_face_has_it_too() -> None:
    assert aio.listen is django_connpool.listen


def test_a_task_listens(wrapper: Any, cluster: Server) -> None:
    async def work() -> list[str]:
        found = []
        async with listen(wrapper, "orders") as listener:
            await asyncio.to_thread(notify, cluster, "orders", "1", "2")
            async for one in listener:
                found.append(one.payload)
                if len(found) == 2:
                    break
            cluster.terminate(of_connection(wrapper))
            found.append("gap" if (await listener.aget(SOON)).missed else "")
        return found

    assert run(work) == ["1", "2", "gap"]


def test_tasks_of_two_event_loops_listen(wrapper: Any, cluster: Server) -> None:
    """Each with a listener of its own, and to one that they share."""
    begun = threading.Barrier(3)

    with listen(wrapper, "shared") as shared:

        async def work() -> tuple[str, str]:
            async with listen(wrapper, "own") as own:
                await asyncio.to_thread(begun.wait, 30)
                mine, ours = await asyncio.gather(own.aget(SOON), shared.aget(SOON))
                return mine.payload, ours.payload

        def tell() -> tuple[str, str]:
            begun.wait(30)
            notify(cluster, "own", "for each")
            notify(cluster, "shared", "1", "2")
            return "", ""

        found = in_threads([lambda: run(work), lambda: run(work), tell])[:2]
        assert sorted(found) == [("for each", "1"), ("for each", "2")]
        assert connected(cluster, wrapper) == 1


def test_an_async_loop_ends_after_a_silence_and_leaves_the_loop_running(wrapper: Any) -> None:
    async def work() -> tuple[int, list[Any]]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticking = asyncio.create_task(tick())
        async with listen(wrapper, "orders", timeout=0.2) as listener:
            found = [one async for one in listener]
        ticking.cancel()
        return ticks, found

    ticks, found = run(work)
    assert ticks > 1
    assert found == []


def test_a_task_that_is_cancelled_loses_nothing(wrapper: Any, cluster: Server) -> None:
    async def work() -> str:
        async with listen(wrapper, "orders") as listener:
            waiting = asyncio.create_task(listener.aget())
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await asyncio.to_thread(notify, cluster, "orders", "1")
            return str((await listener.aget(SOON)).payload)

    assert run(work) == "1"


def test_an_async_one_is_told_why_it_cannot_begin(databases: Databases) -> None:
    wrapper = databases.add(NAME="there_is_none")

    async def work() -> None:
        async with listen(wrapper, "orders"):
            pass

    with pytest.raises((OperationalError, DjangosError), match="does not exist"):
        run(work)


def test_a_loop_that_has_ended_stops_no_other_listener(wrapper: Any, cluster: Server) -> None:
    async def abandon() -> Any:
        listener = await listen(wrapper, "orders").__aenter__()
        asyncio.get_running_loop().create_task(listener.aget())
        await asyncio.sleep(0)
        return listener

    with listen(wrapper, "orders") as other:
        left = run(abandon)
        notify(cluster, "orders", "1")
        assert payloads(other, 1) == ["1"]
        left.close()


# -- Forks ------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_a_child_listens_anew_and_the_parent_goes_on(cluster: Server) -> None:
    from tests.backends.test_fork import forked

    found = forked("listening", cluster, "forks-listening")

    assert found["child"] == {"first": "gap", "then": "for the child", "pid_is_another": True}
    assert found["parent"] == ["for the child", "after"]
