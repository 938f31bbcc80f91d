"""What the demo concludes follows its figures."""

from __future__ import annotations

import io
from typing import Any

import pytest
from demo import report
from demo.contenders import DJANGO, OURS, STOCK, Contender
from demo.load import Answers
from demo.report import BESIDE, EVERYDAY, FAILED, Circumstances, Run
from demo.screen import Screen
from rich.console import Console

TOLD = Circumstances(12, partner_seconds=1.0, what_happened="The server was restarted")


def answers(seconds: float = 0.1, good: int = 100, bad: int = 0, elapsed: float = 1.0) -> Answers:
    waits = [seconds] * (good + bad)
    return Answers([seconds] * good, ["/: 500"] * bad, waits, elapsed)


def run(contender: Contender, **parts: Any) -> Run:
    whole = {"everyday": answers(), "beside": answers(), "restart": answers()}
    return Run(contender, **{**whole, "opened": 8, "most": 8, **parts})


def names(found: list[Run]) -> list[str]:
    return [one.contender.name for one in found]


def test_a_peer_that_is_better_is_named_as_the_best() -> None:
    runs = [
        run(DJANGO, everyday=answers(good=200), beside=answers(0.02)),
        run(OURS, everyday=answers(good=100), beside=answers(0.2)),
    ]
    everyday, beside, _ = report.sentences(runs, TOLD)
    assert "; best: Django's pool." in everyday[0]
    assert beside[0].endswith("; best: Django's pool.")


def test_what_is_less_than_a_tenth_worse_is_as_good() -> None:
    runs = [
        run(STOCK, everyday=answers(good=50)),
        run(DJANGO, everyday=answers(good=200)),
        run(OURS, everyday=answers(good=185)),
    ]
    assert names(report.best(EVERYDAY, runs)) == ["Django's pool", "django-connpool"]


def test_where_all_are_as_good_nobody_is_the_best() -> None:
    runs = [run(STOCK), run(OURS)]
    assert report.best(EVERYDAY, runs) == []
    assert report.sentences(runs, TOLD)[1][0].endswith("; no difference to speak of.")


def test_that_a_request_more_was_under_way_makes_nobody_worse() -> None:
    runs = [
        run(STOCK, restart=answers(bad=60)),
        run(DJANGO, restart=answers(bad=2)),
        run(OURS, restart=answers(bad=5)),
    ]
    assert names(report.best(FAILED, runs)) == ["Django's pool", "django-connpool"]


def test_who_answered_nothing_is_not_the_fastest() -> None:
    runs = [run(STOCK, beside=answers(good=0, bad=9)), run(DJANGO), run(OURS, beside=answers(0.5))]
    assert names(report.best(BESIDE, runs)) == ["Django's pool"]
    assert "stock Django no answer" in report.sentences(runs, TOLD)[1][0]


def test_one_contender_alone_is_not_judged() -> None:
    for sentence, _ in report.sentences([run(OURS)], TOLD):
        assert "best" not in sentence
        assert "fewest" not in sentence
        assert "difference" not in sentence


def test_the_sentences_tell_all_figures() -> None:
    runs = [
        run(STOCK, opened=980, most=18, restart=answers(0.7, good=303, bad=97)),
        run(OURS, opened=16, most=8, restart=answers(2.2, good=883, bad=2)),
    ]
    everyday, _, restart = report.sentences(runs, TOLD)
    assert "18, 8 connections at once, of 980, 16 that were opened" in everyday[0]
    assert "stock Django 97 of 400 requests failed, the longest wait was 700 ms" in restart[0]
    assert "django-connpool 2 of 885 requests failed, the longest wait was 2.2 s" in restart[0]


def test_who_lost_fewest_requests_is_said() -> None:
    runs = [run(DJANGO, restart=answers(bad=2)), run(OURS, restart=answers(bad=9))]
    assert report.sentences(runs, TOLD)[2][0].endswith("; fewest failures: Django's pool.")


def test_the_table_stars_the_best_of_each_row() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(report.side_by_side([run(STOCK, most=18), run(OURS, most=8)]))
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    (row,) = [line for line in drawn.splitlines() if "open at once" in line]
    assert row.split() == ["│", "open", "at", "once", "│", "18", "│", "8", "*", "│"]


@pytest.fixture
def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=100)


def drawn_by(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_story_that_is_half_told_has_no_bar_in_red(terminal: Console) -> None:
    screen = Screen(steps=10, terminal=terminal)
    with screen.showing():
        for number in range(5):
            screen.step(f"step {number}")
    assert "4/10" in drawn_by(terminal)
    assert "38;2;249;38;114" not in drawn_by(terminal)  # rich's own colour of what is not complete


def test_where_there_is_no_terminal_each_step_is_a_line() -> None:
    plain = Console(file=io.StringIO(), width=40)
    screen = Screen(steps=2, terminal=plain)
    with screen.showing():
        screen.step("a step of which the text is longer than the width")
        screen.say("what is [in brackets] and also longer than the width")
    assert drawn_by(plain).splitlines() == [
        "... a step of which the text is longer than the width",
        "what is [in brackets] and also longer than the width",
    ]


def test_the_browser_is_told_the_same_and_escaped(terminal: Console) -> None:
    screen = Screen(steps=2, terminal=terminal)
    with screen.showing():
        screen.say("<b>& first")
        screen.step("then <i>")
        assert "&lt;b&gt;&amp; first" in screen.html()
        assert screen.html().endswith("... then &lt;i&gt;")
    assert "then" not in screen.html()
