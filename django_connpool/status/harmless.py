"""What a text may keep of itself that goes to strangers: words that are known, and numbers.

`public` in redaction.py is for the log of the site itself, which may name its hosts and its users.
Here nothing stays that is not known to be harmless: a text loses all its words rather than one of
somebody's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from django_connpool.redaction import without_values
from django_connpool.session.statements import KINDS

HIDDEN = "***"

# What is told of an error or a report: which of these are in it. Nothing else of it is.
PHRASES = (
    # of libpq and the operating system
    *("Connection refused", "Connection reset by peer", "No such file or directory"),
    *("Name or service not known", "Temporary failure in name resolution", "No route to host"),
    *("could not translate host name", "failed to resolve host", "Network is unreachable"),
    *("timeout expired", "Connection timed out", "Permission denied", "Too many open files"),
    *("server closed the connection unexpectedly", "the connection is closed", "SSL", "GSSAPI"),
    *("certificate", "no password supplied", "read-only", "invalid connection option"),
    # of the server, and of poolers
    *("password authentication failed", "no pg_hba.conf entry", "does not exist"),
    *("permission denied", "is not permitted to log in", "too many clients already"),
    *("too many connections", "remaining connection slots are reserved", "starting up"),
    *("shutting down", "recovery", "not yet accepting connections", "no more connections allowed"),
    *("is not currently accepting connections", "terminating connection", "query_wait_timeout"),
    *("no such database", "unsupported startup parameter", "server login failed"),
    *("canceling statement", "deadlock detected", "cached plan must not change result type"),
    # of ours
    *("connecting failed", "no connection became free within", "On loan to", "is suspended"),
    *("This thread holds one of them itself", "raise max_size", "for priority work"),
    *("borrowers wait already", "no connection for", "on loan for", "borrowed at"),
    *("was never given back", "was given back in", "rolling back", "closing it"),
    *("could not be cleaned", "cleaning a session failed", "every session is cleaned"),
    *("failed its check", "could not be rolled back", "longer than command_timeout"),
    *("replacing every connection", "a pooler seems to stand", "giving back what was on offer"),
    *("closing a connection failed", "goes unseen", "may go unseen", "enable-threads"),
    *("is not kept, only max_size is", "its bound cannot be kept", "two bounds for"),
    *("the connection that listens was lost", "connecting to listen failed"),
    *("credentials", "did not answer within", "could not be asked", "is not JSON"),
    *("speaks status version", "without a usable", "without an answer", "by too many at once"),
    *("open to other users", "is not a directory", "symbolic link", "belongs to"),
)
_STATE = re.compile(r"\b(?=[0-9A-Z]*[0-9])[0-9A-Z]{5}\b")

_TIES = {
    *KINDS.values(),
    *("in a transaction", "in use", "autocommit was switched", "cursors"),
    *("the connection object was changed", "shared by threads", "taken by reading `connection`"),
}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
# Names that a thread has when nobody has given it one. A task's may be anything.
_THREAD = re.compile(
    r"MainThread|Thread-\d+|ThreadPoolExecutor-\d+_\d+|asyncio_\d+|Dummy-\d+"
    r"|uWSGIWorker\d+Core\d+|thread \d+ \(ended\)"
)
_LINE = re.compile(r"(.*):(\d+) in (.+)", re.DOTALL)
_INSTALLED = ("/site-packages/", "/dist-packages/")
_FOREIGN_TO_A_PATH = re.compile(r"[^\w./<>@+-]")
# Options of servers and runners that tell how many borrowers there are, with values that are no
# more than that.
_OPTIONS = {
    *("-w", "--workers", "--threads", "-k", "--worker-class", "--timeout", "--graceful-timeout"),
    *("--max-requests", "--preload", "--keep-alive", "--worker-connections", "--reload"),
    *("-c", "--concurrency", "-P", "--pool", "--processes", "--enable-threads", "--lifespan"),
    *("--limit-concurrency", "--noreload", "--nothreading", "--loop", "--http"),
}
_VALUE = re.compile(
    r"\d{1,5}|sync|gthread|gevent|eventlet|prefork|threads|solo|auto|on|off|uvloop|asyncio|tornado"
)
_PROGRAMS = {
    *("gunicorn", "uvicorn", "daphne", "hypercorn", "granian", "uwsgi", "waitress-serve"),
    *("celery", "manage.py", "django-admin", "python", "pytest", "huey_consumer", "rq"),
    *("runserver", "shell", "worker", "beat", "test", "migrate", "poolstatus", "run_huey"),
    *("rqworker", "qcluster", "runworker", "rundramatiq", "db_worker", "process_tasks"),
}
_VERSION = re.compile(r"\d+(?:\.\d+)*(?:(?:devel|beta|rc|a|b|\.post|\.dev)\d*)*(?:\+g[0-9a-f]+)?")


def phrases(text: str) -> str:
    """What is known in a text of somebody's, and which of PostgreSQL's states it names."""
    found = [phrase for phrase in PHRASES if phrase in text]
    found += [state for state in dict.fromkeys(_STATE.findall(text)) if _is_a_state(state)]
    return "; ".join(found) or HIDDEN


def _is_a_state(code: str) -> bool:
    try:
        psycopg.errors.lookup(code)
    except KeyError:
        return False
    return True


def line(text: str) -> str:
    """A line of code, its path from where packages are installed, else its last two parts."""
    read = _LINE.fullmatch(text)
    if read is None:
        return HIDDEN
    path, number, function = read.groups()
    for folder in _INSTALLED:
        if folder in path:
            shown = path.rpartition(folder)[2]
            break
    else:
        shown = "/".join(path.split("/")[-2:])
    shown, function = (_FOREIGN_TO_A_PATH.sub("?", part) for part in (shown, function))
    return f"{shown}:{number} in {function}"


def note(text: str) -> str:
    """What a loan is for: the method of a request. Its path, and the name of a job, may hold keys
    and addresses.
    """
    method = text.partition(" ")[0]
    return f"{method} {HIDDEN}" if method in _METHODS else HIDDEN


def thread(text: str) -> str:
    """The name of a thread, if nobody has given it one; Python adds what it runs to its own."""
    name = text.partition(" (")[0] if not text.endswith("(ended)") else text
    return name if _THREAD.fullmatch(name) else HIDDEN


def ties(text: str) -> str:
    """Why a loan is kept."""
    return ", ".join(one if one in _TIES else HIDDEN for one in text.split(", "))


def command(text: str) -> str:
    """A command line: the known programs, options and values in it."""
    shown: list[str] = []
    before = ""
    for word in text.split():
        option, _, value = word.partition("=")
        if option in _OPTIONS:
            shown.append(option + (f"={_value(value)}" if value else ""))
        elif (before in _OPTIONS and _VALUE.fullmatch(word)) or (
            # What follows an option that is not known may be its value.
            word in _PROGRAMS and not before.startswith("-")
        ):
            shown.append(word)
        elif not shown or shown[-1] != HIDDEN:
            shown.append(HIDDEN)
        before = word
    return " ".join(shown)


def _value(text: str) -> str:
    return text if _VALUE.fullmatch(text) else HIDDEN


def version(text: str) -> str:
    """The number that a version begins with."""
    read = _VERSION.match(text)
    return read[0] if read else HIDDEN


def one_of(words: Iterable[str]) -> Callable[[str], str]:
    """A reader that keeps these words and no other text."""
    known = frozenset(words)
    return lambda text: text if text in known else HIDDEN


def statement(text: str) -> str:
    """A statement. It comes without values from a pool, but who answered may be anybody."""
    return without_values(text)


# How the text at a key is read. At any other it is hidden.
READERS: dict[str, Callable[[str], str]] = {
    "at": line,
    "command": command,
    "error": phrases,
    "kind": one_of(("starting", "full", "refused", "unfit")),
    "last_error": phrases,
    "note": note,
    "pinned": ties,
    "problem": phrases,
    "refused": phrases,
    "role": one_of(("", "priority", "background")),
    "statement": statement,
    "taken_at": line,
    "text": phrases,
    "thread": thread,
    "transaction": one_of(TransactionStatus.__members__),
    "version": version,
}


class Reading:
    """One document, in which a host goes by the same number wherever it stands."""

    def __init__(self, names: Iterable[str]) -> None:
        """`names`: the aliases of databases, which stay."""
        name = one_of((*names, "host_max_size", "max_size"))
        self._hosts: list[str] = []
        self._readers = {
            **READERS,
            **dict.fromkeys(("alias", "aliases", "name", "pool"), name),
            "host": self._host,
        }

    def of(self, found: Any, key: str = "") -> Any:
        """The same, without the texts that nothing is known of. `key`: where it stands."""
        if found is None or isinstance(found, (bool, int, float)):
            return found
        if isinstance(found, str):
            reader = self._readers.get(key)
            return reader(found) if reader is not None else HIDDEN
        if isinstance(found, dict):
            return {str(name): self.of(value, str(name)) for name, value in found.items()}
        if isinstance(found, (list, tuple)):
            return [self.of(one, key) for one in found]
        return HIDDEN

    def _host(self, name: str) -> str:
        if name not in self._hosts:
            self._hosts.append(name)
        return f"host {self._hosts.index(name) + 1}"
