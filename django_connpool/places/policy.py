"""The rules of sharing a bound: who takes the next free place, and who gives one up for whom.

Plain functions of what each of those who share says of itself. Who shares is called a member: a
pool. No member is asked before another one acts: each looks at the same table and comes to its
own conclusion, so a member that is stopped, or dies, holds nobody up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

NEVER = float("inf")

# How often a member looks at the table by itself: never; while such wait for a place as have some,
# and whose lines move; while somebody waits who has none.
ASLEEP, SLOW, FAST = 0, 1, 2
TICK, SLOW_TICK = 0.01, 0.04  # seconds between two looks when FAST, and when SLOW
PATIENT = 0.02  # seconds in line without any, after which others part with what they use
LONG = 0.1  # the same, with some, or where it is the last; and between two partings of a member
DEFER = 0.03  # seconds for which a free place is left to who deserves it more
SILENT = 0.25  # seconds without a word, after which a member is not counted on
MORE = 1.5  # times as much need as the member that is to part with something


@dataclass(frozen=True)
class Claim:
    """What a member has, and what it wants."""

    number: int
    held: int = 0  # places
    idle: int = 0  # of these, such that can be given up at once, to who has none
    spare: int = 0  # of these, such that can be given up to anybody
    giving: int = 0  # of these, such that are about to be free
    waiting: int = 0  # borrowers in its line
    wants: int = 0  # places that it would take now
    since: float = NEVER  # when the first in its line came


def rank(claim: Claim) -> tuple[object, ...]:
    """Whoever has none comes first; then who has the most to do for each place."""
    has_none = claim.held <= 0
    need = (claim.held + claim.waiting) / (claim.held + 1)
    # Of those that have none the longest in line comes first, however many there are behind.
    return (not has_none, 0.0 if has_none else -need, claim.since, claim.number)


def is_first(me: Claim, others: Iterable[Claim]) -> bool:
    """Whether the next free place is for `me`."""
    mine = rank(me)
    return all(rank(other) > mine for other in others if other.wants)


def pace(claims: Iterable[Claim]) -> int:
    """How often those are to look who may have something for these."""
    return max((SLOW if one.held > 0 else FAST for one in claims if one.wants), default=ASLEEP)


def in_want(free: int, claims: Iterable[Claim]) -> int:
    """For how many places nobody has begun to give one up yet."""
    claims = list(claims)
    wanted = sum(claim.wants for claim in claims)
    return max(0, wanted - max(0, free) - sum(claim.giving for claim in claims))


def gives_idle(me: Claim, others: Sequence[Claim], free: int) -> int:
    """How many of its idle connections `me` is to close for others.

    Those with the most idle ones come first, so that two do not close one each for one waiter.
    """
    if me.wants:
        return 0
    wanted = in_want(free, others) - me.giving
    # Of these, for the first of who has none; what is about to be free is theirs.
    without = sum(1 for one in others if one.wants and one.held <= 0) - max(0, free)
    without -= me.giving + sum(one.giving for one in others)
    spare = {one.number: one.spare for one in (me, *others)}
    idle = {one.number: one.idle for one in (me, *others)}
    return max(_part(me, spare, wanted), _part(me, idle, min(wanted, without)))


def _part(me: Claim, each: dict[int, int], wanted: int) -> int:
    """How many of the wanted ones `me` gives, where everybody has so many to give."""
    mine = each[me.number]
    before = [has for number, has in each.items() if (-has, number) < (-mine, me.number)]
    return max(0, min(mine, wanted - sum(before)))


def parts(me: Claim, others: Sequence[Claim], free: int, now: float, last: float) -> bool:
    """Whether `me` is to close the next connection that is given back, for somebody in need.

    It is the member with the least need that does, if that is much less than the need of the one
    that waits. `last`: when `me` has done so last.
    """
    staying = me.held - me.giving
    waiting = sorted((one for one in others if one.wants), key=rank)
    if staying < 1 or not waiting or not in_want(free, others):
        return False
    neediest = waiting[0]
    if any(one.spare or (one.idle and neediest.held <= 0) for one in others):
        return False
    waited = now - neediest.since
    richest = min(
        (one for one in (me, *others) if one.held > one.giving and one is not neediest),
        # Of two in like need it is the one whose line has come later: so the last ones go round.
        key=lambda one: (_need(one), -one.held, -one.since, one.number),
    )
    if richest is not me or waited < PATIENT:
        return False
    if neediest.held <= 0:
        return staying > 1 or (waited >= LONG and now - last >= LONG)
    if waited < LONG or now - last < LONG:
        return False
    after = (neediest.held + neediest.waiting) / (neediest.held + 1)
    return staying > 1 and after > MORE * _need(me)


def _need(claim: Claim) -> float:
    """Those who use something of it or wait, for each place that it has."""
    return (claim.held - claim.idle + claim.waiting) / max(1, claim.held)
