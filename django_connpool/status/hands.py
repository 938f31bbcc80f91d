"""What may be done to the pools of a running process, here and from another process.

A command is `{"do": one of VERBS, "pool": an alias or a name, "size": for resize, "loan": for
cancel}`, the answer `{"ok": bool, "text": str}`. Without "pool" all pools of the process are meant.
A loan is named by the pid of its backend; with "number", that of the loan, a later loan of the same
connection is left alone. Between processes both are one line of JSON on a socket of its own.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from django_connpool import registry
from django_connpool.connection_pool import ConnectionPool
from django_connpool.redaction import one_line
from django_connpool.status import directory
from django_connpool.status.text import clean, plural

logger = logging.getLogger("django_connpool.status")

LONGEST = 65536  # bytes of a command, and of an answer
MOST = 100_000  # connections that a pool may be told to have; a server has far fewer
READ_SECONDS = 1.0  # for a client that does not write: others wait for their turn
CANCEL_SECONDS = 5.0  # for the request to get to the server


class Refused(Exception):
    """What cannot be done; the text says why."""


# -- Here ---------------------------------------------------------------------------------


def perform(command: dict[str, Any]) -> dict[str, Any]:
    """Do what a command says to the pools of this process. Never raises."""
    try:
        do = _VERBS.get(command["do"]) if isinstance(command.get("do"), str) else None
        if do is None:
            raise Refused(f"unknown command {command.get('do')!r}: it is one of {', '.join(VERBS)}")
        text = do(_pools(command.get("pool")), command)
    except Refused as refusal:
        return {"ok": False, "text": clean(refusal)}
    except Exception as error:  # a closed pool's, an impossible size's, the server's
        return {"ok": False, "text": clean(one_line(error))}
    logger.info("as asked from outside: %s", text)
    return {"ok": True, "text": clean(text)}


_Pools = list[ConnectionPool[Any]]


def _pools(wanted: object) -> _Pools:
    """The pools of this process that are meant."""
    live = registry.live()
    found = [pool for aliases, pool in live if wanted in (None, "", pool.name, *aliases)]
    if not found:
        which = f"no pool {wanted!r}" if wanted else "no pool"
        raise Refused(f"pid {os.getpid()} has {which}")
    return found


def _names(pools: _Pools) -> str:
    return ", ".join(pool.name for pool in pools)


def _drain(pools: _Pools, command: dict[str, Any]) -> str:
    for pool in pools:
        pool.drain()
    return f"{_names(pools)}: every connection is replaced, those on loan when they come back"


def _resize(pools: _Pools, command: dict[str, Any]) -> str:
    size = _number(command, "size")
    if size > MOST:
        raise Refused(f"a pool has at most {MOST} connections")
    for pool in pools:
        pool.resize(min(pool.min_size, size), size)
    text = f"{_names(pools)}: max_size is {size}, until the process ends"
    small = [str(pool.min_size) for pool in pools if pool.min_size == size]
    text += f" (and min_size {size})" if small else ""
    less = {
        (bound["name"], bound["most"])
        for pool in pools
        for bound in pool.snapshot().get("bounds") or ()
        if bound["kept"] and bound["most"] < size
    }
    return "; ".join([text, *(f"{name} ({most}) still holds" for name, most in sorted(less))])


def _suspend(pools: _Pools, command: dict[str, Any]) -> str:
    for pool in pools:
        pool.suspend()
    return f"{_names(pools)}: nothing more is lent until it is resumed; borrowers wait"


def _resume(pools: _Pools, command: dict[str, Any]) -> str:
    for pool in pools:
        pool.resume()
    return f"{_names(pools)}: lends again"


def _close_idle(pools: _Pools, command: dict[str, Any]) -> str:
    for pool in pools:
        pool.close_idle()
    return f"{_names(pools)}: what is idle is closed, but for min_size"


def _cancel(pools: _Pools, command: dict[str, Any]) -> str:
    backend = _number(command, "loan")
    for pool in pools:
        found = [one for one in pool.snapshot()["loans"] if one["backend_pid"] == backend]
        if not found:
            continue
        number = command.get("number")
        held = f"{pool.name}: backend {backend} ({found[0]['note'] or 'no request'})"
        if pool.cancel(backend, number if isinstance(number, int) else None, CANCEL_SECONDS):
            return f"{held}: the server is asked to cancel its statement"
        raise Refused(f"{held} is in no statement: there is nothing to cancel")
    raise Refused(f"{_names(pools)}: backend {backend} is not on loan")


def _number(command: dict[str, Any], key: str) -> int:
    value = command.get(key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refused(f"{command['do']} needs {key!r}, a whole number")
    return value


_VERBS: dict[str, Callable[[_Pools, dict[str, Any]], str]] = {
    "drain": _drain,
    "resize": _resize,
    "suspend": _suspend,
    "resume": _resume,
    "cancel": _cancel,
    "close-idle": _close_idle,
}
VERBS = tuple(_VERBS)


# -- For another process ------------------------------------------------------------------


def serve(client: socket.socket) -> None:
    """Read a command from a client, do it, and answer."""
    try:
        said = _line(client, READ_SECONDS)  # also of a stranger: unread, it would cost the answer
        if not _is_same_user(client):
            raise Refused("only the user of this process may command it")
        command = json.loads(said)
        if not isinstance(command, dict):
            raise ValueError
        answer = perform(command)
    except Refused as refusal:
        answer = {"ok": False, "text": str(refusal)}
    except TimeoutError:
        answer = {"ok": False, "text": f"no command came within {READ_SECONDS:g} s"}
    except (ValueError, RecursionError):
        answer = {"ok": False, "text": "a command is one line of JSON, an object"}
    client.settimeout(READ_SECONDS)
    client.sendall(json.dumps(answer).encode() + b"\n")


def _is_same_user(client: socket.socket) -> bool:
    """Whether it is this process's user who is connected.

    Where the system does not tell (it is not Linux), the modes of socket and directory are all.
    """
    asked = getattr(socket, "SO_PEERCRED", None)
    if asked is None:
        return True
    _, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, asked, 12))
    return bool(uid == os.geteuid())


def _line(connected: socket.socket, seconds: float) -> bytes:
    """What comes until the end of a line, or until nothing more comes. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    said = bytearray()
    while not said.endswith(b"\n") and len(said) <= LONGEST:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connected.settimeout(left)
        chunk = connected.recv(LONGEST)
        if not chunk:
            break
        said += chunk
    if len(said) > LONGEST:
        raise ValueError(f"more than {LONGEST} bytes")
    return bytes(said)


def send(pid: int, command: dict[str, Any], timeout: float = 10.0) -> dict[str, Any]:
    """Have another process of this project do it; `timeout` seconds for all. Never raises."""
    if pid == os.getpid():
        return perform(command)
    try:
        path = _path_of(pid)
        deadline = time.monotonic() + timeout
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(timeout)
            asking.connect(os.fspath(path))
            asking.sendall(json.dumps(command).encode() + b"\n")
            answer = json.loads(_line(asking, deadline - time.monotonic()))
        return {"ok": bool(answer["ok"]), "text": clean(answer["text"])}
    except Refused as refusal:
        return {"ok": False, "text": str(refusal)}
    except TimeoutError:
        problem = f"did not answer within {timeout:g} s: it may do so later"
    except BlockingIOError:
        problem = "is asked by too many at once"
    except (FileNotFoundError, ConnectionRefusedError):
        problem = "is gone"
    except (OSError, ValueError, TypeError, KeyError) as error:
        problem = f"gave no usable answer: {error}"
    return {"ok": False, "text": clean(f"pid {pid} {problem}")}


def _path_of(pid: int) -> Path:
    """The socket for commands of a process of this project."""
    found: list[Path] = []
    told = False  # whether it has a socket at all
    for place in directory.candidates():
        try:
            directory.verify(place)
            for name, path in directory.sockets(place):
                if name.pid == pid and name.is_of_this_project:
                    told = True
                    if (hand := path.with_suffix(directory.HAND)).is_socket():
                        found.append(hand)
        except (OSError, directory.UnsafeDirectory):
            continue
    if len(found) == 1:
        return found[0]
    if found:
        own = directory.socket_path(found[0].parent, pid).with_suffix(directory.HAND)
        if own in found:
            return own
        raise Refused(f"{plural(len(found), 'process', 'processes')} are pid {pid}, in containers")
    if told:
        raise Refused(f"pid {pid} runs an earlier version, which takes no commands")
    raise Refused(f"no process {pid} of this project has a connection pool")
