"""Small charts of the last minutes, as SVG: drawn here, so that a page needs no script for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from django_connpool.pool.history import EVERY, KEPT
from django_connpool.status.document import MOMENT
from django_connpool.status.text import duration, plural

STEP = 5  # units of a moment's width
WIDTH = KEPT * STEP
HEIGHT = 48

Moment = dict[str, float]


def moments(history: Sequence[Sequence[float]]) -> dict[int, Moment]:
    """The moments that were looked at, by their place from left (the oldest) to right."""
    found = {}
    for one in history:
        moment = dict(zip(MOMENT, one, strict=False))
        if len(moment) < len(MOMENT):
            continue
        place = KEPT - 1 - round(moment["ago"] / EVERY)
        if 0 <= place < KEPT:
            found[place] = moment
    return found


def connections(seen: dict[int, Moment], max_size: int) -> SafeString:
    """Those in use, on offer and idle, of as many as there may be."""
    top = max([max_size, 1, *(_open(one) for one in seen.values())])
    most = max([0, *(int(one["in_use"]) for one in seen.values())])
    return _figure(
        f"at most {most} of {max_size} in use" if most else f"none of {max_size} in use",
        _area("idle", seen, top, _open),
        _area("offered", seen, top, lambda one: one["in_use"] + one["offered"]),
        _area("in-use", seen, top, lambda one: one["in_use"]),
    )


def waiting(seen: dict[int, Moment], max_size: int) -> SafeString:
    """How many stood in line, and where some of them did so in vain.

    Of as many as there may be connections, or more: one that waits for a moment is no mountain.
    """
    most = max([0, *(int(one["waiting"]) for one in seen.values())])
    longest = max([0.0, *(one["longest_wait"] for one in seen.values())])
    in_vain = sum(int(one["timeouts"]) for one in seen.values())
    words = f"at most {most} waiting" if most else "nobody waited"
    if longest:
        words += f", the longest wait {duration(longest)}"
    if in_vain:
        words += f"; {plural(in_vain, 'timeout')}"
    return _figure(
        words,
        _area("waiting", seen, max(most, max_size, 1), lambda one: one["waiting"]),
        *(_mark(place) for place, one in sorted(seen.items()) if one["timeouts"]),
    )


def minutes() -> str:
    return f"{KEPT * EVERY / 60:g} minutes"


def _open(moment: Moment) -> float:
    return moment["in_use"] + moment["offered"] + moment["idle"]


def _area(
    name: str, seen: dict[int, Moment], top: float, height: Callable[[Moment], float]
) -> SafeString:
    """The area below a stepped line, with gaps where nobody has looked."""
    drawn = "".join(_runs(seen, top, height))
    return format_html('<path class="{}" d="{}"/>', name, drawn) if drawn else SafeString("")


def _runs(seen: dict[int, Moment], top: float, height: Callable[[Moment], float]) -> Iterator[str]:
    for place in range(KEPT):
        if place not in seen:
            continue
        if place - 1 not in seen:
            yield f"M{place * STEP} {HEIGHT}"
        y = HEIGHT - HEIGHT * min(height(seen[place]) / top, 1.0)
        yield f"V{y:.4g}H{(place + 1) * STEP}"
        if place + 1 not in seen:
            yield f"V{HEIGHT}Z"


def _mark(place: int) -> SafeString:
    return format_html(
        '<rect class="in-vain" x="{}" y="0" width="{}" height="6"/>', place * STEP, STEP
    )


def _figure(words: str, *parts: SafeString) -> SafeString:
    return format_html(
        '<figure><svg viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">{}</svg>'
        "<figcaption>{}</figcaption></figure>",
        WIDTH,
        HEIGHT,
        mark_safe("".join(parts)),  # each escaped by itself
        words,
    )
