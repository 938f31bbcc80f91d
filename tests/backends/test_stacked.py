"""Wrappers of other packages, above and below ours, are told of each loan as Django would."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from django.core.signals import request_finished
from django.db import transaction
from django.db.backends.postgresql import base as django_base

import django_connpool
from django_connpool.backends.mixin import PooledDatabaseWrapperMixin
from django_connpool.backends.postgresql import base as plain
from tests import inside
from tests.databases import Databases, in_hand, on_loan, pid, value
from tests.pool.real.helpers import until_known

MODES = ["request", "transaction"]
DJANGOS, PLAIN = django_base.DatabaseWrapper, plain.DatabaseWrapper
Note = Callable[[Any, str], None]


class Stack:
    """Makes wrappers with a foreign class below or above ours, or none of ours at all."""

    def __init__(self, where: str, databases: Databases, monkeypatch: pytest.MonkeyPatch) -> None:
        self.where = where
        self._databases = databases
        self._patch = monkeypatch.setattr

    def make(
        self, names: list[str], note: Note, more: dict[str, Any] | None = None, **pool: Any
    ) -> Any:
        """A wrapper with overrides of those names, each of which notes its call and goes on."""
        lower = PLAIN if self.where == "above" else DJANGOS
        theirs: Any = None

        def override(name: str) -> Any:
            def method(self: Any, *args: Any, **kwargs: Any) -> Any:
                if not getattr(self, "is_opener", False):
                    note(self, name)
                return getattr(super(theirs, self), name)(*args, **kwargs)

            return method

        methods = {name: override(name) for name in names}
        theirs = type("Theirs", (lower,), {**methods, **(more or {})})
        bases = (PooledDatabaseWrapperMixin, theirs) if self.where == "below" else (theirs,)
        if self.where == "nowhere":
            self._patch(django_base, "DatabaseWrapper", type("DatabaseWrapper", bases, {}))
            return self._databases.add(
                "stock", engine="django.db.backends.postgresql", CONN_MAX_AGE=0
            )
        self._patch(plain, "DatabaseWrapper", type("DatabaseWrapper", bases, {}))
        return self._databases.add(pool={"max_size": 1, "timeout": 20, **pool})


@pytest.fixture
def stack(databases: Databases, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Stack]:
    return lambda where: Stack(where, databases, monkeypatch)


def request(wrapper: Any) -> None:
    with transaction.atomic(using=wrapper.alias):
        value(wrapper, "SELECT 1")
    wrapper.close_if_unusable_or_obsolete()


@pytest.mark.parametrize("where", ["below", "above", "nowhere"])
def test_it_is_told_of_the_end_of_each_request_though_nothing_was_borrowed(
    stack: Callable[[str], Stack], where: str
) -> None:
    calls: list[str] = []
    wrapper = stack(where).make(
        ["close_if_unusable_or_obsolete"], lambda wrapper, name: calls.append(name)
    )
    for number in range(1, 4):
        wrapper.close_if_unusable_or_obsolete()
        assert len(calls) == number
        if number == 2:
            request(wrapper)
            calls.pop()


ONCE = sorted(inside.told_of_loans() - {"ensure_connection", "set_autocommit", "_set_autocommit"})


@pytest.mark.parametrize("release", MODES)
@pytest.mark.parametrize("where", ["below", "above"])
@pytest.mark.parametrize("name", ONCE)
def test_each_override_alone_is_called_once_for_each_loan(
    stack: Callable[[str], Stack], where: str, name: str, release: str
) -> None:
    calls: Counter[str] = Counter()
    wrapper = stack(where).make([name], lambda wrapper, name: calls.update([name]), release=release)
    for number in range(1, 4):
        request(wrapper)
        assert on_loan(wrapper) == 0
        assert calls[name] == number


@pytest.mark.parametrize("release", MODES)
@pytest.mark.parametrize("where", ["below", "above"])
def test_all_of_them_are_called_in_the_order_of_djangos(
    stack: Callable[[str], Stack], where: str, release: str
) -> None:
    heard: dict[str, list[str]] = {}
    for place in ("nowhere", where):
        calls = heard[place] = []
        wrapper = stack(place).make(
            sorted(inside.told_of_loans()),
            lambda wrapper, name, calls=calls: calls.append(name),
            release=release,
        )
        for _ in range(3):
            request(wrapper)

    # How often Django asks whether there is a connection depends on its version.
    asked = ("ensure_connection",)
    stock, ours = ([name for name in heard[place] if name not in asked] for place in heard)
    if release == "request":
        assert ours == stock
    else:  # which begins a loan later, and ends it when the transaction has ended
        assert Counter(ours) == Counter(stock)
        ends = [name for name in ours if name in ("connect", "close")]
        assert ends == ["connect", "close"] * 3
    assert "ensure_connection" in heard[where]


class Tenants:
    """A wrapper that sets the search path once for each connection, as django-tenants does."""

    is_set = False
    schema = "pg_catalog"

    @staticmethod
    def methods(theirs: Callable[[], type]) -> dict[str, Any]:
        def _cursor(self: Any, name: str | None = None) -> Any:
            upper: Any = super(theirs(), self)
            cursor = upper._cursor(name)
            if not self.is_set:
                self.is_set = True
                cursor.execute(f"SET search_path = {self.schema}")
            return cursor

        def close(self: Any) -> None:
            self.is_set = False
            upper: Any = super(theirs(), self)
            upper.close()

        return {"_cursor": _cursor, "close": close, "is_set": False, "schema": "pg_catalog"}


ENDS: dict[str, Callable[[Any], Any]] = {
    "scope": lambda wrapper: None,
    "request_finished": lambda wrapper: request_finished.send(sender=None),
    "release": lambda wrapper: django_connpool.release(),
    "close": lambda wrapper: wrapper.close(),
}


@pytest.mark.parametrize("release", MODES)
@pytest.mark.parametrize("where", ["below", "above"])
@pytest.mark.parametrize("end", ENDS)
def test_a_flag_that_is_kept_until_close_is_true_of_each_loan(
    stack: Callable[[str], Stack], where: str, end: str, release: str
) -> None:
    holder: list[type] = []
    made = stack(where)
    wrapper = made.make([], lambda *_: None, Tenants.methods(lambda: holder[0]), release=release)
    holder.append(next(base for base in type(wrapper).__mro__ if base.__name__ == "Theirs"))
    for schema in ("pg_catalog", "information_schema", "public", "pg_catalog"):
        wrapper.schema = schema
        with django_connpool.scope("one"):
            for _ in range(3):
                assert value(wrapper, "SHOW search_path") == schema
                with transaction.atomic(using=wrapper.alias):
                    assert value(wrapper, "SHOW search_path") == schema
            ENDS[end](wrapper)
        assert on_loan(wrapper) == 0
        assert not wrapper.is_set


@pytest.mark.parametrize("where", ["below", "above"])
def test_hooks_that_wait_for_the_commit_are_called_with_early_release_too(
    stack: Callable[[str], Stack], where: str
) -> None:
    wrapper = stack(where).make(["close", "connect"], lambda *_: None, release="transaction")
    done: list[str] = []
    with transaction.atomic(using=wrapper.alias):
        transaction.on_commit(lambda: done.append("before"), using=wrapper.alias)
        value(wrapper, "SELECT 1")
        transaction.on_commit(lambda: done.append(str(pid(wrapper) > 0)), using=wrapper.alias)
    assert done == ["before", "True"]
    assert on_loan(wrapper) == 0


@pytest.mark.parametrize("where", ["below", "above"])
def test_what_is_set_at_each_loan_as_at_birth_does_not_keep_the_session(
    stack: Callable[[str], Stack], where: str
) -> None:
    holder: list[type] = []

    def init_connection_state(self: Any) -> None:
        upper: Any = super(holder[0], self)
        upper.init_connection_state()
        with self.cursor() as cursor:
            cursor.execute("SET search_path = pg_catalog")
            if not self.is_opener and self.alias == tenant:
                cursor.execute("SET app.tenant = 'one'")

    tenant = ""
    more = {"init_connection_state": init_connection_state}
    made = stack(where)

    class_of: Callable[[Any], type] = lambda wrapper: next(  # noqa: E731
        base for base in type(wrapper).__mro__ if base.__name__ == "Theirs"
    )
    holder.append(object)
    wrapper = made.make([], lambda *_: None, more, release="transaction")
    holder[0] = class_of(wrapper)
    until_known(wrapper.pool)  # what is in doubt is cleaned
    first = pid(wrapper)
    for _ in range(3):
        assert value(wrapper, "SHOW search_path") == "pg_catalog"
        assert in_hand(wrapper) is None
    assert pid(wrapper) == first
    tenant = "spare"
    assert value(wrapper, "SHOW app.tenant") == "one"
    assert wrapper.connection is not None
    wrapper.close()
    tenant = ""
    assert value(wrapper, "SELECT current_setting('app.tenant', true)") in (None, "")


def test_where_nobody_overrides_anything_nobody_is_asked() -> None:
    assert not plain.DatabaseWrapper.has_foreign_hooks
    assert plain.DatabaseWrapper.floor is None
    assert plain.DatabaseWrapper.connects_as_django


@pytest.mark.parametrize("where", ["below", "above"])
def test_without_a_pool_it_is_djangos_own(stack: Callable[[str], Stack], where: str) -> None:
    calls: Counter[str] = Counter()
    made = stack(where)
    wrapper = made.make(sorted(inside.told_of_loans()), lambda wrapper, name: calls.update([name]))
    wrapper.settings_dict["OPTIONS"]["pool"] = False
    request(wrapper)
    assert (calls["connect"], calls["_close"], calls["close"]) == (1, 1, 1)
    assert in_hand(wrapper) is None


@pytest.mark.parametrize("where", ["below", "above"])
def test_each_statement_is_a_loan_with_early_release(
    stack: Callable[[str], Stack], where: str
) -> None:
    calls: list[str] = []
    wrapper = stack(where).make(
        ["close", "connect"], lambda _, name: calls.append(name), release="transaction"
    )
    with django_connpool.scope("one"):
        for _ in range(3):
            pid(wrapper)
    assert calls[:6] == ["connect", "close"] * 3
    assert "connect" not in calls[6:]


@pytest.mark.parametrize("where", ["below", "above"])
def test_a_query_after_the_end_of_a_transaction_loses_no_hooks(
    stack: Callable[[str], Stack], where: str
) -> None:
    holder: list[type] = [object]

    def _set_autocommit(self: Any, autocommit: bool) -> None:
        upper: Any = super(holder[0], self)
        upper._set_autocommit(autocommit)
        if autocommit and not self.kept and not self.is_opener:
            pid(self)

    more = {"_set_autocommit": _set_autocommit}
    wrapper = stack(where).make([], lambda *_: None, more, release="transaction")
    holder[0] = next(base for base in type(wrapper).__mro__ if base.__name__ == "Theirs")
    done: list[str] = []
    with transaction.atomic(using=wrapper.alias):
        value(wrapper, "SELECT 1")
        transaction.on_commit(lambda: done.append("called"), using=wrapper.alias)
    assert done == ["called"]
