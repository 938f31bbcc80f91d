"""What docs/migration.md says of Django's own pool, and docs/pool.md of psycopg_pool, is so."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import psycopg
import psycopg_pool
import pytest
from psycopg_pool.base import BasePool

from django_connpool import ConnectionPool, PoolTimeout, conf
from django_connpool.conf import WITHOUT_MEANING, PoolOptions

from . import api

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "migration.md").read_text()
POOL_PAGE = (DOCS / "pool.md").read_text()
THEIRS = inspect.signature(psycopg_pool.ConnectionPool).parameters
OURS = set(inspect.signature(ConnectionPool).parameters) - api.INTERNAL["ConnectionPool"]


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_options_that_are_understood_on_the_way_back_are_those_of_psycopg_pool() -> None:
    listed = section("From Django's own pool").partition("It knows\n")[2].partition(";")[0]
    ours = set(PoolOptions.__dataclass_fields__)
    assert set(re.findall(r"`(\w+)`", listed)) == ours & set(THEIRS)


def test_the_options_that_have_no_effect_are_named() -> None:
    text = section("From Django's own pool")
    assert [option for option in WITHOUT_MEANING if f"`{option}`" not in text] == ["conninfo"]


@pytest.mark.parametrize(
    ("option", "here", "there"),
    [("min_size", 0, 4), ("timeout", 10.0, 30.0), ("max_size", 10, None)],
)
def test_the_defaults_that_differ_are_those(option: str, here: Any, there: Any) -> None:
    assert PoolOptions.__dataclass_fields__[option].default == here
    assert THEIRS[option].default == there


def test_a_max_size_that_is_too_small_on_the_way_back_is_the_error_that_is_quoted() -> None:
    quoted = re.search(r"`ValueError: (.+?)`", section("From Django's own pool"), re.DOTALL)
    assert quoted is not None
    with pytest.raises(ValueError, match=" ".join(quoted[1].split())):
        psycopg_pool.ConnectionPool("", max_size=3, open=False)
    psycopg_pool.ConnectionPool("", min_size=3, max_size=3, open=False)


def test_what_their_dictionary_says_is_understood() -> None:
    values: dict[str, Any] = {
        option: parameter.default
        for option, parameter in THEIRS.items()
        if option in PoolOptions.__dataclass_fields__
    }
    assert conf.problems({"OPTIONS": {"pool": values}}) == ()


def test_a_timeout_is_an_operational_error_of_psycopgs_in_both() -> None:
    assert issubclass(PoolTimeout, psycopg.OperationalError)
    assert issubclass(psycopg_pool.PoolTimeout, psycopg.OperationalError)


@pytest.mark.parametrize("argument", sorted(OURS - set(THEIRS)))
def test_an_argument_that_theirs_has_not_is_told_of(argument: str) -> None:
    added = POOL_PAGE.partition("In addition: ")[2].partition("\n\n")[0]
    assert f"`{argument}`" in added, "docs/pool.md: name it below `In addition`"
    told = inspect.getdoc(ConnectionPool) or ""
    assert f"`{argument}`" in told, "say in the docstring of ConnectionPool what it does"


def test_the_pool_has_the_methods_of_theirs_and_the_keys_of_its_statistics() -> None:
    internal = {"reconnect_failed", "run_task", "schedule_task", "worker"}
    theirs = {name for name in vars(psycopg_pool.ConnectionPool) if not name.startswith("_")}
    assert {name for name in theirs if not hasattr(ConnectionPool, name)} <= internal

    names = {name for name in vars(BasePool) if re.fullmatch("_[A-Z_]+", name)}
    keys = {getattr(BasePool, name) for name in names}
    assert "requests_num" in keys
    pool = ConnectionPool("", min_size=0, max_size=1, open=False)
    assert keys <= set(pool.get_stats())
