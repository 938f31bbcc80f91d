"""A primary that goes away and a standby that takes over, while threads write and read."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections

from tests.cluster import Server
from tests.databases import Databases, in_threads, value
from tests.proxy import Proxy
from tests.standby import (
    Primary,
    Readers,
    Standby,
    Writers,
    demoted,
    either,
    killed,
    killed_hard,
    make_table,
    shut_down,
    swapped,
)
from tests.testproject.processes import wait_until

pytestmark = pytest.mark.stress

WRITERS = 6
Scene = Callable[[Primary, Standby], None]


@pytest.fixture
def pair() -> Iterator[tuple[Primary, Standby]]:
    """A primary and its standby."""
    with Primary() as primary, primary.standby() as standby:
        make_table(primary, standby)
        yield primary, standby


def over_both(databases: Databases, *pair: Any, options: Any = None, **pool: Any) -> Any:
    """A database of both servers, for who writes."""
    return databases.add(
        pool={"max_size": WRITERS + 2, **pool},
        options={"target_session_attrs": "read-write", **(options or {})},
        **either(*pair),
    )


def written_again(writers: Writers, scene: Scene, primary: Primary, standby: Standby) -> None:
    """Play a scene while they write; return when they write again."""
    wait_until(lambda: len(writers.took) > 100, "they write")
    scene(primary, standby)
    written = len(writers.answered)
    wait_until(lambda: len(writers.answered) > written + 100, "they write again")


@pytest.mark.parametrize(
    ("happens", "release"),
    [
        *((scene, "auto") for scene in (killed, killed_hard, shut_down, demoted, swapped)),
        *((scene, "transaction") for scene in (killed_hard, demoted)),
        (shut_down, "request"),
    ],
)
def test_a_short_outage_costs_what_was_being_written(
    databases: Databases, pair: tuple[Primary, Standby], happens: Scene, release: str
) -> None:
    wrapper = over_both(databases, *pair, release=release)
    writers = Writers(wrapper.alias, WRITERS)
    try:
        written_again(writers, happens, *pair)
    finally:
        writers.stop()
    assert writers.failed <= 2 * WRITERS, writers.errors
    assert value(wrapper, "SELECT pg_is_in_recovery()") is False


@pytest.mark.parametrize("release", ["auto", "request", "transaction"])
def test_who_only_reads_leaves_the_old_primary_with_the_first_write_that_it_refuses(
    databases: Databases, pair: tuple[Primary, Standby], release: str
) -> None:
    wrapper = over_both(databases, *pair, release=release)
    old = int(pair[0].params()["port"])
    writers, readers = Writers(wrapper.alias, 1), Readers(wrapper.alias, 6)
    try:
        wait_until(lambda: len(readers.answered) > 20, "they read")
        written_again(writers, demoted, *pair)
    finally:
        writers.stop()
        readers.stop()
    assert any(port == old for _, _, port in readers.answered)
    known_at = writers.failed_at[0]
    late = [began for began, _, port in readers.answered if port == old and began > known_at]
    assert not late


def test_a_primary_that_a_network_swallows_is_left_within_the_limit_of_a_statement(
    databases: Databases, pair: tuple[Primary, Standby]
) -> None:
    primary, standby = pair
    with Proxy(primary) as proxy:
        wrapper = over_both(databases, proxy_as(primary, proxy), standby, command_timeout=0.5)
        writers = Writers(wrapper.alias, WRITERS)
        try:
            wait_until(lambda: len(writers.took) > 100, "they write")
            proxy.blackhole()
            standby.promote()
            written = len(writers.answered)
            wait_until(lambda: len(writers.answered) > written + 100, "they write again")
        finally:
            assert writers.ask_to_stop(30) == 0, "a thread hangs"
    assert writers.failed <= 2 * WRITERS, writers.errors


def proxy_as(server: Server, proxy: Proxy) -> Server:
    """The server, reached through a proxy."""
    return Server(proxy.params())


def test_a_name_that_leads_elsewhere_is_followed_after_a_write_in_vain(
    databases: Databases, pair: tuple[Primary, Standby]
) -> None:
    primary, standby = pair
    with Proxy(standby) as proxy:  # to which a name still led when the connection was opened
        wrapper = databases.add(server=Server(proxy.params()), pool={"max_size": 2})
        assert value(wrapper, "SELECT pg_is_in_recovery()") is True
        wrapper.close()
        proxy.lead_to(primary)

        def is_written() -> bool:
            try:
                with wrapper.cursor() as cursor:
                    cursor.execute("INSERT INTO written DEFAULT VALUES")
            except Exception:
                return False
            finally:
                wrapper.close()
            return True

        began = time.monotonic()
        wait_until(is_written, "the new primary is found")
        print(f"after {time.monotonic() - began:.1f} s")


def test_replicas_are_in_balance_again_a_lifetime_after_one_has_come_back(
    databases: Databases,
) -> None:
    with Primary() as primary, primary.standby() as one, primary.standby() as other:
        wrapper = databases.add(
            pool={"max_size": 8, "max_lifetime": 1.0},
            options={"load_balance_hosts": "random"},
            **either(one, other),
        )
        alias, name = wrapper.alias, wrapper.settings_dict["OPTIONS"]["application_name"]

        def spread() -> list[int]:
            def read() -> None:
                with connections[alias].cursor() as cursor:
                    cursor.execute("SELECT pg_sleep(0.05)")
                connections[alias].close()

            in_threads([read] * 8)
            return [each.backends(application_name=name) for each in (one, other) if each.running]

        wait_until(lambda: min(spread()) >= 1, "both are used")
        other.stop("fast")
        wait_until(lambda: spread() == [8] or sum(spread()) >= 4, "the other has them all")
        other.start()
        wait_until(lambda: min(spread()) >= 2, "both are used again")
