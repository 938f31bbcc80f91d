"""What a timeout says."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from django_connpool import PoolTimeout
from tests.inside import explain, userline

from .fake import FakeServer, working_pool


def snapshot(**changes: Any) -> dict[str, Any]:
    seen = {
        "name": "shop",
        "max_size": 2,
        "size": 2,
        "in_use": 2,
        "opening": 0,
        "waiting": 3,
        "suspended": False,
        "loans": [],
        "last_error": None,
    }
    return seen | changes


def loan(held: float, **changes: Any) -> dict[str, Any]:
    return {
        "held": held,
        "thread": "thread",
        "thread_id": 0,
        "note": None,
        "offered": False,
    } | changes


def test_it_names_the_pool_the_numbers_and_the_way_out() -> None:
    text = explain.timeout(snapshot(), 1.5)
    assert "'shop'" in text
    assert "within 1.50 s" in text
    assert "2 of at most 2 open, 2 on loan, 0 being opened, 3 more waiting" in text
    assert "raise max_size" in text


def test_it_names_the_last_error_instead_of_the_way_out_when_the_server_refuses() -> None:
    text = explain.timeout(snapshot(last_error="refused"), 1)
    assert "Connecting last failed with: refused." in text
    assert "max_size." not in text


def test_it_says_that_the_pool_is_suspended() -> None:
    assert "call resume()" in explain.timeout(snapshot(suspended=True), 1)


def test_holders_are_named_longest_first_with_their_purpose_and_not_all_of_many() -> None:
    loans = [loan(float(n)) for n in range(11)] + [loan(50.0, note="GET /")]
    text = explain.holders(loans)
    assert text.startswith("'thread' for 50.00 s, GET /; 'thread' for 10.00 s; ")
    assert text.endswith("; and 2 more")


def test_a_thread_that_ended_has_no_name_and_no_place() -> None:
    thread = threading.Thread(target=int)
    thread.start()
    ident = thread.ident
    thread.join()
    assert ident is not None
    assert explain.thread_name(ident) == f"thread {ident} (ended)"
    assert userline.of_thread(ident) == ""


def test_a_real_timeout_says_which_line_the_holder_is_at() -> None:
    with working_pool(FakeServer(), max_size=1) as pool:
        conn = pool.getconn()
        with pytest.raises(PoolTimeout) as caught:
            pool.getconn(timeout=0)
        pool.putconn(conn)
    assert threading.current_thread().name in str(caught.value)
    assert f"at {__file__}:" in str(caught.value)
    assert "test_a_real_timeout" in str(caught.value)


def test_it_says_when_the_waiting_thread_is_a_holder_itself() -> None:
    hint = "This thread holds one of them itself"
    mine = loan(1, thread_id=threading.get_ident())
    assert hint in explain.timeout(snapshot(loans=[loan(2), mine]), 1)
    assert hint not in explain.timeout(snapshot(loans=[loan(2)]), 1)
