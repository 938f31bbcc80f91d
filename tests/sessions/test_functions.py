from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from django.core import checks
from django.core.management import call_command
from django.core.management.base import OutputWrapper

from django_connpool.checks import check_functions
from django_connpool.functions import hiding_state
from tests.databases import Databases

BODIES = {
    "sets": "BEGIN SET work_mem = '7MB'; END",
    "sets_later": "BEGIN PERFORM 1; RESET ALL; END",
    "sets_if": "BEGIN IF true THEN SET ROLE NONE; END IF; END",
    "locks": "BEGIN PERFORM pg_advisory_lock(1); END",
    "listens": "BEGIN LISTEN a; END",
    "makes": "BEGIN CREATE TEMP TABLE t (x int); END",
}
HARMLESS = {
    "local": "BEGIN SET LOCAL work_mem = '7MB'; PERFORM set_config('a.b', 'c', true); END",
    "commented": "BEGIN -- ; SET work_mem = '7MB'\n /* set_config */ PERFORM 1; END",
    "updates": "BEGIN UPDATE corpus.thing SET name = name; END",
    "reads": "DECLARE x int; BEGIN SELECT 1 INTO x; SELECT 2 INTO STRICT x; END",
    "counts": "BEGIN PERFORM nextval('corpus.counter'); END",
}


@pytest.fixture
def wrapper(databases: Databases) -> Any:
    wrapper = databases.add(pool={"max_size": 1})
    with wrapper.cursor() as cursor:
        for name, body in {**BODIES, **HARMLESS}.items():
            cursor.execute(
                f"CREATE OR REPLACE FUNCTION corpus.f_{name}() RETURNS void "
                f"LANGUAGE plpgsql AS $x$ {body} $x$"
            )
        cursor.execute(
            "CREATE OR REPLACE FUNCTION corpus.f_atomic() RETURNS text "
            "BEGIN ATOMIC SELECT set_config('work_mem', '7MB', false); END"
        )
        cursor.execute(
            "CREATE OR REPLACE FUNCTION corpus.f_into() RETURNS void LANGUAGE sql "
            "AS 'SELECT 1 AS x INTO TEMP t; SELECT'"
        )
    return wrapper


def test_functions_that_give_state_are_found(wrapper: Any) -> None:
    with wrapper.cursor() as cursor:
        found, _ = hiding_state(cursor, named=())
    ours = {name.removeprefix("corpus.f_") for name in found if name.startswith("corpus.f_")}
    assert ours == {*BODIES, "atomic", "into"}
    assert {"corpus.set_tenant", "corpus.hidden_lock", "corpus.hidden_temp"} <= set(found)


def test_those_that_are_named_are_told_too_and_what_calls_them(wrapper: Any) -> None:
    with wrapper.cursor() as cursor:
        cursor.execute(
            "CREATE OR REPLACE FUNCTION corpus.f_caller() RETURNS void LANGUAGE sql "
            "AS 'SELECT corpus.f_reads()'"
        )
        cursor.execute("SELECT 1")
        found, users = hiding_state(cursor, named=["f_reads"])
    assert "corpus.f_reads" in found
    assert "corpus.f_caller" not in found
    assert {"f_caller", "styled"} <= set(users)
    assert not set(users) & {"f_reads", "f_local", "thing"}


def test_the_check_asks_only_the_databases_it_is_told_to(wrapper: Any) -> None:
    assert check_functions() == check_functions(databases=[]) == []
    (warning,) = check_functions(databases=[wrapper.alias])
    assert warning.id == "django_connpool.W005"
    assert warning.level == checks.INFO
    assert "corpus.set_tenant" in warning.msg
    assert ", and so through " in warning.msg
    assert "styled" in warning.msg
    assert "reset_functions" in str(warning.hint)


@pytest.mark.parametrize("pool", [{"reset": "always"}, {"reset": False}, False])
def test_the_check_is_silent_where_it_makes_no_difference(
    pool: Any, wrapper: Any, databases: Databases
) -> None:
    other = databases.add("other_spare", pool=pool)
    assert check_functions(databases=[other.alias]) == []


def test_manage_py_check_runs_it(wrapper: Any, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("check", databases=[wrapper.alias], fail_level="CRITICAL")
    assert "django_connpool.W005" in capsys.readouterr().err
    assert checks.Tags.database  # and not without being asked:
    call_command("check")
    assert "W005" not in capsys.readouterr().err


def test_nobody_is_blamed_for_a_command_that_is_collected_when_its_output_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the one above is now and then, while another test runs. Python 3.10 tells of it."""
    blamed: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", blamed.append)
    stream = io.TextIOWrapper(io.BytesIO())
    out = OutputWrapper(stream)
    stream.close()
    del out
    assert blamed == []
