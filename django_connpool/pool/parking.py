"""A connection that stays with its thread when the thread's work has ended.

Nobody uses it then, and it counts as idle: whoever finds no other takes it at once, and whoever
looks at the pool makes it idle first (`Core.bring_in`). But the thread's next work, if it begins
soon, goes on with it, and neither takes the pool's lock for that. For a thread that answers one
request after the other that is most of what a pool costs.

The connection lies in the loan's offer (see offers.py), and `Offer.ended` says that it is parked.
Exactly one can delete that, and then take the connection: its thread, to go on, or somebody else,
to make it idle. Others may still take the connection past that, to give it back: what is parked
can be missing, too.

Who parks looks afterwards whether somebody waits; who waits looks afterwards whether something is
parked. So at least one of them sees the other.
"""

from __future__ import annotations

from .core import COUNT_AT, Core
from .offers import Offer, Watch
from .slot import Slot
from .upkeep import Upkeep

SOON = 0.02  # seconds between the works of a thread that parks: who comes seldom gives back
PARKED_FOR = 1.0  # seconds, after which it is idle in any case


class Parking:
    """For borrowers. It calls nothing that it can do itself, and takes no lock."""

    def __init__(self, core: Core, upkeep: Upkeep, watch: Watch) -> None:
        self._core = core
        self._upkeep = upkeep
        self._watch = watch

    def begin(self, offer: Offer) -> bool:
        """Leave there what is on offer, for the borrower's next work; or it is to be given back.

        That is so when it would be closed or cleaned now, or somebody is to have it. The loan has
        ended then, which is noted by whoever begins the next.
        """
        core, slot = self._core, offer.slot
        limits, slots = core.limits, core.slots
        now = core.clock()
        if (
            core.line
            or core.inbox
            or not limits.parks
            or limits.most < limits.max_size  # others wait for a part of a bound
            or len(slots.all) > limits.max_size + len(slots.closing)
            or now >= slot.retire_at
            or core.winding_up
            or slot.core is not core.ref  # the settings have changed since it was borrowed
            or not slot.session.can_stay()
        ):
            return False
        offer.ended[:] = (now,)
        core.parked = True
        if core.line or not core.serving:  # last: see the first lines
            offer.ended.clear()
            return False
        self._watch.come_by(now + PARKED_FOR)
        return True

    def end(self, slot: Slot, ended: float) -> bool:
        """Begin the next loan of what its borrower has taken out; or it is to be given back.

        That is so when it is not fit, when somebody stands in line for it, and where there is more
        to do than is done here. `ended`: when the work before did.
        """
        core = self._core
        now = core.clock()
        if (
            core.line
            or not core.serving
            or now >= slot.retire_at
            or now > ended + PARKED_FOR
            or slot.core is not core.ref
            or slot.reported
            or not (slot.loan + 1) % COUNT_AT
            or not slot.session.goes_on()
            or not slot.session.is_alive()
        ):
            return False
        core.stats.hold.note(ended - slot.since)
        slot.loan += 1
        slot.again += 1
        slot.since = slot.turned_at = now
        if core.describe is not None:
            slot.note = core.describe()
        if core.limits.times_loans:
            self._upkeep.attend_loan(slot)
        return True
