"""The counters and the histograms."""

from __future__ import annotations

from django_connpool.pool.stats import BOUNDS, Histogram, Stats


def test_a_duration_falls_into_the_first_bucket_that_is_wide_enough() -> None:
    histogram = Histogram()
    for seconds in (0.0, BOUNDS[0], BOUNDS[0] * 1.01, BOUNDS[-1], BOUNDS[-1] + 1):
        histogram.add(seconds)
    seen = histogram.as_dict()
    assert seen["count"] == 5
    assert seen["sum"] == round(BOUNDS[0] * 2.01 + BOUNDS[-1] * 2 + 1, 6)
    filled = {bound: count for bound, count in seen["buckets"].items() if count}
    assert filled == {str(BOUNDS[0]): 2, str(BOUNDS[1]): 1, str(BOUNDS[-1]): 1, "+Inf": 1}


def test_the_keys_of_psycopg_pool_are_there_in_its_units() -> None:
    stats = Stats()
    stats.requests_num = 2
    stats.wait.add(0.25)
    stats.hold.add(1.5)
    stats.connect.add(0.125)
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
