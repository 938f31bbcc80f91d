"""The pool options of one ``DATABASES`` entry: read, checked, completed with defaults.

A new one: a field of `PoolOptions` with its default, and in readers.py how it is read. Who is to
heed it finds it in the `options` at hand, or is given it by `pool_kwargs`: see CONTRIBUTING.md.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from django.core.exceptions import ImproperlyConfigured

from .readers import AUTO, FEWEST, LONGEST, OFF_WORDS, ON_WORDS, READERS, word

if TYPE_CHECKING:
    from django_connpool.connection_pool import CheckParam, ConnectionCB, ResetParam

__all__ = [
    "LONGEST",
    "READERS",
    "ImpossibleValue",
    "PoolOptionError",
    "PoolOptions",
    "UnknownOption",
    "enabled",
    "ignored",
    "parse",
    "pool_keys",
    "problems",
    "strip",
]

KEY = "pool"
PREFIX = "pool_"
DEFAULT_MAX_SIZE = 10
HIDDEN = {"credentials"}  # in their place, by mistake, a password may stand

# Limits that the server keeps: the option, and the server's parameter.
SERVERS_LIMITS = {
    "command_timeout": "statement_timeout",
    "idle_in_transaction_timeout": "idle_in_transaction_session_timeout",
    "lock_timeout": "lock_timeout",
    "transaction_timeout": "transaction_timeout",  # from PostgreSQL 17 on
}

# What psycopg_pool takes and this pool does without, and what stands in for it.
WITHOUT_MEANING = {
    "close_returns": "closing a Django connection always gives it back",
    "connection_class": "the connections are those of the database backend",
    "conninfo": "connection parameters belong in DATABASES and its OPTIONS",
    "kwargs": "connection parameters belong in DATABASES and its OPTIONS",
    "num_workers": "max_connecting limits how many connections are opened at a time",
    "open": "a pool opens when the process begins to serve, or else at first use",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """How one database is pooled. Times are seconds, sizes and limits are counts.

    ``max_size=None`` in the settings means the same number as ``min_size``, as it does for
    psycopg_pool, or 10 where ``min_size`` is 0. Left out, it is 10, or ``min_size`` if larger.
    """

    min_size: int = 0
    max_size: int = DEFAULT_MAX_SIZE
    timeout: float = 10.0
    max_waiting: int = 0
    max_idle: float = 600.0
    max_lifetime: float = 3600.0
    max_uses: int = 0
    command_timeout: float | None = None
    transaction_timeout: float | None = None
    idle_in_transaction_timeout: float | None = None
    lock_timeout: float | None = None
    max_connecting: int = 8
    outage_patience: float = 3.0
    check: CheckParam = "auto"
    reset: ResetParam = "auto"
    reset_functions: tuple[str, ...] = ()
    strict: bool = False
    release: str = AUTO
    round_trips: str = FEWEST
    behind: str = AUTO
    leak_after: float = 0.0
    max_hold_idle: float = 0.0
    reconnect_timeout: float = 300.0
    jitter: float = 0.1
    configure: ConnectionCB | None = None
    reconnect_failed: ConnectionCB | None = None
    credentials: Callable[[dict[str, Any]], Any] | None = None
    credentials_ttl: float = 600.0
    name: str | None = None
    host_max_size: int | None = None
    host_required: bool = False
    budget: str | None = None
    reserve: int = 0
    background_max: int | str | None = None
    label_sessions: bool = False
    listen_counts: bool = False

    def pool_kwargs(self) -> dict[str, Any]:
        """Return the keyword arguments of ``ConnectionPool``: all but what the backend does."""
        backend_only = {
            *("credentials", "credentials_ttl", "max_hold_idle", "release", "round_trips"),
            *("host_max_size", "host_required", "budget", "reserve", "background_max"),
            *("label_sessions", "listen_counts", *SERVERS_LIMITS),
        }
        names = [field.name for field in fields(self) if field.name not in backend_only]
        return {name: getattr(self, name) for name in names}

    def servers_limits(self) -> dict[str, float]:
        """The limits of time that the server is to keep, in seconds, by its own names."""
        found = {name: getattr(self, option) for option, name in SERVERS_LIMITS.items()}
        return {name: seconds for name, seconds in found.items() if seconds}


class PoolOptionError(ImproperlyConfigured):
    """A pool option that cannot be honoured; ``hint`` says what to write instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(f"{message} {hint}")
        self.message = message
        self.hint = hint


class UnknownOption(PoolOptionError):
    """No pool option has this name."""


class ImpossibleValue(PoolOptionError):
    """A pool option has a value that it cannot have."""


def enabled(settings_dict: Mapping[str, Any]) -> bool:
    """Tell whether a database is pooled, which it is unless ``OPTIONS["pool"]`` is False."""
    return word(_options(settings_dict).get(KEY)) not in OFF_WORDS


def parse(settings_dict: Mapping[str, Any]) -> PoolOptions | None:
    """Return the pool options of a database's settings, or None when pooling is off.

    Raises PoolOptionError, an ImproperlyConfigured, for the first option that is unknown or
    has an impossible value; problems() has all of them.
    """
    values, errors = _read(settings_dict)
    if errors:
        raise errors[0]
    return None if values is None else PoolOptions(**values)


def problems(settings_dict: Mapping[str, Any]) -> tuple[PoolOptionError, ...]:
    """Return everything that keeps parse() from answering, in the order it was found.

    And the pool's options that stand beside "pool", which the server is not to be told.
    """
    astray = [
        UnknownOption(
            f"{key!r} in OPTIONS is an option of the pool, which libpq would get and refuse.",
            f'Move it into OPTIONS["pool"], or write {PREFIX + key!r}.',
        )
        for key in sorted(map(str, _options(settings_dict)))
        if key in READERS and enabled(settings_dict)
    ]
    return (*_read(settings_dict)[1], *astray)


def ignored(settings_dict: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Return (option, why) for the options of psycopg_pool that have no effect here."""
    if not enabled(settings_dict):
        return ()
    given = {given.option for given in _given(_options(settings_dict))}
    return tuple((name, why) for name, why in WITHOUT_MEANING.items() if name in given)


def pool_keys(options: Mapping[str, Any]) -> frozenset[str]:
    """Return the keys of ``OPTIONS`` that are for the pool and unknown to the server."""
    return frozenset(key for key in options if key == KEY or key.startswith(PREFIX))


def strip(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the connection parameters without those that are for the pool."""
    ours = pool_keys(params)
    return {key: value for key, value in params.items() if key not in ours}


class _Given(NamedTuple):
    """An option as it was found: ``key`` is how it is spelled in ``place``."""

    option: str
    key: str
    value: Any
    place: str


def _options(settings_dict: Mapping[str, Any]) -> Mapping[str, Any]:
    return settings_dict.get("OPTIONS") or {}


def _given(options: Mapping[str, Any]) -> Iterator[_Given]:
    nested = options.get(KEY)
    if isinstance(nested, Mapping):
        for key, value in nested.items():
            yield _Given(str(key), str(key), value, 'OPTIONS["pool"]')
    for key in sorted(pool_keys(options) - {KEY}):
        yield _Given(key.removeprefix(PREFIX), key, options[key], "OPTIONS")


def _read(
    settings_dict: Mapping[str, Any],
) -> tuple[dict[str, Any] | None, list[PoolOptionError]]:
    """Return the values given, None for pooling switched off, and what is wrong with them."""
    if not enabled(settings_dict):
        return None, []
    options = _options(settings_dict)
    switch = options.get(KEY)
    values: dict[str, Any] = {}
    errors: list[PoolOptionError] = []
    if not _is_on(switch):
        hint = "It must be True, False or a dictionary of options."
        errors.append(ImpossibleValue(f'OPTIONS["pool"] cannot be {switch!r}.', hint))
    for given in _given(options):
        try:
            _take(given, values)
        except PoolOptionError as error:
            errors.append(error)
    errors.extend(_settle_sizes(values))
    return values, errors


def _is_on(switch: Any) -> bool:
    return switch is None or isinstance(switch, Mapping) or word(switch) in ON_WORDS


def _take(given: _Given, values: dict[str, Any]) -> None:
    if given.option in WITHOUT_MEANING:
        return
    reader = READERS.get(given.option)
    if reader is None:
        raise _unknown(given)
    try:
        value = reader(given.value)
    except ValueError as error:
        raise _impossible(given, str(error)) from error
    if values.setdefault(given.option, value) != value:
        other = "something else" if given.option in HIDDEN else repr(values[given.option])
        raise _impossible(given, f'OPTIONS["pool"] says {other}: give it only once.')


def _unknown(given: _Given) -> UnknownOption:
    near = difflib.get_close_matches(given.option.lower().removeprefix(PREFIX), READERS, n=1)
    hint = f"The options are: {', '.join(sorted(READERS))}."
    if near:
        spelling = given.key.removesuffix(given.option) + near[0]
        hint = f"Did you mean {spelling!r}?"
    return UnknownOption(f"Unknown pool option {given.key!r} in {given.place}.", hint)


def _impossible(given: _Given, hint: str) -> ImpossibleValue:
    value = f"cannot be {given.value!r}"
    if given.option in HIDDEN:
        value = "has an impossible value (not shown, as it may be a password)"
    message = f"Pool option {given.key!r} in {given.place} {value}."
    return ImpossibleValue(message, hint)


def _settle_sizes(values: dict[str, Any]) -> list[ImpossibleValue]:
    """Fill in ``max_size`` where it follows ``min_size``; return what is wrong with the two."""
    smallest = values.get("min_size", 0)
    largest = values.setdefault("max_size", max(smallest, DEFAULT_MAX_SIZE))
    if largest is None:
        values["max_size"] = smallest or DEFAULT_MAX_SIZE
    elif largest < smallest:
        message = f"Pool option 'max_size' cannot be {largest}: 'min_size' is {smallest}."
        return [ImpossibleValue(message, "Raise 'max_size' or lower 'min_size'.")]
    return _check_shared(values)


def _check_shared(values: dict[str, Any]) -> list[ImpossibleValue]:
    """What is wrong with the options of bounds that are shared."""
    budget, reserve = values.get("budget"), values.get("reserve", 0)
    if budget is not None:
        own = [name for name in ("host_max_size", "reserve", "background_max") if values.get(name)]
        return _check_listening(values, values["max_size"]) + [
            ImpossibleValue(
                f"Pool option {name!r} cannot be given beside 'budget'.",
                f'Write it into CONNPOOL_BUDGETS["{budget}"].',
            )
            for name in own
        ]
    most = values.get("host_max_size") or values["max_size"]
    if reserve >= most:
        message = f"Pool option 'reserve' cannot be {reserve}: there are only {most} connections."
        return [ImpossibleValue(message, f"It may be {most - 1} at most.")]
    return _check_listening(values, min(most, values["max_size"]) - reserve)


def _check_listening(values: dict[str, Any], most: int) -> list[ImpossibleValue]:
    """Whether something is left to lend while somebody listens. `most`: for usual work."""
    if not values.get("listen_counts") or most > 1:
        return []
    message = "Pool option 'listen_counts' cannot be True: there is only one connection"
    hint = "Who listens would leave none to borrow: allow two or more, or leave it out."
    return [ImpossibleValue(f"{message} for usual work.", hint)]
