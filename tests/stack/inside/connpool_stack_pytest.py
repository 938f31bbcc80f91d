"""A plugin of pytest's, which writes down how each test ended."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from connpool_stack_site import changes
from connpool_suite_recorder import OUTCOMES

_ended: dict[str, dict[str, str]] = {}


@pytest.hookimpl(trylast=True)
def pytest_configure(config: Any) -> None:
    """Where their conftest.py has configured Django: before Django is set up."""
    from django.conf import settings

    if not os.environ.get("DJANGO_SETTINGS_MODULE"):
        theirs = {name: getattr(settings, name) for name in ("DATABASES", "INSTALLED_APPS")}
        for name, value in changes(theirs).items():
            setattr(settings, name, value)


def pytest_runtest_logreport(report: Any) -> None:
    outcome, why = report.outcome, ""
    if hasattr(report, "wasxfail"):
        outcome = "unexpectedly passed" if report.passed else "failed as expected"
    elif report.failed:
        outcome = "failed" if report.when == "call" else "error"
        why = str(report.longrepr)
    elif report.skipped:
        why = str(report.longrepr[-1] if isinstance(report.longrepr, tuple) else report.longrepr)
    known = _ended.setdefault(report.nodeid, {"outcome": "passed", "why": ""})
    if OUTCOMES.index(outcome) > OUTCOMES.index(known["outcome"]):
        known.update(outcome=outcome, why=why)


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        _ended[report.nodeid] = {"outcome": "error", "why": str(report.longrepr)}


def pytest_sessionfinish() -> None:
    Path(os.environ["CONNPOOL_SUITE_OUTCOMES"]).write_text(json.dumps(_ended))
