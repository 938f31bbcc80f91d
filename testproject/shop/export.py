"""A streamed file. Its rows come from one open cursor, which keeps a connection until the end."""

from __future__ import annotations

import csv
from collections.abc import AsyncIterator, Iterator

from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse

from .models import Product

COLUMNS = ["slug", "name", "category__name", "price", "stock"]
HEADER = ["slug", "name", "category", "price", "stock"]
CHUNK = 100


class _Line:
    """The file of a csv.writer that keeps nothing: writing a row returns its text."""

    def write(self, text: str) -> str:
        return text


def products(request: HttpRequest) -> StreamingHttpResponse:
    """All products as CSV, read and sent piece by piece."""
    return StreamingHttpResponse(
        _async_rows() if isinstance(request, ASGIRequest) else _rows(),
        content_type="text/csv",
        headers={"Content-Disposition": 'attachment; filename="products.csv"'},
    )


def _rows() -> Iterator[str]:
    writer = csv.writer(_Line())
    yield writer.writerow(HEADER)
    for row in Product.objects.values(*COLUMNS).iterator(chunk_size=CHUNK):
        yield writer.writerow(row.values())


async def _async_rows() -> AsyncIterator[str]:
    writer = csv.writer(_Line())
    yield writer.writerow(HEADER)
    async for row in Product.objects.values(*COLUMNS).aiterator(chunk_size=CHUNK):
        yield writer.writerow(row.values())
