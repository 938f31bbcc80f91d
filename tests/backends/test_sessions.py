from __future__ import annotations

import asyncio
import datetime
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.contrib.postgres.operations import HStoreExtension
from django.contrib.postgres.signals import get_hstore_oids, register_type_handlers
from django.core.exceptions import SynchronousOnlyOperation
from django.db import DataError, OperationalError, connections, transaction
from django.db.backends.signals import connection_created
from django.db.migrations.operations import RunSQL
from django.db.migrations.state import ProjectState
from django.test import override_settings
from psycopg.types.enum import EnumInfo, register_enum

from tests.cluster import Cluster, Server
from tests.databases import Databases, connected, in_thread, in_threads, pid, value
from tests.django_suite.server import debian
from tests.pool.real.helpers import until_known
from tests.testproject.processes import wait_until

ZONE = "SHOW TimeZone"


@pytest.fixture
def created() -> Iterator[list[tuple[Any, int]]]:
    """The wrappers and backends that `connection_created` was sent for."""
    seen: list[tuple[Any, int]] = []

    def note(connection: Any, **kwargs: Any) -> None:
        seen.append((connection, connection.connection.info.backend_pid))

    connection_created.connect(note)
    yield seen
    connection_created.disconnect(note)


@pytest.fixture
def role(cluster: Server) -> Iterator[str]:
    cluster.execute("CREATE ROLE connpool_reader")
    yield "connpool_reader"
    cluster.execute("DROP ROLE connpool_reader")


@pytest.fixture
def extensions(
    cluster: Server, make_cluster: Callable[..., Cluster], databases: Databases
) -> Iterator[Server]:
    """A server that comes with hstore, which is not installed; contrib.postgres listens."""
    server, programs = cluster, debian()
    if not cluster.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'hstore'"):
        if programs is None:
            pytest.skip("no server at hand comes with hstore")
        server = make_cluster(programs=programs)
    server.execute("DROP EXTENSION IF EXISTS hstore CASCADE")
    connection_created.connect(register_type_handlers)
    yield server
    connection_created.disconnect(register_type_handlers)
    databases.remove()
    server.execute("DROP EXTENSION IF EXISTS hstore CASCADE")
    get_hstore_oids.cache_clear()


def test_every_connection_has_the_assumed_role_also_when_the_pool_grows(
    databases: Databases, role: str
) -> None:
    wrapper = databases.add(pool={"max_size": 4}, options={"assume_role": role})
    together = threading.Barrier(4, timeout=20)

    def who() -> tuple[str, int]:
        mine = connections[wrapper.alias]
        with transaction.atomic(using=wrapper.alias):
            found = value(mine, "SELECT current_user"), pid(mine)
            together.wait()
        mine.close()
        return found

    found = in_threads([who] * 4)

    assert {user for user, _ in found} == {role}
    assert len({backend for _, backend in found}) == 4


def test_the_assumed_role_is_there_again_after_a_reconnect(
    databases: Databases, role: str, cluster: Server
) -> None:
    wrapper = databases.add(pool={"max_size": 1}, options={"assume_role": role})
    first = pid(wrapper)
    wrapper.close()
    cluster.terminate(first)

    assert pid(wrapper) != first
    assert value(wrapper, "SELECT current_user") == role


def test_a_role_that_does_not_exist_is_the_servers_own_error(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1}, options={"assume_role": "nobody_at_all"})

    with pytest.raises(DataError, match='role "nobody_at_all" does not exist'):
        pid(wrapper)


def test_a_role_given_at_connect_or_assumed_is_there_again_after_cleaning(
    databases: Databases, role: str
) -> None:
    given = databases.add("given", pool={"max_size": 1}, options={"options": f"-c role={role}"})
    assumed = databases.add("assumed", pool={"max_size": 1}, options={"assume_role": role})
    for wrapper in (given, assumed):
        first = pid(wrapper)
        for change in (
            "SET ROLE NONE",
            "RESET ROLE",
            "SET SESSION AUTHORIZATION DEFAULT",
            "RESET ALL",
        ):
            wrapper.cursor().execute(change)
            wrapper.close()
            assert value(wrapper, "SELECT current_user") == role
            wrapper.close()
        assert pid(wrapper) == first


def test_a_zone_that_changes_under_a_loan_is_never_served_after(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 2}, TIME_ZONE=None)
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        first = pid(wrapper)
        assert value(wrapper, ZONE) == "Asia/Tokyo"
        with override_settings(TIME_ZONE="Africa/Cairo"):
            assert value(wrapper, ZONE) == "Africa/Cairo"
            wrapper.close()
            assert value(wrapper, ZONE) == "Africa/Cairo"
            assert pid(wrapper) != first
        assert value(wrapper, ZONE) == "Asia/Tokyo"
        wrapper.close()
        assert value(wrapper, ZONE) == "Asia/Tokyo"
    wrapper.close()
    assert value(wrapper, ZONE) == "UTC"


def test_a_zone_that_changed_under_a_loan_does_not_reach_a_pool_that_stays_in_use(
    databases: Databases,
) -> None:
    wrapper = databases.add(pool={"max_size": 2})
    other = wrapper.copy()
    pid(other), pid(wrapper)
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        assert value(wrapper, ZONE) == "Asia/Tokyo"
        wrapper.close()
    assert value(wrapper, ZONE) == "UTC"
    other.close()


def test_switching_use_tz_changes_what_the_next_loan_reads(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    now = "SELECT timestamptz '2026-01-01 12:00+00'"
    assert value(wrapper, now) == datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.timezone.utc)
    with override_settings(USE_TZ=False, TIME_ZONE="UTC"):
        wrapper.close()
        assert value(wrapper, now) == datetime.datetime(2026, 1, 1, 12)
        wrapper.close()
        assert value(wrapper, now) == datetime.datetime(2026, 1, 1, 12)
    wrapper.close()
    assert value(wrapper, now).tzinfo is not None


def test_a_transaction_goes_on_when_the_zone_changes(databases: Databases) -> None:
    wrapper = databases.add()
    with transaction.atomic(using=wrapper.alias):
        first = pid(wrapper)
        with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
            assert pid(wrapper) == first
            assert value(wrapper, ZONE) == "Asia/Tokyo"
        assert pid(wrapper) == first


def test_another_thread_gets_the_new_zone_too(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})

    def zone() -> Any:
        mine = connections[wrapper.alias]
        try:
            return value(mine, ZONE)
        finally:
            mine.close()

    assert in_thread(zone) == "UTC"
    with override_settings(USE_TZ=False, TIME_ZONE="Asia/Tokyo"):
        assert in_thread(zone) == "Asia/Tokyo"
    assert in_thread(zone) == "UTC"


def test_the_time_zone_of_the_database_is_that_of_its_sessions(databases: Databases) -> None:
    wrapper = databases.add(TIME_ZONE="Asia/Kolkata", pool={"max_size": 1})
    for _ in range(2):
        assert value(wrapper, ZONE) == "Asia/Kolkata"
        wrapper.close()


def test_connection_created_is_sent_once_per_physical_connection(
    databases: Databases, created: list[tuple[Any, int]], cluster: Server
) -> None:
    wrapper = databases.add()
    first = pid(wrapper)
    for _ in range(3):
        wrapper.close()
        assert pid(wrapper) == first
    assert created == [(wrapper, first)]

    cluster.terminate(first)
    wrapper.close()
    second = pid(wrapper)

    assert created == [(wrapper, first), (wrapper, second)]


@pytest.mark.parametrize(
    ("statement", "may_be_kept"), [("SELECT 1", True), ("SET work_mem = '9MB'", False)]
)
def test_what_a_receiver_rolls_back_is_no_part_of_the_session_and_the_rest_stays(
    statement: str, may_be_kept: bool, databases: Databases
) -> None:
    def roll_back(connection: Any, **kwargs: Any) -> None:
        with suppress(ZeroDivisionError), transaction.atomic(using=connection.alias):
            connection.cursor().execute(statement)
            raise ZeroDivisionError

    wrapper = databases.add(pool={"max_size": 1}, TIME_ZONE="Africa/Nairobi")
    connection_created.connect(roll_back)
    try:
        first = pid(wrapper)
        value(wrapper, "SELECT set_config('work_mem', '7MB', false)")
        wrapper.close()
        assert value(wrapper, "SHOW work_mem") == "4MB"
        assert value(wrapper, ZONE) == "Africa/Nairobi"
        assert (pid(wrapper) == first) is may_be_kept
    finally:
        connection_created.disconnect(roll_back)


def test_a_receiver_of_connection_created_may_query(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    seen = []

    def query(connection: Any, **kwargs: Any) -> None:
        seen.append(pid(connection))

    connection_created.connect(query)
    try:
        assert seen == [] and pid(wrapper) == seen[0]
    finally:
        connection_created.disconnect(query)


def test_types_registered_at_connection_created_stay_for_every_loan(
    databases: Databases, cluster: Server
) -> None:
    cluster.execute("DROP TYPE IF EXISTS connpool_mood")
    cluster.execute("CREATE TYPE connpool_mood AS ENUM ('good', 'bad')")
    wrapper = databases.add(pool={"max_size": 1})
    until_known(wrapper.pool)  # else the session is cleaned, which this one cannot be
    calls = []

    def register(connection: Any, **kwargs: Any) -> None:
        info = EnumInfo.fetch(connection.connection, "connpool_mood")
        assert info is not None
        register_enum(info, connection.connection)
        calls.append(info)

    connection_created.connect(register)
    try:
        for _ in range(3):
            assert value(wrapper, "SELECT 'good'::connpool_mood").name == "good"
            wrapper.close()
        assert len(calls) == 1
    finally:
        connection_created.disconnect(register)
        cluster.execute("DROP TYPE connpool_mood")


def test_the_handlers_of_contrib_postgres_read_hstore_in_every_loan(
    databases: Databases, extensions: Server
) -> None:
    extensions.execute("CREATE EXTENSION IF NOT EXISTS hstore")
    wrapper = databases.add(server=extensions, pool={"max_size": 1})
    for _ in range(2):
        assert value(wrapper, "SELECT 'a=>1'::hstore") == {"a": "1"}
        wrapper.close()


def test_a_receiver_connected_later_hears_of_connections_opened_before(
    databases: Databases,
) -> None:
    wrapper = databases.add(pool={"max_size": 1})
    first = pid(wrapper)
    wrapper.close()
    seen = []

    def note(connection: Any, **kwargs: Any) -> None:
        seen.append(connection.connection.info.backend_pid)

    connection_created.connect(note)
    try:
        for _ in range(3):
            assert pid(wrapper) == first
            wrapper.close()
        assert seen == [first]
    finally:
        connection_created.disconnect(note)
    assert pid(wrapper) == first
    assert seen == [first]


@pytest.mark.parametrize("atomic", [True, False])
def test_every_connection_reads_hstore_once_a_migration_has_created_the_extension(
    databases: Databases, extensions: Server, atomic: bool
) -> None:
    operation = HStoreExtension()
    wrapper = databases.add(server=extensions, pool={"max_size": 2})
    # Two that were opened before the extension was there: one idle, one the migration's.
    in_threads_at_once(wrapper, 2)
    # One that is being opened may come later than what its borrower was given instead.
    wait_until(lambda: wrapper.pool.snapshot()["idle"] == 2, "two idle connections")
    with wrapper.schema_editor(atomic=atomic) as editor:
        operation.database_forwards("shop", editor, ProjectState(), ProjectState())
        assert value(wrapper, "SELECT 'a=>1'::hstore") == {"a": "1"}
    assert value(wrapper, "SELECT 'a=>1'::hstore") == {"a": "1"}

    def read() -> Any:
        mine = connections[wrapper.alias]
        try:
            return value(mine, "SELECT 'a=>1'::hstore")
        finally:
            mine.close()

    assert in_thread(read) == {"a": "1"}
    wrapper.close()
    assert value(wrapper, "SELECT 'a=>1'::hstore") == {"a": "1"}


@pytest.mark.parametrize("atomic", [True, False])
def test_so_it_is_when_a_migration_creates_it_by_sql_of_its_own(
    databases: Databases, extensions: Server, atomic: bool
) -> None:
    wrapper = databases.add(server=extensions, pool={"max_size": 2})
    pid(wrapper)  # from here on Django believes that there is none
    with wrapper.schema_editor(atomic=atomic) as editor:
        RunSQL("\n -- types\n create  extension hstore").database_forwards(
            "shop", editor, ProjectState(), ProjectState()
        )
    wrapper.close()

    assert value(wrapper, "SELECT 'a=>1'::hstore") == {"a": "1"}


def test_a_type_that_a_migration_creates_is_known_to_receivers_of_each_connection(
    databases: Databases, cluster: Server
) -> None:
    def register(connection: Any, **kwargs: Any) -> None:
        if info := EnumInfo.fetch(connection.connection, "connpool_mood"):
            register_enum(info, connection.connection)

    connection_created.connect(register)
    try:
        wrapper = databases.add(pool={"max_size": 1})
        until_known(wrapper.pool)  # else the session is cleaned, which this one cannot be
        pid(wrapper)
        with wrapper.schema_editor() as editor:
            editor.execute("CREATE TYPE connpool_mood AS ENUM ('glad', 'sad')")
        wrapper.close()
        assert value(wrapper, "SELECT 'sad'::connpool_mood").name == "sad"
    finally:
        connection_created.disconnect(register)
        cluster.execute("DROP TYPE IF EXISTS connpool_mood")


def in_threads_at_once(wrapper: Any, number: int) -> None:
    """Have the pool open that many connections, and get them all back."""
    together = threading.Barrier(number, timeout=20)

    def work() -> None:
        mine = connections[wrapper.alias]
        pid(mine)
        together.wait()
        mine.close()

    in_threads([work] * number)


def test_the_handlers_of_contrib_postgres_find_no_extension_and_do_no_harm(
    databases: Databases,
) -> None:
    connection_created.connect(register_type_handlers)
    try:
        wrapper = databases.add()
        assert value(wrapper, "SELECT int4range(1, 5)").upper == 5
    finally:
        connection_created.disconnect(register_type_handlers)


def test_command_timeout_ends_a_statement_of_any_borrower(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1, "command_timeout": 0.7})
    for _ in range(2):
        with pytest.raises(OperationalError, match="statement timeout"):
            value(wrapper, "SELECT pg_sleep(30)")
        wrapper.close()


@pytest.mark.parametrize("reset", ["auto", "always"])
def test_command_timeout_survives_cleaning(databases: Databases, reset: str) -> None:
    wrapper = databases.add(
        pool={"max_size": 1, "command_timeout": 60, "reset": reset},
        options={"options": "-c work_mem=8MB"},
    )
    first = pid(wrapper)
    for _ in range(2):
        assert value(wrapper, "SHOW statement_timeout") == "1min"
        assert value(wrapper, "SHOW work_mem") == "8MB"
        wrapper.close()
    assert pid(wrapper) == first


def test_reset_always_leaves_nothing_of_a_borrower(databases: Databases) -> None:
    wrapper = databases.add(pool={"max_size": 1, "reset": "always"})
    first = pid(wrapper)
    value(wrapper, "SELECT set_config('search_path', 'pg_catalog', false)")
    wrapper.close()

    assert value(wrapper, "SHOW search_path") == '"$user", public'
    assert pid(wrapper) == first


def test_reset_always_keeps_what_every_session_of_the_database_has(
    databases: Databases, role: str
) -> None:
    wrapper = databases.add(
        pool={"max_size": 1, "reset": "always", "configure": "tests.backends.test_sessions.mark"},
        options={"assume_role": role},
        TIME_ZONE="Asia/Kolkata",
    )
    first = pid(wrapper)
    for _ in range(3):
        assert value(wrapper, ZONE) == "Asia/Kolkata"
        assert value(wrapper, "SELECT current_user") == role
        assert value(wrapper, "SHOW connpool.mark") == "configured"
        wrapper.close()
    assert pid(wrapper) == first


def mark(connection: Any) -> None:
    """A `configure` callback."""
    connection.execute("SET connpool.mark = 'configured'")


def test_a_wrapper_of_another_package_is_pooled_by_inheriting(
    databases: Databases, cluster: Server
) -> None:
    wrapper = databases.add(engine="tests.backends.token", pool={"max_size": 2})
    first = pid(wrapper)
    assert value(wrapper, "SHOW search_path") == "pg_catalog"
    wrapper.close()

    assert pid(wrapper) == first
    assert wrapper.is_pooled
    assert cluster.backends(application_name=value(wrapper, "SHOW application_name")) == 1


def test_what_another_wrapper_sets_while_it_connects_is_never_missing(databases: Databases) -> None:
    wrapper = databases.add(engine="tests.backends.eager", pool={"max_size": 1})
    first = pid(wrapper)
    for change in ("SELECT 1", "RESET ALL", "SELECT 1"):
        assert value(wrapper, "SHOW work_mem") == "9MB"
        wrapper.cursor().execute(change)
        wrapper.close()
    assert value(wrapper, "SHOW work_mem") == "9MB"
    assert pid(wrapper) != first  # it was replaced when it was changed


def test_connection_parameters_are_asked_for_at_each_physical_connection(
    databases: Databases, cluster: Server
) -> None:
    wrapper = databases.add(engine="tests.backends.token", pool={"max_size": 2})
    names = set()
    for _ in range(2):
        names.add(value(wrapper, "SHOW application_name"))
        wrapper.close()
    assert len(names) == 1
    wrapper.pool.drain()
    names.add(value(wrapper, "SHOW application_name"))

    assert len(names) == 2


def test_keepalives_are_asked_for_where_the_settings_say_nothing(databases: Databases) -> None:
    wrapper = databases.add(options={"keepalives_idle": 7, "connect_timeout": 3})
    wrapper.ensure_connection()
    used = wrapper.connection.info.get_parameters()

    assert used["keepalives_idle"] == "7"
    assert used["keepalives_interval"] == "10"
    assert used["connect_timeout"] == "3"


def test_connecting_in_an_event_loop_is_refused(databases: Databases) -> None:
    wrapper = databases.add()

    async def connect() -> None:
        wrapper.connect()

    with pytest.raises(SynchronousOnlyOperation):
        asyncio.run(connect())
    assert wrapper.connection is None


def test_a_mirror_reads_the_test_database_through_the_pool_of_the_alias_it_mirrors(
    databases: Databases,
) -> None:
    wrapper = databases.add(pool={"max_size": 2})
    options = wrapper.settings_dict["OPTIONS"]
    replica = databases.add("replica", NAME="elsewhere", options=options, TEST={"MIRROR": "spare"})
    replica.creation.set_as_test_mirror(wrapper.settings_dict)

    assert value(replica, "SELECT current_database()") == wrapper.settings_dict["NAME"]
    assert replica.pool is wrapper.pool
    with transaction.atomic(using="replica"):
        assert pid(replica) != pid(wrapper)


def test_close_all_gives_everything_back(databases: Databases, cluster: Server) -> None:
    first, second = databases.add("first"), databases.add("second")
    backends = pid(first), pid(second)
    connections.close_all()

    assert first.connection is None and second.connection is None
    assert (pid(first), pid(second)) == backends
    assert connected(cluster, first) == connected(cluster, second) == 1
