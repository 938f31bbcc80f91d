"""Ways to change a session, from PostgreSQL's documentation, and what tells that it was changed.

Each is a list of statements as a view might run them, or a function of the database wrapper. Also
read by `bench/leaks.py`, which runs them on Django's own pool. They need a superuser, the
objects of `SETUP`, and no other session that listens, locks or replicates.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from psycopg import ClientCursor, IsolationLevel
from psycopg.rows import dict_row
from psycopg.types import TypeInfo
from psycopg.types.string import StrDumper, TextLoader

Change = tuple[str, ...] | Callable[[Any], Any]

# Settings that nobody has declared, and that the corpus sets.
CUSTOM = ("app.tenant", "app.user", "local.thing", "plpgsql.check_asserts")

SETUP = """
DO $$ BEGIN CREATE ROLE corpus_role SUPERUSER; EXCEPTION WHEN duplicate_object THEN END $$;
DROP SCHEMA IF EXISTS corpus CASCADE;
CREATE SCHEMA corpus;
CREATE TABLE corpus.thing (id serial PRIMARY KEY, name text);
CREATE SEQUENCE corpus.counter;
INSERT INTO corpus.thing (name) SELECT 'thing ' || n FROM generate_series(1, 500) AS n;
CREATE FUNCTION corpus.set_tenant(name text) RETURNS text LANGUAGE sql
    AS $$ SELECT set_config('app.tenant', name, false) $$;
CREATE FUNCTION corpus.hidden_lock() RETURNS void LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_advisory_lock(4711); END $$;
CREATE FUNCTION corpus.hidden_temp() RETURNS void LANGUAGE plpgsql
    AS $$ BEGIN CREATE TEMP TABLE IF NOT EXISTS hidden (x int); END $$;
CREATE FUNCTION corpus.hidden_zone() RETURNS void LANGUAGE plpgsql
    AS $$ BEGIN SET TIME ZONE 'Africa/Nairobi'; END $$;
CREATE FUNCTION corpus.hidden_style() RETURNS trigger LANGUAGE plpgsql
    AS $$ BEGIN PERFORM set_config('DateStyle', 'SQL', false); RETURN NEW; END $$;
CREATE TABLE corpus.styled (x int);
CREATE TRIGGER style BEFORE INSERT ON corpus.styled
    FOR EACH ROW EXECUTE FUNCTION corpus.hidden_style();
CREATE PROCEDURE corpus.proc() LANGUAGE plpgsql
    AS $$ BEGIN PERFORM set_config('app.tenant', 'proc', false); COMMIT; END $$;
"""
# Statements of the corpus, in whatever order, may make the role the owner of a table that stays.
TEARDOWN = """
DROP SCHEMA IF EXISTS corpus CASCADE;
DROP TABLE IF EXISTS public.t;
DROP OWNED BY corpus_role CASCADE;
DROP ROLE corpus_role;
"""

STATEMENTS: dict[str, Change] = {
    # SET in its forms.
    "set to": ("SET work_mem TO '7MB'",),
    "set =": ("SET work_mem = '7MB'",),
    "set session": ("SET SESSION work_mem = '7MB'",),
    "set to default of nothing": ("SET statement_timeout = 12345", "SET lock_timeout = 777"),
    "set list": ("SET search_path TO corpus, public",),
    "set quoted name": ("SET \"search_path\" = 'corpus'",),
    "set names": ("SET NAMES 'LATIN1'",),
    "set client_encoding": ("SET client_encoding TO 'SQL_ASCII'",),
    "set schema": ("SET SCHEMA 'corpus'",),
    "set time zone": ("SET TIME ZONE 'Africa/Nairobi'",),
    "set time zone local": ("SET TIME ZONE LOCAL",),
    "set time zone interval": ("SET TIME ZONE INTERVAL '+05:30' HOUR TO MINUTE",),
    "set timezone": ("SET timezone = 'Africa/Nairobi'",),
    "set xml option": ("SET XML OPTION DOCUMENT",),
    "set seed": ("SET seed TO 0.5",),
    "set custom": ("SET app.tenant = '42'",),
    "set custom called local": ("SET local.thing = '42'",),
    "set custom of plpgsql": ("SET plpgsql.check_asserts = off",),
    "set characteristics": ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",),
    "set characteristics isolation": (
        "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
    ),
    "reset": ("RESET work_mem", "SET work_mem = '9MB'"),
    "reset what connecting set": ("RESET TimeZone",),
    "reset all": ("SET work_mem = '9MB'", "RESET ALL"),
    "discard all": ("DISCARD ALL",),
    # Classes of settings.
    "bool": ("SET enable_seqscan = off",),
    "enum": ("SET plan_cache_mode = 'force_custom_plan'",),
    "real": ("SET random_page_cost = 1.5",),
    "datestyle": ("SET DateStyle = 'German, DMY'",),
    "intervalstyle": ("SET IntervalStyle = 'iso_8601'",),
    "application_name": ("SET application_name = 'somebody else'",),
    "bytea_output": ("SET bytea_output = 'escape'",),
    "extra_float_digits": ("SET extra_float_digits = 0",),
    "row_security": ("SET row_security = off",),
    "transaction defaults": (
        "SET default_transaction_isolation = 'serializable'",
        "SET default_transaction_deferrable = on",
    ),
    "read only default": ("SET default_transaction_read_only = on",),
    "superuser only": ("SET session_replication_role = 'replica'", "SET log_statement = 'all'"),
    "no escapes": ("SET standard_conforming_strings = off",),
    "constraints exclusion": ("SET constraint_exclusion = on", "SET from_collapse_limit = 1"),
    "timeouts": (
        "SET idle_in_transaction_session_timeout = 60000",
        "SET idle_session_timeout = 90000",
    ),
    "impatient": ("SET statement_timeout = '5s'",),  # a busy machine's tests end within
    "parallel": ("SET max_parallel_workers_per_gather = 0", "SET jit = off"),
    # Roles.
    "set role": ("SET ROLE corpus_role",),
    "set role quoted": ('SET ROLE "corpus_role"',),
    "set role none": ("SET ROLE NONE",),
    "set session role": ("SET SESSION ROLE corpus_role",),
    "set session authorization": ("SET SESSION AUTHORIZATION corpus_role",),
    "reset role": ("RESET ROLE",),
    "role as a setting": ("SELECT set_config('role', 'corpus_role', false)",),
    # set_config.
    "set_config": ("SELECT set_config('app.tenant', '42', false)",),
    "set_config schema": ("SELECT pg_catalog.set_config('work_mem', '7MB', false)",),
    "set_config quoted": ("SELECT \"set_config\"('work_mem', '7MB', false)",),
    "set_config upper": ("SELECT SET_CONFIG('work_mem', '7MB', FALSE)",),
    "set_config comment": ("SELECT set_config/**/('work_mem', '7MB', false)",),
    "set_config escaped": ("SELECT U&\"set\\005fconfig\"('work_mem', '7MB', false)",),
    "set_config computed": ("SELECT set_config('work_mem', '7MB', 1 = 2)",),
    "set_config local and not": (
        "SELECT set_config('app.user', 'x', true), set_config('app.tenant', 'x', false)",
    ),
    "set_config in where": ("SELECT 1 WHERE set_config('app.tenant', '1', false) = '1'",),
    "set_config in a CTE": ("WITH s AS (SELECT set_config('app.user', '1', false)) TABLE s",),
    "set_config in values": ("VALUES (set_config('app.user', '1', false))",),
    "set_config in insert": (
        "INSERT INTO corpus.thing (name) VALUES (set_config('app.user', '1', false))",
    ),
    "set_config in returning": (
        "UPDATE corpus.thing SET name = name WHERE id = 1 "
        "RETURNING set_config('app.user', '1', false)",
    ),
    "set_config in explain": ("EXPLAIN ANALYZE SELECT set_config('app.user', '1', false)",),
    "set_config in copy": lambda wrapper: _copy(
        wrapper, "COPY (SELECT set_config('app.user', '1', false)) TO STDOUT"
    ),
    "update pg_settings": ("UPDATE pg_settings SET setting = '7MB' WHERE name = 'work_mem'",),
    "update pg_catalog.pg_settings": (
        "UPDATE pg_catalog.pg_settings AS s SET setting = 'off' WHERE s.name = 'enable_hashjoin'",
    ),
    "SQL in a value": (
        "SELECT * FROM ts_stat('SELECT to_tsvector(set' || '_con' || "
        "'fig(''app.user'', ''3'', false))')",
    ),
    # Advisory locks.
    "advisory lock": ("SELECT pg_advisory_lock(1)",),
    "advisory lock two": ("SELECT pg_advisory_lock(1, 2)",),
    "advisory lock shared": ("SELECT pg_advisory_lock_shared(1)",),
    "advisory try": ("SELECT pg_try_advisory_lock(1)",),
    "advisory try shared": ("SELECT pg_try_advisory_lock_shared(1)",),
    "advisory many": ("SELECT pg_advisory_lock(n) FROM generate_series(1, 20) AS n",),
    "advisory twice": ("SELECT pg_advisory_lock(1)", "SELECT pg_advisory_lock(1)"),
    "advisory quoted": ('SELECT "pg_advisory_lock"(7)',),
    # Temporary objects.
    "temp table": ("CREATE TEMP TABLE t (x int)",),
    "temporary table": ("CREATE TEMPORARY TABLE t (x int)",),
    "local temp table": ("CREATE LOCAL TEMP TABLE t (x int)",),
    "unlogged and temp": ("CREATE TABLE pg_temp.t (x int)",),
    "temp table as": ("CREATE TEMP TABLE t AS SELECT 1 AS x",),
    "temp table by explain": ("EXPLAIN ANALYZE CREATE TEMP TABLE t AS SELECT 1 AS x",),
    "temp view": ("CREATE TEMP VIEW v AS SELECT 1 AS x",),
    "temp sequence": ("CREATE TEMP SEQUENCE s",),
    "temp function": ("CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1'",),
    "temp type": ("CREATE TYPE pg_temp.mood AS ENUM ('good')",),
    "temp that shadows": ("CREATE TEMP TABLE thing AS SELECT 'fake' AS name",),
    "select into temp": ("SELECT 1 AS x INTO TEMP t",),
    "select into temporary": ("SELECT 1 AS x INTO LOCAL TEMPORARY TABLE t",),
    "select into by search_path": (
        "BEGIN",
        "SELECT set_config('search_path', concat('pg_', 'temp'), true)",
        "SELECT 1 AS x INTO t",
        "COMMIT",
    ),
    "select into commented": ("SELECT 1 AS x INTO /* a /* b */ c */ TEMP t",),
    "select into pg_temp": ("SELECT 1 AS x INTO pg_temp.t",),
    "temp by search_path": ("SET search_path = pg_temp", "CREATE TABLE t (x int)"),
    # Cursors.
    "cursor with hold": ("DECLARE c CURSOR WITH HOLD FOR SELECT 1",),
    "cursor in a transaction": ("BEGIN", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "COMMIT"),
    "iterator not read to its end": lambda wrapper: _abandon_iterator(wrapper),
    # Prepared statements.
    "prepare": ("PREPARE p AS SELECT 1",),
    "prepare and execute": ("PREPARE p (int) AS SELECT $1", "EXECUTE p(1)"),
    "prepare what sets": (
        "PREPARE p AS SELECT set_config('app.tenant', '9', false)",
        "EXECUTE p",
    ),
    # Channels.
    "listen": ("LISTEN channel",),
    "listen in a transaction": ("BEGIN", "LISTEN channel", "COMMIT"),
    # Sequences.
    "nextval": ("SELECT nextval('corpus.counter')",),
    "setval": ("SELECT setval('corpus.counter', 77)",),
    "insert with a serial key": ("INSERT INTO corpus.thing (name) VALUES ('new')",),
    # What only the end of the session undoes.
    "load": ("LOAD 'plpgsql'",),
    "setseed": ("SELECT setseed(0.25)",),
    # Code.
    "do": ("DO $$ BEGIN SET work_mem = '7MB'; END $$",),
    "do execute": ("DO $$ BEGIN EXECUTE 'SE' || 'T app.tenant = 5'; END $$",),
    "do lock": ("DO $$ BEGIN PERFORM pg_advisory_lock(3); END $$",),
    "do prepare": ("DO $$ BEGIN EXECUTE 'PREPARE pp AS SELECT 1'; END $$",),
    "call": ("CALL corpus.proc()",),
    # Transactions that keep what was set.
    "set in a transaction": ("BEGIN", "SET work_mem = '7MB'", "COMMIT"),
    "set before a savepoint": (
        "BEGIN",
        "SET work_mem = '7MB'",
        "SAVEPOINT s",
        "SET work_mem = '8MB'",
        "ROLLBACK TO s",
        "COMMIT",
    ),
    "lock in a transaction rolled back": ("BEGIN", "SELECT pg_advisory_lock(5)", "ROLLBACK"),
    "prepare in a transaction rolled back": ("BEGIN", "PREPARE p AS SELECT 1", "ROLLBACK"),
    "set then another rolled back": (
        "BEGIN",
        "SET work_mem = '7MB'",
        "COMMIT",
        "BEGIN",
        "SELECT 1",
        "ROLLBACK",
    ),
    "commit and chain": ("BEGIN", "SET work_mem = '7MB'", "COMMIT AND CHAIN", "ROLLBACK"),
    "set in atomic": lambda wrapper: _atomic(wrapper, "SET work_mem = '7MB'"),
    "set and rolled back by atomic": lambda wrapper: _atomic(
        wrapper, "SET work_mem = '7MB'", fail=True
    ),
    "set, then another atomic fails": lambda wrapper: (
        _atomic(wrapper, "SET work_mem = '7MB'"),
        _atomic(wrapper, "SELECT 1", fail=True),
    ),
    "lock and rolled back by atomic": lambda wrapper: _atomic(
        wrapper, "SELECT pg_advisory_lock(6)", fail=True
    ),
    "transaction left open": ("BEGIN", "SET work_mem = '7MB'", "SELECT pg_advisory_lock(8)"),
    "failed transaction left open": lambda wrapper: _fail(wrapper),
    # Several statements, quoting, comments.
    "second of two": ("SELECT 1; SET work_mem = '7MB'",),
    "second without a blank": ("SELECT 1;SET work_mem='7MB'",),
    "second after a comment": ("SELECT 1; /* and */ SET work_mem = '7MB'",),
    "comment in front": ("/* SELECT */ SET work_mem = '7MB'",),
    "nested comment in front": ("/* a /* b */ c */ SET work_mem = '7MB'",),
    "line comment in front": ("-- SELECT 1\nSET work_mem = '7MB'",),
    "line comment ended by a return": ("-- SELECT 1\rSET work_mem = '7MB'",),
    "lower case": ("set work_mem = '7MB'",),
    "mixed case": ("sEt wOrK_mEm = '7MB'",),
    "blanks in front": ("\n\t\f  SET work_mem = '7MB'",),
    "quotes that look like a comment": ("SELECT '/*'; SET work_mem = '7MB'; --*/'",),
    "quotes that look like a line": ("SELECT '--'; SET work_mem = '7MB'",),
    "dollars": ("SELECT $x$;$x$; SET work_mem = '7MB'",),
    "empty statements": (";;; SET work_mem = '7MB';;",),
    "parentheses": ("(SELECT set_config('app.tenant', '1', false))",),
    "set local, then set": ("SET LOCAL work_mem = '6MB'; SET work_mem = '7MB'",),
    "begin, set, commit in one": ("BEGIN; SET work_mem = '7MB'; COMMIT",),
    # Past Django's cursors.
    "bytes": lambda wrapper: wrapper.connection.execute(b"SET work_mem = '7MB'"),
    "a cursor of psycopg's": lambda wrapper: wrapper.connection.cursor().execute(
        "SET work_mem = '7MB'"
    ),
    "a cursor made by hand": lambda wrapper: ClientCursor(wrapper.connection).execute(
        "SET work_mem = '7MB'"
    ),
    "executemany": lambda wrapper: wrapper.connection.cursor().executemany(
        "SELECT set_config('app.user', %s, false)", [("1",), ("2",)]
    ),
    "stream": lambda wrapper: list(
        wrapper.connection.cursor().stream("SELECT set_config('app.user', '1', false)")
    ),
    "a block of psycopg's": lambda wrapper: _psycopg_block(wrapper),
    # The connection object.
    "autocommit": lambda wrapper: wrapper.set_autocommit(False),
    "read_only": lambda wrapper: setattr(wrapper.connection, "read_only", True),
    "deferrable": lambda wrapper: setattr(wrapper.connection, "deferrable", True),
    "isolation_level": lambda wrapper: setattr(
        wrapper.connection, "isolation_level", IsolationLevel.SERIALIZABLE
    ),
    "row_factory": lambda wrapper: setattr(wrapper.connection, "row_factory", dict_row),
    "cursor_factory": lambda wrapper: setattr(wrapper.connection, "cursor_factory", ClientCursor),
    "prepare_threshold": lambda wrapper: setattr(wrapper.connection, "prepare_threshold", 1),
    "prepared_max": lambda wrapper: setattr(wrapper.connection, "prepared_max", 3),
    "notice handler": lambda wrapper: wrapper.connection.add_notice_handler(print),
    "notify handler": lambda wrapper: wrapper.connection.add_notify_handler(print),
    "dumper": lambda wrapper: wrapper.connection.adapters.register_dumper(Ham, HamDumper),
    "loader": lambda wrapper: wrapper.connection.adapters.register_loader("int4", HamLoader),
    "type": lambda wrapper: TypeInfo("spam", 987654, 987655).register(wrapper.connection),
    "type alone": lambda wrapper: wrapper.connection.adapters.types.add(
        TypeInfo("spam", 987654, 0)
    ),
    "an attribute": lambda wrapper: setattr(wrapper.connection, "spam", 1),
}

# Through functions: not to be seen from outside, unless they are named.
HIDDEN: dict[str, Change] = {
    "a function that sets": ("SELECT corpus.set_tenant('42')",),
    "a function that locks": ("SELECT corpus.hidden_lock()",),
    "a function that makes a table": ("SELECT corpus.hidden_temp()",),
}
HIDDEN_FUNCTIONS = ("corpus.set_tenant", "hidden_lock", "hidden_temp")

# In a function, but the server reports this setting by itself.
REPORTED: dict[str, Change] = {
    "a function that sets the zone": ("SELECT corpus.hidden_zone()",),
    "a trigger that sets the date style": ("INSERT INTO corpus.styled VALUES (1)",),
}

# What changes nothing for anybody else, and costs nothing.
HARMLESS: dict[str, Change] = {
    "select": ("SELECT * FROM corpus.thing LIMIT 1",),
    "words in values": ("SELECT 'SET work_mem', 'temp', 'LISTEN'",),
    "insert": ("INSERT INTO corpus.thing (name) VALUES ('set')",),
    "update set": ("UPDATE corpus.thing SET name = 'b' WHERE id = 1",),
    "delete": ("DELETE FROM corpus.thing WHERE id = 2",),
    "a CTE": ("WITH x AS (SELECT 1) SELECT * FROM x",),
    "set local": ("BEGIN", "SET LOCAL work_mem = '7MB'", "COMMIT"),
    "set local outside": ("SET LOCAL work_mem = '7MB'",),
    "set transaction": ("BEGIN", "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "COMMIT"),
    "set constraints": ("BEGIN", "SET CONSTRAINTS ALL DEFERRED", "COMMIT"),
    "set_config local": ("BEGIN", "SELECT set_config('app.tenant', '1', true)", "COMMIT"),
    "transaction lock": ("BEGIN", "SELECT pg_advisory_xact_lock(1)", "COMMIT"),
    "for update": ("BEGIN", "SELECT 1 FROM corpus.thing WHERE id = 1 FOR UPDATE", "COMMIT"),
    "savepoint": ("BEGIN", "SAVEPOINT s", "ROLLBACK TO s", "RELEASE s", "COMMIT"),
    "show": ("SHOW work_mem",),
    "notify": ("NOTIFY channel, 'hello'",),
    "trailing semicolon": ("SELECT 1;",),
    "two selects": ("SELECT 1; SELECT 2",),
    "a comment": ("/* the SET of things */ SELECT 1 -- LISTEN",),
    "iterator read to its end": lambda wrapper: list(_iterate(wrapper)),
    "set and rolled back by atomic": lambda wrapper: _atomic(
        wrapper, "SET work_mem = '7MB'", fail=True
    ),
    "read only from pg_settings": ("SELECT setting FROM pg_settings WHERE name = 'work_mem'",),
}


class Ham:
    pass


class HamDumper(StrDumper):
    def dump(self, obj: Any) -> bytes:
        return b"ham"


class HamLoader(TextLoader):
    def load(self, data: Any) -> str:
        return "ham"


def apply(wrapper: Any, change: Change) -> Any:
    """Do to the wrapper's session what the corpus says; its result must be kept until the end."""
    if callable(change):
        wrapper.ensure_connection()
        return change(wrapper)
    with wrapper.cursor() as cursor:
        for statement in change:
            cursor.execute(statement)
    return None


def _copy(wrapper: Any, statement: str) -> None:
    with wrapper.connection.cursor().copy(statement) as copy:
        list(copy)


def _iterate(wrapper: Any) -> Any:
    """Rows by way of a named cursor, as QuerySet.iterator() reads them."""
    with wrapper.chunked_cursor() as cursor:
        cursor.execute("SELECT * FROM corpus.thing")
        while rows := cursor.fetchmany(10):
            yield from rows


def _abandon_iterator(wrapper: Any) -> Any:
    rows = _iterate(wrapper)
    next(rows)
    return rows


def _atomic(wrapper: Any, statement: str, fail: bool = False) -> None:
    from django.db.transaction import atomic

    with suppress(ZeroDivisionError), atomic(using=wrapper.alias):
        apply(wrapper, (statement,))
        if fail:
            raise ZeroDivisionError


def _fail(wrapper: Any) -> None:
    from django.db import DatabaseError

    with suppress(DatabaseError):
        apply(wrapper, ("BEGIN", "SET work_mem = '7MB'", "nonsense"))


def _psycopg_block(wrapper: Any) -> None:
    conn = wrapper.connection
    with conn.transaction():
        conn.execute("SET work_mem = '7MB'")
    with suppress(ZeroDivisionError), conn.transaction():
        raise ZeroDivisionError
