from __future__ import annotations

import json
from typing import Any

import pytest

from django_connpool import ConnectionPool, registry
from django_connpool.status import document, snapshot


def test_pools_carry_their_aliases(monkeypatch: pytest.MonkeyPatch) -> None:
    pool: ConnectionPool[Any] = ConnectionPool(open=False, max_size=7, name="shop")
    live = [(("default", "replica"), pool), ((), pool)]
    monkeypatch.setattr(registry, "live", lambda: live)
    shared, nameless = snapshot.take(1.0)["pools"]
    assert (shared["alias"], shared["aliases"]) == ("default", ["default", "replica"])
    assert (nameless["alias"], nameless["aliases"]) == ("shop", [])
    assert (shared["max_size"], shared["size"], shared["loans"]) == (7, 0, [])


def test_a_snapshot_of_a_real_pool_is_what_the_other_side_expects(
    monkeypatch: pytest.MonkeyPatch, dsn: str
) -> None:
    with ConnectionPool(dsn, min_size=0, max_size=2) as pool:
        monkeypatch.setattr(registry, "live", lambda: [(("default",), pool)])
        with pool.connection() as conn:
            taken = snapshot.take(1.0)
            backend = conn.info.backend_pid
    found = document.parse(json.dumps(taken).encode())
    assert found == taken
    (loan,) = found["pools"][0]["loans"]
    assert (loan["backend_pid"], loan["transaction"], loan["note"]) == (backend, "IDLE", None)


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["/srv/venv/bin/gunicorn", "shop.wsgi", "-w", "2"], "gunicorn shop.wsgi -w 2"),
        (["/lib/python3/gunicorn/__main__.py", "shop.wsgi"], "gunicorn shop.wsgi"),
        (["manage.py", "runserver"], "manage.py runserver"),
        (
            ["celery", "-b", "redis://user:secret@cache:6379/0", "worker"],
            "celery -b redis://***@cache:6379/0 worker",
        ),
        (["a", "postgres://user:p@secret@db/x"], "a postgres://***@db/x"),
        (["a", "postgres://db/x?password=secret&user=u"], "a postgres://db/x?password=***&user=u"),
        (["a", "--db-password", "secret", "-v"], "a --db-password *** -v"),
        (["a", "--token=secret", "host=db password=secret"], "a --token=*** host=db password=***"),
        (["a", "PGPASSWORD=secret"], "a PGPASSWORD=***"),
        ([""], "python"),
        ([], "python"),
    ],
)
def test_the_command_is_short_and_keeps_secrets(argv: list[str], shown: str) -> None:
    assert snapshot.command(argv) == shown
