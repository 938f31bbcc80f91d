from __future__ import annotations

import json
from typing import Any

import pytest

from django_connpool.status.document import parse
from tests.status.samples import loan, pool, process


def encoded(**changes: Any) -> bytes:
    return json.dumps(process(**changes)).encode()


def test_a_document_is_passed_on_with_what_it_has_besides() -> None:
    found = parse(encoded(pools=[pool(loans=[loan()])], added_later=True))
    assert found == process(pools=[pool(loans=[loan()])], added_later=True)


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"", "without an answer"),
        (b'{"version": 1', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "status version None"),
        (encoded(version=2), "speaks status version 2, this command version 1"),
        (encoded(pid="4711"), "answered the process without a usable pid"),
        (encoded(pools=None), "usable pools"),
        (encoded(pools=[None]), "answered without a pool"),
        (encoded(pools=[pool(idle=None, stats=[])]), "a pool without a usable idle, stats"),
        (encoded(pools=[pool(histograms={})]), "the histograms without a usable wait, hold, conn"),
        (
            encoded(pools=[pool(histograms={key: {} for key in ("wait", "hold", "connect")})]),
            "a histogram without a usable count, sum, buckets",
        ),
        (encoded(pools=[pool(loans=[loan(held="long")])]), "a loan without a usable held"),
    ],
)
def test_anything_else_is_named(raw: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse(raw)
