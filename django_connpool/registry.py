"""Which pool serves which database of this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

from django.db import connections

from . import conf, identity, scopes, signals
from .pool import ConnectionPool
from .pool.pool import PING_AFTER

if TYPE_CHECKING:
    from .backends.mixin import PooledDatabaseWrapperMixin

# CONN_HEALTH_CHECKS=True asks for more certainty: a ping after this many idle seconds.
PING_AFTER_WITH_HEALTH_CHECKS = 1.0


class Binding:
    """A pool, the settings it was made of, and the database wrappers that use it.

    `wrappers` and `aliases` are guarded by the registry's lock.
    """

    def __init__(self, wrapper: PooledDatabaseWrapperMixin) -> None:
        options = conf.parse(wrapper.settings_dict)
        assert options is not None
        self.key = identity.key(wrapper)
        self.options = options
        self.settings = identity.snapshot(wrapper.settings_dict)
        self.timezone_name = wrapper.timezone_name
        self.wrappers: WeakSet[PooledDatabaseWrapperMixin] = WeakSet()
        self.aliases: set[str] = set()
        self.announced = False  # `pool_created` was sent in this process
        self.pool = self._make_pool(wrapper)

    def _make_pool(self, wrapper: PooledDatabaseWrapperMixin) -> ConnectionPool[Any]:
        arguments = self.options.pool_kwargs()
        arguments["name"] = arguments["name"] or wrapper.alias
        health_checks = self.settings.get("CONN_HEALTH_CHECKS")
        return ConnectionPool(
            connection_class=cast(Any, wrapper.opener(self.settings, self.options)),
            open=True,
            keep_min=False,
            ping_after=PING_AFTER_WITH_HEALTH_CHECKS if health_checks else PING_AFTER,
            describe=scopes.note,
            **arguments,
        )

    def suits(self, wrapper: PooledDatabaseWrapperMixin) -> bool:
        """Whether the settings of a wrapper that was bound to this have not changed since."""
        return (
            wrapper.bound_settings == wrapper.settings_dict
            and self.timezone_name == wrapper.timezone_name
            and not self.pool.closed
        )

    def is_forsaken(self) -> bool:
        """Whether every wrapper that used it has gone on to other settings."""
        return not any(self.suits(wrapper) for wrapper in list(self.wrappers))


_lock = threading.RLock()
_bindings: dict[tuple[Any, ...], Binding] = {}


def bind(wrapper: PooledDatabaseWrapperMixin, old: Binding | None) -> Binding:
    """Return the binding that suits the wrapper, making a pool when there is none.

    `old` is what it was bound to; its pool closes when nobody is left who wants it.
    Raises ImproperlyConfigured for impossible options.
    """
    with _lock:
        key = identity.key(wrapper)
        binding = _bindings.get(key)
        if binding is None or binding.pool.closed:
            binding = _bindings[key] = Binding(wrapper)
        # The wrapper's own: what two aliases of one pool are used for may differ.
        wrapper.bound_settings = identity.snapshot(wrapper.settings_dict)
        binding.wrappers.add(wrapper)
        binding.aliases.add(wrapper.alias)
        if old is not None and old is not binding:
            old.wrappers.discard(wrapper)
            if not old.is_forsaken():
                old = None
        announce, binding.announced = not binding.announced, True
    if old is not None and old is not binding:
        close(old)
    if announce:
        signals.pool_created.send(sender=ConnectionPool, pool=binding.pool)
    return binding


def find(wrapper: PooledDatabaseWrapperMixin) -> Binding | None:
    """The binding for the wrapper's settings as they are now, whoever has made it."""
    with _lock:
        return _bindings.get(identity.key(wrapper))


def users(binding: Binding) -> list[PooledDatabaseWrapperMixin]:
    """The database wrappers, of all threads, that have borrowed through a binding."""
    with _lock:
        return list(binding.wrappers)


def close(binding: Binding) -> None:
    """Close a pool and forget it; the next query makes a new one."""
    with _lock:
        if _bindings.get(binding.key) is binding:
            del _bindings[binding.key]
    binding.pool.close()


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


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
