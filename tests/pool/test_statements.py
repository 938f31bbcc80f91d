from __future__ import annotations

import pytest
from psycopg import sql

from tests import inside
from tests.inside import (
    ANYTHING,
    CALLS,
    CHANNELS,
    CURSORS,
    DIRT,
    ENDS,
    FOREVER,
    LOCKS,
    NAMES,
    PREPARED,
    READS_SEQUENCES,
    ROLES,
    SEQUENCES,
    SETTINGS,
    STICKS,
    TEMP,
    WRITES,
    Judge,
    kinds,
)

judge = Judge()

DIRTY = {
    "SET a = 1": SETTINGS,
    "reset all": SETTINGS,
    "SET LOCAL a = 1; SET b = 2": SETTINGS,
    "SET local.a = 1": SETTINGS,
    "SET local .a = 1": SETTINGS,
    "SET transaction.a = 1": SETTINGS,
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY": SETTINGS,
    "SELECT set_config('a', %s, false)": SETTINGS,
    "SELECT set_config('a', 'it''s', true)": SETTINGS,  # over-cautious
    "SELECT set_config(E'a\\', ', 'b', true)": SETTINGS,  # over-cautious
    "SELECT set_config('a', 'b', true OR false)": SETTINGS,
    "/* set_config('a', 'b', true) */ SELECT set_config('a', 'b', false)": SETTINGS,
    "SELECT set_limit(0.3)": SETTINGS,
    "UPDATE pg_settings SET setting = 1": SETTINGS | WRITES,
    "SET ROLE a": SETTINGS | ROLES,
    "SET SESSION AUTHORIZATION a": SETTINGS | ROLES,
    "SELECT set_config('Role', 'a', false)": SETTINGS | ROLES,
    "SELECT set_config(%s, 'a', false)": SETTINGS | ROLES,
    "SELECT set_config(lower('ROL') || 'E', 'a', false)": SETTINGS | ROLES,
    "LISTEN a": CHANNELS,
    "UNLISTEN *": CHANNELS,
    "select Pg_Try_Advisory_Lock_Shared(1)": LOCKS,
    "SELECT pg_advisory_unlock_all()": LOCKS,  # of one that is there from birth
    "CREATE TEMP TABLE a (b int)": TEMP,
    "SELECT 1 INTO TEMP a": TEMP,
    "SELECT 1 INTO\n--x\nTEMP a": TEMP,
    "SELECT 1 INTO a": TEMP,  # by `search_path`
    "SELECT %sINTO TEMP a": TEMP,
    "SELECT %(b)sINTO TEMP a": TEMP,
    "SELECT 1INTO TEMP a": TEMP,  # up to PostgreSQL 14
    "SELECT 'insert' INTO TEMP a": TEMP,
    'SELECT 1 AS "a"INTO"b"': TEMP,
    'SELECT "a"."b" INTO"c"': TEMP,
    "INSERT INTO a VALUES (1); SELECT 1 INTO TEMP b": TEMP,
    "DECLARE a CURSOR FOR SELECT 1": CURSORS,
    "PREPARE a AS SELECT 1": PREPARED,
    "SELECT nextval('a')": SEQUENCES | WRITES,
    "LOAD 'a'": FOREVER,
    "SELECT setseed(0.5)": FOREVER,
    "SET seed = 0.5": SETTINGS | FOREVER,
    "SET LOCAL seed = 0.5": SETTINGS | FOREVER,
    'SET LOCAL "seed" = 0.5': SETTINGS | FOREVER,
    "SELECT set_config('seed', '0.5', true)": SETTINGS | FOREVER,
    "SELECT pg_create_logical_replication_slot('a', 'b', true)": FOREVER,
    "SELECT pg_copy_physical_replication_slot('a', 'b', true)": FOREVER,
    "SELECT pg_replication_origin_session_setup('a')": FOREVER,
    "SELECT pg_backup_start('a')": FOREVER,
    "SELECT dblink_connect_u('a', 'b')": FOREVER,
    "DO 'x'": ANYTHING,
    "CALL a()": ANYTHING,
    "EXECUTE a": ANYTHING,
    "DISCARD ALL": ANYTHING,
    "whatever comes in PostgreSQL 30": ANYTHING,
    "SELECT table_to_xml('a', true, true, '')": ANYTHING,
    "SELECT * FROM xpath_table('a', 'b', 'c', 'd', 'e') AS t (x int)": ANYTHING,
    "SELECT 1; /* does not end": ANYTHING,
    "1": ANYTHING,
}
CLEAN = (
    "",
    " \n",
    ";",
    "SELECT 1",
    "(SELECT 1)",
    "select 'SET a = 1'",
    "SELECT * FROM listen",
    "SELECT attempt, template, temp FROM a",
    "INSERT INTO weather (temp) VALUES (1)",
    "insert\ninto weather (temp) VALUES (1)",
    "MERGE INTO weather USING a ON true WHEN MATCHED THEN DELETE",
    "SELECT put_into, into_use FROM a",
    'SELECT "a"."into", "INTO" AS "b" FROM "a" WHERE ("into" = 1)',
    "-- SET a\nSELECT 1",
    "/* SET /* a */ */ SELECT 1",
    "SELECT 1; ",
    "UPDATE a SET b = 1",
    "SET LOCAL a = 1",
    "SET LOCAL seedling.a = 1",
    'set local "a" = 1',
    "SET TRANSACTION READ ONLY",
    "SET CONSTRAINTS ALL IMMEDIATE",
    "SELECT set_config('a', %s, true)",
    "SELECT set_config('a', $1, TRUE), set_config(%s, 'x', true)",
    "SELECT pg_advisory_xact_lock(1)",
    "SELECT * FROM pg_settings FOR UPDATE",
    "BEGIN",
    "COMMIT",
    "NOTIFY a",
)
TELLING = """
    set_config set_limit pg_settings pg_advisory_lock pg_try_advisory_unlock pg_temp nextval setval
    currval lastval pg_create_a_slot pg_copy_a_slot setseed pg_replication_origin_session_setup
    pg_backup_start pg_start_backup dblink_connect query_to_xml ts_stat ts_rewrite crosstab
    connectby xpath_table
"""


@pytest.mark.parametrize("text", DIRTY)
def test_what_changes_a_session_is_seen(text: str) -> None:
    assert judge(text) & (DIRT | WRITES) & DIRTY[text] == DIRTY[text]
    assert judge(text.encode()) == judge(text)


@pytest.mark.parametrize("text", CLEAN)
def test_what_does_not_is_let_pass(text: str) -> None:
    assert not judge(text) & DIRT


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("SELECT currval('a')", READS_SEQUENCES),
        ("INSERT INTO a VALUES (1)", WRITES),
        ("COMMIT AND CHAIN", ENDS),
        ("PREPARE TRANSACTION 'a'", ENDS),
        ("SET seed = 0.5", STICKS),
        ("SET search_path TO a", NAMES),
        ("SET LOCAL search_path TO a", NAMES),
        ("SET SCHEMA 'a'", NAMES),
        ("RESET ALL", NAMES),
        ("SET LOCAL ROLE a", NAMES),
        ("SELECT set_config('search_path', %s, true)", NAMES),
        ("SELECT set_config(%s, %s, true)", NAMES),
        ("SELECT set_config(a, b, false) FROM c", NAMES),
        ("SELECT pg_advisory_lock(1)", STICKS),
        ("CALL a()", STICKS | ENDS),
        ("BEGIN; SET a = 1; COMMIT", STICKS | ENDS),
    ],
)
def test_what_else_is_known_of_a_statement(text: str, marks: int) -> None:
    assert judge(text) & marks == marks


def test_only_what_may_be_a_role_counts_as_one() -> None:
    for text in ("SET a = 1", "RESET ALL", "SELECT set_config('app.a', %s, false)"):
        assert judge(text) & (SETTINGS | ROLES) == SETTINGS


def test_other_settings_leave_names_what_they_are() -> None:
    for text in ("SET a = 1", "SET LOCAL a = 1", "SELECT set_config('a', %s, true)", "SELECT 1"):
        assert not judge(text) & NAMES


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("first", "many"),
    [
        ("SELECT temp -- x", "INSERT INTO a VALUES (1)"),
        ("SELECT * FROM pg_settings", "UPDATE a SET b = 1"),
        ("", "SELECT set_config('a', 'b', false)"),
    ],
)
def test_a_long_script_takes_as_long_as_it_is(first: str, many: str) -> None:
    """And not the square of that, which is a quarter of an hour here."""
    judge(f"{first};" + f"{many};" * 100_000)


def test_a_single_set_is_undone_by_a_rollback() -> None:
    assert not judge("SET a = 1;") & STICKS


def test_named_functions_count_for_anything_with_and_without_schema() -> None:
    named = Judge(["app.set_tenant", "do_it", 'a."do_that"(a.b)'])
    for text in (
        "SELECT set_tenant(1)",
        'SELECT app."set_tenant"(1)',
        "SELECT x.DO_IT()",
        "SELECT do_that(1)",
    ):
        assert named(text) & ANYTHING == ANYTHING
        assert not judge(text) & DIRT


@pytest.mark.parametrize("word", [*TELLING.split(), 'u&"', "do_it", "ΑΣ", "É"])
def test_no_word_that_tells_is_passed_by_for_want_of_its_stem(word: str) -> None:
    hasty, thorough = (Judge(["do_it", "a.ΑΣ", "É"]) for _ in range(2))
    inside.read_every_word(thorough)
    for text in (f"update {word}(1)", f"update {word.upper()}(1)", f"update {word}x"):
        assert thorough.words(text)
        assert hasty.words(text) == thorough.words(text)


def test_a_composed_query_is_read_as_it_will_be_sent() -> None:
    query = sql.SQL("SELECT {}(1)").format(sql.Identifier("pg_advisory_lock"))
    assert judge(query) & LOCKS
    assert judge(sql.SQL("SELECT 1")) == 0


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT f()",
        "select f (1)",
        "SELECT f\t(1)",
        "SELECT f\u00a0(1)",  # which PostgreSQL takes for a part of the name
        "SELECT é(1)",
        "SELECT \u017fum(1)",  # not the letter s
        'SELECT "f"(1)',
        'SELECT "count" (1)',
        "SELECT f/**/(1)",
        "SELECT f--\n(1)",
        "SELECT s.count(1)",
        "SELECT s . count(1)",
        "SELECT count2(1)",
        "SELECT count(f(1))",
        b"SELECT \xc3\xa9(1)",
        "VALUES (f())",
        "VALUES (1), (2), (f(3))",
        "VALUES (1),(2),f (3)",
        "SELECT 1 IN (2, 3), f(4)",
        "SELECT s ." + " " * 200 + "count(1)",
        "SELECT s." + " " * 200 + "count" + " " * 200 + "(1)",
        "SELECT " + "x" * 200 + "count(1)",
        "SELECT 1; SELECT f()",
        "INSERT INTO a (b) VALUES (%s)",  # which may have triggers, as all of these
        "UPDATE a SET b = 1",
        "DELETE FROM a",
        "TRUNCATE a",
        "COPY a FROM STDIN",
        "WITH x AS (DELETE FROM a) SELECT 1",
        "CALL f()",
        "EXECUTE p",
        "CREATE TABLE a (b integer)",
        "REFRESH MATERIALIZED VIEW a",
        "SELECT 1; DELETE FROM a",
        "WHATEVER",
    ],
)
def test_what_may_run_a_function_of_somebodys_own(statement: str | bytes) -> None:
    assert judge(statement) & CALLS


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT 1",
        'SELECT "a"."id" FROM "a" WHERE ("a"."x" = %s AND NOT ("a"."y" IN (%s, %s))) LIMIT 21',
        'SELECT COUNT(*) AS "__count" FROM (SELECT DISTINCT "a"."x" AS "b" FROM "a") subquery',
        'SELECT UPPER("a"."x") FROM "a" WHERE EXISTS(SELECT 1 AS "b" FROM "c" LIMIT 1)',
        "SELECT (1)",
        "VALUES (1), (2),(3), ((4), COUNT((5)))",
        " " * 100 + "(SELECT 1)",
        "SELECT a::numeric(10, 2) FROM b",
        "BEGIN",
        "COMMIT",
        "ROLLBACK",
        'SAVEPOINT "s1"',
        "SHOW a",
    ],
)
def test_what_runs_only_functions_of_postgresql(statement: str) -> None:
    assert not judge(statement) & CALLS


def test_what_cannot_be_read_is_expected_to_do_anything() -> None:
    assert judge(object()) & ANYTHING == ANYTHING


def test_what_is_remembered_has_a_bound() -> None:
    forgetful = Judge()
    for number in range(5000):
        forgetful(f"SELECT {number}")
    forgetful("SELECT '" + "x" * 100_000 + "'")
    assert len(forgetful.known) <= 1000
    assert sum(len(str(text)) for text in forgetful.known) < 1_000_000


def test_kinds_have_names() -> None:
    assert kinds(LOCKS | SETTINGS) == ["settings", "advisory locks"]
    assert kinds(0) == []
