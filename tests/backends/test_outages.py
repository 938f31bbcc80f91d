"""A primary that goes away and a standby that takes over, while threads write."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.databases import Databases, value
from tests.standby import Primary, Standby, Writers, demoted, either, killed, make_table, shut_down
from tests.testproject.processes import wait_until

pytestmark = pytest.mark.stress

WRITERS = 6


@pytest.mark.parametrize("release", ["request", "transaction"])
@pytest.mark.parametrize("happens", [killed, shut_down, demoted])
def test_a_short_outage_costs_what_was_being_written(
    databases: Databases, happens: Callable[[Primary, Standby], None], release: str
) -> None:
    with Primary() as primary, primary.standby() as standby:
        make_table(primary, standby)
        wrapper = databases.add(
            pool={"max_size": WRITERS, "release": release},
            options={"target_session_attrs": "read-write"},
            **either(primary, standby),
        )
        writers = Writers(wrapper.alias, WRITERS)
        try:
            wait_until(lambda: len(writers.took) > 100, "they write")
            happens(primary, standby)
            written = len(writers.took)
            wait_until(lambda: len(writers.took) > written + 100, "they write again")
        finally:
            writers.stop()
        assert writers.failed <= 2 * WRITERS, writers.errors
        assert value(wrapper, "SELECT pg_is_in_recovery()") is False
