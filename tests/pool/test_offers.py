"""Connections that their borrowers do not use at the moment, and others may take."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from django_connpool import ConnectionPool, PoolTimeout
from tests import inside
from tests.inside import NEVER
from tests.pool.real.helpers import until, until_waiting

from .fake import FakeClock, FakeMaintenance, FakeServer, fake_pool, working_pool

DEADLINE = 30.0  # seconds
SETTLED = 1.0  # of the fake clock
SIZE = 3


class Owner:
    """A borrower that uses its connection now and then."""

    def __init__(self, pool: ConnectionPool[Any], conn: Any, clock: Any) -> None:
        self._pool = pool
        self._clock = clock
        self.conn = conn
        self.leaving = inside.leaving_with(conn)
        self.offer = self.leaving.offer
        self.offered_at = NEVER  # while it is on offer

    def agree(self, patience: float = SETTLED, idle_limit: float = NEVER) -> Owner:
        self.offer.agree(patience, idle_limit)
        return self

    def rests(self) -> None:
        inside.slot_of(self.conn).turned_at = self.offered_at = self._clock()
        conn, self.conn = self.conn, None
        self.offer.append(conn)

    def goes_on(self) -> bool:
        self.offered_at = NEVER
        try:
            self.conn = self.offer.pop()
        except IndexError:
            return False
        return True


class Machine(RuleBasedStateMachine):
    """Owners, takers and the watch meet in any order. Nobody ever waits: `timeout` is 0."""

    @initialize()
    def begin(self) -> None:
        self.clock = FakeClock()
        self.clock.now = time.monotonic()
        self.server = FakeServer()
        self.pool = fake_pool(self.server, max_size=SIZE, has_offers=True)
        conns = [self.pool.getconn() for _ in range(SIZE)]
        for conn in conns:
            self.pool.putconn(conn)
        self.maintenance = inside.maintenance_asleep()
        self.maintenance.__enter__()
        inside.set_clock(self.pool, self.clock)
        self.owners: list[Owner] = []
        self.backends = {conn.pgconn for conn in conns}

    def teardown(self) -> None:
        if hasattr(self, "pool"):
            self.pool.take_offers()
            for owner in self.owners:
                if owner.conn is not None:
                    self.pool.putconn(owner.conn)
            self.maintenance.__exit__(None, None, None)
            self.pool.close(0)

    # -- The model ------------------------------------------------------------------------

    def holding(self) -> list[Owner]:
        return [owner for owner in self.owners if owner.conn is not None or owner.offer]

    def ripe(self) -> list[Owner]:
        """Those that a borrower may take from, longest offered first."""
        found = [
            owner
            for owner in self.owners
            if owner.offer
            and self.clock() - owner.offered_at >= inside.slot_of(owner.offer[0]).patience
        ]
        return sorted(found, key=lambda owner: owner.offered_at)

    # -- What happens ---------------------------------------------------------------------

    @rule(patience=st.sampled_from([0.0, SETTLED, NEVER]), limit=st.sampled_from([5.0, NEVER]))
    def borrow(self, patience: float, limit: float) -> None:
        is_full = len(self.holding()) == SIZE
        ripe = self.ripe() if is_full else []
        try:
            conn = self.pool.getconn(timeout=0)
        except PoolTimeout:
            assert is_full and not ripe
            return
        taken = [owner for owner in ripe if not owner.offer]
        assert len(taken) == is_full
        assert not taken or taken[0].offered_at == ripe[0].offered_at
        self.owners.append(Owner(self.pool, conn, self.clock).agree(patience, limit))

    def _some(self, data: Any, owners: list[Owner]) -> Owner:
        return owners[data.draw(st.integers(0, len(owners) - 1))]

    @precondition(lambda self: any(owner.conn is not None for owner in self.owners))
    @rule(data=st.data())
    def rest(self, data: Any) -> None:
        self._some(data, [owner for owner in self.owners if owner.conn is not None]).rests()

    @precondition(lambda self: any(owner.conn is None for owner in self.owners))
    @rule(data=st.data())
    def go_on(self, data: Any) -> None:
        owner = self._some(data, [owner for owner in self.owners if owner.conn is None])
        had = bool(owner.offer)
        assert owner.goes_on() == had
        if not had:
            self.owners.remove(owner)

    @precondition(lambda self: any(owner.offer for owner in self.owners))
    @rule(data=st.data(), then=st.sampled_from(["goes on", "is looked at", "others borrow"]))
    def park(self, data: Any, then: str) -> None:
        """Its loan ends, and another thread, or its own next work, gets the connection."""
        owner = self._some(data, [owner for owner in self.owners if owner.offer])
        conn = owner.offer[0]
        assert inside.park(self.pool, owner.offer)
        if then == "goes on":
            owner.conn = inside.go_on_with_parked(self.pool, owner.offer)
            assert owner.conn is conn and not owner.offer
            owner.offered_at = NEVER
            return
        self.owners.remove(owner)
        if then == "is looked at":
            assert self.pool.snapshot()["idle"] == SIZE - len(self.holding())
            assert inside.go_on_with_parked(self.pool, owner.offer) is None
        else:
            others = [self.pool.getconn(timeout=0) for _ in range(SIZE - len(self.holding()))]
            assert conn in others and inside.go_on_with_parked(self.pool, owner.offer) is None
            for other in others:
                self.pool.putconn(other)

    @precondition(lambda self: any(owner.conn is not None for owner in self.owners))
    @rule(data=st.data())
    def give_back(self, data: Any) -> None:
        owner = self._some(data, [owner for owner in self.owners if owner.conn is not None])
        self.owners.remove(owner)
        self.pool.putconn(owner.conn)

    @precondition(lambda self: any(owner.offer for owner in self.owners))
    @rule(data=st.data())
    def be_collected(self, data: Any) -> None:
        """The borrower goes, and its connection, which is on offer, goes back."""
        owner = self._some(data, [owner for owner in self.owners if owner.offer])
        self.owners.remove(owner)
        del owner
        gc.collect()

    @precondition(lambda self: any(owner.offer for owner in self.owners))
    @rule(data=st.data())
    def be_taken_with_its_thread(self, data: Any) -> None:
        owner = self._some(data, [owner for owner in self.owners if owner.offer])
        inside.end_thread_of(owner.offer[0])
        inside.tick(self.pool)
        assert not owner.offer

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        idle = [
            owner
            for owner in self.owners
            if owner.offer
            and self.clock() - owner.offered_at >= inside.slot_of(owner.offer[0]).idle_limit
        ]
        inside.watch_of(self.pool).run(self.clock())
        assert not any(owner.offer for owner in idle)

    @rule()
    def take_all(self) -> None:
        self.pool.take_offers()
        assert not any(owner.offer for owner in self.owners)

    # -- What always holds ----------------------------------------------------------------

    @invariant()
    def nobody_shares(self) -> None:
        if not hasattr(self, "pool"):
            return
        inside.tick(self.pool)
        held = [owner.conn or owner.offer[0] for owner in self.holding()]
        assert len({id(conn) for conn in held}) == len(held)
        seen = self.pool.snapshot()
        assert seen["in_use"] + seen["offered"] == len(held)
        assert seen["idle"] == SIZE - len(held)
        assert {conn.pgconn for conn in held} <= self.backends
        assert self.server.attempts == SIZE, "none was closed"
        offered = [owner for owner in self.owners if owner.offer]
        assert seen["offered"] == sum(
            inside.slot_of(owner.offer[0]).patience < NEVER for owner in offered
        )


TestOffers = pytest.mark.once(Machine.TestCase)
TestOffers.settings = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def pool() -> Iterator[ConnectionPool[Any]]:
    with working_pool(FakeServer(), max_size=1, timeout=DEADLINE, has_offers=True) as pool:
        pool.putconn(pool.getconn())
        yield pool


def owner_of(pool: ConnectionPool[Any], patience: float = 0.0) -> Owner:
    return Owner(pool, pool.getconn(), inside.clock(pool)).agree(patience)


def waiting(pool: ConnectionPool[Any], got: list[Any]) -> threading.Thread:
    thread = threading.Thread(target=lambda: got.append(pool.getconn()))
    thread.start()
    return thread


def taken_by_who_stands_in_line(pool: ConnectionPool[Any]) -> tuple[Owner, list[Any]]:
    """A borrower whose offer somebody has waited for, and what that got."""
    owner = owner_of(pool)
    got: list[Any] = []
    thread = waiting(pool, got)
    until(lambda: inside.watch_due(pool) < NEVER)
    owner.rests()
    thread.join(DEADLINE)
    return owner, got


def test_who_stands_in_line_already_gets_what_is_offered_then(pool: ConnectionPool[Any]) -> None:
    owner, got = taken_by_who_stands_in_line(pool)
    assert len(got) == 1 and not owner.goes_on()
    pool.putconn(got.pop())


def test_what_is_taken_goes_to_the_head_of_the_line(pool: ConnectionPool[Any]) -> None:
    owner = owner_of(pool)
    order: list[int] = []

    def borrow(number: int) -> None:
        with pool.connection():
            order.append(number)

    threads = []
    for number in range(4):
        threads.append(threading.Thread(target=borrow, args=(number,)))
        threads[-1].start()
        until_waiting(pool, number + 1)
    owner.rests()
    for thread in threads:
        thread.join(DEADLINE)
    assert order == [0, 1, 2, 3]


def test_what_is_longest_on_offer_is_taken_first() -> None:
    clock = FakeClock()
    clock.now = time.monotonic() - 100  # the pool has a real one, of a machine just started, too
    with working_pool(FakeServer(), max_size=2, has_offers=True) as pool:
        owners = [Owner(pool, pool.getconn(), clock).agree(0.0) for _ in range(2)]
        for owner in reversed(owners):
            clock.now += 1
            owner.rests()
        conn = pool.getconn()
        assert [owner.goes_on() for owner in owners] == [True, False]
        for one in (conn, owners[0].conn):
            pool.putconn(one)


def test_nobody_looks_any_more_once_the_line_is_empty(pool: ConnectionPool[Any]) -> None:
    _, got = taken_by_who_stands_in_line(pool)
    pool.putconn(got.pop())
    until(lambda: inside.watch_due(pool) == NEVER)


def test_a_line_that_moves_is_looked_at_less_often_than_one_that_stands_still() -> None:
    fake = inside.maintained_by(FakeMaintenance())
    with fake, working_pool(FakeServer(), max_size=1, has_offers=True) as pool:
        got = [owner_of(pool, patience=NEVER).conn]
        threads = [waiting(pool, got) for _ in range(4)]
        until_waiting(pool, 4)

        def pause() -> float:
            now = inside.clock(pool)()
            return round(inside.watch_of(pool).run(now) - now, 6)

        def moves() -> None:
            pool.putconn(got.pop())
            until(lambda: got)

        assert [pause() for _ in range(5)][-2:] == [0.008, 0.008]
        pauses = []
        for _ in range(3):
            moves()
            pauses.append(pause())
        assert pauses == [0.016, 0.032, 0.032]
        assert pause() == 0.008
        moves()
        for thread in threads:
            thread.join(DEADLINE)
        pool.putconn(got.pop())


def test_nobody_looks_where_nobody_offers(pool: ConnectionPool[Any]) -> None:
    inside.let_nobody_offer(pool)
    conn = pool.getconn()
    got: list[Any] = []
    thread = waiting(pool, got)
    until_waiting(pool, 1)
    assert inside.watch_due(pool) == NEVER
    pool.putconn(conn)
    thread.join(DEADLINE)
    pool.putconn(got.pop())


def test_agreeing_on_a_loan_that_is_over_changes_nothing(pool: ConnectionPool[Any]) -> None:
    owner = owner_of(pool, patience=NEVER)
    pool.putconn(owner.conn)
    other = owner_of(pool, patience=7.0)
    owner.agree(0.0)
    assert inside.slot_of(other.conn).patience == 7.0
    pool.putconn(other.conn)


# -- Parked: the loan is over, and the connection still where its borrower was -----------------


def parked(pool: ConnectionPool[Any]) -> Owner:
    owner = owner_of(pool)
    owner.rests()
    assert inside.park(pool, owner.offer)
    return owner


def test_who_finds_nothing_else_takes_what_is_parked(pool: ConnectionPool[Any]) -> None:
    owner = parked(pool)
    conn = pool.getconn(timeout=0)
    assert inside.go_on_with_parked(pool, owner.offer) is None
    pool.putconn(conn)
    assert pool.get_stats()["connections_num"] == 1


def test_what_is_parked_counts_as_idle_and_its_loans_are_counted(
    pool: ConnectionPool[Any],
) -> None:
    before = pool.snapshot()
    owner = owner_of(pool)
    with inside.maintenance_asleep():
        for _ in range(3):
            owner.rests()
            assert inside.park(pool, owner.offer)
            owner.conn = inside.go_on_with_parked(pool, owner.offer)
        owner.rests()
        assert inside.park(pool, owner.offer)
        seen = pool.snapshot()
    assert (seen["in_use"], seen["offered"], seen["idle"], seen["loans"]) == (0, 0, 1, [])
    assert seen["stats"]["requests_num"] == before["stats"]["requests_num"] + 4
    holds = [one["histograms"]["hold"]["count"] for one in (before, seen)]
    assert holds[1] == holds[0] + 4


def test_nothing_is_parked_while_somebody_stands_in_line(pool: ConnectionPool[Any]) -> None:
    owner = owner_of(pool, patience=NEVER)
    got: list[Any] = []
    thread = waiting(pool, got)
    until_waiting(pool, 1)
    owner.rests()
    assert not inside.park(pool, owner.offer)
    assert owner.goes_on()
    pool.putconn(owner.conn)
    thread.join(DEADLINE)
    pool.putconn(got.pop())


def test_who_gets_in_line_while_another_parks_is_seen(pool: ConnectionPool[Any]) -> None:
    """Between its two looks at the line."""
    owner = owner_of(pool, patience=NEVER)
    owner.rests()
    got: list[Any] = []
    threads: list[threading.Thread] = []
    clock = inside.clock(pool)

    def arrive() -> float:
        inside.set_clock(pool, clock)
        threads.append(waiting(pool, got))
        until_waiting(pool, 1)
        return clock()

    inside.set_clock(pool, arrive)
    assert not inside.park(pool, owner.offer)
    assert owner.goes_on()
    pool.putconn(owner.conn)
    threads[0].join(DEADLINE)
    pool.putconn(got.pop())


def test_what_another_parks_while_one_gets_in_line_is_seen(pool: ConnectionPool[Any]) -> None:
    """After its look for it, and before the other can see it in line."""
    inside.let_nobody_offer(pool)  # who waits for offers looks again after a moment
    owner = owner_of(pool, patience=NEVER)
    owner.rests()
    clock = inside.clock(pool)

    def park() -> float:
        if inside.is_locked(pool):  # the line is looked at by whoever gets in it
            inside.set_clock(pool, clock)
            assert inside.park(pool, owner.offer)
        return clock()

    inside.set_clock(pool, park)
    conn = pool.getconn(timeout=0.2)  # it is served before it waits, or not before a tick
    assert not owner.offer and inside.clock(pool) is clock
    pool.putconn(conn)


def test_what_another_parks_while_one_gets_in_line_again_is_seen(
    pool: ConnectionPool[Any],
) -> None:
    """One that was served something dead, and takes its place by arrival."""
    owner = owner_of(pool, patience=NEVER)
    owner.rests()
    clock = inside.clock(pool)

    def park() -> float:
        inside.set_clock(pool, clock)
        assert inside.park(pool, owner.offer)
        return clock()

    with inside.maintenance_asleep():
        inside.set_clock(pool, park)
        served = inside.stand_in_line_again(pool)
    assert not owner.offer and inside.clock(pool) is clock
    assert served is not None
    inside.leave_to_others(pool, served)


@pytest.mark.parametrize(
    "act",
    [
        lambda pool: pool.drain(),
        lambda pool: pool.close(0),
        lambda pool: pool.close_idle(),
        lambda pool: pool.suspend(),
        lambda pool: pool.resize(0, 2),
        lambda pool: pool.check(),
        lambda pool: inside.tick(pool),
        lambda pool: inside.watch_of(pool).run(inside.clock(pool)()),
    ],
)
def test_whatever_is_done_to_idle_connections_is_done_to_parked_ones(
    pool: ConnectionPool[Any], act: Any
) -> None:
    owner = parked(pool)
    act(pool)
    assert inside.go_on_with_parked(pool, owner.offer) is None
    until(lambda: pool.snapshot()["in_use"] == 0)
    inside.assert_states(pool)


def test_a_parked_connection_comes_back_when_its_thread_or_borrower_is_gone(
    pool: ConnectionPool[Any],
) -> None:
    owner = parked(pool)
    inside.end_thread_of(owner.offer[0])
    inside.tick(pool)
    assert not owner.offer
    del owner
    owner = parked(pool)
    del owner
    gc.collect()
    inside.tick(pool)
    inside.assert_all_idle(pool)
    assert pool.get_stats()["loans_reclaimed"] == 0


@pytest.mark.parametrize("limits", [{"max_uses": 5}, {"check": "always"}, {"reset": "always"}])
def test_where_something_is_to_be_done_between_two_loans_nothing_is_parked(
    limits: dict[str, Any],
) -> None:
    with working_pool(FakeServer(), max_size=1, has_offers=True, **limits) as pool:
        owner = owner_of(pool)
        owner.rests()
        is_parked = inside.park(pool, owner.offer)
        assert not is_parked or inside.go_on_with_parked(pool, owner.offer) is None
        pool.take_offers()
        inside.assert_all_idle(pool)


def test_nor_once_such_a_limit_is_set(pool: ConnectionPool[Any]) -> None:
    owner = owner_of(pool)
    pool.max_uses = 2
    owner.rests()
    assert not inside.park(pool, owner.offer)
    pool.max_uses = 0
    assert inside.park(pool, owner.offer)


def test_what_has_lived_for_long_enough_is_not_gone_on_with(pool: ConnectionPool[Any]) -> None:
    owner = parked(pool)
    inside.expire(owner.offer.slot)
    assert inside.go_on_with_parked(pool, owner.offer) is None
    until(lambda: pool.snapshot()["closed_for"] == {"expired": 1})
