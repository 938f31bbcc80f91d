"""Threads that go on with what they had, others, tasks, and whoever changes the pool, at random."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from django.db import connections, transaction

from django_connpool import aio, hold, release
from tests import inside
from tests.cluster import Server
from tests.databases import DEADLINE, Databases, in_hand, on_loan, value
from tests.most_sessions import MostSessions
from tests.pool.real.helpers import until, until_known

from .test_parking import asked

SIZE = 3
REQUESTS = int(os.environ.get("PARKING_REQUESTS", "400"))  # of each thread
ALL_TAKEN = "auto, and all taken"  # also what a mode keeps, as soon as nobody is using it


@pytest.fixture(autouse=True)
def switching_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Hands:
    """Which session is in whose hand; a second hand is an error."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._lock = threading.Lock()

    @contextmanager
    def has(self, backend: int) -> Iterator[None]:
        with self._lock:
            assert backend not in self._taken, "two have one session"
            self._taken.add(backend)
        try:
            yield
        finally:
            with self._lock:
                self._taken.discard(backend)


LOOK = "SELECT %s::int, pg_backend_pid(), current_setting('app.mine', true)"


def fresh(row: Any, number: int) -> int:
    """The backend of somebody's first statement, which finds nothing of anybody else's."""
    assert row[0] == number and not row[2], row
    return int(row[1])


def one_request(chance: random.Random, number: int, hands: Hands, mode: str) -> Callable[[], Any]:
    """A view, that does one of several things to its connection."""
    kind = chance.randrange(7)

    def look(wrapper: Any) -> int:
        with wrapper.cursor() as cursor:
            cursor.execute(LOOK, [number])
            return fresh(cursor.fetchone(), number)

    def view() -> None:
        wrapper = connections["spare"]
        if kind == 0:
            look(wrapper)
            value(wrapper, "SELECT set_config('app.mine', %s, false)", [str(number)])
            assert value(wrapper, "SELECT current_setting('app.mine')") == str(number)
        elif kind == 1:
            with transaction.atomic(using="spare"), hands.has(look(wrapper)):
                value(wrapper, "SELECT set_config('app.mine', %s, true)", [str(number)])
        elif kind == 2:
            with hold("request", "spare"):
                first = look(wrapper)
                assert look(wrapper) == first or mode == ALL_TAKEN
        elif kind == 3:
            look(wrapper)
            release("spare")
            look(wrapper)
        else:
            first = look(wrapper)
            with transaction.atomic(using="spare"), hands.has(look(wrapper)):
                pass
            assert look(wrapper) == first or mode != "request"

    return view


def changes(pool: Any, chance: random.Random, mode: str) -> None:
    kind = chance.randrange(9)
    if kind == 0:
        pool.drain()
    elif kind == 1:
        pool.resize(0, chance.randint(1, SIZE))
    elif kind == 2:
        pool.suspend()
        pool.snapshot()
        pool.resume()
    elif kind == 3:
        pool.check()
    elif kind == 4:
        pool.close_idle()
    elif kind == 5 and mode == ALL_TAKEN:
        pool.take_offers()
    else:
        seen = pool.snapshot()
        assert seen["in_use"] + seen["offered"] + seen["idle"] <= SIZE


@pytest.mark.stress
@pytest.mark.parametrize("mode", ["auto", ALL_TAKEN, "request"])
def test_nobody_shares_a_session_and_none_is_lost(
    databases: Databases, monkeypatch: pytest.MonkeyPatch, cluster: Server, mode: str
) -> None:
    inside.tune(monkeypatch, park_soon=inside.NEVER)
    option = "auto" if mode == ALL_TAKEN else mode
    wrapper = databases.add(pool={"max_size": SIZE, "timeout": DEADLINE, "release": option})
    pool = wrapper.pool
    until_known(pool)
    hands, failed, seed = Hands(), [], random.randrange(10**6)
    is_over = threading.Event()

    def goes_on(name: int) -> None:
        chance = random.Random(seed + name)
        for turn in range(REQUESTS):
            number = name * 10**6 + turn
            asked(one_request(chance, number, hands, mode))
            assert in_hand(connections["spare"]) is None

    def comes_and_goes(name: int) -> None:
        """Many threads, each of which ends with what it has parked."""
        for turn in range(REQUESTS // 20):
            thread = threading.Thread(target=caught(partial(goes_on_a_little, turn)))
            thread.start()
            thread.join(DEADLINE)

    def goes_on_a_little(turn: int) -> None:
        chance = random.Random(seed + turn)
        for number in range(3):
            asked(one_request(chance, number, hands, mode))

    def borrows(name: int) -> None:
        for turn in range(REQUESTS):
            with pool.connection() as conn:
                backend = fresh(conn.execute(LOOK, [turn]).fetchone(), turn)
                with hands.has(backend):
                    conn.execute("SELECT 1")

    async def task(turn: int) -> None:
        async with aio.pools["spare"].acquire() as conn:
            row = await (await conn.execute(LOOK, [turn])).fetchone()
            with hands.has(fresh(row, turn)):
                await conn.execute("SELECT 1")

    def awaits(name: int) -> None:
        async def tasks() -> None:
            for turn in range(REQUESTS // 2):
                await asyncio.gather(task(turn), task(turn + 1))

        asyncio.run(tasks())

    def controls(name: int) -> None:
        chance = random.Random(seed + name)
        while not is_over.wait(0.002):
            changes(pool, chance, mode)

    def caught(work: Callable[[], Any]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                failed.append(error)
                raise

        return run

    works = [goes_on, goes_on, goes_on, comes_and_goes, borrows, awaits]
    threads = [
        threading.Thread(target=caught(lambda w=work, n=name: w(n)), name=work.__name__)
        for name, work in enumerate(works)
    ]
    control = threading.Thread(target=caught(lambda: controls(99)))
    name = wrapper.settings_dict["OPTIONS"]["application_name"]
    with MostSessions(cluster, "application_name", name) as bound:
        for thread in [*threads, control]:
            thread.start()
        for thread in threads:
            thread.join(10 * DEADLINE)
        is_over.set()
        control.join(DEADLINE)
    assert not failed, (seed, failed[0])
    assert not any(thread.is_alive() for thread in threads), seed
    assert bound.most <= SIZE
    pool.resume()
    until(lambda: on_loan(wrapper) == 0)
    stats = pool.get_stats()
    assert stats["loans_reclaimed"] == stats["requests_timeouts"] == 0, seed
