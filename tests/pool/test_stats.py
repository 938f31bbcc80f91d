"""The counters and the histograms."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

import pytest

from django_connpool import PoolTimeout
from tests import inside
from tests.inside import (
    BOUNDS,
    Histogram,
    Stats,
)

from .fake import FakeServer, working_pool
from .real.helpers import until_waiting


def test_a_duration_falls_into_the_first_bucket_that_is_wide_enough() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, BOUNDS[-1], BOUNDS[-1] + 1):
        histogram.note(seconds)
    seen = histogram.as_dict()
    assert seen["count"] == 5
    assert seen["sum"] == round(BOUNDS[0] * 2.01 + BOUNDS[-1] * 2 + 1, 6)
    filled = {bound: count for bound, count in seen["buckets"].items() if count}
    assert filled == {str(BOUNDS[0]): 2, str(BOUNDS[1]): 1, str(BOUNDS[-1]): 1, "+Inf": 1}


def test_the_keys_of_psycopg_pool_are_there_in_its_units() -> None:
    stats = Stats()
    stats.requests_num = 2
    stats.wait.note(0.25)
    stats.hold.note(1.5)
    stats.connect.note(0.125)
    seen = stats.as_dict()
    assert seen["requests_num"] == 2
    assert seen["requests_wait_ms"] == 250
    assert seen["usage_ms"] == 1500
    assert seen["connections_ms"] == 125


def test_closed_connections_are_counted_by_reason() -> None:
    stats = Stats()
    for reason in ("lost", "expired", "lost"):
        stats.closed_for(reason)
    assert stats.closed == {"lost": 2, "expired": 1}


def test_what_is_noted_is_counted_before_it_takes_much_room() -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        for _ in range(2 * inside.COUNT_AT):
            pool.putconn(pool.getconn())
        assert inside.uncounted(pool)["hold"] < inside.COUNT_AT
        assert pool.snapshot()["histograms"]["hold"]["count"] == 2 * inside.COUNT_AT


def test_who_waits_in_vain_is_counted_at_once() -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        conn = pool.getconn()  # which waited for it to be opened
        for _ in range(3):
            with pytest.raises(PoolTimeout):
                pool.getconn(timeout=0)
        assert inside.uncounted(pool)["wait"] == 0
        assert pool.snapshot()["histograms"]["wait"]["count"] == 1 + 3
        pool.putconn(conn)


def test_counting_anew_does_not_forget_how_long_loans_last() -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        pool.putconn(pool.getconn())
        before = inside.mean_hold(pool)
        assert pool.pop_stats()["usage_ms"] >= 0
        assert inside.mean_hold(pool) == before is not None
        assert pool.snapshot()["histograms"]["hold"]["count"] == 0


def test_each_duration_is_told_once_from_the_first_question_on() -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        pool.putconn(pool.getconn())
        assert pool.durations() == {"wait": [], "hold": [], "connect": []}
        for _ in range(2):
            pool.putconn(pool.getconn())
        told = pool.durations()
        assert told["wait"] == [0.0, 0.0]  # both were served at once
        assert len(told["hold"]) == 2
        assert told["connect"] == []
        assert pool.durations() == {"wait": [], "hold": [], "connect": []}


def test_who_stood_in_line_is_told_with_the_wait_and_once() -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        pool.durations()
        conn = pool.getconn()  # which waits for it to be opened
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0)
        told = pool.durations()
        assert len(told["wait"]) == 2
        assert len(told["connect"]) == 1
        pool.putconn(conn)


def test_durations_are_told_although_counting_begins_anew() -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        pool.durations()
        for _ in range(2):
            pool.putconn(pool.getconn())
        pool.pop_stats()
        pool.putconn(pool.getconn())
        told = pool.durations()
        assert [len(told[kind]) for kind in ("wait", "hold", "connect")] == [3, 3, 1]


def test_nobody_who_never_asks_again_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inside.stats_module, "MOST_KEPT", 3)
    with working_pool(FakeServer(), max_size=1) as pool:
        pool.durations()
        for _ in range(5):
            pool.putconn(pool.getconn())
        told = pool.durations()
        assert len(told["hold"]) == 3


def test_who_is_refused_at_once_was_not_served() -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        conn = pool.getconn()
        with pytest.raises(PoolTimeout):
            pool.getconn(timeout=0)
        stats = pool.get_stats()
        pool.putconn(conn)
    assert (stats["requests_num"], stats["requests_queued"], stats["requests_refused"]) == (2, 1, 1)


def test_the_peak_is_what_was_in_use_and_in_line_at_a_time() -> None:
    with working_pool(FakeServer(), max_size=2) as pool:
        assert pool.snapshot()["peak"] == 0
        lent = [pool.getconn(), pool.getconn()]
        assert pool.snapshot()["peak"] == 2
        with ThreadPoolExecutor(3) as executor:
            waiting = [executor.submit(pool.getconn, 30) for _ in range(3)]
            until_waiting(pool, 3)
            while waiting:
                pool.putconn(lent.pop())
                lent.append(next_done(waiting).result())
        for conn in lent:
            pool.putconn(conn)
        assert pool.snapshot()["peak"] == 5
        pool.putconn(pool.getconn())
        assert pool.snapshot()["peak"] == 5
        pool.pop_stats()
        assert pool.snapshot()["peak"] == 0


def next_done(futures: list[Future[Any]]) -> Future[Any]:
    """The first that is done, taken off the list."""
    done = next(as_completed(futures, 30))
    futures.remove(done)
    return done
