"""Django's test runner, which also writes down how each test ended."""

from __future__ import annotations

import json
import os
import time
import traceback
import unittest
from pathlib import Path
from typing import Any

from django.test.runner import DiscoverRunner

# From good to bad: a test with a sub-test or a clean-up that fails has failed.
OUTCOMES = ("passed", "skipped", "failed as expected", "unexpectedly passed", "failed", "error")


class Result(unittest.TextTestResult):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outcomes: dict[str, dict[str, Any]] = {}
        self._began = time.monotonic()

    def _note(self, test: Any, outcome: str, why: str = "") -> None:
        known = self.outcomes.setdefault(test.id(), {"outcome": "passed", "why": ""})
        if OUTCOMES.index(outcome) > OUTCOMES.index(known["outcome"]):
            known.update(outcome=outcome, why=why)

    def addSuccess(self, test: Any) -> None:
        super().addSuccess(test)
        self._note(test, "passed")

    def addSkip(self, test: Any, reason: str) -> None:
        super().addSkip(test, reason)
        self._note(test, "skipped", reason)

    def addExpectedFailure(self, test: Any, err: Any) -> None:
        super().addExpectedFailure(test, err)
        self._note(test, "failed as expected")

    def addUnexpectedSuccess(self, test: Any) -> None:
        super().addUnexpectedSuccess(test)
        self._note(test, "unexpectedly passed")

    def addFailure(self, test: Any, err: Any) -> None:
        super().addFailure(test, err)
        self._note(test, "failed", _text(err))

    def addError(self, test: Any, err: Any) -> None:
        super().addError(test, err)
        self._note(test, "error", _text(err))

    def addSubTest(self, test: Any, subtest: Any, err: Any) -> None:
        super().addSubTest(test, subtest, err)
        if err is not None:
            failed = issubclass(err[0], test.failureException)
            self._note(test, "failed" if failed else "error", f"{subtest.id()}\n{_text(err)}")


def _text(err: Any) -> str:
    return "".join(traceback.format_exception(*err))


class Recorder(DiscoverRunner):
    def get_resultclass(self) -> Any:
        return Result

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        result: Any = super().run_suite(suite, **kwargs)
        Path(os.environ["CONNPOOL_SUITE_OUTCOMES"]).write_text(json.dumps(result.outcomes))
        return result
