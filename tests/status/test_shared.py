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
        process(pid=6, pools=[pool(name="default", waiting=3, bounds=[bound(**changes)])]),
        process(
            pid=7,
            pools=[
                pool(name="default", waiting=0, bounds=[bound(held=8, others=[other], **changes)])
            ],
        ),
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
    assert text.endswith(
        "Too few: borrowers waited while the bound was less than the sum of max_size. "
        'There is room for "host_max_size": 97 in DATABASES["default"]["OPTIONS"]["pool"].'
    )


def test_the_advice_proposes_a_bound_that_the_server_admits() -> None:
    text = said(*two(), max_connections=13)
    assert text.endswith('Write "host_max_size": 10 into DATABASES["default"]["OPTIONS"]["pool"].')


def test_where_each_process_has_too_many_a_bound_for_the_host_is_proposed() -> None:
    text = said(*[process(pid=pid, pools=[pool()]) for pid in range(12)])
    assert text.endswith(
        'Or write "host_max_size": 97 there, and leave max_size: then all processes of a host '
        "share that, and each has what it needs."
    )


def in_budget(alias: str, **changes: Any) -> dict[str, Any]:
    """A pool in a budget of the host that is far from its bound."""
    theirs = {"pid": 7, "pool": "reports" if alias == "default" else "default"}
    others = [{**theirs, "held": 1, "waiting": 0}]
    one = bound(name="budget 'main' of the host", most=60, held=4, others=others)
    names = {"alias": alias, "aliases": [alias], "name": alias}
    return pool(**names, waiting=0, bounds=[one], **changes)


def test_a_budget_is_told_once_although_its_pools_were_asked_one_after_the_other() -> None:
    mine = process(pid=7, pools=[in_budget("default"), in_budget("reports")])
    assert list(shared.lines([mine], 200)) == [
        "budget 'main' of the host: 8 of 60 connections are open; pid 7 in default has 4; "
        "pid 7 in reports has 4"
    ]


def test_what_a_pool_says_of_itself_goes_before_what_others_have_heard() -> None:
    mine, other = two()
    mine["pools"][0]["bounds"][0]["others"][0]["held"] = 1  # said while it had no more
    assert list(shared.lines([mine, other], 200)) == [LINE]


def test_the_same_budget_on_two_hosts_is_two() -> None:
    mine, other = (process(host=name, pools=[in_budget("default")]) for name in "ab")
    assert len(list(shared.lines([mine, other], 200))) == 2


def of_budget(max_connections: int = 100, **changes: Any) -> str:
    pools = [in_budget("default", **changes), in_budget("reports")]
    server = told(max_connections=max_connections)
    return advise(report(process(pid=7, pools=pools), default=server, reports=server))["default"]


def test_a_bound_that_the_pools_cannot_reach_is_not_what_was_too_small() -> None:
    text = of_budget(peak=10)
    assert "host_max_size of 60 and 1 pool of other aliases in the same budget = 20 at most" in text
    assert text.endswith("It fits: leave host_max_size at 60.")


def test_where_max_size_was_too_small_it_is_to_be_raised_and_not_the_bound() -> None:
    text = of_budget(peak=12)
    assert text.endswith('Write "max_size": 12 into DATABASES["default"]["OPTIONS"]["pool"].')


def test_the_bound_of_a_budget_is_to_be_written_where_it_stands() -> None:
    text = of_budget(max_connections=15)
    assert text.endswith('Write "host_max_size": 12 into CONNPOOL_BUDGETS["main"].')
