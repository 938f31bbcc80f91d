"""Where an interrupt is tried: at each line before which the interpreter may look for signals."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import RLock
from types import FrameType
from typing import Any

import pytest

from tests.interrupter import Interrupter, is_safe

# Each line says whether an interrupt strikes there. `call` is Python code.
CODE = {
    "a lock taken by hand, and given back first": """
        def run(self):
            lock = self.lock                # strikes
            try:
                lock.acquire()              # strikes
                self.call()                 # strikes
            finally:
                try:
                    lock.release()
                except RuntimeError:        # strikes
                    raise                   # strikes
    """,
    "a lock given back after something else": """
        def run(self):
            lock = self.lock                # strikes
            try:
                lock.acquire()              # strikes
            finally:
                self.call()                 # strikes
                with suppress(RuntimeError):  # strikes
                    lock.release()          # strikes
    """,
    "another lock than the one that was taken": """
        def run(self):
            other = self.other              # strikes
            other.acquire()                 # strikes
            try:
                self.lock.acquire()         # strikes
            finally:
                other.release()             # strikes
            self.lock.release()             # strikes
    """,
    "a block that holds a lock": """
        def run(self):
            with self.lock:                 # strikes: before, and not after
                self.call()                 # strikes
            self.call()                     # strikes
    """,
    "what was counted is counted back": """
        def run(self):
            self.count += 1                 # strikes
            try:
                self.call()                 # strikes
            finally:
                self.count -= 1
                self.call()                 # strikes
    """,
    "what was counted is counted back after something else": """
        def run(self):
            self.count += 1                 # strikes
            try:
                self.call()                 # strikes
            finally:
                self.call()                 # strikes
                self.count -= 1             # strikes
    """,
    "a note that comes first": """
        def run(self):
            with suppress(LookupError):     # strikes
                try:
                    self.fail()             # strikes
                except BaseException:
                    if self.count:
                        self.count = 0
                    self.notes.append(1)
                    self.call()             # strikes
                    raise                   # strikes
    """,
    "a note that comes after something else": """
        def run(self):
            with suppress(LookupError):     # strikes
                try:
                    self.fail()             # strikes
                except BaseException:       # strikes
                    self.call()             # strikes
                    self.notes.append(1)    # strikes
                    raise                   # strikes
    """,
    "a note that is made by Python code": """
        def run(self):
            with suppress(LookupError):     # strikes
                try:
                    self.fail()             # strikes
                except BaseException:       # strikes
                    self.note()             # strikes
                    raise                   # strikes
    """,
    "a note of what does not catch everything": """
        def run(self):
            try:
                self.fail()                 # strikes
            except LookupError:             # strikes
                self.notes.append(1)        # strikes
    """,
}


# Reached by no interrupt: what only follows an error that does not come.
UNREACHED = ("raise", "except RuntimeError:")


class Subject:
    """What the code above is a method of."""

    def __init__(self) -> None:
        self.lock, self.other = RLock(), RLock()
        self.notes: deque[int] = deque()
        self.count = 1

    def call(self) -> None:
        pass

    note = call

    def fail(self) -> None:
        raise LookupError


@pytest.mark.parametrize("name", CODE)
def test_it_strikes_where_an_interrupt_can(name: str, tmp_path: Path) -> None:
    path = tmp_path / "code.py"
    path.write_text(textwrap.dedent(CODE[name]))
    space: dict[str, Any] = {"suppress": suppress}
    exec(compile(path.read_text(), str(path), "exec"), space)

    def is_of_the_code(frame: FrameType) -> bool:
        return frame.f_code.co_filename == str(path)

    def run(n: int) -> str:
        interrupt = Interrupter(n, KeyboardInterrupt, is_of_the_code, is_safe)
        with suppress(KeyboardInterrupt, LookupError, RuntimeError), interrupt:
            space["run"](Subject())
        return interrupt.where

    struck = set()
    for n in itertools.count(1):
        # In a thread of its own, where an error is then handled for ever (see `is_safe`): here, it
        # would be the context of each error of the tests that follow.
        with ThreadPoolExecutor(1) as thread:
            where = thread.submit(run, n).result()
        if not where:
            break
        struck.add(int(where.partition(" < ")[0].partition(":")[2]))
    for number, line in enumerate(path.read_text().splitlines(), 1):
        code, _, comment = line.partition("#")
        if code.strip() not in UNREACHED or number in struck:
            assert (number in struck) == comment.startswith(" strikes"), line
    assert sys.exc_info()[1] is None, (
        "the report of each test that fails from here on begins with it"
    )


def test_who_traced_before_goes_on_afterwards() -> None:
    def trace(*_: object) -> None:
        pass

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with Interrupter(1, KeyboardInterrupt, lambda frame: False, is_safe):
            pass
        assert sys.gettrace() is trace, "nobody measures the coverage of the tests that follow"
    finally:
        sys.settrace(before)
