from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connections

import django_connpool
from django_connpool import ConnectionPool, PoolTimeout, scope, signals
from tests import inside
from tests.cluster import Server
from tests.databases import Databases, all_on_loan, in_hand, on_loan, pid, value
from tests.proxy import Proxy
from tests.testproject.processes import wait_until


class Heard:
    """What a signal has brought, and in which thread."""

    def __init__(self) -> None:
        self.facts: list[dict[str, Any]] = []
        self.threads: list[threading.Thread] = []
        self.then: Callable[..., object] = lambda **facts: None
        self.__qualname__ = "Heard"  # by which Django logs what it raises

    def __call__(self, signal: Any, **facts: Any) -> None:
        self.facts.append(facts)
        self.threads.append(threading.current_thread())
        self.then(**facts)

    def __len__(self) -> int:
        return len(self.facts)


@contextmanager
def heard(signal: Any) -> Iterator[Heard]:
    receiver = Heard()
    signal.connect(receiver)
    try:
        yield receiver
    finally:
        signal.disconnect(receiver)


def gives_back_when_waited_for(wrapper: Any, give_back: Callable[[], None]) -> threading.Thread:
    def wait() -> None:
        wait_until(lambda: wrapper.pool.is_awaited, "somebody stands in line")
        give_back()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


@pytest.fixture
def single(databases: Databases) -> Any:
    wrapper = databases.add(pool={"max_size": 1, "timeout": 20})
    pid(wrapper)
    django_connpool.release("spare")
    return wrapper


@pytest.fixture
def impatient(databases: Databases) -> Any:
    return databases.add(pool={"max_size": 1, "timeout": 0.2})


# -- Waiting ------------------------------------------------------------------------------


def wait_for_one(wrapper: Any) -> None:
    with all_on_loan(wrapper) as give_back:
        helper = gives_back_when_waited_for(wrapper, give_back)
        pid(wrapper)
        helper.join()


def test_who_has_waited_tells_so_in_its_own_thread(single: Any) -> None:
    with heard(signals.connection_waited) as waits:
        wait_for_one(single)

    (facts,) = waits.facts
    assert facts.keys() == {"sender", "pool", "name", "waited"}
    assert facts["sender"] is ConnectionPool
    assert (facts["pool"], facts["name"]) == (single.pool, "spare")
    assert facts["waited"] > 0
    assert waits.threads == [threading.current_thread()]


def test_who_finds_one_idle_has_not_waited(single: Any) -> None:
    with heard(signals.connection_waited) as waits:
        pid(single)

    assert not waits.facts


def test_a_wait_is_told_of_once(single: Any) -> None:
    wait_for_one(single)  # nobody listens
    with heard(signals.connection_waited) as waits:
        pid(single)
        django_connpool.release("spare")
        pid(single)
        assert not waits.facts
        django_connpool.release("spare")
        wait_for_one(single)
        pid(single)

    assert len(waits) == 1


def test_a_receiver_finds_the_connection_in_hand_and_can_use_it(single: Any) -> None:
    used = []

    with heard(signals.connection_waited) as waits:
        waits.then = lambda **facts: used.append((in_hand(single) is not None, pid(single)))
        wait_for_one(single)
        after = pid(single)

    assert used == [(True, after)]
    assert len(waits) == 1
    django_connpool.release("spare")
    assert on_loan(single) == 0


def test_what_a_receiver_queries_does_not_end_the_loan(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1, "timeout": 20, "release": "transaction"})
    pid(wrapper)
    before = wrapper.pool.get_stats()["requests_num"]
    with heard(signals.connection_waited) as waits:
        waits.then = lambda **facts: pid(wrapper)
        wait_for_one(wrapper)

    assert len(waits) == 1
    assert wrapper.pool.get_stats()["requests_num"] == before + 2  # the thread's, and this one


def test_who_borrows_from_the_pool_itself_tells_so_too(single: Any) -> None:
    with heard(signals.connection_waited) as waits, all_on_loan(single) as give_back:
        helper = gives_back_when_waited_for(single, give_back)
        with single.pool.connection() as connection:
            connection.execute("SELECT 1")
        helper.join()

    assert [facts["name"] for facts in waits.facts] == ["spare"]


def test_what_a_receiver_raises_hurts_nobody(single: Any, caplog: pytest.LogCaptureFixture) -> None:
    def fail(**facts: Any) -> None:
        raise RuntimeError("on purpose")

    with heard(signals.connection_waited) as first, heard(signals.connection_waited) as second:
        first.then = fail
        wait_for_one(single)
        assert value(single, "SELECT 1") == 1

    assert len(second) == 1
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "on purpose" in caplog.text


def test_what_a_receiver_does_itself_is_not_told(databases: Databases) -> None:
    first, second = (
        databases.add(alias, pool={"max_size": 1, "timeout": 20}) for alias in ("first", "second")
    )
    for wrapper in (first, second):  # what opens a connection waits as well
        pid(wrapper)
        wrapper.close()
    with heard(signals.connection_waited) as waits:
        waits.then = lambda **facts: wait_for_one(second)
        wait_for_one(first)

    assert [facts["name"] for facts in waits.facts] == ["first"]


# -- Waiting in vain ----------------------------------------------------------------------


def test_who_has_waited_in_vain_tells_so_with_the_error(impatient: Any) -> None:
    with (
        heard(signals.borrow_timed_out) as timeouts,
        all_on_loan(impatient),
        pytest.raises(OperationalError) as raised,
    ):
        pid(impatient)

    (facts,) = timeouts.facts
    assert facts.keys() == {"sender", "pool", "name", "waited", "error"}
    assert facts["error"] is raised.value.__cause__
    assert facts["waited"] >= 0.2
    assert facts["name"] == "spare"
    assert timeouts.threads == [threading.current_thread()]


def test_work_that_goes_on_asking_has_waited_in_vain_once(impatient: Any) -> None:
    with heard(signals.borrow_timed_out) as timeouts, all_on_loan(impatient), scope("work"):
        for _ in range(3):
            with pytest.raises(OperationalError):
                pid(impatient)

    assert len(timeouts) == 1


def test_who_hears_of_it_and_looks_at_the_connection_does_not_wait_again(impatient: Any) -> None:
    seen: list[Any] = []
    with heard(signals.borrow_timed_out) as timeouts:
        timeouts.then = lambda **facts: seen.append(impatient.connection)
        pid(impatient)
        impatient.pool.take_offers()  # so that it has to borrow again in the midst of its work
        with all_on_loan(impatient), pytest.raises(OperationalError):
            pid(impatient)
        assert pid(impatient)

    assert (len(timeouts), seen) == (1, [None])


def test_who_asks_without_waiting_has_not_waited_in_vain(impatient: Any) -> None:
    with heard(signals.borrow_timed_out) as timeouts, all_on_loan(impatient):
        for timeout in (0, 0.01):
            with pytest.raises(PoolTimeout), impatient.pool.connection(timeout):
                pass

    assert len(timeouts) == 1


def test_a_wait_that_nobody_has_told_of_is_not_the_next_borrowers(single: Any) -> None:
    with heard(signals.connection_waited) as waits, all_on_loan(single) as give_back:
        helper = gives_back_when_waited_for(single, give_back)
        single.pool.putconn(single.pool.getconn())  # by hand, which is not told
        helper.join()
        pid(single)

    assert not waits.facts


@pytest.mark.parametrize("in_a_scope", [True, False])
def test_a_receiver_that_needs_a_connection_too_is_told_no_more(
    impatient: Any, in_a_scope: bool
) -> None:
    failed = []

    def query(**facts: Any) -> None:
        with pytest.raises(OperationalError):
            pid(impatient)
        failed.append(True)

    def work() -> None:
        with pytest.raises(OperationalError):
            pid(impatient)

    with heard(signals.borrow_timed_out) as timeouts, all_on_loan(impatient):
        timeouts.then = query
        scope("work")(work)() if in_a_scope else work()

    assert failed == [True]
    assert len(timeouts) == 1
    assert on_loan(impatient) == 0


def test_a_timeout_has_the_numbers_of_its_moment(impatient: Any) -> None:
    with all_on_loan(impatient), pytest.raises(PoolTimeout) as raised:
        impatient.pool.getconn()

    numbers = dict(raised.value.numbers)
    assert numbers.pop("waited") >= 0.2
    assert numbers == {"pool": "spare", "in_use": 1, "waiting": 0}


# -- What happens to connections ----------------------------------------------------------


def test_a_leak_is_told_of(databases: Databases) -> None:
    leaky = databases.add(pool={"max_size": 1, "leak_after": 0.05})
    with heard(signals.connection_leaked) as leaks, scope("forgetful"):
        with leaky.cursor() as cursor:
            cursor.execute("BEGIN")
        wait_until(lambda: leaks.facts, "the leak is told of")
        leaky.close()

    (facts,) = leaks.facts
    assert facts.keys() == {
        *("sender", "pool", "name", "held", "thread", "work", "borrowed_at", "now_at"),
    }
    assert facts["held"] >= 0.05
    assert (facts["work"], facts["thread"]) == ("forgetful", threading.current_thread().name)
    assert "test_signals.py" in facts["borrowed_at"]


def test_a_receiver_can_borrow_the_connection_that_has_come_free(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1, "timeout": 20})
    pid(wrapper)
    found = []

    with heard(signals.connection_closed) as closings:
        closings.then = scope("receiver")(
            lambda **facts: found.append(value(connections["spare"], "SELECT 1"))
        )
        wrapper.close()
        wrapper.pool.drain()
        wait_until(lambda: found, "the receiver has queried")

    (facts,) = closings.facts
    assert facts.keys() == {"sender", "pool", "name", "reason"}
    assert (facts["name"], facts["reason"]) == ("spare", "drained")
    assert closings.threads != [threading.current_thread()]


def test_closing_a_pool_tells_of_each_connection(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 3})
    pool = wrapper.pool
    connected = [pool.getconn() for _ in range(3)]
    for connection in connected:
        pool.putconn(connection)
    with heard(signals.connection_closed) as closings:
        pool.close()
        wait_until(lambda: len(closings) == 3, "each is told of")

    assert {facts["reason"] for facts in closings.facts} == {"pool closed"}


def test_an_outage_is_told_of_when_it_begins_and_when_it_ends(
    databases: Databases, proxy: Proxy
) -> None:
    wrapper = databases.add(
        server=Server(proxy.params()), pool={"max_size": 2, "outage_patience": 0}
    )
    proxy.refuse()
    with heard(signals.outage_began) as began, heard(signals.outage_ended) as ended:
        for _ in range(3):
            with pytest.raises(OperationalError):
                pid(wrapper)
        wait_until(lambda: began.facts, "the outage is told of")
        assert not ended.facts
        proxy.allow()
        wait_until(lambda: _works(wrapper), "the server is back")
        wait_until(lambda: ended.facts, "its end is told of")

    (facts,) = began.facts
    assert facts.keys() == {"sender", "pool", "name", "error"}
    assert isinstance(facts["error"], psycopg.OperationalError)
    (facts,) = ended.facts
    assert facts.keys() == {"sender", "pool", "name", "lasted"}
    assert facts["lasted"] > 0


def _works(wrapper: Any) -> bool:
    try:
        return bool(pid(wrapper))
    except OperationalError:
        return False


def test_news_are_told_in_order_by_one_at_a_time(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 4})
    seen: list[str] = []
    inside_now: list[int] = []

    def note(reason: str, **facts: Any) -> None:
        inside_now.append(1)
        seen.append(reason)
        assert len(inside_now) == 1
        wrapper.pool.snapshot()  # no lock is held
        inside_now.pop()

    pool = wrapper.pool
    with heard(signals.connection_closed) as closings:
        closings.then = note
        for _ in range(5):
            for connection in [pool.getconn() for _ in range(4)]:
                pool.putconn(connection)
            pool.drain()
        wait_until(lambda: len(closings) == 20, "each is told of")

    assert seen == ["drained"] * 20


def test_nothing_is_noted_while_nobody_listens(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    pid(wrapper)
    wrapper.close()
    before = threading.active_count()
    wrapper.pool.drain()
    wait_until(lambda: not wrapper.pool.snapshot()["size"], "it is closed")

    assert not inside.has_news(wrapper.pool)
    assert threading.active_count() <= before + 1
