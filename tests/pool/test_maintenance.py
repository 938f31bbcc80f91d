"""The background thread as such."""

from __future__ import annotations

import threading
import weakref

import pytest

from django_connpool.pool import maintenance as module
from django_connpool.pool.maintenance import Maintenance
from django_connpool.pool.slot import AT_ONCE, NEVER

DEADLINE = 30.0  # seconds


class Leaving(Maintenance):
    """Its thread takes its time between knowing that it has to end and ending."""

    def __init__(self) -> None:
        super().__init__()
        self.leaves, self.may_leave = threading.Event(), threading.Event()

    def _is_needed(self) -> bool:
        needed = super()._is_needed()
        if not needed:
            self.leaves.set()
            self.may_leave.wait(DEADLINE)
        return needed


class Served:
    has_orphans = False

    def __init__(self) -> None:
        self.ticked = threading.Event()

    def tick(self) -> None:
        self.ticked.set()


def test_a_thread_that_takes_its_time_to_end_before_a_fork_has_a_successor_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PARKING", 0.0)
    maintenance, served = Leaving(), Served()
    ref = weakref.ref(served)
    maintenance.schedule(ref, NEVER)  # type: ignore[arg-type]
    first = maintenance._thread
    with maintenance._lock:
        maintenance._stopping = True
    maintenance.poke()
    assert maintenance.leaves.wait(DEADLINE)
    maintenance.park()
    maintenance.resume()
    try:
        assert first is not None
        assert first.is_alive()
        maintenance.schedule(ref, AT_ONCE)  # type: ignore[arg-type]
        assert served.ticked.wait(DEADLINE)
    finally:
        maintenance.may_leave.set()
        maintenance.dismiss(ref)  # type: ignore[arg-type]
        first.join(DEADLINE)
    assert not first.is_alive()
