"""Asking every running process of this project for its document, all at once."""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from django_connpool.status import directory, snapshot
from django_connpool.status.document import Process, parse

TIMEOUT_SECONDS = 2.0
# A process that sends without end must not fill this one's memory.
MAX_ANSWER_BYTES = 16 * 1024 * 1024
_MAX_ASKED_AT_ONCE = 16


@dataclass(frozen=True)
class Silence:
    """A process that has a socket and gave no usable answer."""

    pid: int
    problem: str

    def __str__(self) -> str:
        return f"pid {self.pid} {self.problem}"


@dataclass(frozen=True)
class Collected:
    """What all processes of this user said, and where they were looked for."""

    processes: list[Process] = field(default_factory=list)
    silent: list[Silence] = field(default_factory=list)
    directories: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    elsewhere: int = 0  # sockets of other projects, which were not asked


def collect(timeout: float = TIMEOUT_SECONDS, *, all_projects: bool = False) -> Collected:
    """Ask every process of this project for its document; each may take `timeout` seconds.

    Removes the sockets of dead processes. A process that answers nothing usable, and a directory
    that is not safe to read, are part of the result and raise nothing.
    """
    sockets: list[tuple[directory.Name, Path]] = []
    refused: list[str] = []
    places = directory.candidates()
    for place in places:
        try:
            directory.verify(place)
            sockets += directory.sockets(place)
        except FileNotFoundError:
            continue
        except (directory.UnsafeDirectory, OSError) as refusal:
            refused.append(str(refusal))
    found = len(sockets)
    if not all_projects:
        sockets = [(name, path) for name, path in sockets if name.is_of_this_project]
    collected = Collected(directories=places, refused=refused, elsewhere=found - len(sockets))
    if not sockets:
        return collected
    with ThreadPoolExecutor(min(len(sockets), _MAX_ASKED_AT_ONCE)) as executor:
        answers = executor.map(lambda found: _ask(found[0], found[1], timeout), sorted(sockets))
        for answer in answers:
            if isinstance(answer, Silence):
                collected.silent.append(answer)
            elif answer is not None:
                collected.processes.append(answer)
    return collected


def of_host(timeout: float = 1.0) -> Collected:
    """As `collect`, and this process in any case, first: it may have no socket, or be busy."""
    found, own = collect(timeout), snapshot.take()
    others = [
        process
        for process in found.processes
        if (process["pid"], process["host"]) != (own["pid"], own["host"])
    ]
    silent = [silence for silence in found.silent if silence.pid != own["pid"]]
    return replace(found, processes=[own, *others], silent=silent)


def _ask(name: directory.Name, path: Path, timeout: float) -> Process | Silence | None:
    """The document of a process, why there is none, or None when the process is gone."""
    pid = name.pid
    try:
        asked = path.lstat()
        return parse(_read(path, timeout))
    except FileNotFoundError:
        return None
    except ConnectionRefusedError:
        if name.is_of_this_kernel:
            _remove(path, asked)
            _remove_hand(path.with_suffix(directory.HAND))
        return None
    except TimeoutError:
        return Silence(pid, f"did not answer within {timeout:g} s")
    except BlockingIOError:
        return Silence(pid, "is asked by too many at once")
    except ValueError as error:
        return Silence(pid, str(error))
    except OSError as error:
        return Silence(pid, f"could not be asked: {error.strerror or error}")


def _read(path: Path, timeout: float) -> bytes:
    deadline = time.monotonic() + timeout
    answer = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(timeout)
        asking.connect(os.fspath(path))
        while chunk := asking.recv(65536):
            answer += chunk
            if len(answer) > MAX_ANSWER_BYTES:
                raise ValueError(f"answered more than {MAX_ANSWER_BYTES} bytes")
            # 0 would mean not to wait at all, and fail with another error.
            asking.settimeout(max(deadline - time.monotonic(), 0.001))
    return bytes(answer)


def _remove_hand(path: Path) -> None:
    """Remove the other socket of a dead process; a new one may have made its own by now."""
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asked = path.lstat()
        asking.setblocking(False)
        try:
            asking.connect(os.fspath(path))
        except ConnectionRefusedError:
            _remove(path, asked)


def _remove(path: Path, asked: os.stat_result) -> None:
    """Remove a dead process's socket, unless a new process has just put its own there."""
    # Another collector may be faster.
    with suppress(FileNotFoundError):
        if os.path.samestat(asked, path.lstat()):
            path.unlink()
