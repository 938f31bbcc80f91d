"""Which pool serves which database of this process."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from time import monotonic
from typing import Any, cast
from weakref import WeakSet

from django.conf import settings
from django.db import connections

from . import bounds, conf, identity, runners, scopes, signals
from .borrower import Borrower
from .connection_pool import PING_AFTER, ConnectionPool
from .pool.locking import LOCKED_AFTER
from .process import forks
from .process.background import NEVER, background

# CONN_HEALTH_CHECKS=True asks for more certainty: a ping after this many idle seconds.
PING_AFTER_WITH_HEALTH_CHECKS = 1.0
SWEEP_EVERY = 60.0  # seconds in which a pool is noticed whose alias was deleted


class Binding:
    """A pool, the settings it was made of, and the database wrappers that use it.

    `wrappers` and `aliases` are guarded by the registry's lock.
    """

    def __init__(self, wrapper: Borrower) -> None:
        options = conf.parse(wrapper.settings_dict)
        assert options is not None
        self.key = identity.key(wrapper)
        self.options = options
        self.settings = identity.snapshot(wrapper.settings_dict)
        self.timezone_name = wrapper.timezone_name
        # Whether every loan begins with the connection's attributes as they were at its birth.
        self.restores = options.reset in ("auto", "always")
        self.wrappers: WeakSet[Borrower] = WeakSet()
        self.aliases: set[str] = set()
        self.configured: set[str] = set()  # those of them that DATABASES had, and had like this
        self.announced = False  # `pool_created` was sent in this process
        self.pool = self._make_pool(wrapper)

    def _make_pool(self, wrapper: Borrower) -> ConnectionPool[Any]:
        arguments = self.options.pool_kwargs()
        arguments["name"] = name = arguments["name"] or wrapper.alias
        if wrapper.role:
            arguments["name"] = f"{name} ({wrapper.role})"
            arguments["min_size"] = 0
        health_checks = self.settings.get("CONN_HEALTH_CHECKS")
        return ConnectionPool(
            connection_class=cast(Any, wrapper.opener(self.settings, self.options)),
            open=True,
            keep_min=False,
            has_offers=self.options.release != "request",
            # What idle threads hold comes back by itself then.
            locked_after=LOCKED_AFTER + self.options.max_hold_idle,
            command_timeout=self.options.command_timeout,  # see session/vanished.py
            ping_after=PING_AFTER_WITH_HEALTH_CHECKS if health_checks else PING_AFTER,
            describe=scopes.current.get,
            events=signals.Events(),
            places=bounds.tenant(self.settings, self.options, self.key[:4], name, wrapper.role),
            **arguments,
        )

    def suits(self, wrapper: Borrower) -> bool:
        """Whether the settings of a wrapper that was bound to this have not changed since."""
        return (
            wrapper.bound_settings == wrapper.settings_dict or self._means(wrapper)
        ) and self.timezone_name == wrapper.timezone_name

    def _means(self, wrapper: Borrower) -> bool:
        """Whether settings that have changed mean this pool all the same."""
        if identity.key(wrapper) != self.key:
            return False
        wrapper.bound_settings = identity.snapshot(wrapper.settings_dict)
        return True

    def admit(self, wrapper: Borrower) -> None:
        """Under the registry's lock: count the wrapper among those that use the pool."""
        # The wrapper's own: what two aliases of one pool are used for may differ.
        wrapper.bound_settings = identity.snapshot(wrapper.settings_dict)
        self.aliases.add(wrapper.alias)
        if self._is_configured(wrapper.alias):
            self.configured.add(wrapper.alias)
        elif not wrapper.is_missed:
            # Once for each wrapper, however often its settings change.
            weakref.finalize(wrapper, _sweeping.now).atexit = False
            wrapper.is_missed = True
        self.wrappers.add(wrapper)

    def readmit(self, wrapper: Borrower) -> bool:
        """Under the registry's lock: as `admit`, when what `identity.key` looks at is as it was.

        For the same alias's wrapper in another thread. Requests of async code have one each.
        """
        if (
            wrapper.alias not in self.configured
            or wrapper.settings_dict != self.settings
            or (settings.USE_TZ, wrapper.timezone_name) != self.key[1:3]
            or not self.announced  # in a forked child
            or self.pool.closed
        ):
            return False
        wrapper.bound_settings = self.settings  # which nobody changes
        self.wrappers.add(wrapper)
        return True

    def is_wanted(self) -> bool:
        """Whether anybody may come to borrow; see `sweep`."""
        if self.pool.closed:
            return False
        return any(self._is_configured(alias) for alias in self.configured) or any(
            wrapper.alias not in self.configured and self.suits(wrapper)
            for wrapper in list(self.wrappers)
        )

    def _is_configured(self, alias: str) -> bool:
        """Whether DATABASES has the alias, and means this pool by it."""
        entry = connections.settings.get(alias)
        if entry is None or identity.zone(entry) != self.key[1:3]:
            return False
        first = identity.at_first(alias) or {}
        return bool(
            entry == self.settings or identity.chosen(entry, first, self.key[0]) == self.key[3]
        )


# Called with each pool that is closed here, and the seconds that this may take.
at_closing: list[Callable[[ConnectionPool[Any], float], None]] = []

_lock = threading.RLock()
_bindings: dict[tuple[Any, ...], Binding] = {}
# Of those that wrappers of such a class, alias and role were bound to last.
_last_keys: dict[tuple[type, str, str], tuple[Any, ...]] = {}


def bind(wrapper: Borrower, old: Binding | None) -> Binding:
    """Return the binding that suits the wrapper, making a pool when there is none.

    `old` is what it was bound to; pools that nobody is left to want are closed.
    Raises ImproperlyConfigured for impossible options.
    """
    kind = type(wrapper), wrapper.alias, wrapper.role
    with _lock:
        last = _bindings.get(_last_keys.get(kind, ()))
        if old is None and last is not None and last.readmit(wrapper):
            return last
        key = _last_keys[kind] = identity.key(wrapper)
        binding = _bindings.get(key)
        if binding is None or binding.pool.closed:
            binding = _bindings[key] = Binding(wrapper)
        binding.admit(wrapper)
        if old is not None and old is not binding:
            old.wrappers.discard(wrapper)
        announce, binding.announced = not binding.announced, True
    if announce or old is not None:
        sweep()
        _sweeping.by(monotonic() + SWEEP_EVERY)
    if announce:
        runners.connect()
        signals.pool_created.send(sender=ConnectionPool, pool=binding.pool)
    return binding


def find(wrapper: Borrower) -> Binding | None:
    """The binding for the wrapper's settings as they are now, whoever has made it."""
    with _lock:
        return _bindings.get(identity.key(wrapper))


def users(binding: Binding) -> list[Borrower]:
    """The database wrappers, of all threads, that have borrowed through a binding."""
    with _lock:
        return list(binding.wrappers)


def close(binding: Binding, timeout: float = 5.0) -> None:
    """Close a pool and forget it; the next query makes a new one.

    Waits at most `timeout` seconds for the server to have let go of what was idle.
    """
    with _lock:
        if _bindings.get(binding.key) is binding:
            del _bindings[binding.key]
    binding.pool.close(timeout)
    for end in at_closing:
        end(binding.pool, timeout)


def sweep() -> None:
    """Close the pools that nobody will borrow from any more; loans end in peace.

    The pool of an alias in DATABASES stays, whoever has come and gone: that its threads have
    ended means nothing. It goes when the alias is deleted or its settings change. The pool
    of an alias that DATABASES never had (of `connection.copy("other")`) goes with the last
    wrapper that uses it.
    """
    identity.forget_departed()
    with _lock:
        doomed = [binding for binding in _bindings.values() if not binding.is_wanted()]
        for kind, key in list(_last_keys.items()):
            if key not in _bindings or kind[1] not in connections.settings:
                del _last_keys[kind]
    for binding in doomed:
        # Without waiting: this may be a borrower's thread, or the one that serves all pools.
        close(binding, timeout=0.0)


class _Sweep:
    """`sweep`, as a task of the maintenance thread."""

    def run(self, now: float) -> float:
        sweep()
        return now + SWEEP_EVERY if _bindings else NEVER


_sweep = _Sweep()
# Sweeping is no reason to have that thread.
_sweeping = background.join(_sweep, lasts=False)


def close_database(settings_dict: Mapping[str, Any], name: str) -> list[Binding]:
    """Close every pool of one database: nothing may be connected to what is dropped or copied.

    Returns their bindings: loans that are out finish in peace.
    """
    place = ("HOST", "PORT")
    with _lock:
        doomed = [
            binding
            for binding in _bindings.values()
            if binding.settings["NAME"] == name
            and all(binding.settings.get(key) == settings_dict.get(key) for key in place)
        ]
    for binding in doomed:
        close(binding)
    return doomed


def live() -> list[tuple[tuple[str, ...], ConnectionPool[Any]]]:
    """The pools of this process with the aliases they serve. Makes none."""
    with _lock:
        return [(tuple(sorted(b.aliases)), b.pool) for b in _bindings.values()]


class Pools(Mapping[str, ConnectionPool[Any]]):
    """Alias to pool, for every database whose ENGINE is pooled. Asking makes the pool."""

    def __getitem__(self, alias: str) -> ConnectionPool[Any]:
        if alias not in connections:
            raise KeyError(f"there is no database {alias!r}; pooled are: {', '.join(self)}")
        wrapper: Any = connections[alias]
        if not is_pooled(wrapper):
            raise KeyError(alias)
        pool: ConnectionPool[Any] = wrapper.pool
        return pool

    def __iter__(self) -> Iterator[str]:
        return (alias for alias in connections if is_pooled(connections[alias]))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def is_pooled(wrapper: Any) -> bool:
    """Whether a database wrapper borrows from a pool of ours."""
    return getattr(wrapper, "is_pooled", False) is True


pools = Pools()


def _start_anew() -> None:
    """In a forked child, whose pools are empty and have not been heard of."""
    global _lock
    _lock = threading.RLock()
    for binding in _bindings.values():
        binding.announced = False


forks.in_child(_start_anew, forks.Floor.REGISTRY)
