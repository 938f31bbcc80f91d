from __future__ import annotations

import json
from typing import Any

from tests.cluster import Server
from tests.e2e import processes
from tests.testproject.processes import wait_until


def forked(name: str, server: Server, application_name: str) -> Any:
    """What the script `name` of forks.py found. With threads around, Python warns of forking."""
    ignored = [] if not name.startswith("with_") else ["-W", "ignore::DeprecationWarning"]
    arguments = ["-W", "error", *ignored, "-m", "tests.backends.forks", name]
    url = server.url(application_name=application_name)
    done = processes.run(processes.ROOT, *arguments, DATABASE_URL=url)
    assert done.stderr == ""
    wait_until(lambda: server.backends(application_name=application_name) == 0, "nothing is left")
    return json.loads(done.stdout)


def test_a_child_queries_at_once_and_the_parent_does_not_notice(cluster: Server) -> None:
    found = forked("idle", cluster, "forks-idle")

    assert (found["child"], found["parent"]) == (True, True)


def test_a_child_of_a_transaction_is_told_so_and_the_parent_goes_on(cluster: Server) -> None:
    found = forked("in_atomic", cluster, "forks-in-atomic")

    assert "atomic block" in found["child"]
    assert found["parent"]


def test_a_child_may_leave_the_transaction_of_its_parent_and_begin_its_own(
    cluster: Server,
) -> None:
    found = forked("out_of_atomic", cluster, "forks-out-of-atomic")

    assert (found["child"], found["parent"]) == (True, True)


def test_the_threads_of_the_parent_keep_their_loans(cluster: Server) -> None:
    found = forked("with_threads", cluster, "forks-with-threads")

    assert (found["child"], found["parent"], found["threads"]) == (True, True, [True, True])


def test_the_pool_of_a_child_is_announced_to_it(cluster: Server) -> None:
    assert forked("announced", cluster, "forks-announced")["child"] is True
