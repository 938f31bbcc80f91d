"""For Sentry: a borrow that has waited is a span of its transaction, which gets their sum.

Imported by itself where Sentry's SDK is: see runners.py. It tells nothing until Sentry is
initialised, and outside of a transaction.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import sentry_sdk
from sentry_sdk.tracing import Span

from django_connpool import signals

OP = "db.pool"
POOL_NAME = "db.client.connection.pool.name"
WAIT_SUM = "django_connpool.wait_time"  # of the transaction, in seconds
WORTH_A_SPAN = 0.001  # seconds


def _note_wait(name: str, waited: float, error: BaseException | None = None, **kwargs: Any) -> None:
    """In the borrower's thread."""
    if not sentry_sdk.is_initialized():
        return
    present: Any = sentry_sdk.get_current_span()
    # Another kind of span is Sentry's streaming one, which cannot begin in the past.
    if not isinstance(present, Span) or not present.sampled:
        return
    if waited > WORTH_A_SPAN:
        now = datetime.now(timezone.utc)
        span = sentry_sdk.start_span(
            op=OP, name="pool.acquire", start_timestamp=now - timedelta(seconds=waited)
        )
        span.set_data(POOL_NAME, name)
        if error is not None:
            span.set_status("deadline_exceeded")
        span.finish(end_timestamp=now)
    if (transaction := present.containing_transaction) is not None:
        before = transaction.to_json().get("data") or {}
        transaction.set_data(WAIT_SUM, before.get(WAIT_SUM, 0.0) + waited)


for _signal in (signals.connection_waited, signals.borrow_timed_out):
    _signal.connect(_note_wait, dispatch_uid="django_connpool.sentry")
