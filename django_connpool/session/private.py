"""psycopg's private names: what each means, and a plain way where it is missing.

What is asked at each statement is in fronts.py. No other file of the package has any of them:
`tests/sessions/test_private.py` sees to it, and asks old and new psycopgs whether they still mean
the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Any

from psycopg import NotSupportedError

# -- What lies in a connection's own dictionary -------------------------------------------

AUTOCOMMIT = "_autocommit"  # its autocommit mode
ADAPTERS = "_adapters"  # its `adapters`; psycopg's make them when they are first asked for
POOL = "_pool"  # the pool whose loan it is: psycopg's hook for pools
DERIVED = "_begin_statement"  # made of the isolation level and the like, to begin a transaction

# -- Adapters -----------------------------------------------------------------------------

# psycopg's maps are copied on write: as long as nobody registers anything, those of a
# connection and those of a copy of it hold the same objects.
_REGISTERED = attrgetter("_dumpers", "_dumpers_by_oid", "_loaders", "types._registry")


def registered(adapters: Any) -> object:
    """What adapters hold, to be compared; where that is not to be seen, it equals nothing else."""
    try:
        return _REGISTERED(adapters)
    except AttributeError:
        return object()


# -- Prepared statements ------------------------------------------------------------------


def forget_prepared(conn: Any) -> bool:
    """Have psycopg not believe in prepared statements that are gone, nor remove them again.

    Where it cannot be told, it goes on to believe, and the session is of no more use: False.
    """
    try:
        manager = conn._prepared
        manager.clear()
    except AttributeError:
        return False
    getattr(manager, "_to_flush", []).clear()  # from 3.3 on
    return True


# What lies in the dictionary of a connection, and is the session's, or was set when it was born.
_OF_BIRTH = ("_isolation_level", "_read_only", "_deferrable", "row_factory")
_PREPARED = "_prepared"


def share(conn: Any, twin: Any) -> None:
    """Have the async connection of a session know what the sync one knows.

    It is in autocommit mode. A psycopg that keeps what it has prepared elsewhere prepares nothing.
    """
    found, own = conn.__dict__, twin.__dict__
    own[AUTOCOMMIT] = True
    own[ADAPTERS] = conn.adapters
    for name in _OF_BIRTH:
        if name in found:
            own[name] = found[name]
    if _PREPARED in found:
        own[_PREPARED] = found[_PREPARED]
    else:
        twin.prepare_threshold = None


@contextmanager
def telling_of_rollbacks(conn: Any, tell: Callable[[], None]) -> Iterator[None]:
    """Have `tell` called at each rollback of psycopg's own in the block.

    psycopg forgets then what it has prepared. Where it does not say so, there may have been one.
    """
    manager = getattr(conn, "_prepared", None)
    clear = getattr(manager, "clear", None)
    if manager is None or clear is None:
        try:
            yield
        finally:
            tell()
        return

    def clear_and_tell() -> bool:
        tell()
        return bool(clear())

    manager.clear = clear_and_tell
    try:
        yield
    finally:
        vars(manager).pop("clear", None)


# -- Pipelines and transactions -----------------------------------------------------------


def put_in_line(conn: Any, command: bytes) -> None:
    """Have a command sent in a pipeline before what comes next.

    NotSupportedError where that is not possible, instead of what would be found without it.
    """
    try:
        execute = conn._exec_command
    except AttributeError:
        raise NotSupportedError(f"this psycopg sends no {command.decode()} in a pipeline") from None
    for _ in execute(command):  # which is only put in line
        pass


def is_in_block(conn: Any) -> bool:
    """Whether one of psycopg's `transaction()` blocks may be under way, or a two-phase commit."""
    return bool(getattr(conn, "_num_transactions", True)) or is_in_two_phase(conn)


def is_in_two_phase(conn: Any) -> bool:
    """Whether a two-phase commit may be under way."""
    return bool(getattr(conn, "_tpc", True))
