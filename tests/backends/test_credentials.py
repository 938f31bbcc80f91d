"""Credentials that a callable gives: asked for once, kept for a while, renewed when refused."""

from __future__ import annotations

import logging
import os
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import OperationalError, connections
from psycopg import sql

from django_connpool.status.activity import ask
from tests import inside
from tests.backends.test_fork import forked
from tests.cluster import PASSWORD, Cluster, Server
from tests.databases import Databases, in_threads, pid, value

NEW = "a password that nobody knew before"


class Vault:
    """Gives passwords, and remembers for what."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, Any]] = []

    def __call__(self, parameters: dict[str, Any]) -> Any:
        self.asked.append(parameters)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.fixture(scope="module")
def locked() -> Iterator[Cluster]:
    """A server that asks for a password."""
    with Cluster(auth="scram-sha-256") as started:
        yield started


@pytest.fixture
def guest(locked: Cluster) -> Iterator[str]:
    """A user of that server whose password the test may change."""
    locked.execute(sql.SQL("CREATE ROLE guest LOGIN PASSWORD {}").format(PASSWORD))
    yield "guest"
    locked.terminate()
    locked.execute("DROP ROLE guest")


@pytest.fixture
def add(databases: Databases, locked: Cluster, guest: str) -> Callable[..., Any]:
    """Add a database of that user; without a password but for what `credentials` gives."""

    def add(credentials: Any, **pool: Any) -> Any:
        pool = {"credentials": credentials, **pool}
        return databases.add(server=locked, USER=guest, PASSWORD="", pool=pool)

    return add


def rotate(server: Cluster, password: str = NEW) -> None:
    server.execute(sql.SQL("ALTER ROLE guest PASSWORD {}").format(password))


def replace(wrapper: Any) -> int:
    """Give the connection back, have it closed, and return the backend of the next."""
    wrapper.close()
    wrapper.pool.drain()
    return pid(wrapper)


def test_a_callable_gives_the_password(add: Callable[..., Any]) -> None:
    vault = Vault(PASSWORD)
    assert value(add(vault), "SELECT current_user") == "guest"

    assert len(vault.asked) == 1


def test_it_may_be_told_by_its_dotted_path_and_give_bytes(
    add: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.signals.vault", Vault(PASSWORD.encode()), raising=False)

    assert value(add("tests.signals.vault"), "SELECT current_user") == "guest"


def test_it_is_asked_too_for_the_connection_that_makes_and_drops_databases(
    add: Callable[..., Any],
) -> None:
    vault = Vault(PASSWORD)
    with add(vault)._nodb_cursor() as cursor:
        cursor.execute("SELECT current_user")
        assert cursor.fetchone() == ("guest",)
    assert len(vault.asked) == 1


def test_it_is_asked_too_when_poolstatus_asks_the_server(
    add: Callable[..., Any], locked: Cluster
) -> None:
    vault = Vault(PASSWORD, NEW)
    wrapper = add(vault)
    assert "error" not in ask(wrapper, details=True)
    rotate(locked)
    assert "error" not in ask(wrapper)
    assert len(vault.asked) == 2


def test_a_callable_may_give_other_parameters(add: Callable[..., Any]) -> None:
    given = {"user": "postgres", "password": PASSWORD, "application_name": "by-vault"}
    wrapper = add(Vault(given))

    assert value(wrapper, "SELECT current_user") == "postgres"
    assert value(wrapper, "SHOW application_name") == "by-vault"


def test_it_is_given_what_libpq_is_but_no_secret(
    databases: Databases, locked: Cluster, guest: str
) -> None:
    vault = Vault(PASSWORD)
    wrapper = databases.add(
        server=locked, USER=guest, PASSWORD="of the settings", pool={"credentials": vault}
    )
    pid(wrapper)
    params = locked.params()

    asked = {name: str(item) for name, item in vault.asked[0].items()}
    assert asked.items() >= {"host": params["host"], "port": params["port"], "user": guest}.items()
    assert asked["dbname"] == "postgres"
    assert not {"password", "cursor_factory", "context", "pool"} & asked.keys()


def test_it_is_asked_once_for_many_openings(add: Callable[..., Any]) -> None:
    vault = Vault(PASSWORD)
    wrapper = add(vault, max_size=4)
    together = threading.Barrier(4)

    def borrow() -> None:
        mine = connections[wrapper.alias]
        with mine.cursor() as cursor:
            cursor.execute("BEGIN")
            together.wait(30)
            cursor.execute("ROLLBACK")
        mine.close()

    in_threads([borrow] * 4)

    assert wrapper.pool.get_stats()["connections_num"] == 4
    assert len(vault.asked) == 1


def test_a_password_that_has_changed_is_asked_for_anew_and_nobody_sees_an_error(
    add: Callable[..., Any], locked: Cluster
) -> None:
    vault = Vault(PASSWORD, NEW)
    wrapper = add(vault)
    pid(wrapper)
    pool = wrapper.pool
    rotate(locked)
    replace(wrapper)

    assert len(vault.asked) == 2
    assert wrapper.pool is pool
    assert pool.get_stats()["connections_errors"] == 0
    replace(wrapper)
    assert len(vault.asked) == 2


def test_what_is_open_goes_on_when_the_password_changes(
    add: Callable[..., Any], locked: Cluster
) -> None:
    wrapper = add(Vault(PASSWORD, NEW))
    first = pid(wrapper)
    wrapper.close()
    rotate(locked)

    assert pid(wrapper) == first


def test_a_role_that_is_gone_is_replaced_by_the_one_that_is_given(
    add: Callable[..., Any], locked: Cluster
) -> None:
    """As with secrets engines that make a role for each lease."""
    gone = {"user": "expired", "password": PASSWORD}
    vault = Vault(gone, {"user": "guest", "password": PASSWORD})

    assert value(add(vault), "SELECT current_user") == "guest"
    assert len(vault.asked) == 2


def test_a_password_that_stays_wrong_is_told_at_once_in_the_words_of_the_server(
    add: Callable[..., Any],
) -> None:
    vault = Vault("wrong")
    with pytest.raises(OperationalError, match='password authentication failed for user "guest"'):
        pid(add(vault, timeout=30, outage_patience=30))

    assert len(vault.asked) >= 2


def test_a_callable_that_fails_is_an_outage_with_its_error_as_the_cause(
    add: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    failure = RuntimeError("lease of s3cret is over")
    wrapper = add(Vault(failure), outage_patience=0)
    with (
        caplog.at_level(logging.DEBUG, "django_connpool"),
        pytest.raises(OperationalError, match=r"credentials: Vault raised RuntimeError") as caught,
    ):
        pid(wrapper)
    causes = [caught.value, *_causes(caught.value)]

    assert failure in causes
    assert "Vault raised RuntimeError" in str(wrapper.pool.snapshot()["last_error"])
    told = [caplog.text, str(wrapper.pool.snapshot()), *map(str, causes[:-1])]
    assert not any("s3cret" in text for text in told)


def test_who_borrows_while_the_callable_fails_for_a_moment_gets_a_connection(
    add: Callable[..., Any],
) -> None:
    vault = Vault(ConnectionError("no route"), ConnectionError("no route"), PASSWORD)

    assert value(add(vault, outage_patience=30, timeout=30), "SELECT current_user") == "guest"
    assert len(vault.asked) == 3


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (None, "returned an object of class NoneType: it must return a password or a dict"),
        (33333, "returned an object of class int: it must return a password or a dict"),
        ("", "returned nothing"),
        ({}, "returned nothing"),
    ],
)
def test_an_answer_that_is_none_is_refused(
    add: Callable[..., Any], answer: Any, error: str
) -> None:
    with pytest.raises(psycopg.Error, match=error) as caught:
        inside.credentials(Vault(answer), 0).open_with({}, lambda parameters: None)
    assert "333" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"s3cret\xff", "returned bytes that are not UTF-8"),
        ({1: "s3cret"}, "names that are no text"),
    ],
    ids=repr,
)
def test_an_answer_that_cannot_be_used_is_told_without_what_it_is(answer: Any, error: str) -> None:
    with pytest.raises(psycopg.ProgrammingError, match=error) as caught:
        inside.credentials(Vault(answer), 0).open_with({}, lambda parameters: None)
    told = [repr(one) for one in (caught.value, caught.value.__cause__, caught.value.__context__)]
    assert not any("s3cret" in text for text in told)


def test_a_callable_that_leaves_by_sys_exit_is_told_as_one_that_fails(
    add: Callable[..., Any],
) -> None:
    """In a thread of ours that would end the attempt to connect without a word."""
    with pytest.raises(OperationalError, match="credentials: Vault raised SystemExit"):
        pid(add(Vault(SystemExit(3)), outage_patience=0, timeout=30))


def test_a_signal_that_comes_while_it_is_asked_ends_the_main_thread_as_ever() -> None:
    """As SIGTERM does under gunicorn, whose handler raises SystemExit."""
    with pytest.raises(SystemExit):
        inside.credentials(Vault(SystemExit(0)), 0).open_with({}, lambda parameters: None)


def test_who_waits_for_a_callable_that_hangs_is_told_why_nothing_comes(
    add: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    go_on = threading.Event()

    def hang(parameters: dict[str, Any]) -> str:
        go_on.wait(60)
        return PASSWORD

    wrapper = add(hang, timeout=1.2, max_size=1)
    with pytest.raises(OperationalError, match=r"attempt to connect has not ended for \d+\.\d s"):
        pid(wrapper)
    go_on.set()
    assert in_threads([lambda: value(connections[wrapper.alias], "SELECT 1")]) == [1]


def _knowing(changing: threading.Lock, passwords: list[str]) -> Callable[..., str]:
    """A callable that knows when the password is just being changed, and waits for that."""

    def ask(parameters: dict[str, Any]) -> str:
        with changing:
            return passwords[-1]

    return ask


def _change(server: Cluster, changing: threading.Lock, passwords: list[str], password: str) -> None:
    with changing:
        rotate(server, password)
        passwords.append(password)


def test_a_password_that_changes_while_twenty_threads_wait_is_felt_by_none(
    add: Callable[..., Any], locked: Cluster
) -> None:
    """What was opened with the old one is replaced each time."""
    changing = threading.Lock()
    passwords = [PASSWORD]
    wrapper = add(_knowing(changing, passwords), max_size=3, timeout=60)

    def work() -> int:
        mine = connections[wrapper.alias]
        for _ in range(5):
            assert value(mine, "SELECT 1") == 1
            mine.close()
        return 1

    def change() -> int:
        for number in range(3):
            _change(locked, changing, passwords, f"{NEW} {number}")
            wrapper.pool.drain()
        return 1

    assert in_threads([*[work] * 20, change]) == [1] * 21


@pytest.mark.stress
def test_passwords_that_change_under_load_while_all_is_killed_refuse_no_login(
    add: Callable[..., Any], locked: Cluster
) -> None:
    changing = threading.Lock()
    passwords = [PASSWORD]
    stop = threading.Event()
    errors: list[str] = []

    wrapper = add(_knowing(changing, passwords), max_size=10, timeout=60)

    def work() -> int:
        served = 0
        while not stop.is_set():
            try:
                with wrapper.pool.connection() as connection:
                    connection.execute("SELECT 1")
                served += 1
            except psycopg.OperationalError as error:
                errors.append(str(error))
        return served

    def change() -> int:
        for number in range(12):
            _change(locked, changing, passwords, f"{NEW} {number}")
            locked.terminate()
            stop.wait(0.1)
        stop.set()
        return 1

    assert all(in_threads([*[work] * 14, change]))
    assert not [error for error in errors if "authentication" in error or "credentials" in error]
    assert wrapper.pool.snapshot()["size"] <= 10


def test_a_coroutine_is_refused_and_closed() -> None:
    async def later() -> str:
        return PASSWORD

    def promise(parameters: dict[str, Any]) -> Any:
        return later()

    with pytest.raises(psycopg.ProgrammingError, match="object of class coroutine"):
        inside.credentials(promise, 0).open_with({}, lambda parameters: None)


def test_no_password_is_shown_by_anything(
    add: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    vault = Vault(PASSWORD)
    with caplog.at_level(logging.DEBUG):
        wrapper = add(vault)
        pid(wrapper)
        pool = wrapper.pool
        opener = pool.connection_class
        shown = [pool, opener, opener.credentials, opener.options, pool.snapshot(), pool.kwargs]
        told = [caplog.text, *map(repr, shown), *map(str, shown)]

    assert not any(PASSWORD in text for text in told)


def test_no_traceback_of_a_refused_password_shows_it(add: Callable[..., Any]) -> None:
    secret = "".join(["s3", "cret"])  # for a traceback has the lines of this file
    with pytest.raises(OperationalError) as caught:
        pid(add(Vault(secret), outage_patience=0))

    assert secret not in "".join(traceback.format_exception(caught.value))


def test_a_file_that_is_replaced(add: Callable[..., Any], locked: Cluster, tmp_path: Path) -> None:
    """The recipe of docs/credentials.md."""
    place = tmp_path / "password"
    place.write_text(PASSWORD + "\n")

    def from_file(parameters: dict[str, Any]) -> str:
        return place.read_text().strip()

    wrapper = add(from_file)
    pid(wrapper)
    (tmp_path / "next").write_text(NEW + "\n")
    os.replace(tmp_path / "next", place)
    rotate(locked)
    replace(wrapper)

    assert wrapper.pool.get_stats()["connections_errors"] == 0


# -- Without a server -------------------------------------------------------------------------


class Clock:
    """Stands still unless it is told to go on."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    inside.credentials_live_by(monkeypatch, clock)
    return clock


def keep(parameters: dict[str, Any]) -> Any:
    """What stands in for connecting."""
    return parameters["password"]


def refuse(parameters: dict[str, Any]) -> Any:
    raise psycopg.OperationalError('FATAL:  PAM authentication failed for user "guest"')


def test_an_answer_is_kept_for_its_time_and_not_longer(clock: Clock) -> None:
    credentials = inside.credentials(Vault("first", "second"), 60)
    assert credentials.open_with({}, keep) == "first"
    clock.now = 59.9
    assert credentials.open_with({}, keep) == "first"
    clock.now = 60.0
    assert credentials.open_with({}, keep) == "second"


def test_without_a_time_each_opening_asks(clock: Clock) -> None:
    credentials = inside.credentials(Vault("first", "second"), 0)
    assert credentials.open_with({}, keep) == "first"
    clock.now = 0.001
    assert credentials.open_with({}, keep) == "second"


def test_who_waits_for_an_answer_gets_it_however_short_it_is_kept(clock: Clock) -> None:
    """Also when it is an error: a callable that takes its time to fail does so once for all."""
    asked, go_on = threading.Event(), threading.Event()
    calls = []

    def slow(parameters: dict[str, Any]) -> str:
        calls.append(1)
        asked.set()
        assert go_on.wait(30)
        raise ConnectionError

    credentials = inside.credentials(slow, 0)

    def open_it() -> str:
        try:
            credentials.open_with({}, keep)
        except psycopg.OperationalError as error:
            return str(error)
        return ""

    def let_go() -> str:
        assert asked.wait(30)
        go_on.set()
        return ""

    assert len(set(in_threads([open_it, open_it, open_it, let_go]))) == 2
    assert len(calls) == 1


def test_an_error_is_not_kept(clock: Clock) -> None:
    credentials = inside.credentials(Vault(ConnectionError(), "password"), 60)
    with pytest.raises(psycopg.OperationalError):
        credentials.open_with({}, keep)
    clock.now = 0.001

    assert credentials.open_with({}, keep) == "password"


def test_the_same_answer_is_not_tried_again() -> None:
    """Some servers lock an account after a few attempts."""
    tried = []

    def count(parameters: dict[str, Any]) -> Any:
        tried.append(parameters)
        return refuse(parameters)

    vault = Vault("wrong")
    with pytest.raises(psycopg.OperationalError, match="PAM authentication failed"):
        inside.credentials(vault, 60).open_with({}, count)

    assert (len(tried), len(vault.asked)) == (1, 2)


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (psycopg.OperationalError('FATAL:  role "lease-1" does not exist'), True),
        (psycopg.OperationalError('FATAL:  role "lease-1" is not permitted to log in'), True),
        (psycopg.OperationalError('FATAL:  no pg_hba.conf entry for host "10.0.0.1"'), True),
        (psycopg.errors.InvalidPassword("in any words"), True),
        (psycopg.errors.InvalidAuthorizationSpecification("in any words"), True),
        (psycopg.OperationalError('FATAL:  database "shop" does not exist'), False),
        (psycopg.OperationalError("Connection refused"), False),
        (psycopg.OperationalError("FATAL:  sorry, too many clients already"), False),
    ],
    ids=str,
)
def test_it_is_asked_anew_when_the_login_was_refused_and_else_not(
    error: Exception, again: bool
) -> None:
    def fail(parameters: dict[str, Any]) -> Any:
        raise error

    vault = Vault("first", "second")
    with pytest.raises(type(error)):
        inside.credentials(vault, 60).open_with({}, fail)

    assert len(vault.asked) == (2 if again else 1)


def test_a_server_that_speaks_another_language_is_understood(
    locked: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libpq has no SQLSTATE of a refused login; but it knows that it was asked for a password."""
    inside.know_no_language(monkeypatch)
    vault = Vault("wrong", PASSWORD)
    with inside.credentials(vault, 60).open_with(locked.params(), lambda to: psycopg.connect(**to)):
        assert len(vault.asked) == 2


def test_a_callable_that_asks_its_own_database_is_told_so() -> None:
    def ask(parameters: dict[str, Any]) -> str:
        return str(credentials.open_with({}, keep))

    credentials = inside.credentials(ask, 60)
    with pytest.raises(psycopg.OperationalError, match="raised ProgrammingError"):
        credentials.open_with({}, keep)


@pytest.mark.e2e
def test_a_child_asks_although_a_thread_of_its_parent_was_asking(cluster: Server) -> None:
    found = forked("with_credentials", cluster, "forks-with-credentials")

    assert (found["child"], found["parent"]) == ("of the child", "of the parent")


def _causes(error: BaseException) -> Iterator[BaseException]:
    while (cause := error.__cause__) is not None:
        yield cause
        error = cause
