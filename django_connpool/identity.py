"""When two database wrappers mean the same pool: when their effective settings are equal.

Never the alias alone. Tests swap the database's name under an alias, passwords rotate, and
two aliases may mean one database; a pool belongs to what would be connected to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings

# What changes a connection. The rest of a DATABASES entry only changes its use.
_KEYS = ("NAME", "USER", "PASSWORD", "HOST", "PORT", "TIME_ZONE", "CONN_HEALTH_CHECKS")


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
    chosen = wrapper.settings_dict
    return (
        type(wrapper),
        settings.USE_TZ,
        wrapper.timezone_name,
        *(chosen.get(name) for name in _KEYS),
        _frozen(chosen.get("OPTIONS") or {}),
    )


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
