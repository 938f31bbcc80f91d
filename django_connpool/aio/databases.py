"""The pools of the site's databases, as tasks see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from django_connpool import registry

from .pool import Pool


class Pools(Mapping[str, Pool]):
    """Alias to pool, for every database whose ENGINE is pooled. Asking makes the pool.

    What is returned may be kept: it goes on to the next pool, if the alias gets another.
    """

    def __init__(self) -> None:
        self._found: dict[str, Pool] = {}

    def __getitem__(self, alias: str) -> Pool:
        registry.pools[alias]  # KeyError for one that has none
        return self._found.setdefault(alias, Pool(partial(registry.pools.__getitem__, alias)))

    def __iter__(self) -> Iterator[str]:
        return iter(registry.pools)

    def __len__(self) -> int:
        return len(registry.pools)


pools = Pools()
