"""The sockets of a process: one tells what its pools do, the other is told what to do with them.

Who connects to the first is sent the document and need not say a word; see collect.py. Commands
have a socket of their own beside it, so that nobody waits for a client that never writes.
"""

from __future__ import annotations

import atexit
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path

from django_connpool.process import forks, threads, uwsgi
from django_connpool.process.background import NEVER, background
from django_connpool.status import directory, hands, snapshot

logger = logging.getLogger("django_connpool.status")

BACKLOG = 128
CLIENT_SECONDS = 0.25  # for a client that does not read its answer: others wait for theirs
ACCEPT_PAUSE = 0.1  # seconds
THREAD_PAUSE = 1.0  # seconds, when there are no more threads to be had


class Listener:
    """A socket, and how each of its clients is served.

    The thread that looks after all pools sees that somebody asks. Whoever does is answered in a
    thread of its own, one after the other, and the socket is not looked at meanwhile.
    """

    def __init__(self, path: Path, serve: Callable[[socket.socket], None]) -> None:
        self.path = path
        self._serve = serve
        self._failure = ""  # why the last answer could not be given
        self._is_closed = False
        self._socket = _listen(path)
        self._ticket = background.join(self)
        with ExitStack() as unless_done:
            unless_done.callback(self._vanish)
            background.read(self._socket, self._have_answered)
            unless_done.pop_all()

    def _have_answered(self) -> None:
        background.unread(self._socket)
        thread = threading.Thread(
            target=self._answer_all, name="django-connpool-status", daemon=True
        )
        if not threads.start(thread):  # and this one has other work
            self._ticket.by(time.monotonic() + THREAD_PAUSE)

    def run(self, now: float) -> float:
        """Look at the socket again: a task of the background thread."""
        if not self._is_closed:
            background.read(self._socket, self._have_answered)
        return NEVER

    def _answer_all(self) -> None:
        while self.answer():
            pass
        if not self._is_closed:
            background.read(self._socket, self._have_answered)
        if self._is_closed:  # by now
            background.unread(self._socket)

    def answer(self) -> bool:
        """Serve one client, if there is any; say whether there was. Never raises."""
        try:
            client, _ = self._socket.accept()
        except BlockingIOError:
            return False
        except OSError:
            # Out of descriptors, perhaps. The client still waits, so the socket is still readable,
            # and somebody would come back here at once for as long as that lasts.
            time.sleep(ACCEPT_PAUSE)
            return False
        with client:
            try:
                client.settimeout(CLIENT_SECONDS)
                self._serve(client)
                client.shutdown(socket.SHUT_WR)  # a child forked meanwhile has it open too
                self._failure = ""
            except OSError:
                logger.debug("a client of %s went away before it had its answer", self.path)
            except Exception as error:
                # Whoever watches asks every two seconds, and would fill the log with one failure.
                failure = f"{type(error).__name__}: {error}"
                if failure != self._failure:
                    self._failure = failure
                    logger.warning("no answer could be given on %s", self.path, exc_info=True)
        return True

    def is_there(self) -> bool:
        """Whether others can find it: what cleans up a temporary directory may have removed it."""
        return os.path.lexists(self.path)

    def close(self) -> None:
        """Answer no more and remove the socket file."""
        self._is_closed = True
        background.unread(self._socket)
        self._ticket.leave()
        self._vanish()

    def forget(self) -> None:
        """Close this process's copy only: the file belongs to the parent, which goes on."""
        self._socket.close()

    def _vanish(self) -> None:
        with suppress(OSError):
            self.path.unlink()
        self._socket.close()


_lock = threading.Lock()
_listeners: list[Listener] = []
_warned = False


def start(**kwargs: object) -> None:
    """Begin to answer, once a process; anew, if its sockets were removed.

    A receiver of `signals.connecting`. Not in a process of uWSGI's in which no thread would be
    there to answer. Never raises: a process whose status cannot be asked logs that and serves on.
    It is a warning from one process, and information from those of the next minutes that say the
    same.
    """
    global _warned
    if not hasattr(socket, "AF_UNIX") or uwsgi.is_loading() or uwsgi.stands_still():
        return
    with _lock:
        if _listeners and all(listener.is_there() for listener in _listeners):
            return
        _close_all()
        try:
            path = directory.socket_path(directory.prepare(), os.getpid())
            started = time.time()
            # First the one that the other's clients go on to.
            _listeners.append(Listener(path.with_suffix(directory.HAND), hands.serve))
            _listeners.append(Listener(path, lambda client: _tell(client, started)))
        except Exception as error:
            _close_all()
            if not _warned:
                _warned = True
                # Workers that come and go have all the same to say.
                level = logging.INFO if directory.was_said(str(error)) else logging.WARNING
                logger.log(level, "poolstatus will not see pid %d: %s", os.getpid(), error)


def stop() -> None:
    """Answer no more. Does nothing in a process that does not answer."""
    with _lock:
        _close_all()


def _close_all() -> None:
    while _listeners:
        _listeners.pop().close()


def _tell(client: socket.socket, started: float) -> None:
    client.sendall(json.dumps(snapshot.take(started), default=str).encode())


def _listen(path: Path) -> socket.socket:
    # Bound under another name and renamed when it listens: whoever collects takes a socket that
    # refuses for a dead process's and removes it. The rename also replaces what a dead process
    # with this pid left behind.
    unborn = path.with_suffix(".new")
    unborn.unlink(missing_ok=True)
    with ExitStack() as unless_done:
        listening = unless_done.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        unless_done.callback(unborn.unlink, missing_ok=True)
        listening.bind(os.fspath(unborn))
        unborn.chmod(0o600)  # nobody can connect yet
        listening.listen(BACKLOG)
        listening.setblocking(False)
        unborn.rename(path)
        unless_done.pop_all()
    return listening


def _after_fork_in_child() -> None:
    global _lock
    # Another thread of the parent may have held the lock, and that thread is not here.
    _lock = threading.Lock()
    while _listeners:
        _listeners.pop().forget()


atexit.register(stop)
forks.in_child(_after_fork_in_child, forks.Floor.STATUS)
