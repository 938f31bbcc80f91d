"""What the visitors of the shop ask for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from random import Random

from shop.sample import CATEGORIES, MANNERS, PLACES


@dataclass(frozen=True)
class Visit:
    """One request."""

    method: str
    path: str
    body: str | None = None


def visits(count: int) -> list[Visit]:
    """So many requests in a realistic mix, the same ones each time."""
    chance = Random(11)
    kinds = chance.choices([_list, _detail, _search, _delivery, _summary, _order, _export],
                           weights=[30, 35, 10, 8, 5, 10, 2], k=count)  # fmt: skip
    return [kind(chance) for kind in kinds]


def _slug(chance: Random) -> str:
    names = (chance.choice(MANNERS), chance.choice(PLACES), chance.choice(CATEGORIES))
    return "-".join(names).lower()


def _list(chance: Random) -> Visit:
    return Visit("GET", f"/?category={chance.choice(CATEGORIES).lower()}")


def _detail(chance: Random) -> Visit:
    return Visit("GET", f"/products/{_slug(chance)}/")


def _search(chance: Random) -> Visit:
    return Visit("GET", f"/api/products/?search={chance.choice(PLACES)}")


def _delivery(chance: Random) -> Visit:
    return Visit("GET", f"/products/{_slug(chance)}/delivery/")


def _summary(chance: Random) -> Visit:
    return Visit("GET", "/summary/")


def _order(chance: Random) -> Visit:
    products = {_slug(chance): 1, _slug(chance): 2}
    return Visit(
        "POST", "/api/orders/", json.dumps({"customer": "eve@example.com", "products": products})
    )


def _export(chance: Random) -> Visit:
    return Visit("GET", "/export/products.csv")
