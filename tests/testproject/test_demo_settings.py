"""The settings of what the demo compares, whatever DATABASE_URL says."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from django_connpool import conf

SETTINGS = Path(__file__).resolve().parents[2] / "testproject" / "demo" / "settings.py"
URL = "postgres://shop:secret@db.example.com/shop"


def database(contender: str, options: str) -> dict[str, Any]:
    environ = {"SECRET_KEY": "only for tests", "DATABASE_URL": URL + options}
    told = mock.patch.dict(os.environ, {**environ, "DEMO_CONTENDER": contender}, clear=True)
    with told, mock.patch.dict(sys.modules):
        # They are made of the site's, which are to be read anew, too.
        sys.modules.pop("testproject.settings", None)
        found = runpy.run_path(str(SETTINGS))["DATABASES"]["default"]
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("options", "size"),
    [("", 4), ("?sslmode=disable", 4), ("?pool_timeout=3", 4), ("?pool_max_size=7", 7)],
)
def test_each_contender_has_as_many_connections(options: str, size: int) -> None:
    ours = conf.parse(database("ours", options))
    assert ours is not None
    assert ours.max_size == size
    assert database("django", options)["OPTIONS"]["pool"]["max_size"] == size
    stock = database("stock", options)["OPTIONS"]
    assert stock == ({"sslmode": "disable"} if "sslmode" in options else {})
