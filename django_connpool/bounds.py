"""The bounds that a pool shares with others, as the settings ask for them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from .conf import PoolOptions, parse
from .places import folder
from .places.ledger import MOST, SUFFIX, Ledger, Unusable
from .places.table import Table
from .places.tenant import Tenant
from .places.terms import Bound
from .readers import background_most

SETTING = "CONNPOOL_BUDGETS"
KEYS = ("max_size", "host_max_size", "reserve", "background_max")

# In this process: a budget by its name, or what the pools of one database's roles share.
_tables: WeakValueDictionary[Any, Table] = WeakValueDictionary()


class Budget(NamedTuple):
    """An entry of CONNPOOL_BUDGETS, or what a database's own options say."""

    max_size: int | None  # for all pools of the process
    host_max_size: int | None = None
    reserve: int = 0
    background_max: int | None = None

    @property
    def has_roles(self) -> bool:
        return bool(self.reserve or self.background_max)


def tenant(
    entry: Mapping[str, Any], options: PoolOptions, key: Any, name: str, role: str
) -> Tenant | None:
    """A pool's part of its bounds; None when it has none. `key`: of the database.

    Raises ImproperlyConfigured.
    """
    budget = of_options(options)
    if budget is None:
        return None
    bounds: list[Bound] = []
    terms = {"reserve": budget.reserve, "background": budget.background_max}
    of_process = dict(terms) if budget.host_max_size is None else {}
    if options.budget is not None and budget.max_size is not None:
        table = _table(("budget", options.budget))
        told = f"budget {options.budget!r}"
        bounds.append(Bound(told, budget.max_size, table=table, **of_process))  # type: ignore[arg-type]
    elif budget.host_max_size is None:
        bounds.append(Bound("max_size", options.max_size, table=_table(key), **of_process))  # type: ignore[arg-type]
    if budget.host_max_size is not None:
        told = f"budget {options.budget!r} of the host" if options.budget else "host_max_size"
        bounds.append(
            Bound(told, budget.host_max_size, path=path(entry, options.budget), **terms)  # type: ignore[arg-type]
        )
        if options.host_required:
            _require(bounds[-1])
    return Tenant(name, role, bounds, options.host_required)


def of_options(options: PoolOptions) -> Budget | None:
    """What a database shares; None if nothing. Raises ImproperlyConfigured."""
    if options.budget is not None:
        budget = budgets().get(options.budget)
        if budget is None:
            known = ", ".join(budgets()) or "none"
            raise ImproperlyConfigured(
                f"{SETTING} has no budget {options.budget!r}; there are: {known}."
            )
        least = min(size for size in (budget.max_size, budget.host_max_size) if size is not None)
        if options.listen_counts and least - budget.reserve < 2:
            raise ImproperlyConfigured(
                f'{SETTING}["{options.budget}"] has only one connection for usual work: who '
                "listens would leave none. Allow two or more, or leave 'listen_counts' out."
            )
        return budget
    most = background_most(options.background_max, options.host_max_size or options.max_size)
    budget = Budget(None, options.host_max_size, options.reserve, most)
    return budget if budget.host_max_size is not None or budget.has_roles else None


def have_roles(entry: Mapping[str, Any]) -> bool:
    """Whether some places of a database are for some work only. Raises ImproperlyConfigured."""
    options = parse(entry)
    budget = None if options is None else of_options(options)
    return budget is not None and budget.has_roles


def limits_background() -> bool:
    """Whether anything is said of background work."""
    for entry in connections.settings.values():
        options = entry.get("OPTIONS") or {}
        pool = options.get("pool")
        if "pool_background_max" in options or (
            isinstance(pool, Mapping) and "background_max" in pool
        ):
            return True
    return any(isinstance(one, Mapping) and "background_max" in one for one in _setting().values())


def most_of_all(entries: Iterable[Mapping[str, Any]], processes: int) -> int:
    """How many connections so many processes of a host may open. Raises ImproperlyConfigured."""
    each: dict[Any, int] = {}  # process: by the budget, or by the database
    most: dict[Any, float] = {}
    hosts: dict[Any, Path] = {}
    for number, entry in enumerate(entries):
        options = parse(entry)
        if options is None:
            continue
        found, key = of_options(options), options.budget or number
        each[key] = each.get(key, 0) + options.max_size
        if found is not None and found.max_size is not None:
            each[key] = min(each[key], found.max_size)
        if found is not None and found.host_max_size is not None:
            hosts[key] = where = path(entry, options.budget)
            most[where] = min(most.get(where, found.host_max_size), found.host_max_size)
    of_places: dict[Any, int] = {}
    for key, size in each.items():
        place = hosts.get(key, key)
        of_places[place] = of_places.get(place, 0) + size * processes
    return int(sum(min(size, most.get(place, size)) for place, size in of_places.items()))


def budgets() -> dict[str, Budget]:
    """CONNPOOL_BUDGETS. Raises ImproperlyConfigured."""
    return {str(name): budget(name, value) for name, value in _setting().items()}


def _setting() -> Mapping[Any, Any]:
    found = getattr(settings, SETTING, None) or {}
    if not isinstance(found, Mapping):
        raise ImproperlyConfigured(f"{SETTING} has to be a dictionary of names and numbers.")
    return found


def budget(name: Any, value: Any) -> Budget:
    """One of them: a number, or a dictionary of numbers. Raises ImproperlyConfigured."""
    given = value if isinstance(value, Mapping) else {"max_size": value}
    where = f'{SETTING}["{name}"]'
    if unknown := sorted(set(map(str, given)) - set(KEYS)):
        raise ImproperlyConfigured(
            f"{where} cannot have {', '.join(unknown)}: it has {', '.join(KEYS)}."
        )
    sizes = [given.get("max_size"), given.get("host_max_size")]
    for size in sizes:
        if size is not None and not (_is_count(size) and 1 <= size <= MOST):
            raise ImproperlyConfigured(f"{where}: {size!r} is no number of connections.")
    least = min((size for size in sizes if size is not None), default=0)
    if not least:
        raise ImproperlyConfigured(f"{where} needs a max_size, a host_max_size, or both.")
    reserve = given.get("reserve", 0)
    if not _is_count(reserve) or not 0 <= reserve < least:
        raise ImproperlyConfigured(f"{where}: reserve has to be from 0 to {least - 1}.")
    try:
        most = background_most(given.get("background_max"), sizes[1] or least)
    except ValueError as error:
        raise ImproperlyConfigured(f"{where}: background_max: {error}") from error
    return Budget(sizes[0], sizes[1], reserve, most)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _table(key: Any) -> Table:
    table = _tables.get(key)
    if table is None:
        table = _tables[key] = Table()
    return table


def place() -> Path:
    """The folder that the processes of this host share."""
    return Path(getattr(settings, folder.SETTING, None) or folder.default())


def path(entry: Mapping[str, Any], budget: str | None = None) -> Path:
    """The file of a host's bound: of a database (server, role and name), or a server's budget."""
    options = entry.get("OPTIONS") or {}
    server = [
        str(entry.get("HOST") or options.get("host") or os.environ.get("PGHOST", "")),
        str(entry.get("PORT") or options.get("port") or os.environ.get("PGPORT", "5432")),
        str(options.get("service") or ""),
    ]
    of_one = [str(entry.get("USER") or ""), str(entry.get("NAME") or "")]
    means = ["budget", budget, *server] if budget else ["database", *server, *of_one]
    digest = hashlib.sha256(json.dumps(means).encode()).hexdigest()[:20]
    return place() / f"{digest}{SUFFIX}"


def is_place_chosen() -> bool:
    """Whether the settings say where that folder is."""
    return bool(getattr(settings, folder.SETTING, None))


def is_in_container() -> bool:
    """Whether this process runs in a container, as far as that can be told."""
    marks = ("/.dockerenv", "/run/.containerenv")
    return any(map(os.path.exists, marks)) or "KUBERNETES_SERVICE_HOST" in os.environ


def why_unusable() -> str:
    """Why that folder cannot be used; empty if it can."""
    try:
        folder.prepare(place())
        Ledger.require_locks()
    except Unusable as error:
        return str(error)
    return ""


def _require(bound: Bound) -> None:
    """Raises ImproperlyConfigured where it cannot be kept."""
    if why := why_unusable():
        raise ImproperlyConfigured(f"{bound.name} cannot be kept: {why}")
