"""When two database wrappers mean the same pool: when their effective settings are equal.

Never the alias alone. Tests swap the database's name under an alias, passwords rotate, and
two aliases may mean one database; a pool belongs to what would be connected to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings
from django.db import connections

# Django's own. Some change only the use of a connection; for ENGINE the wrapper's type stands.
_OPENS = frozenset(
    {"NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS", "TIME_ZONE", "CONN_HEALTH_CHECKS"}
)
_USES = frozenset(
    {
        "ATOMIC_REQUESTS",
        "AUTOCOMMIT",
        "CONN_MAX_AGE",
        "DISABLE_SERVER_SIDE_CURSORS",
        "ENGINE",
        "TEST",
    }
)
_DJANGOS = _OPENS | _USES

# Settings of other packages' wrappers, which nobody else knows. What DATABASES says of them counts:
# two aliases that differ in one have a pool each. What changes later counts only when the wrapper
# looks at it to open a connection; else it may be a note, such as the tenant of a request.
_looked_at: dict[type, frozenset[str]] = {}  # by wrappers of that class, to open a connection
configured: dict[str, tuple[Any, dict[str, Any]]] = {}  # an alias's entry, and as it was at first


class Recording(dict[str, Any]):
    """Settings from which a connection is opened; notes which of other packages it depends on."""

    def __init__(self, items: Mapping[str, Any], wrapper_class: type) -> None:
        super().__init__(items)
        self._wrapper_class = wrapper_class

    def _note(self, key: str) -> None:
        known = _looked_at.get(self._wrapper_class, frozenset())
        if key not in _DJANGOS and key not in known:
            _looked_at[self._wrapper_class] = known | {key}

    def __getitem__(self, key: str) -> Any:
        self._note(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._note(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self._note(str(key))
        return super().__contains__(key)


def foreign(settings_dict: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are not Django's."""
    now = dict(settings_dict)  # at once: threads share it, and one may put something there
    return {key: now[key] for key in now.keys() - _DJANGOS}


def at_first(alias: str) -> dict[str, Any] | None:
    """The settings of other packages as DATABASES had them; None for an alias it has not got."""
    entry = connections.settings.get(alias)
    if entry is None:
        return None
    known = configured.get(alias)
    if known is None or known[0] is not entry:
        known = configured[alias] = (entry, foreign(entry))
    return known[1]


def forget_departed() -> None:
    """Forget the aliases that DATABASES has no more."""
    for alias in list(configured):
        if alias not in connections.settings:
            configured.pop(alias, None)


def snapshot(settings_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the settings that later changes in place do not reach."""
    copy = dict(settings_dict)
    options = copy["OPTIONS"] = _copied(copy.get("OPTIONS") or {})
    if isinstance(options.get("pool"), Mapping):
        options["pool"] = _copied(options["pool"])
    return copy


def _copied(items: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: item.copy() if isinstance(item, (list, set)) else item for key, item in items.items()
    }


def key(wrapper: Any) -> tuple[Any, ...]:
    """What identifies the pool of a database wrapper. Hashable; holds the password."""
    zone = wrapper.timezone_name
    first = at_first(wrapper.alias)
    if first is None:
        first = wrapper.foreign_at_first
    return (
        type(wrapper),
        settings.USE_TZ,
        zone,
        chosen(wrapper.settings_dict, first, type(wrapper)),
        wrapper.role,
    )


def chosen(settings_dict: Mapping[str, Any], first: Mapping[str, Any], wrapper_class: type) -> Any:
    """What of a database's settings may change what is connected to. Hashable.

    `first`: the settings of other packages, as DATABASES had them.
    """
    counts = _OPENS | _looked_at.get(wrapper_class, frozenset())
    now = {key: item for key, item in dict(settings_dict).items() if key in counts}
    then = {key: item for key, item in first.items() if key not in counts}
    return _frozen({**then, **now})


def zone(settings_dict: Mapping[str, Any]) -> tuple[Any, Any]:
    """USE_TZ, and the `timezone_name` that Django would give a wrapper of these settings now."""
    if not settings.USE_TZ:
        return settings.USE_TZ, settings.TIME_ZONE
    return settings.USE_TZ, settings_dict.get("TIME_ZONE") or "UTC"


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return frozenset((key, _frozen(item)) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(_frozen(item) for item in value)
    if isinstance(value, (set, frozenset)):
        return frozenset(_frozen(item) for item in value)
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return value


class _Same:
    """Equal to itself only: for what cannot be hashed, such as some user's object."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.value is self.value

    def __hash__(self) -> int:
        return id(self.value)
