"""What may leave the process of a statement, and of an error that is about one."""

from __future__ import annotations

from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import OperationalError, sql

from django_connpool import ConnectionPool
from tests.inside import LONGEST, again, named, one_line, public, without_values

SECRET = "s3cret"  # stands wherever a value may

STATEMENTS = {
    "SELECT 's3cret', 'it''s s3cret' FROM t1": "SELECT ?, … FROM t1",
    "SELECT a FROM t WHERE b = 's3cret' AND c = 12.5e-3": "SELECT a FROM t WHERE b = ? AND c = ?",
    'SELECT "t"."a1" FROM "t" LIMIT 21': 'SELECT "t"."a1" FROM "t" LIMIT ?',
    "SELECT %s, $1 -- s3cret\n+ .5": "SELECT %s, … + ?",
    "SELECT /* s3cret /* s3cret */ s3cret */ a": "SELECT a",
    "SELECT a /* s3cret": "SELECT a",
    "SELECT $$s3cret$$ || $a1$ $$ s3cret $a1$ || b": "SELECT ? || ? || b",
    "SELECT a$b$c FROM t": "SELECT a$b$c FROM t",
    r"SELECT E's3cret \' s3cret' || b": "SELECT ? || b",
    r"SELECT e's3cret \\' || U&'\0073s3cret' || b": "SELECT ? || ? || b",
    # Without standard_conforming_strings the first of these quotes does not end the text.
    r"SELECT 'x\' s3cret, b": "SELECT ?…",
    "SELECT x's3cret', b's3cret', n's3cret'": "SELECT ?, …",
    "SELECT a, 's3cret": "SELECT a, ?",
    "SELECT $$s3cret": "SELECT ?",
    r"SELECT E's3cret\'": "SELECT ?",
    "SELECT a FROM t WHERE b IN (1, 2, 3) AND c IN (%(x)s, %(y)s)": (
        "SELECT a FROM t WHERE b IN (?, …) AND c IN (%(x)s, …)"
    ),
    "INSERT INTO t (a, b) VALUES (1, 's3cret'), (2, 's3cret'), (%s, now)": (
        "INSERT INTO t (a, b) VALUES (?, …), …"
    ),
    "SET app.tenant = s3cret": "SET app.tenant ?",
    "set local app.tenant to 's3cret', s3cret": "set local app.tenant ?",
    "SET ROLE s3cret": "SET ROLE ?",
    "SET TIME ZONE s3cret; SELECT 1": "SET TIME ZONE ?; SELECT ?",
    "BEGIN; SET SESSION x = s3cret": "BEGIN; SET SESSION x ?",
    "ALTER ROLE a SET b = s3cret": "ALTER ROLE a SET b ?",
    "ALTER ROLE a PASSWORD 's3cret'": "ALTER ROLE a PASSWORD ?",
    "UPDATE t SET a = b, c = 's3cret'": "UPDATE t SET a = b, c = ?",
    "NOTIFY a, 's3cret'": "NOTIFY a, ?",
    "SELECT 0x1F, 1_000, 1.e5, t.a2": "SELECT ?, …, t.a2",
    "a statement that was not seen": "a statement that was not seen",
    "": "",
}


@pytest.mark.parametrize(("statement", "shown"), STATEMENTS.items())
def test_a_statement_is_shown_without_its_values(statement: str, shown: str) -> None:
    assert SECRET not in shown
    assert without_values(statement) == shown
    assert without_values(statement.encode()) == shown
    assert without_values(sql.SQL(statement)) == shown  # type: ignore[arg-type]


def test_a_statement_put_together_of_values_is_shown_without_them() -> None:
    query = sql.SQL("SELECT {} FROM {}").format(SECRET, sql.Identifier("t"))
    assert without_values(query) == 'SELECT ? FROM "t"'
    assert without_values(sql.Literal(OperationalError())) == "Literal"
    assert without_values(object()) == "object"


@pytest.mark.parametrize(
    "statement",
    [
        f"INSERT INTO t VALUES {', '.join(['(%s, 7)'] * 100_000)}",
        f"SELECT '{'x' * 10_000_000}'",
        f"SELECT {'(' * 100_000}",
        f"SELECT {', '.join('column' for _ in range(1000))}",
        f"SELECT E'{chr(92) * 100_001}",
        f"SELECT {'$a' * 50_000}",
    ],
)
def test_a_statement_of_any_length_is_shown_in_a_line(statement: str) -> None:
    assert len(statement) > LONGEST
    assert len(without_values(statement)) <= LONGEST


def failing(dsn: str, query: Any, params: Any = None) -> psycopg.Error:
    """The error of a statement."""
    with psycopg.connect(dsn, autocommit=True) as conn, pytest.raises(psycopg.Error) as caught:
        conn.execute("CREATE TEMP TABLE one (x text UNIQUE)")
        conn.execute("INSERT INTO one VALUES ('s3cret')")
        conn.execute(query, params)
    return caught.value


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("SELECT 's3cret'::int", "invalid input syntax for type integer: ? (22P02)"),
        ("SELECT s3cret s3cret s3cret", "syntax error at or near ? (42601)"),
        (
            "INSERT INTO one VALUES ('s3cret')",
            'duplicate key value violates unique constraint "one_x_key" (23505)',
        ),
        ("SELECT 's3cret' FROM nowhere", 'relation "nowhere" does not exist (42P01)'),
        ("DO $$BEGIN RAISE 'no % here', 's3cret'; END$$", "raised by a function (P0001)"),
    ],
)
def test_an_error_tells_what_is_wrong_but_not_with_what(dsn: str, query: str, shown: str) -> None:
    error = failing(dsn, query)
    assert SECRET in str(error)  # else there is nothing to leave out
    assert shown in one_line(error)
    assert SECRET not in one_line(error)
    for told in (public(error), again(error), again(error).__cause__):
        assert type(told) is type(error)
        assert shown in str(told)
        assert SECRET not in repr(told)
        assert told.__traceback__ is error.__traceback__ or told.__cause__ is not None
    outer = RuntimeError(f"setting up failed: {error}")
    outer.__cause__ = error
    assert SECRET not in one_line(outer)
    assert SECRET not in repr(public(outer))
    assert public(outer).__cause__ is None


def test_an_error_names_the_role_that_is_missing(dsn: str) -> None:
    error = failing(dsn, "SET ROLE nobody_of_this_name")
    assert one_line(error) == 'role "nobody_of_this_name" does not exist (22023)'


def test_other_errors_are_told_as_they_are(dsn: str) -> None:
    error = OperationalError("two\n  lines\n")
    assert one_line(error) == "two lines"
    assert public(error) is error
    assert one_line(OperationalError()) == "OperationalError"
    with pytest.raises(OperationalError) as caught:
        psycopg.connect(dsn, dbname="nowhere_at_all")
    assert public(caught.value) is caught.value
    assert "nowhere_at_all" in one_line(caught.value)


def test_an_error_of_an_odd_class_is_told_as_one_of_connecting(dsn: str) -> None:
    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__("odd")

    error = Odd(1, 2)
    assert public(error) is error
    error.__cause__ = failing(dsn, "SELECT 's3cret'::int")
    assert type(public(error)) is OperationalError


class Callback:
    def __call__(self, conn: Any) -> None:
        pass

    def method(self, conn: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("callback", "name"),
    [
        (named, "named"),
        (partial(partial(named, SECRET), password=SECRET), "named"),
        (Callback(), "Callback"),
        (Callback().method, "Callback.method"),
    ],
)
def test_a_callback_goes_by_its_name(callback: Any, name: str) -> None:
    assert named(callback) == name


def test_nothing_a_pool_says_of_a_set_up_that_fails_holds_a_value(
    dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    def configure(conn: Any) -> None:
        conn.execute("SELECT 's3cret'::int")

    caplog.set_level("DEBUG")
    pool = ConnectionPool(
        dsn, min_size=0, max_size=1, configure=configure, timeout=5, open=True, name="set-up"
    )
    try:
        with pytest.raises(psycopg.DataError) as caught:
            pool.getconn()
        assert SECRET not in str(pool.snapshot())
        assert "invalid input syntax" in str(pool.snapshot())
        with pytest.raises(psycopg.Error) as late:
            pool.resize(1)
            pool.wait(timeout=0.5)
    finally:
        pool.close()
    for error in (caught.value, late.value):
        link: BaseException | None = error
        while link is not None:
            assert SECRET not in repr(link)
            link = link.__cause__ or link.__context__
    assert "connecting failed: invalid input syntax" in caplog.text
    assert SECRET not in caplog.text
