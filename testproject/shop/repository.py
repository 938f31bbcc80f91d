"""Products by statements of one's own, for `async def`: what an ORM is not needed for."""

from __future__ import annotations

from dataclasses import dataclass

from psycopg.rows import class_row

from django_connpool import aio


@dataclass(frozen=True)
class Scarce:
    """A product that there is little of."""

    slug: str
    name: str
    stock: int
    ordered: int


class ProductRepository:
    """What is known of products. Each method borrows for as long as it needs a connection."""

    def __init__(self, pool: aio.Pool) -> None:
        self._pool = pool

    async def scarce(self, below: int) -> list[Scarce]:
        """Those of which there are fewer than that, the fewest first."""
        async with self._pool.acquire() as conn:
            cursor = conn.cursor(row_factory=class_row(Scarce))
            await cursor.execute(
                """
                SELECT p.slug, p.name, p.stock, coalesce(sum(l.quantity), 0)::int AS ordered
                FROM shop_product p LEFT JOIN shop_orderline l ON l.product_id = p.id
                WHERE p.stock < %s GROUP BY p.id ORDER BY p.stock, p.name LIMIT 50
                """,
                [below],
            )
            return await cursor.fetchall()

    async def count(self) -> int:
        return int(await self._pool.fetchval("SELECT count(*) FROM shop_product"))

    async def restock(self, slug: str, units: int) -> int:
        """Add to the stock of a product; return how much there is by then. KeyError for none."""
        async with self._pool.transaction() as conn:
            cursor = await conn.execute(
                "UPDATE shop_product SET stock = stock + %s WHERE slug = %s RETURNING stock",
                [units, slug],
            )
            row = await cursor.fetchone()
            if row is None:
                raise KeyError(slug)
            return int(row[0])
