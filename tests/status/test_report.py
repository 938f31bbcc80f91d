from __future__ import annotations

import json
from pathlib import Path

from django_connpool.status.collect import Collected, Silence
from django_connpool.status.report import Report
from tests.status.samples import loan, pool, process
from tests.status.test_table import SERVER

EVERYTHING = Report(
    Collected(
        processes=[
            process(pools=[pool(loans=[loan()]), pool(alias="reports", aliases=["reports"])]),
            process(pid=12),
        ],
        silent=[Silence(99, "did not answer within 2 s")],
        directories=[Path("/run/user/1000/django-connpool")],
        refused=["/tmp/x is a symbolic link"],
    ),
    {"default": SERVER, "reports": {"error": "connection refused"}},
)


def test_json_has_everything() -> None:
    found = json.loads(EVERYTHING.as_json())
    assert found == {
        "version": 1,
        "processes": EVERYTHING.processes,
        "unanswered": [{"pid": 99, "problem": "did not answer within 2 s"}],
        "directories": ["/run/user/1000/django-connpool"],
        "refused": ["/tmp/x is a symbolic link"],
        "server": {"default": SERVER, "reports": {"error": "connection refused"}},
    }
    assert {"alias", "min_size", "max_size", "size", "idle", "in_use", "waiting"} <= set(
        found["processes"][0]["pools"][0]
    )


def test_json_without_indent_is_one_line() -> None:
    assert "\n" not in EVERYTHING.as_json(indent=None)


def test_one_alias_has_only_its_pools_and_its_server() -> None:
    found = EVERYTHING.only("reports")
    assert [process["pid"] for process in found.processes] == [4711]
    assert [pool["alias"] for pool in found.processes[0]["pools"]] == ["reports"]
    assert list(found.server) == ["reports"]
    assert found.collected.silent == EVERYTHING.collected.silent


def test_an_alias_that_shares_its_pool_finds_it() -> None:
    shared = Report(Collected([process(pools=[pool(aliases=["default", "replica"])])]))
    assert len(shared.only("replica").processes) == 1
    assert shared.only("replica").server == {}
