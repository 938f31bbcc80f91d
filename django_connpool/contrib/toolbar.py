"""A panel for django-debug-toolbar: what a request does with its connections.

DEBUG_TOOLBAR_PANELS = [..., "django_connpool.contrib.toolbar.ConnectionsPanel"]
"""

from __future__ import annotations

from typing import Any

from debug_toolbar.panels import Panel
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.template import Context, Engine
from django.utils.safestring import SafeString

from django_connpool import signals
from django_connpool.backends import watching
from django_connpool.registry import live

TEMPLATE = """
<h4>Loans</h4>
{% if loans %}
<table>
  <thead><tr>
    <th>Database</th><th>Backend</th><th>Waited</th><th>Held</th><th>Ended</th>
    <th>Borrowed at</th><th>Kept from others</th>
  </tr></thead>
  <tbody>
  {% for loan in loans %}
    <tr>
      <td>{{ loan.alias }}</td>
      <td>{{ loan.backend_pid }}{% if loan.is_new %} (opened for it){% endif %}</td>
      <td>{{ loan.waited|floatformat:2 }} ms</td>
      <td>{{ loan.held|floatformat:2 }} ms</td>
      <td>{{ loan.ended }}</td>
      <td><code>{{ loan.at }}</code></td>
      <td>{% for reason in loan.reasons %}
        <div>{{ reason.why }}{% if reason.statement %}, after
          <code>{{ reason.statement }}</code>{% endif %}</div>
      {% empty %}not at all: whoever needed it could have it between two statements
      {% endfor %}</td>
    </tr>
  {% endfor %}
  </tbody>
</table>
{% else %}<p>This request has borrowed no connection.</p>{% endif %}
{% if timeouts %}
<h4>Waited in vain</h4>
<table>
  <thead><tr><th>Pool</th><th>Waited</th><th>Error</th></tr></thead>
  <tbody>
  {% for one in timeouts %}
    <tr>
      <td>{{ one.name }}</td><td>{{ one.waited|floatformat:2 }} ms</td><td>{{ one.error }}</td>
    </tr>
  {% endfor %}
  </tbody>
</table>
{% endif %}
<h4>Pools, at its end</h4>
<table>
  <thead><tr>
    <th>Pool</th><th>Open</th><th>At most</th><th>In use</th><th>Offered</th><th>Idle</th>
    <th>Waiting</th>
  </tr></thead>
  <tbody>
  {% for pool in pools %}
    <tr>
      <td>{{ pool.name }}</td><td>{{ pool.size }}</td><td>{{ pool.max_size }}</td>
      <td>{{ pool.in_use }}</td><td>{{ pool.offered }}</td><td>{{ pool.idle }}</td>
      <td>{{ pool.waiting }}</td>
    </tr>
  {% endfor %}
  </tbody>
</table>
"""
OF_POOLS = ("name", "size", "max_size", "in_use", "offered", "idle", "waiting")


class ConnectionsPanel(Panel):
    """Borrows, waits, the time that connections were held, and what kept them from others."""

    is_async = True
    nav_title = title = "Connections"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: list[watching.Seen] = []
        self._timeouts: list[dict[str, Any]] = []
        self._is_on = False

    @classmethod
    def ready(cls) -> None:
        watching.install()

    def enable_instrumentation(self) -> None:
        if not self._is_on:
            self._is_on = True
            watching.seen.set(self._seen)
            signals.borrow_timed_out.connect(self._note_timeout)

    def disable_instrumentation(self) -> None:
        self._is_on = False
        watching.seen.set(None)
        signals.borrow_timed_out.disconnect(self._note_timeout)

    def _note_timeout(self, name: str, waited: float, error: Exception, **kwargs: Any) -> None:
        if watching.seen.get() is self._seen:  # not another request's
            self._timeouts.append({"name": name, "waited": 1000 * waited, "error": str(error)})

    def generate_stats(self, request: HttpRequest, response: HttpResponseBase) -> None:
        snapshots = [pool.snapshot() for _, pool in live()]
        self.record_stats(
            {
                "loans": [_shown(loan) for loan in self._seen],
                "timeouts": self._timeouts,
                "pools": [{name: one[name] for name in OF_POOLS} for one in snapshots],
            }
        )

    def generate_server_timing(self, request: HttpRequest, response: HttpResponseBase) -> None:
        stats = self.get_stats()
        self.record_server_timing("waited", "Waited for connections", _sum(stats, "waited"))
        self.record_server_timing("held", "Held connections", _sum(stats, "held"))

    @property
    def nav_subtitle(self) -> str:
        stats = self.get_stats()
        number = len(stats.get("loans", ()))
        text = f"{number} {'loan' if number == 1 else 'loans'}, held {_sum(stats, 'held'):.1f} ms"
        if waited := _sum(stats, "waited"):
            text += f", waited {waited:.1f} ms"
        return text

    @property
    def content(self) -> SafeString:
        return Engine().from_string(TEMPLATE).render(Context(self.get_stats()))


def _shown(loan: watching.Seen) -> dict[str, Any]:
    """As it can be stored as JSON; times are milliseconds."""
    return {
        "alias": loan.alias,
        "backend_pid": loan.backend_pid,
        "is_new": loan.is_new,
        "waited": 1000 * loan.waited,
        "held": 1000 * loan.held(),
        "ended": loan.ended,
        "at": loan.at,
        "reasons": [{"why": why, "statement": statement} for why, statement in loan.reasons],
    }


def _sum(stats: dict[str, Any], key: str) -> float:
    return sum(float(loan[key]) for loan in stats.get("loans", ())) + (
        sum(float(one[key]) for one in stats.get("timeouts", ())) if key == "waited" else 0.0
    )
