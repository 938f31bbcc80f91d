from __future__ import annotations

import json
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.errors import QueryCanceled

from django_connpool.status import directory, hands, server
from tests import inside
from tests.databases import Databases, connected, pid, value
from tests.status.samples import answering, obeying, process, wait_until
from tests.status.script import ROOT, running


@pytest.fixture
def spare(databases: Databases) -> Any:
    """A wrapper with a pool of its own."""
    return databases.add("spare", pool={"max_size": 3, "name": "spare-pool"})


@pytest.fixture
def hand(status_dir: Path) -> Iterator[Path]:
    """The socket for commands of this process."""
    server.start()
    yield directory.socket_path(status_dir, os.getpid()).with_suffix(directory.HAND)
    server.stop()


def do(what: str, pool: str | None = "spare", **more: Any) -> Any:
    return hands.perform({"do": what, "pool": pool, **more})


def ask(path: Path, said: bytes, *, half_close: bool = True) -> Any:
    """What a client hears on a socket that it says something to."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(30)
        client.connect(str(path))
        client.sendall(said)
        if half_close:
            client.shutdown(socket.SHUT_WR)
        return json.loads(client.makefile().read())


# -- Here ---------------------------------------------------------------------------------


def test_drain_replaces_what_is_idle(spare: Any, cluster: Any) -> None:
    before = pid(spare)
    spare.close()
    assert do("drain") == {
        "ok": True,
        "text": "spare-pool: every connection is replaced, those on loan when they come back",
    }
    assert pid(spare) != before


def test_a_pool_goes_by_its_alias_and_by_its_name(spare: Any) -> None:
    pid(spare)
    assert do("drain", "spare-pool")["ok"]
    assert do("drain", "sparse") == {
        "ok": False,
        "text": f"pid {os.getpid()} has no pool 'sparse'",
    }


def test_without_a_pool_all_of_the_process_are_meant(databases: Databases) -> None:
    for alias in ("spare", "second"):
        pid(databases.add(alias, pool={"max_size": 3, "name": alias}))
    assert do("suspend", None)["ok"]
    assert do("resume", "second")["ok"]
    assert inside_of("spare")["suspended"]
    assert not inside_of("second")["suspended"]
    assert do("resume", None)["ok"]


def inside_of(name: str) -> Any:
    (found,) = (pool for _, pool in hands.registry.live() if pool.name == name)
    return found.snapshot()


def test_resize_changes_the_bounds_of_the_running_pool(databases: Databases) -> None:
    wrapper = databases.add("spare", pool={"max_size": 3, "min_size": 2, "name": "spare"})
    pid(wrapper)
    assert do("resize", size=5)["text"] == "spare: max_size is 5, until the process ends"
    assert (wrapper.pool.min_size, wrapper.pool.max_size) == (2, 5)
    assert not do("resize", size=10**40)["ok"]
    text = "spare: max_size is 1, until the process ends (and min_size 1)"
    assert do("resize", size=1)["text"] == text
    assert (wrapper.pool.min_size, wrapper.pool.max_size) == (1, 1)


def test_resize_says_which_bound_still_holds(databases: Databases) -> None:
    pool = {"max_size": 2, "host_max_size": 3, "name": "spare"}
    pid(databases.add("spare", pool=pool))
    said = "spare: max_size is {}, until the process ends"
    assert do("resize", size=3)["text"] == said.format(3)
    assert do("resize", size=4)["text"] == f"{said.format(4)}; host_max_size (3) still holds"


@pytest.mark.parametrize("size", [0, -1, True, "5", None, 2.5])
def test_an_impossible_size_is_refused(spare: Any, size: Any) -> None:
    pid(spare)
    assert not do("resize", size=size)["ok"]
    assert spare.pool.max_size == 3


def test_who_waits_while_it_is_suspended_is_served_when_it_is_resumed(spare: Any) -> None:
    pid(spare)
    spare.close()
    pool = spare.pool
    assert do("suspend")["ok"]
    served: list[Any] = []
    thread = threading.Thread(target=lambda: served.append(pool.getconn(60)))
    thread.start()
    wait_until(lambda: pool.snapshot()["waiting"] == 1)
    assert do("resume")["ok"]
    thread.join(60)
    pool.putconn(served.pop())


def test_close_idle_closes_down_to_min_size(databases: Databases, cluster: Any) -> None:
    wrapper = databases.add("spare", pool={"max_size": 5, "min_size": 2, "name": "spare"})
    pool = wrapper.pool
    lent = [pool.getconn() for _ in range(5)]
    for conn in lent[1:]:
        pool.putconn(conn)
    assert do("close-idle")["ok"]
    wait_until(lambda: pool.snapshot()["size"] == 2)
    wait_until(lambda: connected(cluster, wrapper) == 2)
    assert pool.snapshot()["idle"] == 1
    assert pool.snapshot()["closed_for"] == {"surplus": 3}
    pool.putconn(lent[0])


def sleeping(wrapper: Any) -> tuple[threading.Thread, list[Any], int]:
    """A thread in the middle of a statement, what it got, and its backend."""
    got: list[Any] = []
    conn = wrapper.pool.getconn()

    def sleep() -> None:
        try:
            got.append(conn.execute("SELECT pg_sleep(300)"))
        except Exception as error:
            got.append(error)
        wrapper.pool.putconn(conn)

    thread = threading.Thread(target=sleep)
    thread.start()
    wait_until(lambda: wrapper.pool.snapshot()["loans"][0]["transaction"] == "ACTIVE")
    backend = conn.info.backend_pid
    query = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND state = 'active'"
    with psycopg.connect(conn.info.dsn, autocommit=True) as looker:  # a request in vain is lost
        wait_until(lambda: looker.execute(query, [backend]).fetchone() == (1,))
    return thread, got, backend


@pytest.mark.filterwarnings("default")
def test_cancel_ends_the_statement_of_a_loan_and_nothing_else(spare: Any) -> None:
    thread, got, backend = sleeping(spare)
    answer = do("cancel", loan=backend)
    thread.join(60)
    assert answer == {
        "ok": True,
        "text": f"spare-pool: backend {backend} (no request): the server is asked to cancel its "
        "statement",
    }
    assert isinstance(got[0], QueryCanceled)
    assert value(spare, "SELECT 1") == 1


def test_cancel_says_that_an_idle_loan_has_nothing_to_cancel(spare: Any) -> None:
    conn = spare.pool.getconn()
    answer = do("cancel", loan=conn.info.backend_pid)
    spare.pool.putconn(conn)
    assert not answer["ok"]
    assert answer["text"].endswith("is in no statement: there is nothing to cancel")


def test_cancel_knows_the_loan_by_its_number_too(spare: Any) -> None:
    thread, _, backend = sleeping(spare)
    number = spare.pool.snapshot()["loans"][0]["number"]
    stale = do("cancel", loan=backend, number=number - 1)
    assert stale == {
        "ok": False,
        "text": f"pool 'spare-pool': that loan of backend {backend} is over",
    }
    assert thread.is_alive()
    assert do("cancel", loan=backend, number=number)["ok"]
    thread.join(60)


def test_cancel_of_nothing_on_loan_says_so(spare: Any) -> None:
    pid(spare)
    assert do("cancel", loan=1)["text"] == "spare-pool: backend 1 is not on loan"
    assert do("cancel")["text"] == "cancel needs 'loan', a whole number"


@pytest.mark.parametrize("what", ["dance", None, 5, ["drain"], {}])
def test_what_is_no_command_is_refused(spare: Any, what: Any) -> None:
    pid(spare)
    assert do(what)["text"].startswith("unknown command")


def test_a_closed_pool_says_so(spare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pid(spare)
    pool = spare.pool
    monkeypatch.setattr(hands.registry, "live", lambda: [(("spare",), pool)])
    pool.close()
    assert do("drain") == {"ok": False, "text": "pool 'spare-pool' is closed"}


# -- Over the socket ----------------------------------------------------------------------


def test_a_command_comes_over_a_socket_of_its_own(hand: Path, spare: Any) -> None:
    pid(spare)
    command = b'{"do": "resize", "pool": "spare", "size": 4}'
    assert ask(hand, command)["ok"]
    assert spare.pool.max_size == 4
    # A line is enough: whoever has written one may keep the socket open.
    assert ask(hand, command.replace(b"4", b"2") + b"\n", half_close=False)["ok"]
    assert spare.pool.max_size == 2


def test_both_sockets_are_for_their_user_only(hand: Path) -> None:
    modes = {path.suffix: stat.S_IMODE(path.stat().st_mode) for path in hand.parent.iterdir()}
    assert modes == {".hand": 0o600, ".sock": 0o600}


def test_another_user_is_refused_although_the_socket_let_him_in(
    hand: Path, spare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid(spare)
    monkeypatch.setattr(hands.os, "geteuid", lambda: os.getuid() + 1)
    answer = ask(hand, b'{"do": "suspend"}')
    assert answer == {"ok": False, "text": "only the user of this process may command it"}
    assert not spare.pool.snapshot()["suspended"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_a_real_other_user_is_refused(hand: Path, spare: Any) -> None:
    pid(spare)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (hand, *hand.parents[:2])}
    for path in modes:
        path.chmod(0o777)  # as nothing ever does: the credentials have to do it alone
    code = (
        "import os, socket, sys; os.setuid(65534);"
        "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        's.sendall(b\'{"do": "suspend"}\\n\'); print(s.recv(4096).decode())'
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(hand)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    for path, mode in modes.items():
        path.chmod(mode)
    assert "only the user of this process" in said.stdout, said.stderr
    assert not spare.pool.snapshot()["suspended"]


@pytest.mark.parametrize(
    "said", [b"", b"\n", b"\xff\xfe\n", b"drain\n", b"[1]\n", b"null\n", b"[" * 4000, b"x" * 70_000]
)
def test_garbage_is_answered_and_forgotten(hand: Path, spare: Any, said: bytes) -> None:
    pid(spare)
    assert not ask(hand, said)["ok"]
    assert ask(hand, b'{"do": "drain", "pool": "spare"}')["ok"]


def test_a_client_that_never_writes_is_hung_up_on(
    hand: Path, spare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid(spare)
    monkeypatch.setattr(hands, "READ_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(str(hand))
        assert ask(hand, b'{"do": "drain", "pool": "spare"}')["ok"]
        silent.settimeout(30)
        heard = json.loads(silent.makefile().read())
    assert heard == {"ok": False, "text": "no command came within 0.05 s"}


def test_who_only_reads_has_the_document_while_a_silent_one_is_waited_for(
    hand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands, "READ_SECONDS", 60.0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.connect(str(hand))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as old:
            old.settimeout(30)
            old.connect(str(hand.with_suffix(".sock")))
            assert json.load(old.makefile())["pid"] == os.getpid()
        silent.shutdown(socket.SHUT_WR)
        wait_until(lambda: inside.listener() is not None)


# -- From another process -----------------------------------------------------------------


def test_another_process_does_it(status_dir: Path, cluster: Any) -> None:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "testproject")])
    with running("borrow", status_dir, DATABASE_URL=cluster.url(), PYTHONPATH=paths) as borrower:
        answer = hands.send(borrower.pid, {"do": "resize", "size": 7, "pool": "default"}, 30)
        assert answer == {"ok": True, "text": "default: max_size is 7, until the process ends"}
        (seen,) = server_documents()
    assert [pool["max_size"] for pool in seen["pools"]] == [7]


def server_documents() -> Any:
    from django_connpool.status.collect import collect

    return collect(timeout=30).processes


def test_the_own_process_is_not_asked_over_the_socket(status_dir: Path, spare: Any) -> None:
    pid(spare)
    server.stop()
    assert hands.send(os.getpid(), {"do": "drain", "pool": "spare"})["ok"]


def test_a_process_that_is_not_there_is_said(status_dir: Path) -> None:
    answer = hands.send(1, {"do": "drain"})
    assert answer == {"ok": False, "text": "no process 1 of this project has a connection pool"}


def test_an_earlier_version_takes_no_commands(status_dir: Path) -> None:
    with answering(directory.socket_path(status_dir, 20), process(pid=20)):
        answer = hands.send(20, {"do": "drain"})
    assert answer["text"] == "pid 20 runs an earlier version, which takes no commands"


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        (None, "did not answer within 0.2 s: it may do so later"),
        (b"", "gave no usable answer: Expecting value: line 1 column 1 (char 0)"),
        (b"[]\n", "gave no usable answer: list indices must be integers or slices, not str"),
    ],
)
def test_what_does_not_answer_is_said(status_dir: Path, says: Any, problem: str) -> None:
    path = directory.socket_path(status_dir, 20)
    with answering(path, says), obeying(path.with_suffix(directory.HAND), says):
        answer = hands.send(20, {"do": "drain"}, 0.2 if says is None else 30)
    assert answer == {"ok": False, "text": f"pid 20 {problem}"}


def test_of_several_with_the_same_pid_only_the_own_containers_is_commanded(
    status_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django_connpool.status import origin

    paths = [directory.socket_path(status_dir, 20)]
    with monkeypatch.context() as patched:
        patched.setattr(origin, "container", lambda: "another")
        paths.append(directory.socket_path(status_dir, 20))
    with (
        answering(paths[0], b""),
        answering(paths[1], b""),
        obeying(paths[0].with_suffix(".hand"), b'{"ok": true, "text": "own"}'),
        obeying(paths[1].with_suffix(".hand"), b""),
    ):
        assert hands.send(20, {"do": "drain"})["text"] == "own"
        monkeypatch.setattr(origin, "container", lambda: "a third")
        assert hands.send(20, {"do": "drain"})["text"] == "2 processes are pid 20, in containers"


def test_peer_credentials_are_three_whole_numbers() -> None:
    one, other = socket.socketpair()
    with one, other:
        found = struct.unpack("3i", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    assert found == (os.getpid(), os.getuid(), os.getgid())


def test_a_client_that_writes_drop_by_drop_is_hung_up_on_too(
    hand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hands, "READ_SECONDS", 0.1)
    answered, drops = threading.Event(), []
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
        slow.settimeout(30)
        slow.connect(str(hand))

        def drip() -> None:
            # Until it has its answer; should that never be, for 10 s.
            with suppress(OSError):
                for drop in range(500):
                    drops.append(drop)
                    slow.sendall(b" ")
                    if answered.wait(0.02):
                        break

        thread = threading.Thread(target=drip)
        thread.start()
        heard = slow.recv(4096)
        assert len(drops) < 500  # it was not waited for until the end
        answered.set()
        thread.join()
    assert b"no command came within 0.1 s" in heard


@pytest.mark.once
def test_a_button_of_the_page_acts_on_another_process(status_dir: Path, cluster: Any) -> None:
    from django.test import RequestFactory

    from django_connpool.web import acting

    paths = os.pathsep.join([str(ROOT), str(ROOT / "testproject")])
    with running("borrow", status_dir, DATABASE_URL=cluster.url(), PYTHONPATH=paths) as borrower:
        form = {"do": "resize", "pid": borrower.pid, "pool": "default", "size": "6"}
        done = acting.act(RequestFactory().post("/", form))
        assert done == (True, "default: max_size is 6, until the process ends")
        (seen,) = server_documents()
        (held,) = seen["pools"][0]["loans"]
        form = {
            **{"do": "cancel", "pid": borrower.pid, "pool": "default"},
            **{"loan": held["backend_pid"], "number": held["number"]},
        }
        done, text = acting.act(RequestFactory().post("/", form))
        assert not done
        assert text.endswith("is in no statement: there is nothing to cancel")
