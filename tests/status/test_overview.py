from __future__ import annotations

from typing import Any

from django_connpool.status import overview
from django_connpool.status.collect import Collected, Silence
from django_connpool.status.report import Report
from tests.status.samples import loan, pool, process


def judged(*processes: Any, silent: Any = ()) -> Any:
    return overview.judge(Report(Collected(list(processes), list(silent))), 1.0, 60.0)


def calm(**changes: Any) -> dict[str, Any]:
    return pool(**{"waiting": 0, "longest_wait": 0.0, **changes})


def test_a_site_that_is_well() -> None:
    found = judged(process(pools=[calm()]), process(pid=12, pools=[calm(aliases=["reports"])]))
    assert overview.headline(found, 120) == (
        "well: nobody waits, 4 of 20 connections are in use (2 pools in 2 processes);"
        " 8 waited in vain"
    )
    assert overview.render(found, 120).splitlines() == [
        "PROCESS  POOL     OPEN/MAX  IN USE  OFFERED  IDLE  WAITING  LONGEST  TIMEOUTS  VERDICT",
        "4711     default      4/10       2        1     1        0        -         4"
        "  well   gunicorn shop.wsgi --workers 2",
        "12       reports      4/10       2        1     1        0        -         4"
        "  well   gunicorn shop.wsgi --workers 2",
        "all      2 pools      8/20       4        2     2        0        -         8",
    ]


def test_a_site_in_which_nobody_has_waited_in_vain() -> None:
    found = judged(process(pools=[calm(stats={})]))
    assert overview.headline(found, 100) == (
        "well: nobody waits, 2 of 10 connections are in use (1 pool in 1 process)"
    )


def test_the_worst_comes_first_with_its_reason_and_the_others_below() -> None:
    found = judged(
        process(pools=[calm()]),
        process(pid=12, pools=[pool(waiting=2, longest_wait=2.5)]),
        process(pid=13, pools=[calm(last_error="connection refused")]),
        silent=[Silence(99, "did not answer within 2 s")],
    )
    down = "pid 13, default: connecting has failed: connection refused"
    assert overview.sum_up(found) == ("down", f"{down}; 2 others not well either")
    lines = overview.render(found, 100).splitlines()
    assert [line.split()[0] for line in lines[1:5]] == ["13", "12", "4711", "all"]
    assert lines[6:8] == [f"down: {down}", "stuck: pid 99 did not answer within 2 s"]
    busy = " ".join(line.strip() for line in lines[8:])
    assert busy == (
        "busy: pid 12, default: somebody has waited 2.5 s for a connection, and 1 more wait;"
        " 2 of 10 are in use"
    )


def test_a_process_that_hangs_is_stuck_though_nothing_else_is_known() -> None:
    found = judged(silent=[Silence(99, "did not answer within 2 s")])
    assert overview.headline(found, 100) == "stuck: pid 99 did not answer within 2 s"
    assert overview.render(found, 100) == ""


def test_a_hundred_pools_are_one_screen() -> None:
    held = [loan(held=75.0)] * 10
    many = [process(pid=pid, pools=[calm()]) for pid in range(1000, 1099)]
    found = judged(*many, process(pid=12, pools=[calm(loans=held)]))
    lines = overview.render(found, 100).splitlines()
    assert len(lines) < 24
    assert lines[1].startswith("12 ")
    assert lines[-2] == "and 80 more pools, all well: --loans shows each"
    assert lines[-1].split()[:4] == ["all", "100", "pools", "400/1000"]
    stuck = [process(pid=pid, pools=[calm(loans=held)]) for pid in range(30)]
    lines = overview.render(judged(*stuck), 100).splitlines()
    assert "and 10 more pools, the worst of them stuck: --loans shows each" in lines


def test_hosts_are_named_where_there_are_several() -> None:
    found = judged(process(pid=1), process(pid=1, host="web-2"))
    assert "\n1 on web-2 " in overview.render(found, 100)


def test_only_the_verdict_is_coloured_and_everything_is_cleaned() -> None:
    evil = process(command="\x1b[2J", pools=[pool(aliases=["\x1b[2J"], last_error="\x1b[2J")])
    shown = overview.headline(judged(evil), 120) + overview.render(judged(evil), 120)
    assert "\x1b" not in shown

    def mark(word: str, text: str) -> str:
        return f"<{word}>{text}</>"

    assert overview.headline(judged(evil), 120, mark).startswith("<down>down</>: pid 4711, ?[2J:")
    assert "  <down>down</>   ?[2J" in overview.render(judged(evil), 120, mark)
