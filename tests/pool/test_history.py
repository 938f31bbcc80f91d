"""What a pool remembers of the last minutes."""

from __future__ import annotations

import threading

import pytest

from django_connpool import PoolTimeout, TooManyRequests
from tests.inside import EVENTS, EVERY, KEPT, History
from tests.pool.real.helpers import until

from .fake import FakeServer, working_pool


def looked(history: History, now: float, in_use: int = 0, waiting: int = 0) -> None:
    history.look(now, in_use, 0, 1, waiting, 0.0)


def test_looks_of_one_moment_are_one_and_the_busiest_of_them() -> None:
    history = History()
    for now, in_use in ((10.0, 1), (11.0, 3), (14.9, 2)):
        looked(history, now, in_use)
    looked(history, 15.0, 0)
    assert [moment[:2] for moment in history.moments(15.0)] == [[EVERY, 3], [0.0, 0]]


def test_who_lined_up_between_two_looks_is_seen_by_the_next() -> None:
    history = History()
    looked(history, 0.0)
    for waiting in (1, 2, 1):
        history.lines_up(waiting)
    looked(history, 7.0)
    looked(history, 14.0)
    assert [moment[4] for moment in history.moments(14.0)] == [0, 2, 0]


def test_what_is_old_is_forgotten() -> None:
    history = History()
    for number in range(3 * KEPT):
        looked(history, number * EVERY)
        history.tell(number * EVERY, f"kind {number}", "text")
    now = 3 * KEPT * EVERY
    assert [moment[0] for moment in history.moments(now)] == [
        (number + 1) * EVERY for number in reversed(range(KEPT - 1))
    ]
    assert history.moments(now * 2) == []
    assert len(history.events(now)) == EVENTS


def test_what_goes_wrong_again_and_again_is_one_event() -> None:
    history = History()
    for now, kind in ((1.0, "timeout"), (2.0, "connect"), (3.0, "connect")):
        history.tell(now, kind, f"{kind} at {now}")
    assert history.events(4.0) == [
        {"ago": 1.0, "times": 2, "text": "connect at 3.0"},
        {"ago": 3.0, "times": 1, "text": "timeout at 1.0"},
    ]


def test_a_pool_tells_who_waited_in_vain_and_how_long() -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        conn = pool.getconn()
        for _ in range(2):
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0.02)
        seen = pool.snapshot()
        pool.putconn(conn)
    assert seen["history"][-1][1] == 1  # in use
    assert sum(moment[6] for moment in seen["history"]) == 2
    assert max(moment[4] for moment in seen["history"]) == 1
    assert max(moment[5] for moment in seen["history"]) >= 0.02
    (event,) = [event for event in seen["events"] if "became free" in event["text"]]
    assert event["times"] == 2


def test_a_pool_tells_whom_it_refused() -> None:
    with working_pool(FakeServer(), max_size=1, max_waiting=1) as pool:
        conn = pool.getconn()
        waiter = threading.Thread(target=lambda: pool.putconn(pool.getconn(timeout=60)))
        waiter.start()
        until(lambda: pool.snapshot()["waiting"])
        with pytest.raises(TooManyRequests):
            pool.getconn(timeout=30)
        assert "no more than max_waiting" in pool.snapshot()["events"][0]["text"]
        pool.putconn(conn)
        waiter.join()


def test_counting_anew_makes_no_timeouts_less() -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        conn = pool.getconn()
        for _ in range(2):
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0)
            pool.snapshot()
            pool.pop_stats()
        assert all(moment[6] >= 0 for moment in pool.snapshot()["history"])
        pool.putconn(conn)


def test_a_glance_tells_the_same_but_for_what_takes_time() -> None:
    with working_pool(FakeServer(), max_size=2) as pool, pool.connection():
        seen, glance = pool.snapshot(), pool.glance()
    missing = {"histograms", "closed_for", "history", "events"}
    assert seen.keys() - glance.keys() == missing
    assert glance["in_use"] == seen["in_use"] == 1
    assert glance["loans"][0]["statement"] is None
