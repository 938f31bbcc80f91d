from __future__ import annotations

import pytest

from django_connpool.status.text import clean, duration, plural, shorten


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (-0.1, "0 ms"),
        (0.25, "250 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1m 00s"),
        (3599.6, "1h 00m"),
        (7380, "2h 03m"),
        (90_000, "1d 01h"),
    ],
)
def test_durations_are_short(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
    assert len(shown) <= 7


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert clean("GET /\x1b[2J\r\n\u202e/é") == "GET /?[2J???/é"


def test_long_text_is_shortened_to_the_width() -> None:
    assert shorten("gunicorn shop.wsgi", 18) == "gunicorn shop.wsgi"
    assert shorten("gunicorn shop.wsgi", 12) == "gunicorn ..."


def test_one_of_a_thing_is_singular() -> None:
    assert [plural(n, "pool") for n in (0, 1, 2)] == ["0 pools", "1 pool", "2 pools"]
    assert plural(2, "process", "processes") == "2 processes"
