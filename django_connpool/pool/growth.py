"""Should one more connection be opened for those who wait?

Opening takes milliseconds to hundreds of them; a busy connection often comes back sooner.
Opening one for every waiter of a burst of short jobs would leave a pool that is too large
for good (HikariCP's "welcome to the jungle" benchmark), opening none would let a few
slow jobs starve the rest. So the rule compares two expectations, and mistrusts its own
optimism: a line that does not move, or does not end, is worth a connection.
"""

from __future__ import annotations

PATIENCE = 0.005  # seconds: the least time the line may last before we open regardless


def patience(mean_connect: float) -> float:
    """How long those in line may be left to hope for connections given back, in seconds."""
    return max(PATIENCE, mean_connect * 0.5)


def worth_opening(
    *,
    waiting: int,
    opening: int,
    on_loan: int,
    stalled_for: float,
    pressed_for: float,
    mean_hold: float | None,
    mean_connect: float,
) -> bool:
    """Whether to start one more attempt, besides the `opening` ones under way.

    With nothing on loan there is nothing to hope for, and no more when the line has been
    `stalled_for` too long without anything being given back. When it moves but has been
    `pressed_for` that long without ending, it is a load and not a burst: open one at a
    time. Otherwise open when the last in line would be served later by connections given
    back (`mean_hold` seconds each, `on_loan` at a time) than by a new one.
    """
    if waiting <= opening:
        return False
    enough = patience(mean_connect)
    if not on_loan or stalled_for >= enough:
        return True
    if pressed_for >= enough or mean_hold is None:
        return not opening
    return (waiting - opening) / on_loan * mean_hold > mean_connect
