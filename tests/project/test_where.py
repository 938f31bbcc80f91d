"""Where which tests run by default: each by what it depends on, and a new folder on purpose."""

from __future__ import annotations

import configparser
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"

# What is left out, by tox.ini's names in [testing], by what a test depends on. Those that take
# longer than seconds are chosen by their marks, and run where `tox -m deep` has them run.
NOWHERE_ELSE = {"corner", "python", "django"}  # on nothing: `newest` alone
IN_CORNERS = {"python", "django"}  # on the server, on other packages
ONCE_A_PYTHON = {"django"}
ONCE_A_DJANGO: set[str] = set()  # and on Python: in each environment

WHERE = {
    "aio": ONCE_A_PYTHON,
    "aio/test_databases.py": ONCE_A_DJANGO,
    "backends": ONCE_A_DJANGO,
    "backends/test_fork.py": ONCE_A_PYTHON,
    "contrib": IN_CORNERS,
    "e2e": NOWHERE_ELSE,
    "package": NOWHERE_ELSE,
    "places": IN_CORNERS,
    "pool": ONCE_A_PYTHON,
    "project": NOWHERE_ELSE,
    # Whether it means what it says depends on Python, Django or psycopg.
    "project/test_api.py": IN_CORNERS,
    "project/test_django_suite.py": IN_CORNERS,
    "project/test_interrupter.py": IN_CORNERS,
    "project/test_others_names.py": IN_CORNERS,
    "project/test_packaging.py": IN_CORNERS,
    "project/test_start.py": IN_CORNERS,
    "project/test_versions.py": IN_CORNERS,
    "sessions": IN_CORNERS,
    "status": IN_CORNERS,
    "testproject": IN_CORNERS,
    "web": ONCE_A_DJANGO,
    "works_with": IN_CORNERS,
    "test_asgi.py": ONCE_A_DJANGO,
    "test_async_end.py": ONCE_A_DJANGO,
    "test_borrowing.py": ONCE_A_DJANGO,
    "test_checks.py": ONCE_A_DJANGO,
    "test_conf.py": IN_CORNERS,
    "test_in_vain.py": ONCE_A_DJANGO,
    "test_lines.py": ONCE_A_DJANGO,
    "test_listen_counts.py": ONCE_A_PYTHON,
    "test_listening.py": ONCE_A_PYTHON,
    "test_loading.py": ONCE_A_PYTHON,
    "test_locking.py": ONCE_A_DJANGO,
    "test_middleware.py": ONCE_A_DJANGO,
    "test_overload.py": ONCE_A_DJANGO,
    "test_registry.py": ONCE_A_DJANGO,
    "test_runners.py": IN_CORNERS,
    "test_scope.py": ONCE_A_DJANGO,
    "test_signals.py": ONCE_A_DJANGO,
    "test_site_checks.py": ONCE_A_DJANGO,
    "test_tasks.py": ONCE_A_DJANGO,
    "test_waited.py": ONCE_A_DJANGO,
}

# The first line of each environment's choice in tox.ini, and what it leaves out.
ENVIRONMENTS = {
    "newest-!deep-!ways": None,
    "oldest-!deep-!ways": "corner",
    "!newest-!oldest-pool": "python",
    "!newest-!oldest-!pool": "django",
}


def tox() -> configparser.ConfigParser:
    read = configparser.ConfigParser(interpolation=None)
    read.read(ROOT / "tox.ini")
    return read


def left_out(name: str) -> list[str]:
    """The folders, files and patterns of one list, with those of the list that it begins with."""
    text = tox()["testing"][name]
    begins = re.findall(r"\{\[testing\](\w+)\}", text)
    own = re.findall(r"--ignore(?:-glob)?=(\S+)", text)
    return [place for list_ in begins for place in left_out(list_)] + own


def is_in(file: str, place: str) -> bool:
    return file.startswith(f"{place}/") or fnmatch(file, place)


def files() -> list[str]:
    return sorted(str(path.relative_to(TESTS)) for path in TESTS.rglob("test_*.py"))


def sorted_as(file: str) -> set[str] | None:
    """By the file's own line, else by its folder's."""
    return WHERE.get(file, WHERE.get(file.partition("/")[0]))


def test_each_folder_is_sorted_and_no_line_is_without_its_tests() -> None:
    lost = [file for file in files() if sorted_as(file) is None]
    assert lost == [], "say in WHERE what they depend on, and in tox.ini's [testing]"
    assert [place for place in WHERE if not (TESTS / place).exists()] == []


@pytest.mark.parametrize("name", sorted(NOWHERE_ELSE))
def test_what_is_left_out_is_what_does_not_depend_on_it(name: str) -> None:
    places = left_out(name)
    found = {file for file in files() if any(is_in(f"tests/{file}", place) for place in places)}
    assert found == {file for file in files() if name in (sorted_as(file) or ())}


def test_what_is_left_out_exists() -> None:
    places = [place for name in NOWHERE_ELSE for place in left_out(name)]
    assert [place for place in places if not list(ROOT.glob(place))] == []


def test_each_environment_takes_its_list() -> None:
    commands = tox()["testenv"]["commands"]
    for environment, name in ENVIRONMENTS.items():
        (posargs,) = re.findall(
            rf"^{re.escape(environment)}:.*?\{{posargs:(.*?)\}}$", commands, re.M | re.S
        )
        lists = re.findall(r"\[testing\](\w+)", posargs)
        assert lists == ([name, "differs"] if name else ["quick"]), environment


def test_what_is_once_is_left_out_by_its_mark_alone() -> None:
    testing = tox()["testing"]
    assert testing["differs"] == testing["quick"].removesuffix('"') + ' and not once"'
