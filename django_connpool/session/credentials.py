"""What a user's callable gives to log in with: asked once for many, kept for a while, renewed."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from inspect import iscoroutine
from time import monotonic
from typing import Any, TypeVar

from psycopg import Error, OperationalError, ProgrammingError
from psycopg.pq import Conninfo

from django_connpool.process import forks
from django_connpool.redaction import named

from .refusals import refuses_credentials

T = TypeVar("T")

_SECRET = frozenset({"password", "sslpassword", "passfile"})


class Credentials:
    """What `ask` returns, a password or connection parameters, for `ttl` seconds.

    `ask` is given the parameters that a connection is opened with, under libpq's names, without
    its password. One thread asks; whoever comes meanwhile gets the same answer, or the same error.
    Nothing of this is shown by repr().
    """

    def __init__(self, ask: Callable[[dict[str, Any]], Any], ttl: float) -> None:
        self._ask = ask
        self._ttl = ttl
        # The last answer, or why there is none, and when it came. Replaced as a whole by whoever
        # has the lock; an interrupt leaves the one before.
        self._answer: _Answer | None = None
        self._begin_anew()
        _all.add(self)

    @classmethod
    def of(cls, options: Any) -> Credentials | None:
        """Those of a database's pool options, if it has any."""
        ask = options.credentials
        return None if ask is None else cls(ask, options.credentials_ttl)

    def _begin_anew(self) -> None:
        """When new, and in a forked child, where whoever had the lock does not exist."""
        # Held while the callable runs; no other lock is taken inside, but by the callable itself.
        self._lock = threading.RLock()
        self._asking = False

    def __repr__(self) -> str:
        return f"<Credentials of {named(self._ask)}>"

    def open_with(self, parameters: Mapping[str, Any], connect: Callable[[dict[str, Any]], T]) -> T:
        """Connect with what the callable says; once more with a new answer if it is refused."""
        answer = self._get(parameters)
        try:
            return connect({**parameters, **answer.found})
        except Error as error:
            if not refuses_credentials(error):
                raise
            renewed = self._get(parameters, refused=answer)
            if renewed.found == answer.found:  # each failed login counts with some servers
                raise
        return connect({**parameters, **renewed.found})

    def _get(self, parameters: Mapping[str, Any], refused: _Answer | None = None) -> _Answer:
        """The answer that holds, and is not the one that was `refused`. Raises psycopg's errors."""
        came = monotonic()
        with self._lock:
            answer = self._answer
            if answer is None or answer is refused or not answer.serves(came, self._ttl):
                answer = self._answer = self._ask_once(parameters)
        if answer.error is not None:
            text, cause = answer.error
            raise OperationalError(text) from cause
        return answer

    def _ask_once(self, parameters: Mapping[str, Any]) -> _Answer:
        """With the lock: ask the callable."""
        if self._asking:  # it has asked the database that it is to give a password for
            raise ProgrammingError(f"credentials: {named(self._ask)} needs what it is asked for")
        self._asking = True
        try:
            found = self._ask(_shown(parameters))
        except (Exception, SystemExit) as error:
            # What a signal handler raises is for the main thread. In another one sys.exit() would
            # end an attempt to connect without a word.
            is_signals = threading.current_thread() is threading.main_thread()
            if isinstance(error, SystemExit) and is_signals:
                raise
            # Without its text, which may hold anything: whoever reads a traceback finds it there.
            text = f"credentials: {named(self._ask)} raised {type(error).__name__}"
            return _Answer({}, (text, error))
        finally:
            self._asking = False
        return _Answer(self._read(found))

    def _read(self, said: Any) -> dict[str, Any]:
        name = named(self._ask)
        if iscoroutine(said):
            said.close()
        found: dict[str, Any]
        if isinstance(said, bytes):
            said = _decoded(said)
            if said is None:
                raise ProgrammingError(f"credentials: {name} returned bytes that are not UTF-8")
        if isinstance(said, Mapping):
            found = dict(said)
            if not all(isinstance(key, str) for key in found):
                raise ProgrammingError(f"credentials: {name} returned names that are no text")
        elif isinstance(said, str):
            found = {"password": said}
        else:
            raise ProgrammingError(
                f"credentials: {name} returned an object of class {type(said).__name__}: it must "
                "return a password or a dict of connection parameters"
            )
        if not found or found.get("password") == "":
            raise OperationalError(f"credentials: {name} returned nothing")
        return found


class _Answer:
    """What the callable has said, or the text and the cause of the error that it ended in."""

    __slots__ = ("at", "error", "found")

    def __init__(
        self, found: dict[str, Any], error: tuple[str, BaseException] | None = None
    ) -> None:
        self.found = found
        self.error = error
        self.at = monotonic()

    def serves(self, came: float, ttl: float) -> bool:
        """Whether it is for somebody who came then: not too old, or given while he waited."""
        return self.at >= came or (self.error is None and monotonic() < self.at + ttl)


def _decoded(said: bytes) -> str | None:
    """None if it is none: the error would have all of it."""
    try:
        return said.decode()
    except UnicodeDecodeError:
        return None


def _shown(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that are libpq's, without those that are secret."""
    known = {option.keyword.decode() for option in Conninfo.get_defaults()} - _SECRET
    return {name: value for name, value in parameters.items() if name in known}


_all: weakref.WeakSet[Credentials] = weakref.WeakSet()


def _in_child() -> None:
    for each in list(_all):
        each._begin_anew()


forks.in_child(_in_child, forks.Floor.POOLS)
