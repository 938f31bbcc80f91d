from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from django_connpool.status import screen
from django_connpool.status.collect import Collected
from django_connpool.status.history import History
from django_connpool.status.report import Report
from django_connpool.status.screen import BLOCKS, LETTERS, Screen
from django_connpool.status.text import sparkline
from tests.signals import ctrl_c_taken
from tests.status.samples import pool, process
from tests.status.script import ROOT
from tests.status.test_poolstatus import NOWHERE, Terminal, command, environ


def test_a_sparkline_is_empty_at_nothing_and_full_at_the_most() -> None:
    assert sparkline([0, 1, 10, 20], 20, BLOCKS) == "▁▂▅█"
    assert sparkline([0, 0], 0, BLOCKS) == "▁▁"
    assert sparkline([30], 20, LETTERS) == "#"


def test_what_is_in_use_and_waits_is_drawn_from_report_to_report() -> None:
    history = History()
    for used, waiting in ((0, 0), (5, 0), (10, 4)):
        found = process(pools=[pool(in_use=used, waiting=waiting)])
        lines = list(history.lines(Report(Collected([found])), 100, BLOCKS))
    assert lines == ["in use   ▁▅█  10 of 10", "waiting  ▁▁█  4, at most 4"]
    for _ in range(200):
        lines = list(history.lines(Report(Collected([found])), 80, BLOCKS))
    assert max(map(len, lines)) <= 80


def test_a_terminal_without_blocks_gets_letters() -> None:
    assert Screen(io.TextIOWrapper(io.BytesIO(), "latin-1")).marks == LETTERS
    assert Screen(io.TextIOWrapper(io.BytesIO(), "utf-8")).marks == BLOCKS


@pytest.mark.parametrize(
    ("out", "environment", "asked", "coloured"),
    [
        (Terminal, {}, None, True),
        (Terminal, {"NO_COLOR": "1"}, None, False),
        (Terminal, {"NO_COLOR": ""}, None, True),  # as no-color.org says
        (Terminal, {"TERM": "dumb"}, None, False),
        (Terminal, {}, False, False),
        (io.StringIO, {}, None, False),
        (io.StringIO, {"NO_COLOR": "1"}, True, True),
    ],
)
def test_colours_are_for_a_terminal_where_nobody_objects(
    monkeypatch: pytest.MonkeyPatch, out: Any, environment: Any, asked: Any, coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b" in Screen(out(), asked).paint("busy", "busy")) is coloured


# -- A real terminal ----------------------------------------------------------------------


class Watched:
    """`poolstatus --watch` on a terminal of its own."""

    def __init__(self, master: int, slave: int, process: subprocess.Popen[bytes]) -> None:
        self.master, self.slave, self.process = master, slave, process
        self.shown = b""

    def modes(self) -> Any:
        return termios.tcgetattr(self.slave)[3]

    def read_until(self, text: bytes) -> None:
        deadline = time.monotonic() + 60
        while text not in self.shown:
            assert time.monotonic() < deadline, self.shown
            self.read()

    def read(self) -> None:
        if select.select([self.master], [], [], 0.1)[0]:
            self.shown += os.read(self.master, 65536)

    def end(self) -> int:
        """Wait for its end; what it still writes has to be read, or it never ends."""
        deadline = time.monotonic() + 60
        while self.process.poll() is None:
            assert time.monotonic() < deadline, self.shown
            self.read()
        return self.process.returncode


@contextmanager
def watching(status_dir: Path) -> Iterator[Watched]:
    master, slave = pty.openpty()
    env = {**environ(status_dir, NOWHERE), "TERM": "xterm", "PYTHONIOENCODING": "utf-8"}
    with ctrl_c_taken():
        process = subprocess.Popen(
            command("--watch", "0.05"),
            cwd=ROOT,
            env={name: value for name, value in env.items() if name != "NO_COLOR"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=lambda: os.tcsetpgrp(0, os.getpgrp()) if _take(0) else None,
        )
    with process:
        try:
            yield Watched(master, slave, process)
        finally:
            process.kill()
            os.close(slave)
            os.close(master)


def _take(descriptor: int) -> bool:
    """Make it the controlling terminal of this session, whose Ctrl-C is a signal."""
    import fcntl

    fcntl.ioctl(descriptor, termios.TIOCSCTTY, 0)
    return True


@pytest.mark.e2e
@pytest.mark.parametrize("key", [b"q", b"Q", b"xyzq", b"\x03"])
def test_a_key_ends_it_and_the_terminal_is_as_it_was(status_dir: Path, key: bytes) -> None:
    with watching(status_dir) as watched:
        before = watched.modes()
        watched.read_until(b"\x1b[J\x1b[H")  # drawn twice
        assert not watched.modes() & (termios.ECHO | termios.ICANON)
        os.write(watched.master, key)
        assert watched.end() == 0
        assert watched.modes() == before
        assert b"Traceback" not in watched.shown


@pytest.mark.e2e
def test_a_signal_to_end_leaves_the_terminal_as_it_was_too(status_dir: Path) -> None:
    with watching(status_dir) as watched:
        before = watched.modes()
        watched.read_until(b"\x1b[J\x1b[H")
        watched.process.send_signal(signal.SIGTERM)
        assert watched.end() == 128 + signal.SIGTERM
        assert watched.modes() == before


def test_a_wait_is_cut_in_breaths(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes between Python's last look and the system's call does not end that."""
    clock, breaths = 0.0, []

    def wait(keys: list[int], _: Any, __: Any, seconds: float) -> tuple[list[int], ...]:
        nonlocal clock
        clock += seconds
        breaths.append(seconds)
        return [], [], []

    monkeypatch.setattr(screen, "select", SimpleNamespace(select=wait))
    monkeypatch.setattr(screen, "time", SimpleNamespace(monotonic=lambda: clock))
    assert Screen(Terminal()).wait(30.0)
    assert clock == pytest.approx(30.0)
    assert max(breaths) == screen.BREATH < 1


def test_a_line_is_cut_where_the_terminal_ends_and_colours_take_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "10")
    monkeypatch.setenv("LINES", "5")
    monkeypatch.setenv("TERM", "xterm")
    out = Terminal()
    out.write = lambda text, ending="": io.StringIO.write(out, text)  # type: ignore[assignment]
    terminal = Screen(out, True)
    terminal.draw(terminal.paint("well", "well") + ": " + "x" * 20)
    assert "\x1b[32mwell\x1b[0m: xxxx\x1b[0m\x1b[K\n" in out.getvalue()
