"""When two database wrappers mean the same pool: when their effective settings are equal.

Never the alias alone. Tests swap the database's name under an alias, passwords rotate, and
two aliases may mean one database; a pool belongs to what would be connected to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings

# What only changes the use of a connection. All the rest may change what is connected to,
# also a setting of another package's wrapper that nobody else knows.
_USES = frozenset(
    {
        "ATOMIC_REQUESTS",
        "AUTOCOMMIT",
        "CONN_MAX_AGE",
        "DISABLE_SERVER_SIDE_CURSORS",
        "ENGINE",  # the wrapper's type stands for it
        "TEST",
    }
)


def snapshot(settings_dict: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the settings that later changes in place do not reach."""
    copy = dict(settings_dict)
    options = dict(copy.get("OPTIONS") or {})
    if isinstance(options.get("pool"), Mapping):
        options["pool"] = dict(options["pool"])
    copy["OPTIONS"] = options
    return copy


def key(wrapper: Any) -> tuple[Any, ...]:
    """What identifies the pool of a database wrapper. Hashable; holds the password."""
    zone = wrapper.timezone_name
    return (type(wrapper), settings.USE_TZ, zone, chosen(wrapper.settings_dict))


def chosen(settings_dict: Mapping[str, Any]) -> Any:
    """What of a database's settings may change what is connected to. Hashable."""
    return _frozen({key: item for key, item in settings_dict.items() if key not in _USES})


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
