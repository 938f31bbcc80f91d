"""What poolstatus and the page say of bounds that pools share."""

from __future__ import annotations

from typing import Any

from django_connpool.status import overview, shared, table
from django_connpool.status.advice import advise
from tests.status.samples import pool, process
from tests.status.test_sides import report, told


def bound(**changes: Any) -> dict[str, Any]:
    return {
        "name": "host_max_size",
        "of_host": True,
        "role": "",
        "most": 12,
        "reserve": 0,
        "kept": True,
        "held": 4,
        "waits": False,
        "lost": 0,
        "others": [{"pid": 7, "pool": "default", "held": 8, "waiting": 0}],
        **changes,
    }


def two(**changes: Any) -> list[Any]:
    """Two processes that share a bound, as each of them tells it."""
    other = {"pid": 6, "pool": "default", "held": 4, "waiting": 3}
    return [
        process(pid=6, pools=[pool(waiting=3, bounds=[bound(**changes)])]),
        process(pid=7, pools=[pool(waiting=0, bounds=[bound(held=8, others=[other], **changes)])]),
    ]


LINE = (
    "host_max_size of default: 12 of 12 connections are open; pid 7 has 8; pid 6 has 4, 3 in line"
)


def test_a_bound_is_told_once_with_who_has_how_much() -> None:
    assert list(shared.lines(two(), 200)) == [LINE]


def test_what_is_reserved_is_told() -> None:
    (line,) = shared.lines(two(reserve=2), 200)
    assert "12 of 12 connections are open, 2 of them reserved for priority work; pid 7" in line


def test_a_bound_that_is_not_kept_is_told() -> None:
    found = process(pid=6, pools=[pool(bounds=[bound(kept=False, others=[])])])
    assert list(shared.lines([found], 200)) == [
        "host_max_size of default: not kept by pid 6, see its log; only max_size is"
    ]


def test_a_process_of_an_earlier_version_has_none() -> None:
    assert list(shared.lines([process()], 200)) == []


def test_both_reports_tell_it() -> None:
    seen = report(*two())
    judged = overview.judge(seen, 5, 60)
    assert LINE in overview.render(judged, 200)
    assert LINE in table.render(seen, 200)


def said(*processes: Any, **server: Any) -> str:
    return advise(report(*processes, default=told(**server)))["default"]


def test_the_advice_counts_what_a_host_may_have() -> None:
    text = said(*two())
    assert "2 pools x max_size 10, with a host_max_size of 12 = 12 at most" in text
    assert text.endswith("borrowers waited, and there is room for a host_max_size of 97.")


def test_the_advice_proposes_a_bound_that_the_server_admits() -> None:
    text = said(*two(), max_connections=13)
    assert text.endswith('Write "host_max_size": 10 into DATABASES["default"]["OPTIONS"]["pool"].')


def test_where_each_process_has_too_many_a_bound_for_the_host_is_proposed() -> None:
    text = said(*[process(pid=pid, pools=[pool()]) for pid in range(12)])
    assert text.endswith(
        'Or write "host_max_size": 97 there, and leave max_size: then all processes of a host '
        "share that, and each has what it needs."
    )
