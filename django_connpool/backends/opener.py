"""Opening a physical connection for a pool, the way Django would."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from types import MethodType
from typing import Any

from psycopg import OperationalError

from django_connpool import conf, identity, signals
from django_connpool.readers import FEWEST, PGBOUNCER
from django_connpool.session import cursors
from django_connpool.session.closing import discard
from django_connpool.session.credentials import Credentials
from django_connpool.session.foreign import Connection
from django_connpool.session.objects import noticing
from django_connpool.session.parameters import CONNECT_TIMEOUT, completed
from django_connpool.session.riding import let_ride
from django_connpool.session.setup import recording
from django_connpool.session.statements import Judge

from .cursors import be_ready

_NO_TRANSACTION_TIMEOUT = (
    "unrecognized configuration parameter: servers before PostgreSQL 17 know no "
    "transaction_timeout. Remove it from the pool's options"
)


def _connected() -> None:
    """What `ensure_connection` does for a wrapper that is connected."""


class _Driver:
    """A driver's module; what it connects notices from the start what is changed on it.

    Unless somebody has put his own `connect` in the module, as tools that trace do.
    """

    def __init__(self, module: Any) -> None:
        self._module = module
        self.made: list[Any] = []  # what it has connected

    def connect(self, *args: Any, **kwargs: Any) -> Any:
        connect = self._module.connect
        if type(connect) is MethodType and connect == Connection.connect:
            connect = noticing(Connection).connect
        connection = connect(*args, **kwargs)
        self.made.append(connection)
        return connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


def _label(alias: str) -> str:
    """Whose session it is, for the server's lists: host/pid/alias, of which it keeps 63 bytes."""
    end = f"/{os.getpid()}/{alias}".encode()[:48]
    host = socket.gethostname().partition(".")[0].encode()
    return (host[: 63 - len(end)] + end).decode(errors="ignore")


class Opener:
    """Stands where a pool expects a connection class; `connect` asks Django.

    Each physical connection is opened by a wrapper made for the purpose, with the settings
    the pool was made of. So everything a wrapper does to open one (its parameters, such as
    a short-lived token as password, its type adapters, its time zone and role) is done
    once per physical connection, and in no borrower's time.
    """

    def __init__(
        self,
        wrapper_class: type[Any],
        settings_dict: Mapping[str, Any],
        alias: str,
        options: conf.PoolOptions,
        zone: Mapping[str, Any],
    ) -> None:
        self.wrapper_class = wrapper_class
        self.settings_dict = settings_dict
        self.alias = alias
        self.options = options
        self.judge = Judge(options.reset_functions, shared=options.behind == PGBOUNCER)
        # The cached `timezone` and `timezone_name` of the wrapper the pool was made for. The
        # settings they come from may be others by now, and the pool goes by these.
        self.zone = zone
        self.credentials = Credentials.of(options)

    def connect(self, conninfo: str = "", **kwargs: Any) -> Any:
        """Return a connection in autocommit mode, with time zone, role and adapters set.

        Raises what Django would: psycopg's errors, or ImproperlyConfigured.
        """
        signals.connecting.send(sender=type(self), alias=self.alias)
        wrapper = self._wrapper()
        parameters = self._parameters(wrapper)
        try:
            if self.credentials is None:
                return self._open(wrapper, parameters)
            return self.credentials.open_with(parameters, partial(self._open, wrapper))
        except OperationalError as error:
            if "transaction_timeout" in str(error):
                raise OperationalError(_NO_TRANSACTION_TIMEOUT) from error
            raise

    def _open(self, wrapper: Any, parameters: dict[str, Any]) -> Any:
        factory = parameters.get("cursor_factory")
        if factory is not None:
            parameters = {**parameters, "cursor_factory": cursors.telling(factory)}
        with ExitStack() as unless_done:
            unless_done.callback(_discard_made, wrapper.Database)
            connection = wrapper.get_new_connection(parameters)
            if factory is not None and connection.cursor_factory is cursors.telling(factory):
                connection.cursor_factory = factory
            cursors.set_watch(connection, self.judge)
            be_ready(connection)
            if self.options.round_trips == FEWEST:
                let_ride(connection)
            with recording(connection):
                self._initialize(wrapper, connection)
            unless_done.pop_all()
        wrapper.Database.made.clear()
        # For the first borrower's wrapper, which stands for this one from then on.
        connection.connpool_is_new = True
        connection.connpool_receivers = []  # those of connection_created that have heard of it
        connection.connpool_isolation_level = wrapper.isolation_level
        return connection

    def _wrapper(self) -> Any:
        settings = identity.Recording(identity.snapshot(self.settings_dict), self.wrapper_class)
        wrapper = self.wrapper_class(settings, self.alias)
        wrapper.is_opener = True
        wrapper.Database = _Driver(wrapper.Database)
        vars(wrapper).update(self.zone)
        return wrapper

    def _initialize(self, wrapper: Any, connection: Any) -> None:
        wrapper.connection = connection
        # It is connected. Test tools patch the class's method to forbid what tests may
        # not do, and would forbid a pool to fill up at the wrong moment.
        wrapper.ensure_connection = _connected
        wrapper.set_autocommit(True)
        wrapper.init_connection_state()
        wrapper.connection = None

    def _parameters(self, wrapper: Any) -> dict[str, Any]:
        asked = wrapper.get_connection_params()
        named = asked.get("application_name") or os.environ.get("PGAPPNAME")
        if self.options.label_sessions and not named:
            asked["application_name"] = _label(self.alias)
        # PgBouncer refuses them.
        limits = {} if self.options.behind == PGBOUNCER else self.options.servers_limits()
        return completed("", asked, connect_timeout=CONNECT_TIMEOUT, limits=limits)


def _discard_made(driver: Any) -> None:
    """Close what was made by that driver, also what an override has not returned."""
    for connection in driver.made:
        discard(connection)
    driver.made.clear()
