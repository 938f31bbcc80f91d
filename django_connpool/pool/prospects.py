"""What those in line may hope for: attempts under way, an outage, the connections to be kept.

All of it needs the pool's lock.
"""

from __future__ import annotations

from django_connpool.process import uwsgi
from django_connpool.redaction import one_line

from .core import Core
from .outage import Outage, again

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
    else:
        core.outage.another(error, now, kind or meant, heals, bool(core.line), began)


def judge(core: Core, answered: bool = False) -> None:
    """Under the lock: fail those whose waiting cannot be rewarded; see that others' is.

    `answered`: the server has just refused an attempt, so those in line have their
    answer. Otherwise they get one from the next attempt, unless it is too early for it.
    """
    outage = core.outage
    if outage is None:
        return
    now = core.clock()
    # An attempt that hangs is no answer to wait for either.
    if waiting_cannot_help(core) and (answered or now < outage.retry_at or core.slots.opening):
        core.refuse_all(lambda: again(outage.error))
    if core.line and outage.is_young(now):
        core.schedule(outage.since + outage.patience)
    if now < outage.retry_at:
        schedule_retry(core, outage)


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
