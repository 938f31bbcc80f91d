"""A pool's part of its bounds: what comes of the rules, in time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import inside
from tests.inside import places, tables

from .members import STEP, Clock, Member, Server, host_bound, turns


class Site:
    """Members of one bound, the server, and the clock."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.clock, self.server = Clock(), Server(most)
        self.members: list[Member] = []

    def join(self, most: int | None = None, role: str = "", **terms: Any) -> Member:
        bound = host_bound(self.folder, most or self.most, **terms)
        self.members.append(Member(self.clock, self.server, [bound], role))
        return self.members[-1]

    def turns(self, seconds: float) -> None:
        turns(self.clock, self.server, self.members, seconds)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    tmp_path.chmod(0o700)
    site = Site(tmp_path, 4)
    yield site
    for member in site.members:
        member.tenant.forget()


def fill(member: Member, site: Site, number: int) -> None:
    """Have it hold so many, all idle."""
    for _ in range(number):
        member.arrive()
    site.turns(0.05)
    while member.busy:
        member.finish()
    site.turns(0.05)


def test_an_idle_connection_is_had_within_50_ms_by_who_waits(site: Site) -> None:
    one, other = site.join(), site.join()
    fill(one, site, 4)
    assert one.held == 4
    other.arrive()
    site.turns(0.05)
    assert (other.held, other.line, one.held) == (1, [], 3)


def test_all_idle_ones_go_to_a_crowd(site: Site) -> None:
    one, other = site.join(), site.join()
    fill(one, site, 4)
    for _ in range(9):
        other.arrive()
    site.turns(0.05)
    assert (other.held, one.held) == (3, 1)
    site.turns(0.6)  # the last one stays longer, or two would take it in turns
    assert (other.held, one.held) == (4, 0)


def test_the_last_idle_connection_of_a_pool_is_had_within_50_ms_by_who_has_none(
    site: Site,
) -> None:
    members = [site.join() for _ in range(4)]
    for member in members:
        fill(member, site, 1)
    other = site.join()
    other.arrive()
    site.turns(0.05)
    assert other.served == 1


def test_two_places_that_are_free_at_once_are_had_at_once_by_two_who_wait(site: Site) -> None:
    """Not one at a time: who takes the first one tells the next."""
    has, one, two = site.join(5), site.join(5), site.join(5)
    fill(has, site, 3)
    for other in (one, two):
        fill(other, site, 1)
        other.arrive()
    for other in (one, two):
        other.arrive()
    while not has.closing:
        site.turns(STEP)
    assert len(has.closing) == 2
    site.turns(2 * STEP)
    assert (one.held, two.held) == (2, 2)


def test_who_comes_back_every_few_milliseconds_keeps_its_last_one(site: Site) -> None:
    """However much somebody else needs it, who has some: nothing is opened and closed in turn."""
    often, crowd = site.join(), site.join()
    fill(often, site, 1)
    for _ in range(200):
        crowd.arrive()
    for _ in range(40):
        site.turns(0.05)
        often.arrive()
        site.turns(0.005)
        while often.busy:
            often.finish()
    assert often.served == 41
    assert often.longest == 0


def test_nothing_is_given_up_where_nobody_waits(site: Site) -> None:
    one, other = site.join(), site.join()
    fill(one, site, 2)
    fill(other, site, 2)
    site.turns(5)
    assert (one.held, other.held) == (2, 2)


def test_who_has_none_gets_one_of_those_that_are_always_used(site: Site) -> None:
    busy, other = site.join(), site.join()
    for _ in range(20):
        busy.arrive()
    site.turns(0.05)
    assert busy.held == 4
    other.arrive()
    for _ in range(40):
        site.turns(0.01)
        if busy.busy:
            busy.finish()
    assert other.served == 1


def looks(member: Member, site: Site, seconds: float) -> int:
    """How often it looks at the table in that time."""
    found = 0
    until = site.clock.now + seconds
    while site.clock.now < until:
        before = member.at
        site.turns(0.005)
        found += member.at != before
    return found


def test_a_table_is_looked_at_seldom_while_nobody_waits_who_has_none(site: Site) -> None:
    one, two = site.join(), site.join()
    for member in (one, two):
        member.arrive()
        member.arrive()
    site.turns(0.2)
    one.arrive()
    two.arrive()
    site.turns(0.2)
    assert looks(one, site, 0.4) <= 12
    while one.at - site.clock.now < 0.03:
        site.turns(0.005)
    site.join().arrive()
    site.turns(0.015)
    assert one.at - site.clock.now <= 0.01
    assert looks(one, site, 0.4) >= 30


def test_a_place_that_an_interrupt_has_taken_halfway_is_given_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = site.join(), site.join()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        inside.interrupt_taking(patched)
        one.arrive()
    one.line.clear()
    one.keep()
    fill(other, site, 4)
    assert other.held == 4


def test_a_place_beyond_the_number_of_processes_goes_round(site: Site) -> None:
    """Seven processes, all with a line that never ends, and four places."""
    for _ in range(7):
        site.join()
    for _ in range(300):
        for member in site.members:
            while len(member.line) < 3:
                member.arrive()
        site.turns(0.02)
        for member in site.members:
            if member.busy:
                member.finish()
    assert all(member.served > 10 for member in site.members), [m.served for m in site.members]
    assert max(member.longest for member in site.members) < 3
    assert site.server.most <= 4


def test_the_smaller_of_two_bounds_holds_and_it_is_said(site: Site) -> None:
    one = site.join(most=4)
    fill(one, site, 4)
    other = site.join(most=2)
    other.arrive()
    site.turns(0.3)
    assert other.served == 1
    assert len(site.server.sessions) == 2
    one.arrive()  # which has it look
    site.turns(0.3)
    (told,) = [text % ("pool", *args) for text, *args in other.tenant.complaints]
    assert told.startswith("pool: two bounds for a bound, 2 here and 4 in process ")
    assert told.endswith(": 2 holds")


def test_a_file_that_was_removed_is_joined_anew_with_what_is_held(site: Site) -> None:
    one, other = site.join(), site.join()
    fill(one, site, 3)
    (site.folder / "shared.places").unlink()
    other.arrive()
    one.arrive()
    one.arrive()
    one.arrive()
    one.arrive()  # which it has no connection for
    site.turns(0.5)
    assert len(site.server.sessions) <= 4
    assert one.held + other.held == 4
    assert any("was removed" in text for text, *_ in one.tenant.complaints)


def test_some_places_are_for_priority_work_only(site: Site) -> None:
    usual = site.join(reserve=1)
    for _ in range(9):
        usual.arrive()
    site.turns(0.1)
    assert usual.held == 3
    urgent = site.join(role="priority", reserve=1)
    urgent.arrive()
    assert urgent.served == 1


def test_background_work_has_so_many_and_no_more(site: Site) -> None:
    background = site.join(role="background", background=2)
    for _ in range(9):
        background.arrive()
    site.turns(0.3)
    assert background.held == 2
    usual = site.join(background=2)
    for _ in range(9):
        usual.arrive()
    site.turns(0.1)
    assert usual.held == 2


def test_pools_of_one_process_share_a_budget() -> None:
    clock, server = Clock(), Server(3)
    bound = places.Bound("budget", 3, table=tables.Table())
    one, other = (Member(clock, server, [bound]) for _ in range(2))
    for _ in range(3):
        one.arrive()
    assert one.held == 3
    other.arrive()
    turns(clock, server, [one, other], 0.01)
    assert other.line
    while one.busy:
        one.finish()
    turns(clock, server, [one, other], 0.05)
    assert (one.held, other.held, server.most) == (2, 1, 3)


def test_a_budget_of_a_process_and_one_of_the_host_hold_both(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    clock, server = Clock(), Server(4)
    here, there = (places.Bound("budget", 3, table=tables.Table()) for _ in range(2))
    host = host_bound(tmp_path, 4)
    one, two = (Member(clock, server, [here, host]) for _ in range(2))
    other = Member(clock, server, [there, host])
    members = [one, two, other]
    for member in members:
        for _ in range(5):
            member.arrive()
    turns(clock, server, members, 0.5)
    assert one.held + two.held <= 3
    assert other.held >= 1
    assert server.most == 4
    for member in members:
        member.tenant.forget()


def test_where_the_file_cannot_be_had_max_size_is_the_bound_and_it_is_said_once() -> None:
    tenant = places.Tenant("pool", "", [host_bound(Path("/proc/none"), 2)], False)
    assert all(tenant.take(1000.0) for _ in range(5))
    assert len(tenant.complaints) == 1
    assert "is not kept, only max_size is" in tenant.complaints[0][0]


def test_where_it_is_required_nothing_is_opened_and_it_is_said_once() -> None:
    tenant = places.Tenant("pool", "", [host_bound(Path("/proc/none"), 2)], True)
    assert tenant.take(1000.0) is None
    tenant.is_waiting = False
    assert tenant.take(1000.0) is None
    assert len(tenant.complaints) == 1
