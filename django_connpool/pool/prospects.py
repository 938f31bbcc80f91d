"""What those in line may hope for: attempts under way, an outage, the connections to be kept.

All of it needs the pool's lock.
"""

from __future__ import annotations

from django_connpool.process import bursts, uwsgi
from django_connpool.process.background import NEVER
from django_connpool.redaction import one_line

from .core import Core
from .line import Waiter
from .news import OUTAGE_BEGAN, OUTAGE_ENDED
from .outage import Outage, again

logger = bursts.logger("connecting")

HANGING = 1.0  # seconds after which an attempt to connect is not counted on, at the least


def promising(core: Core) -> int:
    """Under the lock: how many attempts to connect may be hoped to end soon.

    One that takes much longer than usual may never end, so nobody is to wait for it.
    """
    if not core.slots.opening:
        return 0
    usual = max(HANGING, 3 * core.mean_connect)
    now = core.clock()
    promising = [at for slot in core.slots.opening if (at := slot.opened_at + usual) > now]
    if promising and core.line:
        core.schedule(min(promising))
    return len(promising)


def waiting_cannot_help(core: Core) -> bool:
    """Under the lock: the server refuses connections, and none can come back either."""
    return (
        core.outage is not None
        and not core.suspended  # those in line wait for `resume`, not for the server
        and not promising(core)
        and core.outage.waiting_cannot_help(
            core.slots.on_loan(), len(core.slots.closing), core.clock()
        )
    )


def note_refusal(
    core: Core, error: BaseException, now: float, kind: str = "", began: float | None = None
) -> None:
    """Under the lock: there is no connection, so the next attempt has to wait a little."""
    core.last_error = error
    core.history.tell(now, "connect", f"connecting failed: {one_line(error)}")
    meant, heals = core.opener.meaning(error)
    if core.outage is None:
        # In a process of uWSGI's that loads nobody tries on while somebody waits.
        young_for = 0.0 if uwsgi.is_loading() else core.limits.outage_patience
        core.outage = Outage(error, now, kind or meant, heals, young_for)
        core.news.note(OUTAGE_BEGAN, error=again(error))
    else:
        core.outage.another(error, now, kind or meant, heals, bool(core.line), began)


def end_outage(core: Core, now: float) -> None:
    """Under the lock: there is a connection that may be lent."""
    if core.outage is not None:
        lasted = now - core.outage.since
        core.news.note(OUTAGE_ENDED, lasted=lasted)
        text = "%s: connecting works again, after %.1f s"
        core.warn_later(logger, text, lasted, lasted=lasted)
    core.outage = None


def judge(core: Core, answered: bool = False, began: float = NEVER) -> None:
    """Under the lock: fail those whose waiting cannot be rewarded; see that others' is.

    `answered`: the server has just refused an attempt, which `began` then, so those in line have
    their answer. Otherwise they get one from the next attempt, unless it is too early for it.
    """
    outage = core.outage
    if outage is None:
        return
    now = core.clock()
    if not outage.is_answered_by(began):
        outage.retry_at = now
        core.schedule(now)
        return
    # An attempt that hangs is no answer to wait for either.
    if waiting_cannot_help(core) and (answered or now < outage.retry_at or core.slots.opening):
        core.line.refuse_all(lambda: again(outage.error))
    if core.line and outage.is_young(now):
        core.schedule(outage.since + outage.patience)
    if now < outage.retry_at:
        schedule_retry(core, outage)


def gave_up(core: Core, waiter: Waiter, error: type[BaseException]) -> None:
    """Under the lock: somebody does not wait any more; what he was given goes to the next."""
    core.line.leave(waiter)
    if waiter.slot is not None:
        core.audit()
    stats = core.stats
    stats.requests_num += not waiter.tries
    stats.requests_refused += not waiter.tries
    stats.requests_errors += 1
    stats.requests_timeouts += issubclass(error, core.errors.timeout)
    stats.wait.note(core.clock() - waiter.since)
    stats.count()


def schedule_retry(core: Core, outage: Outage) -> None:
    """Under the lock: have the next attempt made when it is due, if anyone wants it."""
    if core.line:
        core.schedule(outage.hurry(core.clock()))
    elif lacks_minimum(core):
        core.schedule(outage.retry_at)


def lacks_minimum(core: Core, coming: int = 0) -> bool:
    """Under the lock: fewer are open, or about to be, than are to be kept open."""
    if core.winding_up or core.closed or not core.keep_min:
        return False
    if core.slots.staying() + coming >= core.limits.min_size:
        return False
    # Whoever waits for them in such a process gets them; else those it forks open their own.
    return bool(core.full) or not uwsgi.is_loading()


def tell_if_full(core: Core) -> None:
    """Under the lock: end `wait`, if `min_size` are open."""
    if core.full and core.slots.open_ones() >= core.limits.min_size:
        end_waits(core)


def end_waits(core: Core) -> None:
    """Under the lock: nobody waits any longer for `min_size` to be open."""
    for event in core.full:
        event.set()
    core.full.clear()
