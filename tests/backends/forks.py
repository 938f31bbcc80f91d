"""Processes that fork with a loan in hand: `python -W error -m tests.backends.forks NAME`.

They need DATABASE_URL, and say what they found as a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

ROUNDS = 60


def idle() -> dict[str, Any]:
    """Parent and child query at the same time, the child at once."""
    return _both(_answers)


def in_atomic() -> dict[str, Any]:
    """The child of a process that is in the middle of a transaction."""
    from django.db import connection, transaction

    with transaction.atomic():
        _pid()
        found = _both(_error)
        found["parent"] = connection.in_atomic_block and _pid() == found["pid"]
    return found


def out_of_atomic() -> dict[str, Any]:
    """The child leaves the block it was born in and begins a transaction of its own."""
    from django.db import transaction

    def again() -> Any:
        block.__exit__(None, None, None)
        with transaction.atomic():
            return _answers()

    block = transaction.atomic()
    block.__enter__()
    _pid()
    found = _both(again)
    found["parent"] = _answers()
    block.__exit__(None, None, None)
    return found


def with_threads() -> dict[str, Any]:
    """The parent's threads hold loans of their own, and go on."""
    from django.db import connections

    from django_connpool import hold

    go_on, results = threading.Event(), []
    together = threading.Barrier(3)

    def work() -> None:
        with hold("request"):  # or the one who forks takes it, where opening another takes long
            first = _pid()
            together.wait(15)
            go_on.wait(15)
            results.append(_answers() and _pid() == first)
        connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    together.wait(15)
    found = _both(_answers)
    go_on.set()
    for thread in threads:
        thread.join(15)
    return {**found, "threads": results}


def with_credentials() -> dict[str, Any]:
    """A thread of the parent's waits for its credentials, and has the lock."""
    from tests import inside

    asked, go_on, told = threading.Event(), threading.Event(), []

    def ask(parameters: dict[str, Any]) -> str:
        if os.getpid() != parent:
            return "of the child"
        asked.set()
        go_on.wait(30)
        return "of the parent"

    def login() -> str:
        return str(credentials.open_with({}, lambda parameters: parameters["password"]))

    parent = os.getpid()
    credentials = inside.credentials(ask, 60)
    thread = threading.Thread(target=lambda: told.append(login()))
    thread.start()
    asked.wait(30)
    found = _both(login)
    go_on.set()
    thread.join()
    return {**found, "parent": told[0]}


def listening() -> dict[str, Any]:
    """Parent and child use the listener that the parent has made."""
    import django_connpool

    def tell(payload: str) -> None:
        from django.db import connection

        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_notify('forks', %s)", [payload])

    def in_child() -> Any:
        first = listener.get(30)
        tell("for the child")
        then = listener.get(30)
        return {
            "first": "gap" if first.missed else first.payload,
            "then": then.payload,
            "pid_is_another": then.pid == _pid(),
        }

    with django_connpool.listen("default", "forks") as listener:
        found = _both(in_child)
        heard = [listener.get(30).payload for _ in range(1)]
        tell("after")
        heard.append(listener.get(30).payload)
    return {**found, "parent": heard}


def listening_within() -> dict[str, Any]:
    """The same, with a listener that counts in `max_size`."""
    from django.db import connection

    connection.settings_dict["OPTIONS"]["pool"] = {"max_size": 2, "listen_counts": True}
    return listening()


def announced() -> dict[str, Any]:
    """Whether `pool_created` is sent in the child, for its pool."""
    from django_connpool import registry, signals

    def sent() -> Any:
        seen: list[Any] = []
        signals.pool_created.connect(lambda pool, **kwargs: seen.append(pool), weak=False)
        _pid()
        _pid()
        return seen == [pool for _, pool in registry.live()]

    return _both(sent)


def _both(in_child: Callable[[], Any]) -> dict[str, Any]:
    """Fork with a loan in hand; what the child found, and whether the parent is unharmed."""
    first = _pid()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        _tell(writing, in_child)
    os.close(writing)
    unharmed = _answers() if in_child is _answers else True
    with os.fdopen(reading) as pipe:
        found = json.load(pipe)
    os.waitpid(child, 0)
    return {"child": found, "parent": unharmed and _answers() and _pid() == first, "pid": first}


def _tell(writing: int, work: Callable[[], Any]) -> None:
    try:
        with os.fdopen(writing, "w") as pipe:
            json.dump(work(), pipe)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def _answers() -> bool:
    """Whether each answer is that to the question asked."""
    return all(_ask(f"SELECT {os.getpid()} * 1000 + {n}") % 1000 == n for n in range(ROUNDS)) and (
        _ask(f"SELECT {os.getpid()}") == os.getpid()
    )


def _error() -> str:
    try:
        _pid()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def _pid() -> int:
    return _ask("SELECT pg_backend_pid()")


def _ask(query: str) -> int:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(query)
        return int(cursor.fetchone()[0])


SCRIPTS: dict[str, Callable[[], dict[str, Any]]] = {
    script.__name__: script
    for script in (
        idle,
        in_atomic,
        out_of_atomic,
        with_threads,
        with_credentials,
        listening,
        listening_within,
        announced,
    )
}

if __name__ == "__main__":
    import django

    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    print(json.dumps(SCRIPTS[sys.argv[1]]()))
