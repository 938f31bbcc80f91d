"""Wrappers of other packages above and below ours: they are told of each loan as Django would.

To them a loan is a connection: `connect()` is called where it begins and `close()` where it ends,
also when it is given back between two statements. Classes above ours see that by themselves. Those
below would not, because ours does not pass on what Django would do to a connection of one's own: so
a *floor* is laid under them, just above Django's class, and ours goes there by way of them. All of
that is decided when a class is made, and costs nothing where nobody overrides anything.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

# What is called for each loan, and may be overridden.
LOAN_HOOKS = frozenset(
    {
        "_close",
        "_set_autocommit",
        "close",
        "close_if_unusable_or_obsolete",
        "connect",
        "ensure_connection",
        "init_connection_state",
        "set_autocommit",
    }
)
_ENDS_WITH_OURS = ("_close", "close_if_unusable_or_obsolete", "connect", "init_connection_state")


def is_foreign(base: type) -> bool:
    """Whether a class in the order of resolution is neither ours nor Django's nor Python's."""
    return base.__module__.partition(".")[0] not in ("django", "django_connpool", "builtins")


def overridden(classes: tuple[type, ...]) -> frozenset[str]:
    """What foreign ones of these classes override."""
    return frozenset().union(
        *(LOAN_HOOKS & vars(base).keys() for base in classes if is_foreign(base))
    )


def lay_floor(cls: type, ours: type) -> type | None:
    """Put a floor under what is below ours in a new class; None where none is needed."""
    below = cls.__mro__[cls.__mro__.index(ours) + 1 :]
    if overridden(below).isdisjoint(_ENDS_WITH_OURS):
        return None
    for base in below:
        if issubclass(base, _Floor):  # of a class that this one is derived from
            return base
    djangos = next(base for base in below if base.__module__.startswith("django.db."))
    djangos = next(
        (base for base in below if base.__module__.startswith("django.contrib.gis.")), djangos
    )
    floor = _floor(djangos, ours)
    cls.__bases__ = (*cls.__bases__, floor)
    return floor


class _Floor:
    """Marks them."""


@lru_cache
def _floor(djangos: type, ours: Any) -> type:
    def on_floor(name: str) -> Any:
        def method(self: Any) -> Any:
            before, self.on_floor = self.on_floor, name
            try:
                return getattr(ours, name)(self)
            finally:
                self.on_floor = before

        method.__name__ = name
        return method

    def init_connection_state(self: Any) -> None:
        if not self.in_foreign_init:  # else Django has done its part when the connection was opened
            djangos.init_connection_state(self)  # type: ignore[attr-defined]

    names: dict[str, Any] = {name: on_floor(name) for name in _ENDS_WITH_OURS}
    names["init_connection_state"] = init_connection_state
    return type("Floor", (_Floor, djangos), {**names, "__module__": __name__})
