"""The comparison with other packages' own tests: how it is set up. (The tests themselves: tox.)"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.django_suite import explained, source
from tests.stack import __main__ as stack
from tests.stack.packages import PACKAGES
from tests.stack.running import INSIDE

ROOT = Path(__file__).parents[2]


def site(monkeypatch: pytest.MonkeyPatch, installed: bool, theirs: dict[str, Any]) -> Any:
    """What a package's settings become."""
    chosen = {
        "aliases": ["default"],
        "entry": {"ENGINE": "ours", "NAME": "name", "OPTIONS": {"pool": {}}},
        "installed": installed,
        "settings": {"ORIGINAL_BACKEND": "ours"},
    }
    monkeypatch.setenv("CONNPOOL_STACK", json.dumps(chosen))
    monkeypatch.syspath_prepend(INSIDE)
    monkeypatch.delitem(sys.modules, "connpool_stack_site", raising=False)
    from connpool_stack_site import changes  # type: ignore[import-not-found]

    monkeypatch.delitem(sys.modules, "connpool_stack_site")
    return changes(theirs)


THEIRS: dict[str, Any] = {
    "DATABASES": {
        "default": {
            "ENGINE": "postgresql",
            "NAME": "theirs",
            "HOST": "there",
            "ATOMIC_REQUESTS": True,
            "OPTIONS": {"connect_timeout": 1, "options": "-c work_mem=1MB"},
            "TEST": {"NAME": "test_theirs", "MIRROR": "other"},
        },
        "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": "a file"},
        "other": {"ENGINE": "django.db.backends.mysql"},
    },
    "INSTALLED_APPS": ("theirs",),
    "MIDDLEWARE": ("theirs.Middleware",),
}


def test_a_packages_settings_keep_what_says_nothing_of_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = site(monkeypatch, True, THEIRS)
    assert changed["DATABASES"] == {
        "default": {
            "ENGINE": "ours",
            "NAME": "name_default",
            "ATOMIC_REQUESTS": True,
            "OPTIONS": {"pool": {}, "options": "-c work_mem=1MB"},
            "TEST": {"MIRROR": "other"},
        },
        "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": "a file"},
    }
    assert changed["INSTALLED_APPS"] == ["django_connpool", "theirs"]
    assert changed["MIDDLEWARE"][0].startswith("django_connpool.")
    assert changed["ORIGINAL_BACKEND"] == "ours"


def test_with_the_stock_engine_nothing_of_ours_is_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = site(monkeypatch, False, THEIRS)
    assert changed.keys() == {"DATABASES", "ORIGINAL_BACKEND"}


def test_every_difference_of_a_package_is_explained_for_packages_and_modes_that_are_run() -> None:
    entries = list(explained.read(stack.EXPLAINED.read_text()))
    assert entries
    for entry in entries:
        assert entry.versions <= {package.name for package in PACKAGES}, entry
        assert entry.modes <= set(stack.MODES), entry
        assert entry.versions and entry.modes
    assert len({entry.test for entry in entries}) == len(entries)


def test_each_group_has_an_environment_that_runs_it() -> None:
    text = (ROOT / "tox.ini").read_text()
    for group in {package.group for package in PACKAGES}:
        assert f"stack-{group}" in text
    assert len({package.name for package in PACKAGES}) == len(PACKAGES)


def test_packages_are_chosen_by_name_and_by_group() -> None:
    names = [package.name for package in stack.chosen(["gis", "django-silk"])]
    assert names == ["Django", "django-silk"]
    assert stack.chosen([]) == list(PACKAGES)
    with pytest.raises(SystemExit, match="no package and no group: django-sulk"):
        stack.chosen(["django-sulk"])


@pytest.mark.parametrize("name", ["Django-4.2.1.tar.gz", "django-4.2.1.tar.gz"])
def test_an_sdist_is_found_however_its_name_is_written(name: str) -> None:
    assert source.is_sdist(name, "django", "4.2.1")
    assert not source.is_sdist(name, "django", "4.2")
    assert source.is_sdist("django_silk-5.6.0.tar.gz", "django-silk", "5.6.0")
    assert not source.is_sdist("django_silk-5.6.0.tar.gz", "django", "5.6.0")
