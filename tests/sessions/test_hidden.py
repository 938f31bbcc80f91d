"""Functions that change a session on the server's side: the pool finds them by itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql

from django_connpool import ConnectionPool
from tests import inside
from tests.cluster import Server
from tests.databases import Databases
from tests.inside import find, query
from tests.pool.real.helpers import until, until_known

_numbers = itertools.count(1)

TENANT = "current_setting('app.tenant', true)"
SETUP = """
CREATE TABLE plain (id int PRIMARY KEY, x text);
CREATE TABLE other (id int PRIMARY KEY, x text);
CREATE FUNCTION harmless(x text) RETURNS text LANGUAGE sql AS $$ SELECT upper(x) $$;
CREATE FUNCTION for_now(x text) RETURNS text LANGUAGE sql
    AS $$ SELECT set_config('app.tenant', x, true) $$;
CREATE FUNCTION set_tenant(x text) RETURNS text LANGUAGE sql
    AS $$ SELECT set_config('app.tenant', x, false) $$;
CREATE FUNCTION calls_it(x text) RETURNS text LANGUAGE plpgsql
    AS $$ BEGIN RETURN public . "set_tenant" (x); END $$;
CREATE FUNCTION calls_that(x text) RETURNS text RETURN calls_it(x);
CREATE FUNCTION built(x text) RETURNS void LANGUAGE plpgsql
    AS $$ BEGIN EXECUTE format('SET app.tenant = %L', x); END $$;
CREATE FUNCTION runs(x text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE x; END $$;
CREATE FUNCTION made_of_ours(text, text, bool) RETURNS text LANGUAGE internal
    AS 'set_config_by_name';
CREATE FUNCTION adds(x text, y text) RETURNS text LANGUAGE sql AS $$ SELECT set_tenant(y) $$;
CREATE AGGREGATE summed(text) (SFUNC = adds, STYPE = text);
CREATE FUNCTION trigger_function() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM set_tenant('triggered'); RETURN NEW; END $$;
CREATE TABLE watched (id int REFERENCES plain ON DELETE CASCADE, x text);
CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON watched
    FOR EACH ROW EXECUTE FUNCTION trigger_function();
CREATE VIEW writable AS SELECT * FROM watched;
CREATE FUNCTION writes() RETURNS void LANGUAGE sql
    AS $$ INSERT INTO watched (x) VALUES ('by a function') $$;
CREATE VIEW seen AS SELECT set_tenant('seen') AS x;
CREATE VIEW seen_again AS SELECT x || '!' AS x FROM seen;
CREATE TABLE filled (id int, x text DEFAULT set_tenant('default'));
CREATE TABLE checked (x text CHECK (set_tenant(x) IS NOT NULL));
CREATE TABLE ruled (x text);
CREATE RULE r AS ON INSERT TO ruled DO ALSO SELECT set_tenant('rule');
CREATE TABLE parted (id int) PARTITION BY RANGE (id);
CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (1000);
CREATE TRIGGER t BEFORE INSERT ON part FOR EACH ROW EXECUTE FUNCTION trigger_function();
CREATE TABLE guarded (x text);
INSERT INTO guarded VALUES ('a');
ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON guarded USING (set_tenant('policy') IS NOT NULL);
CREATE ROLE {role};
GRANT SELECT ON guarded TO {role};
CREATE SCHEMA away;
CREATE FUNCTION away."odd ""name" (x text) RETURNS text LANGUAGE sql
    AS $$ SELECT public.set_tenant(x) $$;
CREATE FUNCTION away.calls_odd(x text) RETURNS text LANGUAGE sql
    AS $$ SELECT away."odd ""name"(x) $$;
CREATE FUNCTION away."Größe"(x text) RETURNS text LANGUAGE sql
    AS $$ SELECT public.set_tenant(x) $$;
CREATE PROCEDURE proceed() LANGUAGE plpgsql AS $$ BEGIN PERFORM set_tenant('proc'); END $$;
"""
CHANGES = {
    "a function": ["SELECT set_tenant('a')"],
    "with its schema, in quotes": ['SELECT "public" . "set_tenant"(\'a\')'],
    "in capitals": ["SELECT SET_TENANT('a')"],
    "by search_path": ["SET search_path = away, public", "SELECT \"Größe\"('a')"],
    "with an odd name": ['SELECT away."odd ""name"(\'a\')'],
    "one that calls one with an odd name": ["SELECT away.calls_odd('a')"],
    "with a name beyond ASCII": ["SELECT away.\"Größe\"('a')"],
    "as bytes": ["SELECT away.\"Größe\"('a')".encode()],
    "as a Composable": [sql.SQL("SELECT {}('a')").format(sql.Identifier("set_tenant"))],
    "one that calls it": ["SELECT calls_it('a')"],
    "one that calls that": ["SELECT calls_that('a')"],
    "put together": ["SELECT built('a')"],
    "executes its argument": ["SELECT runs('SET app' || '.tenant = 1')"],
    "of the server's own": ["SELECT made_of_ours('app' || '.tenant', 'a', false)"],
    "an aggregate": ["SELECT summed(x) FROM (VALUES ('a')) AS v (x)"],
    "a trigger": ["INSERT INTO watched (x) VALUES ('a')"],
    "a trigger, from a view": ["INSERT INTO writable (x) VALUES ('a')"],
    "a trigger, from a function": ["SELECT writes()"],
    "a trigger, by a cascade": [
        "INSERT INTO plain VALUES (1, 'a') ON CONFLICT DO NOTHING",
        "INSERT INTO watched VALUES (1)",
        None,
        "DELETE FROM plain WHERE id = 1",
    ],
    "a trigger, explained": ["EXPLAIN ANALYZE INSERT INTO watched (x) VALUES ('a')"],
    "a trigger of a partition": ["INSERT INTO parted VALUES (1)"],
    "a trigger, in a CTE": ["WITH w AS (INSERT INTO watched (x) VALUES ('a')) SELECT 1"],
    "a view": ["SELECT * FROM seen"],
    "a view of a view": ["TABLE seen_again"],
    "a default": ["INSERT INTO filled (id) VALUES (1)"],
    "a constraint": ["INSERT INTO checked VALUES ('a')"],
    "a rule": ["INSERT INTO ruled VALUES ('a')"],
    "a policy": ["SET ROLE {role}", "SELECT * FROM guarded"],
    "a prepared statement": ["PREPARE hidden AS SELECT set_tenant('a')", "EXECUTE hidden"],
    "a cursor": ["BEGIN", "DECLARE c CURSOR FOR SELECT set_tenant('a')", "FETCH c", "COMMIT"],
    "a procedure": ["CALL proceed()"],
    "a copy": ["COPY (SELECT set_tenant('a')) TO STDOUT"],
}
HARMLESS = [
    "SELECT harmless('a')",
    "SELECT for_now('a')",
    "SELECT * FROM watched",
    "SELECT * FROM plain JOIN checked USING (x)",
    "INSERT INTO other VALUES (1, 'a') ON CONFLICT DO NOTHING",
    "UPDATE other SET x = 'b'",
]

MakePool = Callable[..., ConnectionPool[Any]]


@pytest.fixture(scope="module")
def role() -> str:
    return "hidden_role"


@pytest.fixture(scope="module")
def home(cluster: Server, role: str) -> Iterator[str]:
    """A database in which things are hidden; its connection string."""
    with _database(cluster) as dsn:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"DROP ROLE IF EXISTS {role}")
            conn.execute(SETUP.replace("{role}", role))  # type: ignore[call-overload]
        yield dsn
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")  # type: ignore[call-overload]


@pytest.fixture
def blank(cluster: Server) -> Iterator[str]:
    """A database in which nothing is hidden; its connection string."""
    with _database(cluster) as dsn:
        yield dsn


class _database:
    def __init__(self, cluster: Server) -> None:
        self._cluster = cluster
        self._name = f"hidden_{next(_numbers)}"

    def __enter__(self) -> str:
        with psycopg.connect(self._cluster.dsn(), autocommit=True) as conn:
            conn.execute(f"DROP DATABASE IF EXISTS {self._name}")  # type: ignore[call-overload]
            conn.execute(f"CREATE DATABASE {self._name}")  # type: ignore[call-overload]
        return self._cluster.dsn(dbname=self._name)

    def __exit__(self, *exc_info: object) -> None:
        with psycopg.connect(self._cluster.dsn(), autocommit=True) as conn:
            conn.execute(f"DROP DATABASE {self._name} WITH (FORCE)")  # type: ignore[call-overload]


@pytest.fixture
def make(home: str) -> Iterator[MakePool]:
    pools = []

    def make_pool(conninfo: Any = home, **options: Any) -> ConnectionPool[Any]:
        options = {"min_size": 0, "max_size": 1, "kwargs": {"autocommit": True}, **options}
        pools.append(ConnectionPool(conninfo, open=True, **options))
        return pools[-1]

    yield make_pool
    for pool in pools:
        pool.close()


def served(pool: ConnectionPool[Any], *statements: Any) -> Any:
    """What the last statement of a loan returns."""
    with pool.connection() as conn:
        rows = None
        for statement in statements:
            if statement is None:
                conn.execute("RESET app.tenant")
            elif isinstance(statement, str) and statement.startswith("COPY"):
                with conn.cursor().copy(statement) as copy:  # type: ignore[arg-type]
                    list(copy)
            else:
                cursor = conn.execute(statement)
                rows = cursor.fetchall() if cursor.description else None
        return rows


def learned(pool: ConnectionPool[Any]) -> ConnectionPool[Any]:
    """The pool, once it knows its functions."""

    until_known(pool)
    return pool


def clean_up(pool: ConnectionPool[Any]) -> Any:
    """The clean-up under way in the pool's only connection, which is idle."""
    (slot,) = inside.idle(pool)
    return inside.clean_up_of(slot)


def tenant(pool: ConnectionPool[Any]) -> str | None:
    ((value,),) = served(pool, f"SELECT {TENANT}")
    return value or None  # see docs/sessions.md


@pytest.mark.parametrize("when", ["at once", "later"])
@pytest.mark.parametrize("statements", CHANGES.values(), ids=list(CHANGES))
def test_the_next_borrower_finds_nothing_of_what_was_changed_inside(
    make: MakePool, statements: list[Any], when: str, role: str
) -> None:
    pool = make()
    if when == "later":
        learned(pool)
    statements = [s.replace("{role}", role) if isinstance(s, str) else s for s in statements]
    before = served(pool, *statements, f"SELECT {TENANT}")
    assert before != [(None,)]
    assert before != [("",)]
    assert tenant(pool) is None


def test_of_changes_that_pass_unseen_none_passes(make: MakePool) -> None:
    """The three of the report: nobody has named the function, and nothing is set."""
    for change in (
        "SELECT set_tenant('a')",
        "SELECT calls_it('a')",
        "INSERT INTO watched(x) VALUES ('a')",
    ):
        pool = make()
        for _ in range(3):
            served(pool, change)
            assert tenant(pool) is None


@pytest.mark.parametrize("statement", HARMLESS)
def test_what_changes_nothing_is_not_cleaned(make: MakePool, statement: str) -> None:
    pool = learned(make())
    served(pool, statement)
    assert clean_up(pool) is None


def test_where_nothing_is_hidden_nothing_is_paid(make: MakePool, blank: str) -> None:
    pool = learned(make(blank))
    assert inside.hidden(pool) is None
    served(pool, "SELECT 1")
    assert clean_up(pool) is None


def test_until_it_is_known_every_session_is_cleaned(make: MakePool, blank: str) -> None:
    pool = make(blank)
    served(pool, "SELECT 1")
    assert clean_up(pool).undoes
    served(learned(pool), "SELECT 1")
    assert clean_up(pool) is None


def test_a_pool_that_fills_up_with_nobody_waiting_asks_at_once(make: MakePool) -> None:
    pool = make(min_size=1)
    pool.wait()
    assert inside.hidden(pool) is None
    served(pool)
    until(lambda: inside.hidden(pool) is not None)


def test_no_session_is_cleaned_or_asked_where_that_is_not_wanted(make: MakePool) -> None:
    pool = make(reset=False)
    served(
        pool, "SELECT 1", "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'"
    )
    assert clean_up(pool) is None
    assert inside.knows_functions(pool)


def test_a_loan_that_began_before_it_was_known_is_cleaned(make: MakePool) -> None:
    pool = make(max_size=2)
    with pool.connection() as early:
        early.execute("SELECT set_tenant('early')")
        until(lambda: (served(pool, "SELECT 1"), inside.hidden(pool))[1])
    assert [tenant(pool) for _ in range(2)] == [None, None]
    with pool.connection() as one, pool.connection() as two:
        assert [conn.execute(f"SELECT NULLIF({TENANT}, '')").fetchone() for conn in (one, two)] == [
            (None,),
            (None,),
        ]


def test_a_function_made_by_a_borrower_is_found(make: MakePool, blank: str) -> None:
    pool = learned(make(blank))
    make_it = (
        "CREATE FUNCTION late(x text) RETURNS text LANGUAGE sql "
        "AS $$ SELECT set_config('app' || '.tenant', x, false) $$"
    )
    served(pool, make_it)
    served(pool, "SELECT late('a')")
    assert tenant(pool) is None
    served(learned(pool), "SELECT late('a')")
    assert clean_up(pool).undoes
    assert inside.hidden(pool).names == {"late"}
    served(pool, "DROP FUNCTION late")
    assert inside.hidden(learned(pool)) is None


def test_while_a_definition_may_not_be_committed_all_is_cleaned(make: MakePool, blank: str) -> None:
    pool = learned(make(blank, max_size=2))
    with pool.connection() as definer:
        definer.execute("BEGIN")
        definer.execute("CREATE FUNCTION late() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        for _ in range(3):
            served(pool, "SELECT 1")
            assert clean_up(pool).undoes
            assert clean_up(pool).answer is None
        definer.execute("COMMIT")
    assert not inside.knows_functions(pool)
    learned(pool)


def test_a_later_connection_asks_again(
    make: MakePool, blank: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.tune(monkeypatch, ask_again=0.0)
    pool = learned(make(blank))
    with psycopg.connect(blank, autocommit=True) as conn:
        conn.execute(
            "CREATE FUNCTION late() RETURNS text LANGUAGE sql "
            "AS $$ SELECT set_config('app.tenant', 'a', false) $$"
        )
    pool.drain()
    learned(pool)
    served(pool, "SELECT late()")
    assert tenant(pool) is None


def test_two_databases_of_one_pool_do_not_forget_each_other(
    make: MakePool, home: str, blank: str
) -> None:
    places = itertools.cycle([home, blank])
    pool = make(lambda: next(places), max_uses=2)
    for _ in range(6):
        learned(pool)
    assert "set_tenant" in inside.hidden(pool).names


def test_a_server_that_does_not_tell_is_asked_again_later_and_all_is_cleaned(
    make: MakePool, blank: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.ask_of_functions(monkeypatch, b"SELECT 1 / 0")
    pool = make(blank)
    pids = set()
    for _ in range(5):
        ((pid,),) = served(pool, "SELECT pg_backend_pid()")
        pids.add(pid)
        assert clean_up(pool).undoes
        until(lambda: not inside.unread_answers(pool))
    assert len(pids) == 1  # nothing is wrong with the session
    until(lambda: caplog.text.count("division by zero") == 1)


def test_what_configure_sets_by_a_function_stays(make: MakePool) -> None:
    def configure(conn: Any) -> None:
        conn.execute("SELECT calls_it('born')")

    pool = make(configure=configure)
    for _ in range(3):
        served(pool, "SELECT set_tenant('a')")
        assert tenant(pool) == "born"
    learned(pool)
    for _ in range(3):
        served(pool, "SELECT set_tenant('a')")
        assert tenant(pool) == "born"


def test_what_configure_asked_is_not_asked_again_once_it_is_known(make: MakePool) -> None:
    def configure(conn: Any) -> None:
        conn.execute("SELECT harmless('a')")

    pool = learned(make(configure=configure))
    served(pool, "SELECT set_tenant('a')")
    (slot,) = inside.idle(pool)
    undoes = inside.clean_up_of(slot).undoes
    assert [kinds for kinds, _ in inside.born_with(slot) if kinds & undoes] == []


def test_a_session_that_cannot_be_cleaned_is_asked_before_it_is_closed(make: MakePool) -> None:
    def configure(conn: Any) -> None:
        conn.cursor().executemany("SELECT set_config(%s, %s, false)", [("app.user", "a")])

    pool = make(configure=configure)
    ((first,),) = served(pool, "SELECT pg_backend_pid()")
    until(lambda: (tenant(pool), inside.hidden(pool))[1])
    learned(pool)
    assert served(pool, "SELECT pg_backend_pid()") != [(first,)]
    ((first,),) = served(pool, "SELECT pg_backend_pid()")
    ((second,),) = served(pool, "SELECT pg_backend_pid()")
    assert first == second


def test_named_functions_are_causes_too(home: str) -> None:
    with psycopg.connect(home) as conn:
        rows: Any = conn.execute(query(conn.info.server_version)).fetchall()
    found = find(rows, named=["harmless"])
    assert found is not None
    assert "public.harmless" in found.causes
    assert "public.set_tenant" in found.causes
    assert "public.calls_it" not in found.causes
    assert {"calls_it", "watched", "seen_again"} <= found.names
    assert not {"other", "for_now"} & found.names


def test_a_wrapper_of_django_goes_by_it(databases: Databases, home: str) -> None:
    wrapper = databases.add(
        pool={"max_size": 1}, NAME=psycopg.conninfo.conninfo_to_dict(home)["dbname"]
    )
    for _ in range(3):
        with wrapper.cursor() as cursor:
            cursor.execute("SELECT calls_it(%s)", ["a"])
        wrapper.close()
        with wrapper.cursor() as cursor:
            cursor.execute(f"SELECT NULLIF({TENANT}, '')")
            assert cursor.fetchone() == (None,)
        wrapper.close()
