from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.test import override_settings

import django_connpool
from django_connpool import ConnectionPool, identity, registry, signals
from tests import inside
from tests.cluster import Server
from tests.databases import Databases, connected, in_thread, in_threads, pid, value
from tests.testproject.processes import wait_until


@pytest.fixture
def spare(databases: Databases) -> Any:
    return databases.add(pool={"max_size": 3})


@pytest.fixture
def made() -> Any:
    """The pools that `pool_created` was sent for."""
    seen: list[ConnectionPool[Any]] = []

    def note(pool: ConnectionPool[Any], **kwargs: Any) -> None:
        seen.append(pool)

    signals.pool_created.connect(note)
    yield seen
    signals.pool_created.disconnect(note)


def mine() -> list[tuple[tuple[str, ...], ConnectionPool[Any]]]:
    return [(aliases, pool) for aliases, pool in registry.live() if "spare" in aliases]


def test_pools_is_a_mapping_of_alias_to_pool(spare: Any) -> None:
    assert django_connpool.pools["spare"] is spare.pool
    assert "spare" in django_connpool.pools
    assert set(django_connpool.pools) == set(connections)
    assert len(django_connpool.pools) == len(set(connections))


def test_pools_knows_no_alias_that_is_not_pooled(databases: Databases) -> None:
    databases.add(pool=False)

    assert "spare" not in django_connpool.pools
    assert "spare" not in list(django_connpool.pools)
    with pytest.raises(KeyError, match="spare"):
        django_connpool.pools["spare"]


def test_pools_knows_no_pool_of_djangos_own(databases: Databases) -> None:
    databases.add(engine="django.db.backends.postgresql")

    assert "spare" not in django_connpool.pools
    assert "spare" not in list(django_connpool.pools)


def test_pools_knows_no_alias_that_is_not_there() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        django_connpool.pools["nowhere"]


def test_live_makes_no_pool(spare: Any) -> None:
    assert mine() == []
    pool = spare.pool

    assert mine() == [(("spare",), pool)]


def test_a_closed_pool_is_not_live(spare: Any) -> None:
    pid(spare)
    spare.close()
    spare.close_pool()

    assert mine() == []


def test_a_pool_that_was_closed_by_hand_is_replaced(spare: Any) -> None:
    spare.pool.close()

    assert not spare.pool.closed
    assert pid(spare)


def test_a_pool_that_nobody_wants_any_more_is_closed(spare: Any) -> None:
    old = spare.pool
    spare.settings_dict["OPTIONS"]["pool"]["max_size"] = 5

    assert spare.pool.max_size == 5
    assert old.closed
    assert mine() == [(("spare",), spare.pool)]


def test_a_pool_that_another_thread_still_wants_stays_open(spare: Any) -> None:
    other = spare.copy()
    pool = spare.pool
    assert other.pool is pool
    other.settings_dict["OPTIONS"] = {**other.settings_dict["OPTIONS"], "keepalives": 1}
    assert other.pool is not pool

    assert not pool.closed
    assert spare.pool is pool
    other.close_pool()


def test_the_pool_of_a_configured_alias_outlives_its_threads(spare: Any) -> None:
    pool = in_thread(lambda: connections["spare"].pool)
    gc.collect()
    registry.sweep()

    assert not pool.closed
    assert spare.pool is pool


def test_the_pool_of_a_deleted_alias_closes_by_itself(
    spare: Any, cluster: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid(spare)
    spare.close()
    pool = spare.pool
    del connections.settings["spare"]
    monkeypatch.setattr(registry, "SWEEP_EVERY", 0.0)
    inside.wake_maintenance()
    wait_until(lambda: pool.closed, "its pool is closed")

    wait_until(lambda: connected(cluster, spare) == 0, "nothing is left on the server")
    assert mine() == []


def test_the_pool_of_a_deleted_alias_is_made_anew_for_a_wrapper_that_goes_on(spare: Any) -> None:
    first = pid(spare)
    del connections.settings["spare"]
    registry.sweep()
    assert pid(spare) == first
    spare.close()

    assert pid(spare) != first
    registry.sweep()
    assert not spare.pool.closed


def test_the_pool_of_an_alias_nobody_configured_goes_with_its_last_wrapper(
    spare: Any, cluster: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "SWEEP_EVERY", 3600.0)
    wrappers = [spare.copy("dynamic") for _ in range(2)]
    for wrapper in wrappers:
        wrapper.settings_dict["OPTIONS"]["application_name"] = "databases-dynamic"
        pid(wrapper)
        wrapper.close()
    (pool,) = {wrapper.pool for wrapper in wrappers}
    del wrapper, wrappers[0]
    gc.collect()
    registry.sweep()
    assert not pool.closed

    wrappers.clear()
    # Whoever sweeps at this moment may hold the wrapper, which is a cycle, for a moment longer.
    wait_until(lambda: gc.collect() >= 0 and pool.closed, "its pool is closed")
    wait_until(lambda: cluster.backends(application_name="databases-dynamic") == 0, "it is gone")


def test_a_wrapper_whose_settings_change_without_end_leaves_nothing_behind(spare: Any) -> None:
    dynamic = spare.copy("dynamic")
    registry.sweep()  # of what earlier tests have left
    before = len(registry.live()), len(weakref.finalize._registry)  # type: ignore[attr-defined]
    for number in range(50):
        dynamic.settings_dict["OPTIONS"]["application_name"] = f"databases-{number}"
        assert dynamic.pool is not None

    assert len(registry.live()) <= before[0] + 1
    assert len(weakref.finalize._registry) <= before[1] + 1  # type: ignore[attr-defined]


def test_a_wrapper_of_no_configured_alias_does_not_cost_others_their_pool(
    spare: Any, databases: Databases
) -> None:
    pool = spare.pool
    dynamic = spare.copy("dynamic")
    assert dynamic.pool is pool
    del dynamic
    gc.collect()
    registry.sweep()

    assert not pool.closed


def test_two_hundred_aliases_of_one_database_share_a_pool(
    databases: Databases, cluster: Server
) -> None:
    first = databases.add(pool={"max_size": 2})
    options = first.settings_dict["OPTIONS"]
    wrappers = [databases.add(f"tenant{i}", options=options) for i in range(200)]
    for wrapper in wrappers:
        pid(wrapper)
        wrapper.close()

    assert {id(wrapper.pool) for wrapper in wrappers} == {id(first.pool)}
    assert connected(cluster, first) == 1
    for wrapper in wrappers:
        del connections[wrapper.alias], connections.settings[wrapper.alias]
    registry.sweep()
    assert not any("tenant" in alias for alias in inside.aliases_bound_last())


def test_two_hundred_aliases_that_come_and_go_leave_nothing(
    databases: Databases, cluster: Server
) -> None:
    def tenants() -> int:
        return sum(aliases[0].startswith("tenant") for aliases, _ in registry.live() if aliases)

    name = "databases-tenants"
    for number in range(200):
        alias = f"tenant{number}"
        wrapper = databases.add(alias, options={"application_name": name}, REGION=alias)
        pid(wrapper)
        wrapper.close()
        del connections[alias], connections.settings[alias]
    del wrapper

    assert tenants() <= 1  # pools of other tests come and go meanwhile
    registry.sweep()
    assert tenants() == 0
    assert not any("tenant" in alias for alias in inside.aliases_bound_last())
    wait_until(lambda: cluster.backends(application_name=name) == 0, "all are gone")


def test_pool_created_is_sent_once_for_each_pool(
    spare: Any, made: list[ConnectionPool[Any]]
) -> None:
    pid(spare)
    pid(spare)
    assert made == [spare.pool]
    spare.close()
    spare.close_pool()
    pid(spare)

    assert len(made) == 2


def test_threads_that_come_first_together_make_one_pool(
    spare: Any, made: list[ConnectionPool[Any]]
) -> None:
    pools = in_threads([lambda: connections["spare"].pool] * 8)

    assert set(pools) == {spare.pool}
    assert made == [spare.pool]


def test_a_wrapper_of_another_thread_has_the_pool_without_another_look_at_the_settings(
    spare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = spare.pool
    monkeypatch.delattr(identity, "key")
    assert in_thread(lambda: connections["spare"].pool) is pool


# Of an entry of DATABASES, and of the settings; None: only an entry that had it from the first.
CHANGES: list[tuple[dict[str, Any], dict[str, Any], bool | None]] = [
    ({}, {}, True),
    ({"CONN_MAX_AGE": 5}, {}, True),
    ({"CONN_HEALTH_CHECKS": True}, {}, False),
    ({"NAME": "template1"}, {}, False),
    ({"TIME_ZONE": "Asia/Tokyo"}, {}, False),
    ({"REGION": "north"}, {}, None),
    ({"OPTIONS": {"pool": {"max_size": 5}}}, {}, False),
    ({}, {"USE_TZ": False}, False),
    ({}, {"USE_TZ": False, "TIME_ZONE": "Asia/Tokyo"}, False),
]


@pytest.mark.parametrize("is_another", [False, True])
@pytest.mark.parametrize(("changes", "project", "same"), CHANGES)
def test_a_wrapper_of_another_thread_has_the_pool_of_the_settings_as_they_are_now(
    spare: Any,
    changes: dict[str, Any],
    project: dict[str, Any],
    same: bool | None,
    is_another: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = spare.pool
    entry = connections.settings["spare"]
    if is_another:
        entry = connections.settings["spare"] = {**entry}
    entry.update(changes)

    def others() -> Any:
        wrapper: Any = connections["spare"]
        found = wrapper.pool
        binding = registry.find(wrapper)
        assert binding is not None and binding.pool is found
        return found

    for name, present in project.items():  # of which Django tells nobody, who would close the pool
        monkeypatch.setattr(settings, name, present)
    assert (in_thread(others) is pool) is (not is_another if same is None else same)


@pytest.mark.parametrize("look", [in_thread, lambda work: work()])
def test_a_list_in_the_settings_that_grows_in_place_means_another_pool(
    databases: Databases, look: Callable[[Callable[[], Any]], Any]
) -> None:
    functions = ["one"]
    spare = databases.add(pool={"max_size": 3, "reset_functions": functions})
    pool = spare.pool
    functions.append("two")
    assert look(lambda: connections["spare"].pool) is not pool


def test_another_thread_has_no_pool_that_was_closed_by_hand(spare: Any) -> None:
    spare.pool.close()
    assert in_thread(lambda: connections["spare"].pool.closed) is False


def test_the_pools_of_two_roles_are_told_apart_in_another_thread(databases: Databases) -> None:
    spare = databases.add(pool={"max_size": 3, "background_max": 1})
    pool = spare.pool

    def backgrounds() -> Any:
        with django_connpool.priority("background", "spare"):
            wrapper: Any = connections["spare"]
            return wrapper.pool

    background = in_thread(backgrounds)
    assert background is not pool
    assert in_thread(backgrounds) is background
    assert in_thread(lambda: connections["spare"].pool) is pool


def test_close_database_closes_every_pool_of_that_database_only(
    spare: Any, databases: Databases
) -> None:
    also = databases.add("also")
    elsewhere = databases.add("elsewhere", NAME="template1")
    pools = spare.pool, also.pool, elsewhere.pool
    registry.close_database(spare.settings_dict, spare.settings_dict["NAME"])

    assert [pool.closed for pool in pools] == [True, True, False]


def test_a_pool_closed_between_the_look_and_the_step_is_replaced(spare: Any) -> None:
    first = pid(spare)
    spare.close()
    closed = spare.pool
    closed.close()

    # The wrapper is bound to it still, and its settings have not changed.
    assert pid(spare) != first
    assert not spare.pool.closed


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {}, True),
        ({"NAME": "a"}, {"NAME": "b"}, False),
        ({"PASSWORD": "a"}, {"PASSWORD": "b"}, False),
        ({"ATOMIC_REQUESTS": True}, {"ATOMIC_REQUESTS": False}, True),
        ({"CONN_MAX_AGE": 1}, {"CONN_MAX_AGE": 2}, True),
        ({"CONN_HEALTH_CHECKS": True}, {"CONN_HEALTH_CHECKS": False}, False),
        ({"OPTIONS": {"pool": {"max_size": 1}}}, {"OPTIONS": {"pool": {"max_size": 2}}}, False),
        ({"OPTIONS": {"a": [1, {2}]}}, {"OPTIONS": {"a": [1, {2}]}}, True),
        ({"OPTIONS": {"a": bytearray(1)}}, {"OPTIONS": {"a": bytearray(1)}}, False),
    ],
)
def test_the_key_of_a_pool_is_what_is_connected_to(
    spare: Any, one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    first, second = (
        type(spare)({**spare.settings_dict, **changes}, "spare") for changes in (one, other)
    )

    assert (identity.key(first) == identity.key(second)) is same


def test_the_key_of_a_pool_tells_zones_apart(spare: Any) -> None:
    keys = set()
    for zone in ("Asia/Tokyo", "Africa/Cairo", "UTC"):
        for use_tz in (True, False):
            with override_settings(USE_TZ=use_tz, TIME_ZONE=zone):
                keys.add(identity.key(spare))

    assert len(keys) == 4  # with USE_TZ every session is in UTC


def test_the_key_of_a_pool_is_told_apart_by_what_cannot_be_hashed_itself(spare: Any) -> None:
    thing = bytearray(1)
    wrappers = [
        type(spare)({**spare.settings_dict, "OPTIONS": {"context": thing}}, "spare")
        for _ in range(2)
    ]

    assert len({identity.key(wrapper) for wrapper in wrappers}) == 1


def test_a_note_that_another_package_keeps_in_the_settings_makes_no_pool(spare: Any) -> None:
    pool, session = spare.pool, pid(spare)
    for tenant in ("one", "two"):
        spare.settings_dict["SCHEMA"] = tenant
        spare.close()
        assert pid(spare) == session
        assert spare.pool is pool
        # Threads that come later find it in the settings that all of them share.
        assert in_thread(lambda: connections["spare"].pool) is pool
    registry.sweep()
    assert not pool.closed


def test_what_another_package_looks_at_to_connect_makes_a_pool(
    databases: Databases, cluster: Server
) -> None:
    wrapper = databases.add(engine="tests.backends.regional", REGION="north")
    shown = "SELECT current_setting('connpool.region')"
    assert value(wrapper, shown) == "north"
    pool = wrapper.pool
    wrapper.close()

    wrapper.settings_dict["REGION"] = "south"
    assert value(wrapper, shown) == "south"
    assert wrapper.pool is not pool
    wrapper.settings_dict["NOTE"] = "south"
    pool = wrapper.pool
    assert value(wrapper, shown) == "south"
    assert wrapper.pool is pool


def test_who_waits_for_a_pool_that_is_replaced_goes_on_to_the_next(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1, "timeout": 30})
    first = wrapper.pool
    waiters: list[Any] = []

    def work() -> int:
        own: Any = connections["spare"]
        waiters.append(own)
        return pid(own)

    with first.connection():
        thread = threading.Thread(target=work)
        thread.start()
        wait_until(lambda: first.snapshot()["waiting"] == 1, "a thread waits")
        second = registry.bind(wrapper, None)  # the same
        assert second.pool is first
        # It goes twice: the next is closed as well before the borrower has come to it.
        bind = registry.bind
        closed: list[Any] = []

        def bind_and_close(*args: Any) -> registry.Binding:
            binding = bind(*args)
            if not closed:
                closed.append(binding.pool)
                binding.pool.close()
            return binding

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registry, "bind", bind_and_close)
            first.close()
            thread.join(30)
    assert not thread.is_alive()
    assert closed and waiters[0].pool not in (first, *closed)


def test_aliases_that_are_gone_leave_no_note(databases: Databases) -> None:
    databases.add("gone")
    assert "gone" in identity.configured
    databases.remove()
    registry.sweep()
    assert "gone" not in identity.configured
