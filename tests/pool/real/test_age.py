from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from tests import inside
from tests.cluster import Server
from tests.pool.real.conftest import MakePool
from tests.pool.real.helpers import pid, pids_of, served, until, until_idle


def test_idle_connections_are_replaced_when_their_life_is_over(
    make_pool: MakePool, cluster: Server, app: str
) -> None:
    pool = make_pool(min_size=2, max_size=2, max_lifetime=0.3)
    pool.wait()
    query = "SELECT pid FROM pg_stat_activity WHERE application_name = %s"
    before = set(cluster.execute(query, [app]))
    until(lambda: not before & set(cluster.execute(query, [app])))
    until(lambda: pool.snapshot()["closed_for"].get("expired", 0) >= 2)


def test_a_loan_is_not_disturbed_by_its_age_and_replaced_when_given_back(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_size=1, max_lifetime=0.1)
    with pool.connection() as conn:
        before = pid(conn)
        until(lambda: inside.retires_at(inside.slot_of(conn)) < inside.clock(pool)())
        assert conn.execute("SELECT 1").fetchone() == (1,)
    assert served(pool) != before


def test_lives_are_shortened_at_random_so_that_they_do_not_end_together(
    make_pool: MakePool,
) -> None:
    pool = make_pool(max_size=8, max_lifetime=1000, jitter=0.5)
    conns = [pool.getconn() for _ in range(8)]
    lives = [inside.life(inside.slot_of(conn)) for conn in conns]
    for conn in conns:
        pool.putconn(conn)
    assert all(499 <= life <= 1000 for life in lives)
    assert max(lives) - min(lives) > 10


def test_a_connection_is_replaced_after_max_uses_loans(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, max_uses=3)
    pids = [served(pool) for _ in range(9)]
    assert [len(list(group)) for _, group in itertools.groupby(pids)] == [3, 3, 3]


def test_all_idle_surplus_is_closed_when_its_time_is_over(
    make_pool: MakePool, backends: Callable[[], int]
) -> None:
    pool = make_pool(min_size=1, max_size=5)
    pids_of(pool, 5)
    assert backends() == 5
    pool.max_idle = 0.2
    inside.tick(pool)  # which looks when to look again
    until_idle(pool, 1)
    assert backends() == 1
    assert pool.snapshot()["closed_for"] == {"surplus": 4}


def test_what_is_used_again_and_again_is_no_surplus(make_pool: MakePool) -> None:
    pool = make_pool(max_size=2, max_idle=600)
    used = pids_of(pool, 2)[-1]
    for slot in inside.idle(pool):
        inside.make_idle_longer(slot, 600)
    assert served(pool) == used
    inside.tick(pool)
    until_idle(pool, 1)
    assert served(pool) == used


def test_checking_the_pool_does_not_make_its_surplus_younger(make_pool: MakePool) -> None:
    pool = make_pool(max_size=3, max_idle=0.3)
    pids_of(pool, 3)

    def checked() -> bool:
        pool.check()
        return bool(pool.snapshot()["size"] == 0)

    until(checked)


def test_idle_connections_that_are_to_stay_cost_no_time(make_pool: MakePool) -> None:
    pool = make_pool(min_size=1, max_size=2, max_idle=0.1)
    pids_of(pool, 2)
    until_idle(pool, 1)
    (slot,) = inside.idle(pool)
    until(lambda: inside.idle_since(slot) + 0.1 < inside.clock(pool)())
    ticks = itertools.count()

    def counted(tick: Callable[[], float]) -> float:
        next(ticks)
        return tick()

    inside.ticking_by(pool, counted)
    other = make_pool(max_idle=0.2)
    assert served(other)
    until_idle(other, 0)
    assert next(ticks) < 5


@pytest.mark.parametrize("check", ["auto", "always", False])
def test_an_idle_connection_past_its_life_is_never_served(
    make_pool: MakePool, check: object
) -> None:
    pool = make_pool(max_size=1, max_lifetime=600, check=check)
    before = served(pool)
    (slot,) = inside.idle(pool)
    inside.expire(slot, inside.clock(pool)())
    inside.vet(slot)
    assert served(pool) not in (0, before)


def test_what_grows_too_old_before_its_time_to_be_checked_is_not_lent(make_pool: MakePool) -> None:
    pool = make_pool(max_size=1, max_lifetime=600, jitter=0.0)  # checked when idle for 30 s
    before = served(pool)
    (slot,) = inside.idle(pool)
    now = inside.retires_at(slot)
    inside.set_clock(pool, lambda: now - 10)
    assert served(pool) == before
    inside.set_clock(pool, lambda: now)  # and nobody has looked at the idle ones
    assert served(pool) not in (0, before)
