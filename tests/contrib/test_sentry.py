from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import datetime
from types import ModuleType
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.transport import Transport

from django_connpool import PoolTimeout, runners, signals
from django_connpool.contrib.sentry import OP, POOL_NAME, WAIT_SUM, WORTH_A_SPAN
from tests.databases import Databases, value


class Kept(Transport):
    """What would be sent to Sentry."""

    def __init__(self) -> None:
        super().__init__()
        self.transactions: list[Any] = []

    def capture_envelope(self, envelope: Any) -> None:
        self.transactions += [
            item.payload.json for item in envelope.items if item.type == "transaction"
        ]


@pytest.fixture
def sent() -> Iterator[Kept]:
    kept = Kept()
    client = sentry_sdk.Client(
        dsn="https://key@sentry.invalid/1",
        transport=kept,
        traces_sample_rate=1.0,
        default_integrations=False,
        auto_enabling_integrations=False,
    )
    with sentry_sdk.isolation_scope() as scope:
        scope.set_client(client)
        yield kept
    client.close()


def wait(seconds: float) -> None:
    signals.connection_waited.send(None, pool=None, name="measured", waited=seconds)


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def test_a_wait_is_a_span_of_its_transaction_which_has_the_sum(sent: Kept) -> None:
    with sentry_sdk.start_transaction(name="GET /orders/"):
        wait(0.25)
        with sentry_sdk.start_span(op="template.render"):
            wait(0.5)
        wait(WORTH_A_SPAN / 2)
    (transaction,) = sent.transactions
    spans = [span for span in transaction["spans"] if span["op"] == OP]
    assert [span["description"] for span in spans] == ["pool.acquire", "pool.acquire"]
    assert [span["data"][POOL_NAME] for span in spans] == ["measured", "measured"]
    lasted = [
        (moment(span["timestamp"]) - moment(span["start_timestamp"])).total_seconds()
        for span in spans
    ]
    assert lasted == pytest.approx([0.25, 0.5], abs=1e-5)
    (render,) = [span for span in transaction["spans"] if span["op"] == "template.render"]
    assert spans[1]["parent_span_id"] == render["span_id"]
    assert transaction["contexts"]["trace"]["data"][WAIT_SUM] == pytest.approx(0.7505)


def test_a_wait_in_vain_is_a_span_that_failed(sent: Kept) -> None:
    with sentry_sdk.start_transaction(name="GET /orders/"):
        signals.borrow_timed_out.send(
            None, pool=None, name="measured", waited=0.25, error=PoolTimeout("in vain")
        )
    (transaction,) = sent.transactions
    (span,) = transaction["spans"]
    assert "deadline_exceeded" in (span.get("status"), span.get("tags", {}).get("status"))
    assert transaction["contexts"]["trace"]["data"][WAIT_SUM] == pytest.approx(0.25)


def test_outside_of_a_transaction_nothing_is_told(sent: Kept) -> None:
    wait(0.25)
    assert sent.transactions == []


def test_what_is_not_sampled_costs_nothing(sent: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    with sentry_sdk.start_transaction(name="GET /orders/", sampled=False):
        monkeypatch.setattr(sentry_sdk, "start_span", lambda **kwargs: pytest.fail("a span"))
        wait(0.25)
    assert sent.transactions == []


def test_where_sentry_is_not_initialised_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not sentry_sdk.is_initialized()
    monkeypatch.setattr(sentry_sdk, "get_current_span", lambda: pytest.fail("asked"))
    wait(0.25)


def test_a_borrow_that_stood_in_line_is_told(sent: Kept, databases: Databases) -> None:
    wrapper = databases.add(pool={"name": "measured"})
    with sentry_sdk.start_transaction(name="GET /orders/"):
        value(wrapper, "SELECT 1")  # which waits for the connection to be opened
        wrapper.close()
        value(wrapper, "SELECT 1")  # and this for nothing
    (transaction,) = sent.transactions
    assert transaction["contexts"]["trace"]["data"][WAIT_SUM] > 0
    assert len([span for span in transaction["spans"] if span["op"] == OP]) <= 1


def test_sentry_is_found_where_it_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(runners, "import_module", asked.append)
    monkeypatch.setitem(sys.modules, "sentry_sdk", ModuleType("sentry_sdk"))
    runners.connect()
    assert "django_connpool.contrib.sentry" in asked
    monkeypatch.delitem(sys.modules, "sentry_sdk")
    asked.clear()
    runners.connect()
    assert "django_connpool.contrib.sentry" not in asked
