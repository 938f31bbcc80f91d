"""Opening a physical connection for a pool, the way Django would."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from django_connpool import conf, identity

if TYPE_CHECKING:
    from .mixin import PooledDatabaseWrapperMixin

# libpq's parameters (PostgreSQL docs, "Parameter Key Words"), where the user has set none.
# An idle pooled connection must outlive the memory of a NAT or a load balancer (minutes),
# and a host that has gone away must be noticed in less than TCP's two hours.
DEFAULTS = {
    "connect_timeout": 10,
    "keepalives_idle": 60,
    "keepalives_interval": 10,
    "keepalives_count": 6,
}


class Opener:
    """Stands where a pool expects a connection class; `connect` asks Django.

    Each physical connection is opened by a wrapper made for the purpose, with the settings
    the pool was made of. So everything a wrapper does to open one (its parameters, such as
    a short-lived token as password, its type adapters, its time zone and role) is done
    once per physical connection, and in no borrower's time.
    """

    def __init__(
        self,
        wrapper_class: type[PooledDatabaseWrapperMixin],
        settings_dict: Mapping[str, Any],
        alias: str,
        options: conf.PoolOptions,
    ) -> None:
        self.wrapper_class = wrapper_class
        self.settings_dict = settings_dict
        self.alias = alias
        self.options = options

    def connect(self, conninfo: str = "", **kwargs: Any) -> Any:
        """Return a connection in autocommit mode, with time zone, role and adapters set.

        Raises what Django would: psycopg's errors, or ImproperlyConfigured.
        """
        wrapper = self.wrapper_class(identity.snapshot(self.settings_dict), self.alias)
        wrapper.is_opener = True
        connection = wrapper.get_new_connection(self._parameters(wrapper))
        try:
            wrapper.connection = connection
            wrapper.set_autocommit(True)
            wrapper.init_connection_state()
        except BaseException:
            connection.close()
            raise
        wrapper.connection = None
        # For the first borrower's wrapper, which stands for this one from then on.
        connection.connpool_is_new = True
        connection.connpool_isolation_level = wrapper.isolation_level
        return connection

    def _parameters(self, wrapper: PooledDatabaseWrapperMixin) -> dict[str, Any]:
        parameters = wrapper.get_connection_params()
        if "service" not in parameters:
            for name, value in DEFAULTS.items():
                if name != "connect_timeout" or "PGCONNECT_TIMEOUT" not in os.environ:
                    parameters.setdefault(name, value)
        if self.options.command_timeout:
            # Given at connect, so that RESET and DISCARD ALL return to it.
            limit = f"-c statement_timeout={max(1, round(self.options.command_timeout * 1000))}"
            parameters["options"] = f"{parameters.get('options', '')} {limit}".strip()
        return parameters
