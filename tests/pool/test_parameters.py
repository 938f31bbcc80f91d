from __future__ import annotations

import pytest

from tests.inside import (
    KEEPALIVES,
    completed,
)


@pytest.fixture(autouse=True)
def no_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGSERVICE", raising=False)


def test_keepalives_are_set_where_the_user_has_set_none() -> None:
    assert completed("", {"autocommit": True}) == {"autocommit": True, **KEEPALIVES}


def test_the_users_keepalives_win_wherever_they_stand() -> None:
    assert completed("keepalives_idle=5", {})["keepalives_count"] == KEEPALIVES["keepalives_count"]
    assert "keepalives_idle" not in completed("keepalives_idle=5", {})
    assert completed("", {"keepalives_idle": 5})["keepalives_idle"] == 5


def test_who_sets_keepalives_decides_how_long_to_be_patient() -> None:
    assert completed("", {})["tcp_user_timeout"] == 20_000
    assert completed("tcp_user_timeout=5000", {}).get("tcp_user_timeout") is None
    assert "tcp_user_timeout" not in completed("keepalives_idle=600", {})
    assert completed("", {"keepalives": 0, "tcp_user_timeout": 7})["tcp_user_timeout"] == 7


def test_connecting_is_limited_where_the_user_has_set_no_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert completed("", {}, None, 10)["connect_timeout"] == 10
    assert "connect_timeout" not in completed("connect_timeout=3", {}, None, 10)
    monkeypatch.setenv("PGCONNECT_TIMEOUT", "3")
    assert "connect_timeout" not in completed("", {}, None, 10)


def test_each_of_several_hosts_gets_less_time_than_one_alone() -> None:
    alone = completed("", {"host": "one"}, None, 10)["connect_timeout"]
    each = completed("", {"host": "one,other"}, None, 10)["connect_timeout"]
    assert each < alone / 2
    assert completed("hostaddr=127.0.0.1,127.0.0.2", {}, None, 10)["connect_timeout"] == each
    assert completed("", {"host": "one,other"}, None, 1)["connect_timeout"] == 1
    assert "connect_timeout" not in completed("host=a,b connect_timeout=9", {}, None, 10)


def test_a_service_file_is_not_overruled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed("service=shop", {}) == {}
    monkeypatch.setenv("PGSERVICE", "shop")
    assert completed("", {}) == {}


def test_the_time_limit_goes_beside_the_users_options() -> None:
    assert completed("", {}, 1.5)["options"] == "-c statement_timeout=1500"
    asked = completed("", {"options": "-c work_mem=1MB"}, 0.0001)
    assert asked["options"] == "-c work_mem=1MB -c statement_timeout=1"
    asked = completed("options='-c work_mem=1MB'", {}, 2)
    assert asked["options"] == "-c work_mem=1MB -c statement_timeout=2000"


def test_a_conninfo_that_cannot_be_read_is_left_to_connecting() -> None:
    assert completed("=nonsense", {}) == KEEPALIVES


def test_what_was_given_is_not_changed() -> None:
    given = {"options": "-c work_mem=1MB"}
    completed("", given, 1)
    assert given == {"options": "-c work_mem=1MB"}
