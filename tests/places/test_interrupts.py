"""An interrupt at every line of a borrower that needs a place of a bound: none is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

import pytest

from django_connpool import ConnectionPool
from tests import inside
from tests.inside import ledger, places, tables
from tests.interrupter import Interrupter, is_safe, trail
from tests.pool.fake import FakeServer, fake_pool

pytestmark = [pytest.mark.stress, pytest.mark.timeout(240)]

BOUND = 2
DEADLINE = 60.0
# What is called elsewhere tests/pool/test_interrupts.py strikes.
CODE = (*(module.__file__ for module in (places, tables, ledger)), inside.CODE_OF_SHARING)


def is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(CODE)


def is_spared(frame: FrameType) -> bool:
    running = {entry.partition(":")[0] for entry in trail(frame, is_ours)}
    return not running.isdisjoint(inside.FINALIZERS) or is_safe(frame)


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.0005)


def of_process(folder: Path) -> Callable[[], Any]:
    table = tables.Table()
    return lambda: places.Bound("a bound", BOUND, table=table)


def of_host(folder: Path) -> Callable[[], Any]:
    return lambda: places.Bound("a bound", BOUND, path=folder / "shared.places")


class Site:
    """Two pools that share a bound, on one server."""

    def __init__(self, stack: ExitStack, bound: Callable[[], Any]) -> None:
        self.server = FakeServer()
        self.server.bound = lambda: BOUND
        self.one, self.other = (
            stack.enter_context(
                fake_pool(self.server, places=places.Tenant(name, "", [bound()], True))
            )
            for name in ("one", "other")
        )

    def hold_all(self, seconds: float) -> threading.Thread:
        """The other pool has all places, until somebody has waited for one of them."""
        conns = [self.other.getconn() for _ in range(BOUND)]

        def give_back() -> None:
            deadline = time.monotonic() + seconds
            while not inside.has_waiters(self.one) and time.monotonic() < deadline:
                time.sleep(0.0005)
            while conns:
                self.other.putconn(conns.pop())

        thread = threading.Thread(target=give_back, daemon=True)
        thread.start()
        return thread


@contextmanager
def without_threads() -> Iterator[None]:
    """Whoever borrows opens himself."""
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError):
        yield


def opens(site: Site) -> None:
    with without_threads():
        site.one.putconn(site.one.getconn(timeout=DEADLINE))


def waits(site: Site) -> None:
    site.one.putconn(site.one.getconn(timeout=DEADLINE))


def interrupted(make: Any, step: Callable[[Site], None], n: int, folder: Path) -> str:
    """Strike at the n-th line of a step; say where, or nothing when it has fewer."""
    with ExitStack() as stack:
        site = Site(stack, make(folder))
        holder = site.hold_all(0.2) if step is waits else None
        interrupt = Interrupter(n, KeyboardInterrupt, is_ours, is_spared)
        try:
            with inside.leaving_notes(), interrupt:
                step(site)
        except KeyboardInterrupt:
            pass
        if holder is not None:
            holder.join(DEADLINE)
        inside.tick(site.one)
        assert_all_to_be_had(site.one, interrupt.where)
        site.one.close()
        assert_all_to_be_had(site.other, interrupt.where)
        assert not site.server.exceeded, interrupt.where
        return interrupt.where


def assert_all_to_be_had(pool: ConnectionPool[Any], where: str) -> None:
    conns: list[Any] = []
    try:
        while len(conns) < BOUND:
            conns.append(pool.getconn(timeout=DEADLINE / 6))
    except Exception as error:
        raise AssertionError(f"after an interrupt at {where}") from error
    finally:
        while conns:
            pool.putconn(conns.pop())


@pytest.mark.parametrize("step", [opens, waits])
@pytest.mark.parametrize("make", [of_process, of_host])
def test_no_place_is_lost_wherever_a_borrower_is_interrupted(
    make: Any, step: Callable[[Site], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    inside.hurry_after_interrupts(monkeypatch)
    where, n = [], 1
    while struck := interrupted(make, step, n, tmp_path):
        where.append(struck)
        n += 1
    if step is opens:
        assert any("_try_one" in line for line in where)
