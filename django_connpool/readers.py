"""How each pool option is read from the settings: a table with a row an option."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from functools import partial
from typing import Any

from django.utils.module_loading import import_string

# Milliseconds in a signed 32 bit integer: neither poll() nor statement_timeout goes further,
# and both fail on more. Longer times, infinity included, count as this (24 days, in seconds).
LONGEST = 2_147_483.0

# How long a borrower keeps its connection: until others need it, or its work or transaction ends.
RELEASES = (AUTO, REQUEST, TRANSACTION) = ("auto", "request", "transaction")
# Whether BEGIN goes to the server with the first statement of its transaction, or alone.
ROUND_TRIPS = (FEWEST, AS_DJANGO) = ("fewest", "as django")

# What stands at the other end of a connection; see session/pooler.py.
BEHIND = (AUTO, SERVER, PGBOUNCER) = ("auto", "server", "pgbouncer")

ON_WORDS = frozenset({"true", "yes", "on", "1"})
OFF_WORDS = frozenset({"false", "no", "off", "0"})

# A reader returns an option's value from what the settings say, which is text where it came
# from a URL. It raises ValueError with a sentence that says what is allowed.
Reader = Callable[[Any], Any]


def word(value: Any) -> str:
    """Return a value as the lower-case word a URL would have for it."""
    return str(value).strip().lower() if isinstance(value, (str, int)) else ""


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError("not a number")
    return float(value)


def _count(least: int) -> Reader:
    def read(value: Any) -> int:
        if isinstance(value, (int, str)) and not isinstance(value, bool):
            try:
                count = int(value)
            except ValueError:
                count = least - 1
            if count >= least:
                return count
        raise ValueError(f"It must be a whole number, {least} or more.")

    return read


def _seconds(value: Any) -> float:
    return _time(value, "It must be a number of seconds, 0 or more.", 0.0)


def _seconds_above_0(value: Any) -> float:
    return _time(value, "It must be a number of seconds above 0.", math.ulp(0.0))


def _time(value: Any, allowed: str, least: float) -> float:
    try:
        seconds = _number(value)
    except (OverflowError, ValueError):
        raise ValueError(allowed) from None
    if not seconds >= least:  # also true of nan
        raise ValueError(allowed)
    return min(seconds, LONGEST)


def _command_timeout(value: Any) -> float | None:
    allowed = "It must be a number of seconds, 0.001 or more, or None (or 0) for no limit."
    seconds = _time(value, allowed, 0.0)
    # The server counts milliseconds: less than one would become 0 there, which is no limit.
    if 0.0 < seconds < 0.001:
        raise ValueError(allowed)
    return seconds or None


def _share(value: Any) -> float:
    allowed = "It must be a number from 0 up to, not including, 1."
    share = _time(value, allowed, 0.0)
    if share >= 1.0:
        raise ValueError(allowed)
    return share


def _background(value: Any) -> int | str:
    """Read the most that background work may have: a number, or a share such as "60%"."""
    text = str(value).strip() if isinstance(value, (int, str)) else ""
    share = text.removesuffix("%").strip()
    if share.isascii() and share.isdigit() and not isinstance(value, bool) and int(share) >= 1:
        if not text.endswith("%"):
            return int(share)
        if int(share) <= 100:
            return f"{int(share)}%"
    raise ValueError('It must be a whole number, 1 or more, or a share such as "60%".')


def background_most(value: Any, of: int) -> int | None:
    """How many of so many connections that is, at least one. Raises ValueError."""
    if value is None:
        return None
    most = _background(value)
    if isinstance(most, str):
        return max(1, of * int(most.removesuffix("%")) // 100)
    return min(most, of)


def _text(value: Any) -> str | None:
    # An int too: the readers of database URLs turn digits into one.
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise ValueError("It must be text or None.")
    return str(value) or None


def _callable(value: Any) -> Callable[..., Any]:
    if isinstance(value, str) and "." in value:
        value = _imported(value)
    if not callable(value):
        raise ValueError("It must be a callable, the dotted path of one, or None.")
    function: Callable[..., Any] = value
    return function


def _credentials(value: Any) -> Callable[..., Any]:
    """Read `credentials`. What is wrong with it is said without it: it may be a password."""
    if isinstance(value, str):
        try:
            value = import_string(value)
        except Exception as error:
            raise ValueError(
                f"It must be a callable or the dotted path of one, and cannot be imported "
                f"({type(error).__name__})."
            ) from None
    if not callable(value):
        raise ValueError("It must be a callable, the dotted path of one, or None.")
    function: Callable[..., Any] = value
    while isinstance(value, partial):
        value = value.func
    if any(map(inspect.iscoroutinefunction, (value, type(value).__call__))):
        raise ValueError(
            "It must not be async: connections are opened in threads, where no event loop runs."
        )
    return function


def _imported(path: str) -> Any:
    try:
        return import_string(path)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"It cannot be imported ({reason}).") from error


def _policy(value: Any) -> Any:
    """Read ``check`` and ``reset``; None, their default in psycopg_pool, leaves it to us."""
    if value is None:
        return "auto"
    if callable(value) or (isinstance(value, str) and "." in value):
        return _callable(value)
    said = word(value)
    if said in OFF_WORDS:
        return False
    if said in {"auto", "always"}:
        return said
    raise ValueError(
        'It must be "auto", "always", False, a callable or the dotted path of a callable.'
    )


def _names(value: Any) -> tuple[str, ...]:
    """Read names from a list of them, or from text with commas."""
    names = value.split(",") if isinstance(value, str) else value
    if isinstance(names, (list, tuple, set, frozenset)) and all(
        isinstance(name, str) for name in names
    ):
        return tuple(name.strip() for name in names if name.strip())
    raise ValueError("It must be a list of names of functions, or text with commas between them.")


def _switch(value: Any) -> bool:
    said = word(value)
    if said in ON_WORDS | OFF_WORDS:
        return said in ON_WORDS
    raise ValueError("It must be True or False.")


def _release(value: Any) -> str:
    said = word(value)
    if said not in RELEASES:
        raise ValueError('It must be "auto", "request" or "transaction".')
    return said


def _round_trips(value: Any) -> str:
    said = word(value).replace("_", " ")
    if said not in ROUND_TRIPS:
        raise ValueError('It must be "fewest" or "as django".')
    return said


def _behind(value: Any) -> str:
    said = AUTO if value is None else word(value)
    if said not in BEHIND:
        raise ValueError('It must be "auto", "server" or "pgbouncer".')
    return said


def _or_none(reader: Reader) -> Reader:
    def read(value: Any) -> Any:
        return None if value is None or word(value) == "none" else reader(value)

    return read


READERS: dict[str, Reader] = {
    "min_size": _count(0),
    "max_size": _or_none(_count(1)),
    "timeout": _seconds_above_0,
    "max_waiting": _count(0),
    "max_idle": _seconds_above_0,
    "max_lifetime": _seconds_above_0,
    "max_uses": _count(0),
    "command_timeout": _or_none(_command_timeout),
    "transaction_timeout": _or_none(_command_timeout),
    "idle_in_transaction_timeout": _or_none(_command_timeout),
    "lock_timeout": _or_none(_command_timeout),
    "max_connecting": _count(1),
    "outage_patience": _seconds,
    "check": _policy,
    "reset": _policy,
    "reset_functions": _names,
    "strict": _switch,
    "release": _release,
    "round_trips": _round_trips,
    "behind": _behind,
    "leak_after": _seconds,
    "max_hold_idle": _seconds,
    "reconnect_timeout": _seconds,
    "jitter": _share,
    "configure": _or_none(_callable),
    "reconnect_failed": _or_none(_callable),
    "credentials": _or_none(_credentials),
    "credentials_ttl": _seconds,
    "name": _or_none(_text),
    "host_max_size": _or_none(_count(1)),
    "host_required": _switch,
    "budget": _or_none(_text),
    "reserve": _count(0),
    "background_max": _or_none(_background),
    "label_sessions": _switch,
    "listen_counts": _switch,
}
