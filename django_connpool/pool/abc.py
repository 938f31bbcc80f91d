"""Names for the types that go in and out of the pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    import psycopg

CT = TypeVar("CT", bound="psycopg.Connection[Any]")

ConnectionCB: TypeAlias = Callable[[Any], None]
ConnectFailedCB: TypeAlias = Callable[[Any], None]
ConninfoParam: TypeAlias = str | Callable[[], str]
KwargsParam: TypeAlias = dict[str, Any] | Callable[[], dict[str, Any]]
CheckParam: TypeAlias = str | bool | ConnectionCB | None
ResetParam: TypeAlias = str | bool | ConnectionCB | None
