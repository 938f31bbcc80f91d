"""Which pool a wrapper borrows from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from django.core.exceptions import ImproperlyConfigured
from django.db.backends.base.base import NO_DB_ALIAS

from django_connpool import conf, identity, registry
from django_connpool.connection_pool import ConnectionPool
from django_connpool.session.credentials import Credentials

from .opener import Opener

if TYPE_CHECKING:
    from django.db.backends.postgresql.base import DatabaseWrapper as _Base
else:
    _Base = object


class Bound(_Base):
    """A wrapper that is bound to the pool of its settings, and bound anew when they change."""

    borrows_from_pool = True  # of which checks know a wrapper
    is_opener = False  # opens physical connections for a pool, instead of borrowing
    is_missed = False  # when it is collected, the registry looks which pools are still wanted
    foreign_at_first: Mapping[str, Any]  # settings of other packages, when this was made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        # As they were at the time of binding.
        self.bound_settings: Mapping[str, Any] | None = None
        self.role = ""  # of the work it is used for; see places/terms.py
        self._binding: registry.Binding | None = None
        super().__init__(*args, **kwargs)
        identity.at_first(self.alias)  # as it is now: a wrapper above this may change it
        self.foreign_at_first = identity.foreign(self.settings_dict)

    @property
    def is_pooled(self) -> bool:
        """Whether this wrapper borrows, rather than opening connections of its own."""
        return not self.is_opener and self.alias != NO_DB_ALIAS and conf.enabled(self.settings_dict)

    @property
    def pool(self) -> ConnectionPool[Any] | None:
        """The pool of the settings as they are now; None when this wrapper is not pooled.

        Raises ImproperlyConfigured for pool options that are unknown or impossible.
        """
        binding = self._bind()
        return None if binding is None else binding.pool

    def _bind(self) -> registry.Binding | None:
        this: Any = self
        binding = self._binding
        if binding is not None and binding.suits(this) and not binding.pool.closed:
            return binding
        if not self.is_pooled:
            return None
        _require_psycopg(self.Database)
        self.check_settings()
        self._binding = registry.bind(this, binding)
        return self._binding

    def opener(self, settings_dict: Mapping[str, Any], options: conf.PoolOptions) -> Opener:
        """Return what opens the physical connections of a pool made for this wrapper."""
        zone = {"timezone": self.timezone, "timezone_name": self.timezone_name}
        return Opener(type(self), settings_dict, self.alias, options, zone)

    def open_beside_pools(
        self, parameters: dict[str, Any], connect: Callable[[dict[str, Any]], Any]
    ) -> Any:
        """Open a connection that is no pool's, as those by which databases are made and dropped."""
        options = None if self.is_opener else conf.parse(self.settings_dict)
        credentials = None if options is None else Credentials.of(options)
        return credentials.open_with(parameters, connect) if credentials else connect(parameters)


def _require_psycopg(driver: Any) -> None:
    if driver.__name__ != "psycopg":
        raise ImproperlyConfigured(
            "django_connpool needs psycopg 3, and Django has found psycopg2 only: "
            "pip install 'psycopg[binary]'."
        )
