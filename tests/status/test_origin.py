from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from django_connpool.status import origin


def project_of(monkeypatch: pytest.MonkeyPatch, module: str) -> str:
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", module)
    return origin.project()


def test_settings_of_one_package_and_folder_are_one_project(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BASE_DIR = Path("/srv/shop")
    shop = project_of(monkeypatch, "shop.settings")
    assert shop == "/srv/shop:shop"
    assert project_of(monkeypatch, "shop.settings.production") == shop
    # The folder alone would not tell the two of a repository apart, the package not two clones.
    assert project_of(monkeypatch, "blog.settings") != shop
    settings.BASE_DIR = "/srv/staging"
    assert project_of(monkeypatch, "shop.settings") != shop


def test_settings_in_no_package_go_by_the_folder(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.BASE_DIR = "/srv/shop"
    assert project_of(monkeypatch, "settings_local") == "/srv/shop"
    assert project_of(monkeypatch, "settings") == "/srv/shop"


@pytest.mark.parametrize(
    ("module", "file"),
    [
        ("shop_.settings", "/srv/shop/shop_/settings.py"),
        ("shop_.settings", "/srv/shop/shop_/settings/__init__.py"),
        ("shop_.settings.local", "/srv/shop/shop_/settings/local.py"),
    ],
)
def test_without_a_base_dir_it_is_the_folder_of_the_package(
    monkeypatch: pytest.MonkeyPatch, module: str, file: str
) -> None:
    found = ModuleType(module)
    found.__file__ = file
    monkeypatch.setitem(sys.modules, module, found)
    assert project_of(monkeypatch, module) == "/srv/shop:shop_"


def test_without_settings_of_a_module_there_is_no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    assert project_of(monkeypatch, "") == ""


def test_the_setting_decides(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.CONNPOOL_PROJECT = "shop, blue"
    assert project_of(monkeypatch, "shop.settings") == "shop, blue"
    settings.CONNPOOL_PROJECT = ""
    assert project_of(monkeypatch, "tests.settings") != ""


def test_the_kernel_and_the_container_are_always_the_same_here() -> None:
    assert (origin.kernel(), origin.container()) == (origin.kernel(), origin.container())
    assert origin.kernel() != ""


def test_without_proc_the_host_stands_for_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: Any, **kwargs: Any) -> Any:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    monkeypatch.setattr(os, "readlink", missing)
    monkeypatch.setattr("socket.gethostname", lambda: "web-1")
    assert (origin.kernel(), origin.container()) == ("web-1", "")


def test_a_brief_name_is_fit_for_a_file() -> None:
    assert origin.brief("/srv/shop:shop", 5) == origin.brief("/srv/shop:shop", 5)
    assert set(origin.brief("\udcff", 10)) <= set("abcdefghijklmnopqrstuvwxyz234567")
