"""What tests that read the sources leave to those after them: nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def the_sources_are_forgotten(request: pytest.FixtureRequest) -> Iterator[None]:
    """Their trees are half a million objects, at which the collector would look in each test."""
    yield
    for thing in vars(request.module).values():
        if forget := getattr(thing, "cache_clear", None):
            forget()
