"""What is logged again and again is logged once, and then how often."""

from __future__ import annotations

import logging
import os
import threading

import pytest

from tests import inside
from tests.pool.real.helpers import run_python, until

LOGGER = logging.getLogger("django_connpool.pool").getChild("loans")


def warn(text: str, *args: object, **extra: object) -> None:
    LOGGER.warning(text, *args, extra=extra)


def test_what_differs_only_in_its_numbers_is_the_same(caplog: pytest.LogCaptureFixture) -> None:
    for seconds in (1.5, 2.25, 30):
        warn("%s: on loan for %.1f s (GET /orders/%d/)", "main", seconds, seconds)
    assert caplog.messages == ["main: on loan for 1.5 s (GET /orders/1/)"]

    inside.end_bursts()
    until(lambda: len(caplog.messages) == 2)
    assert caplog.messages[1] == (
        "2 more within 10 s like this: main: on loan for 1.5 s (GET /orders/1/)"
    )


def test_another_line_of_code_is_another_message(caplog: pytest.LogCaptureFixture) -> None:
    for line in (17, 18, 18):
        warn("borrowed at /srv/shop/views.py:%d in get", line)

    assert [message[-9:] for message in caplog.messages] == ["17 in get", "18 in get"]


@pytest.mark.parametrize("names", [("first", "second"), ("pool-1", "pool-2")])
def test_each_pool_speaks_for_itself(
    caplog: pytest.LogCaptureFixture, names: tuple[str, str]
) -> None:
    for name in (*names, *names):
        warn("%s: connecting failed", name, pool=name)

    assert len(caplog.messages) == 2


def test_what_is_said_once_is_not_told_of_again(caplog: pytest.LogCaptureFixture) -> None:
    warn("once")
    inside.end_bursts()
    warn("once")  # which is over: this begins another

    assert caplog.messages == ["once", "once"]


def test_a_burst_that_lasts_is_told_of_again(caplog: pytest.LogCaptureFixture) -> None:
    for number in range(2):
        for _ in range(3):
            warn("again")
        inside.end_bursts()
        until(lambda number=number: len(caplog.messages) == number + 2)

    assert caplog.messages == [
        "again",
        "2 more within 10 s like this: again",
        "3 more within 10 s like this: again",
    ]


def test_the_line_has_the_attributes_of_the_first(caplog: pytest.LogCaptureFixture) -> None:
    for in_use in (3, 4):
        warn("busy", pool="main", in_use=in_use, waiting=0, reason="lost")
    inside.end_bursts()
    until(lambda: len(caplog.records) == 2)

    told = caplog.records[1].__dict__
    assert (told["pool"], told["in_use"], told["waiting"], told["reason"]) == ("main", 3, 0, "lost")
    assert told["repeated"] == 1
    assert told["levelname"] == "WARNING"


def test_threads_that_say_the_same_say_it_once(caplog: pytest.LogCaptureFixture) -> None:
    threads = [threading.Thread(target=warn, args=("together",)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    inside.end_bursts()
    until(lambda: len(caplog.messages) == 2)

    assert caplog.messages == ["together", "19 more within 10 s like this: together"]


def test_at_the_end_of_the_process_what_was_not_told_is_told() -> None:
    out = run_python(
        """
        import logging, sys
        from django_connpool import ConnectionPool

        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        for number in range(5):
            logging.getLogger("django_connpool.pool").getChild("loans").warning("failed %d", number)
        """
    )
    assert out.splitlines() == ["failed 0", "4 more within 10 s like this: failed 0"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_a_child_says_for_itself_what_its_parent_has_said() -> None:
    out = run_python(
        """
        import logging, os, sys
        from django_connpool import ConnectionPool

        logging.basicConfig(stream=sys.stdout, format="%(message)s")
        logger = logging.getLogger("django_connpool.pool").getChild("loans")
        logger.warning("failed")
        logger.warning("failed")
        sys.stdout.flush()
        if not (pid := os.fork()):
            logger.warning("failed")
            sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        """,
        warnings="ignore",
    )
    assert out.splitlines() == ["failed", "failed", "1 more within 10 s like this: failed"]


def test_what_cannot_be_shown_is_no_error_of_who_logs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Mute:
        def __str__(self) -> str:
            raise RuntimeError("on purpose")

    seen: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    handler = Handler()
    monkeypatch.setattr(LOGGER, "propagate", False)
    LOGGER.addHandler(handler)
    try:
        warn("%s", Mute())
    finally:
        LOGGER.removeHandler(handler)

    assert len(seen) == 1
