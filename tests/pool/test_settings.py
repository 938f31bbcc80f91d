"""Numbers that make no pool are refused when it is made."""

from __future__ import annotations

from typing import Any

import pytest

from .fake import FakeServer, fake_pool


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_size": -1}, "min_size cannot be negative, not -1"),
        ({"max_size": 0}, "max_size must be at least 1, not 0"),
        ({"min_size": 3, "max_size": 2}, r"max_size \(2\) must not be smaller than min_size \(3\)"),
        ({"max_waiting": -1}, "max_waiting cannot be negative"),
        ({"max_uses": -1}, "max_uses cannot be negative"),
        ({"leak_after": -0.1}, "leak_after cannot be negative"),
        ({"reconnect_timeout": -1}, "reconnect_timeout cannot be negative"),
        ({"outage_patience": -1}, "outage_patience cannot be negative"),
        ({"max_lifetime": 0}, "max_lifetime must be more than 0 seconds"),
        ({"max_idle": 0}, "max_idle must be more than 0 seconds"),
        ({"max_connecting": 0}, "max_connecting must be at least 1"),
        ({"num_workers": 0}, "num_workers must be at least 1"),
        ({"jitter": 1.1}, "jitter is a share between 0 and 1"),
        ({"jitter": -0.1}, "jitter is a share between 0 and 1"),
    ],
)
def test_an_impossible_number_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fake_pool(FakeServer(), open=False, **options)


def test_a_pool_without_max_size_is_as_large_as_it_is_small() -> None:
    pool = fake_pool(FakeServer(), open=False, min_size=3, max_size=None)
    assert (pool.min_size, pool.max_size) == (3, 3)


@pytest.mark.parametrize(
    ("name", "value"), [("max_uses", -1), ("jitter", 2.0), ("max_idle", 0.0), ("max_connecting", 0)]
)
def test_nor_does_an_impossible_one_get_into_a_pool_that_is_there(name: str, value: float) -> None:
    pool = fake_pool(FakeServer(), open=False)
    before = getattr(pool, name)
    with pytest.raises(ValueError, match=f"{name} "):
        setattr(pool, name, value)
    assert getattr(pool, name) == before
