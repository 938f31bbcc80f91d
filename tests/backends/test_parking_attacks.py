"""What is parked meets all that can happen between two requests of a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from django.db import DatabaseError, connections, transaction

from django_connpool import hold
from tests import inside
from tests.cluster import Server
from tests.databases import DEADLINE, Databases, connected, in_hand, pid, value
from tests.pool.real.helpers import until_known
from tests.testproject.processes import wait_until

from .test_parking import asked, here, parked_by_a_request, soon  # noqa: F401


@pytest.fixture
def two(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An alias of two connections, whose works follow each other soon."""
    inside.tune(monkeypatch, park_soon=inside.NEVER, park_for=3600.0)
    wrapper = databases.add(pool={"max_size": 2, "timeout": DEADLINE})
    until_known(wrapper.pool)
    with inside.maintenance_asleep():
        yield wrapper


# -- What was agreed on before ----------------------------------------------------------------


def test_a_block_of_hold_agrees_anew_on_what_is_parked(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, park_soon=inside.NEVER, park_for=3600.0)
    wrapper = databases.add(pool={"max_size": 1, "timeout": DEADLINE})
    until_known(wrapper.pool)
    parked_by_a_request(wrapper)

    def view() -> Any:
        with hold("request", "spare"):
            pid(wrapper)
            return inside.terms(wrapper)

    assert asked(view)[0] == inside.NEVER


def test_a_wrapper_that_was_bound_to_another_pool_does_not_go_on_with_this_ones(
    databases: Databases,
    soon: Any,  # noqa: F811
) -> None:
    options = soon.settings_dict["OPTIONS"]
    other = databases.add("second", pool=options["pool"], options=options)
    assert other.pool is soon.pool  # which is still wanted
    backend = parked_by_a_request(soon)
    soon.settings_dict["OPTIONS"] = {**options, "application_name": "new"}
    assert soon.pool is not other.pool

    def view() -> Any:
        with hold("request", "spare"):
            return value(soon, "SHOW application_name")

    assert asked(view) == "new"
    assert asked(lambda: pid(soon)) != backend


def test_closing_the_pool_of_a_wrapper_leaves_it_nothing(soon: Any, cluster: Server) -> None:  # noqa: F811
    parked_by_a_request(soon)
    soon.close_pool()
    assert in_hand(soon) is None and soon.connection is None
    assert connected(cluster, soon) == 0


def test_another_time_zone_is_for_the_next_request(soon: Any) -> None:  # noqa: F811
    parked_by_a_request(soon)
    soon.settings_dict["TIME_ZONE"] = "Asia/Tokyo"
    for name in ("timezone", "timezone_name"):
        vars(soon).pop(name, None)
    soon.ensure_timezone()
    assert in_hand(soon) is None
    assert asked(lambda: value(soon, "SHOW TimeZone")) == "Asia/Tokyo"


def test_what_threads_share_from_now_on_does_not_end_with_this_one(soon: Any) -> None:  # noqa: F811
    """One parks it, another goes on with it, and the first one ends."""
    found: list[Any] = []
    shared, used = threading.Event(), threading.Event()

    def first() -> None:
        asked(here)
        asked(here)
        found.append(connections["spare"])
        assert inside.parked(found[0]) is not None
        found[0].inc_thread_sharing()
        shared.set()
        used.wait(DEADLINE)

    thread = threading.Thread(target=first)
    thread.start()
    assert shared.wait(DEADLINE)
    (theirs,) = found
    backend = pid(theirs)
    used.set()
    thread.join(DEADLINE)
    inside.tick(soon.pool)
    assert pid(theirs) == backend
    assert soon.pool.get_stats()["loans_reclaimed"] == 0
    theirs.close()


def test_a_look_between_two_requests_keeps_nothing_in_hand(
    soon: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inside.do_not_count(monkeypatch)
    parked_by_a_request(soon)
    assert soon.connection is None
    assert asked(lambda: (pid(soon), in_hand(soon)))[1] is None


def test_the_next_request_knows_of_no_error_and_no_isolation_of_the_last(soon: Any) -> None:  # noqa: F811
    def view() -> None:
        soon.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        with pytest.raises(DatabaseError):
            value(soon, "SELECT 1/0")

    level = asked(lambda: (pid(soon), soon.isolation_level))[1]
    asked(view)
    assert inside.parked(soon) is not None
    assert asked(lambda: (pid(soon), soon.errors_occurred, soon.isolation_level))[1:] == (
        False,
        level,
    )


# -- What was done to the pool ------------------------------------------------------------------


def both(databases: Databases, wrapper: Any, meanwhile: Callable[[], Any]) -> None:
    """A request with two connections of one pool, by two aliases."""
    name = wrapper.settings_dict["OPTIONS"]["application_name"]
    pool = wrapper.settings_dict["OPTIONS"]["pool"]
    other = databases.add("second", pool=pool, options={"application_name": name})
    assert other.pool is wrapper.pool

    def view() -> None:
        with transaction.atomic(using="second"):
            assert pid(wrapper) != pid(other)
        meanwhile()

    asked(lambda: pid(wrapper))
    asked(view)


def test_a_pool_that_got_smaller_closes_what_is_too_much_when_the_request_ends(
    databases: Databases, two: Any, cluster: Server
) -> None:
    both(databases, two, lambda: two.pool.resize(0, 1))
    parked = [inside.parked(one) for one in (two, connections["second"])]
    assert None in parked
    wait_until(lambda: connected(cluster, two) == 1, "the other is closed")


def test_what_has_grown_too_old_is_closed_when_the_request_ends(two: Any, cluster: Server) -> None:
    parked_by_a_request(two)
    clock = inside.clock(two.pool)
    asked(lambda: (pid(two), inside.set_clock(two.pool, lambda: clock() + 7200)))
    assert inside.parked(two) is None
    wait_until(lambda: connected(cluster, two) == 0, "it is closed")


def test_a_doubt_about_functions_closes_nothing_that_is_parked(soon: Any) -> None:  # noqa: F811
    backend = parked_by_a_request(soon)
    with inside.in_doubt_of_functions(soon.pool):
        assert soon.pool.snapshot()["idle"] == 1
    assert asked(lambda: pid(soon)) == backend


def test_what_is_parked_is_on_loan_to_nobody_and_cannot_be_cancelled(soon: Any) -> None:  # noqa: F811
    backend = parked_by_a_request(soon)
    with pytest.raises(psycopg.ProgrammingError, match="no loan"):
        soon.pool.cancel(backend)


def test_who_looks_on_sees_a_loan_that_goes_on(
    soon: Any,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with inside.looking_on(monkeypatch) as seen:
        backend = parked_by_a_request(soon)
        assert asked(lambda: pid(soon)) == backend
    assert [loan.backend_pid for loan in seen] == [backend, backend]


# -- At the same moment ---------------------------------------------------------------------------


def test_a_look_does_not_take_what_the_next_request_has_on_offer_already(
    databases: Databases, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has seen it parked; before he takes it, its thread has begun the next request."""
    inside.tune(monkeypatch, park_soon=inside.NEVER, park_for=3600.0)
    wrapper = databases.add(pool={"max_size": 2, "timeout": DEADLINE, "release": "request"})
    until_known(wrapper.pool)
    with inside.maintenance_asleep():
        backend = parked_by_a_request(wrapper)

        found: list[Any] = []
        with inside.when_parked_was_seen(lambda: found.append(pid(wrapper))):
            seen = wrapper.pool.snapshot()
        assert (seen["in_use"], seen["idle"]) == (1, 0)
        assert found == [backend] and pid(wrapper) == backend
        wrapper.close()


def test_a_statement_after_an_interrupt_in_the_middle_of_parking_is_no_others(soon: Any) -> None:  # noqa: F811
    """It struck when the connection was parked, and before its wrapper knew."""
    parked_by_a_request(soon)
    pid(soon)
    with inside.interrupted_as_it_is_parked(soon), pytest.raises(KeyboardInterrupt):
        soon.close_if_unusable_or_obsolete()
    backend = pid(soon)
    seen = soon.pool.snapshot()
    assert (seen["in_use"] + seen["offered"], seen["idle"]) == (1, 0)
    assert pid(soon) == backend
    soon.close()
