from __future__ import annotations

from typing import Any

import pytest

from django_connpool.status.advice import advise
from tests.status.samples import histogram, pool, process
from tests.status.test_sides import report, session, told


def workers(count: int, *, slow: int = 0, timeouts: int = 0, **changes: Any) -> list[Any]:
    """So many processes with a pool each."""
    waits = histogram(buckets={"0.001": 10, "0.1": 5, "+Inf": slow})
    stats = {"requests_num": 1000, "requests_timeouts": timeouts}
    made = {"peak": 4, "stats": stats, "histograms": {"wait": waits}, **changes}
    return [process(pid=pid, pools=[pool(**made)]) for pid in range(count)]


def said(*processes: Any, **server: Any) -> str:
    return advise(report(*processes, default=told(**server)))["default"]


def test_what_fits_is_left_as_it_is_with_the_numbers() -> None:
    assert said(*workers(4)) == (
        "default: 4 pools x max_size 10 = 40 at most; the server has room for 97 (max_connections"
        " 100 less 3 reserved and 0 of others). Seen so far: 4 wanted at once in one pool, 0 of"
        " 4000 borrowers waited for more than 100 ms, 0 in vain. It fits: leave max_size at 10."
    )


def test_too_many_for_the_server_are_lowered() -> None:
    text = said(*workers(12))
    assert "12 pools x max_size 10 = 120 at most" in text
    assert (
        "Too many: when all are in use, the server refuses the rest."
        ' Write "max_size": 8 into DATABASES["default"]["OPTIONS"]["pool"].'
    ) in text


def test_what_was_wanted_beyond_the_room_is_told() -> None:
    text = said(*workers(12, peak=9))
    assert "For all 9 that were wanted, raise that limit by 11." in text


@pytest.mark.parametrize("lack", [{"slow": 3}, {"timeouts": 1}])
def test_too_few_for_those_who_waited_are_raised_to_the_peak(lack: Any) -> None:
    text = said(*workers(4, peak=14, **lack))
    assert text.endswith(
        "Too few: borrowers waited while all connections were in use."
        ' Write "max_size": 14 into DATABASES["default"]["OPTIONS"]["pool"].'
    )


def test_too_few_are_raised_no_further_than_the_server_has_room() -> None:
    text = said(*workers(4, peak=40, slow=3))
    assert '"max_size": 24' in text
    assert text.endswith("For all 40 that were wanted, raise that limit by 63.")
    full = said(*workers(4, peak=40, slow=3), max_connections=43)
    assert "Write" not in full
    assert full.endswith("in use. For all 40 that were wanted, raise that limit by 120.")


def test_a_short_crowd_that_hardly_waited_is_no_reason_for_more() -> None:
    assert said(*workers(4, peak=14)).endswith("It fits: leave max_size at 10.")


def test_more_processes_than_the_server_has_room_for_are_said() -> None:
    assert said(*workers(9), max_connections=10).endswith(
        "It fits with no max_size: run fewer processes, or raise that limit by 2."
    )


def test_what_others_use_of_the_server_is_theirs() -> None:
    others = [session(pid) for pid in range(70)]
    text = advise(report(*workers(4), default=told(*others)))["default"]
    assert "room for 27 (max_connections 100 less 3 reserved and 70 of others)" in text
    assert '"max_size": 6 ' in text


def test_the_limit_of_the_role_and_of_the_database_count_too() -> None:
    assert "room for 20 (limit of role web 20 less 0 of others)" in said(*workers(4), role_limit=20)
    assert "room for 9 (limit of database shop 9 less" in said(*workers(4), database_limit=9)
    own = advise(report(*workers(4), default=told(session(1, role="bob"), role_limit=20)))
    assert "room for 20" in own["default"]


def test_pools_of_other_aliases_on_the_same_server_have_their_share() -> None:
    beside = process(pid=99, pools=[pool(aliases=["reports"], max_size=60)])
    server = {"default": told(), "reports": told(), "archive": told(started="yesterday")}
    found = advise(report(*workers(4), beside, **server))
    assert "and 60 for pools of other aliases" in found["default"]
    assert '"max_size": 9 ' in found["default"]
    assert found["archive"].startswith("archive: no running process has a pool of it")


def test_pools_of_different_sizes_are_summed() -> None:
    text = said(*workers(1), *workers(1, max_size=4))
    assert "2 pools of up to 10, 14 at most" in text


def test_a_server_that_did_not_say_is_said() -> None:
    found = advise(report(*workers(4), default={"error": "it is down"}))
    assert found["default"].endswith("did not say how many it admits: it is down")


def test_more_max_size_than_the_bound_of_the_host_is_not_advised() -> None:
    bounds = [{"name": "host_max_size", "most": 6, "of_host": True, "kept": True}]
    text = said(*workers(3, max_size=4, peak=8, slow=3, bounds=bounds))
    assert 'Write "max_size": 6 into' in text
    text = said(*workers(3, max_size=8, peak=9, slow=3, bounds=bounds))
    assert "Write" not in text
    assert 'There is room for "host_max_size"' in text


def test_an_earlier_version_has_no_peak() -> None:
    old = process(pools=[pool(in_use=2)])
    assert "2 wanted at once" in said(old)
