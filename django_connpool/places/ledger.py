"""The file of a bound that all processes of a host share: who is a member, who has which place.

A place is a byte of the file, locked by whoever has it (an "open file description" lock of
Linux): the kernel lets go of it when the process is gone, however it ended, and nothing has to
be cleaned up. The locks are the truth. What stands in the file is what members say of themselves,
each in a record of its own, for others to go by and for people to read.

The server may notice the end of a process a moment later than the kernel: a place whose holder
has not said that it is free rests for a while.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .policy import FAST, NEVER, SILENT, Claim

try:
    import fcntl

    SET, GET = fcntl.F_OFD_SETLK, fcntl.F_OFD_GETLK
except (ImportError, AttributeError):  # not Linux
    fcntl = None  # type: ignore[assignment]

MAGIC = b"django-connpool places 1\n".ljust(64, b" ")
MEMBERS = 1024  # pools, of all processes
MOST = 8192  # places
MEMBER = struct.Struct("=9I2d16s")
PLACE = struct.Struct("=d2I")
AT_ONCE = 16  # members that are looked at together
NOTHING = bytes(AT_ONCE * MEMBER.size)
PLACES_AT = len(MAGIC) + MEMBERS * MEMBER.size
SIZE = PLACES_AT + MOST * PLACE.size
# The bytes that are locked lie behind all that is written.
MEMBER_LOCKS = 1 << 20
PLACE_LOCKS = 1 << 21
_FLOCK = struct.Struct("@hhqqi0q")

AFTER_DEATH = 1.0  # seconds for which a place rests whose holder has died
AFTER_GOODBYE = 0.25  # or has said goodbye to the server, and not waited for it
SUFFIX = ".places"
BELL = ".bell"


class Unusable(Exception):
    """The file cannot be used; the text says which, why, and what to do."""


@dataclass(frozen=True)
class Record:
    """What a member says of itself."""

    claim: Claim
    pid: int
    name: str
    bound: int
    pace: int  # how often it looks at the table by itself: see policy.py
    seen: float  # when it said so


class Ledger:
    """A member's hold on the file. For one thread at a time: the pool's lock is held."""

    _fd = -1  # of the file, which is closed with this object; or there is none

    def __init__(self, path: Path, bound: int, name: str, now: float) -> None:
        """Become a member. Raises Unusable."""
        self.require_locks()
        self.path = path
        self.bound = bound  # what this member asks for
        self.name = name
        self.places: set[int] = set()
        self.lost = 0  # places whose holder was found dead
        self._fd = _open(path)
        self.bell: socket.socket | None = None  # see hang_bell
        try:
            self._identity = _identity(os.fstat(self._fd))
            self.number = self._join()
            self.say(Claim(self.number), FAST, now)
        except Exception:
            self._close()
            raise

    def __del__(self) -> None:
        self._close()  # of one that an interrupt has kept from becoming a member

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    @staticmethod
    def require_locks() -> None:
        """Raises Unusable where there are no such locks."""
        if fcntl is None:
            raise Unusable("only Linux has the locks that a bound for a whole host needs")

    def _join(self) -> int:
        for number in range(MEMBERS):
            if self._lock(MEMBER_LOCKS + number):
                return number
        raise Unusable(f"{self.path} has {MEMBERS} members already")

    def leave(self, now: float) -> None:
        """Be a member no more; all places are free."""
        with suppress(OSError):
            for place in list(self.places):
                self.free(place, now)
            os.pwrite(self._fd, bytes(MEMBER.size), len(MAGIC) + self.number * MEMBER.size)
        if self.bell is not None:
            with suppress(OSError):
                os.unlink(self._bell_of(self.number))
        self.forget()

    def forget(self) -> None:
        """Close this process's copies only: in a forked child, where they are the parent's."""
        self._close()
        if self.bell is not None:
            self.bell.close()
        self.places = set()

    # -- Places ---------------------------------------------------------------------------

    def take(self, wanted: Iterable[int], now: float) -> int | None:
        """Take the first of these places that is free; None when there is none."""
        for place in wanted:
            if place in self.places:
                continue
            self.places.add(place)  # first, so that after an interrupt it is found, and freed
            if self._lock(PLACE_LOCKS + place):
                if self._may_use(place, now):
                    self._note(place, 0.0, self.number + 1)
                    return place
                self._unlock(PLACE_LOCKS + place)
            self.places.discard(place)
        return None

    def _may_use(self, place: int, now: float) -> bool:
        """Whether the session of who had it before has ended."""
        until, holder, _ = PLACE.unpack(os.pread(self._fd, PLACE.size, _at(place)))
        if holder:
            self.lost += 1
            until = now + AFTER_DEATH
            self._note(place, until, 0)
        # The clock begins anew when the machine does.
        return not now < until <= now + AFTER_DEATH

    def free(self, place: int, now: float, rest: float = 0.0) -> None:
        """Give it back; nobody may use it for so many seconds."""
        if place in self.places:
            # It is somebody else's, where an interrupt has kept this one from locking it.
            if self._lock(PLACE_LOCKS + place):
                self._note(place, now + rest if rest else 0.0, 0)
                self._unlock(PLACE_LOCKS + place)
            self.places.discard(place)

    def _note(self, place: int, until: float, holder: int) -> None:
        os.pwrite(self._fd, PLACE.pack(until, holder, os.getpid()), _at(place))

    # -- Members --------------------------------------------------------------------------

    def say(self, claim: Claim, pace: int, now: float) -> None:
        """Tell the others."""
        numbers = (claim.idle, claim.spare, claim.giving, claim.waiting, claim.wants)
        since = claim.since if claim.since < NEVER else 0.0
        record = MEMBER.pack(
            *(os.getpid(), self.bound, len(self.places), *numbers, pace, since, now),
            self.name.encode()[:16],
        )
        os.pwrite(self._fd, record, len(MAGIC) + self.number * MEMBER.size)

    def others(self, now: float) -> list[Record]:
        """What the other members say; of one that is silent only what it has."""
        found = []
        for number, fields in self._records():
            pid, bound, held, idle, spare, giving, waiting, wants, pace = fields[:9]
            since, seen, name = fields[9:]
            if not pid or number == self.number:
                continue
            if not -1.0 < now - seen < SILENT:
                if not self._is_locked(MEMBER_LOCKS + number):
                    continue  # it has died
                idle = spare = giving = waiting = wants = pace = 0
            counts = (number, held, idle, spare, giving, waiting, wants)
            claim = Claim(*counts, since or NEVER)
            text = name.rstrip(b"\0").decode(errors="replace")
            found.append(Record(claim, pid, text, bound, pace, seen))
        return found

    def _records(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """What is written of members, and their numbers; parts in which nothing is are skipped."""
        table = os.pread(self._fd, MEMBERS * MEMBER.size, len(MAGIC))
        for first in range(0, MEMBERS, AT_ONCE):
            part = table[first * MEMBER.size : (first + AT_ONCE) * MEMBER.size]
            if part != NOTHING:
                yield from enumerate(MEMBER.iter_unpack(part), first)

    def is_there(self) -> bool:
        """Whether others find the same file: somebody may have removed it."""
        try:
            return _identity(os.stat(self.path)) == self._identity
        except OSError:
            return False

    # -- Bells ----------------------------------------------------------------------------

    def hang_bell(self) -> socket.socket:
        """What becomes readable when another member rings. Raises OSError."""
        path = self._bell_of(self.number)
        with suppress(FileNotFoundError):
            os.unlink(path)  # of a member that has died
        bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            bell.bind(path)
            os.chmod(path, 0o600)
            bell.setblocking(False)
        except OSError:
            bell.close()
            raise
        self.bell = bell
        return bell

    def ring(self, number: int) -> None:
        """Have that member look at the table."""
        if self.bell is not None:
            with suppress(OSError):  # it has no bell, or does not listen
                self.bell.sendto(b"!", self._bell_of(number))

    def silence_bell(self) -> None:
        """Read what rang."""
        with suppress(OSError):
            while self.bell is not None and self.bell.recv(16):
                pass

    def _bell_of(self, number: int) -> str:
        return str(self.path.with_suffix(f".{number}{BELL}"))

    # -- Locks ----------------------------------------------------------------------------

    def _lock(self, byte: int) -> bool:
        try:
            fcntl.fcntl(self._fd, SET, _flock(fcntl.F_WRLCK, byte))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise
        return True

    def _unlock(self, byte: int) -> None:
        fcntl.fcntl(self._fd, SET, _flock(fcntl.F_UNLCK, byte))

    def _is_locked(self, byte: int) -> bool:
        """Whether another member has it."""
        answer = fcntl.fcntl(self._fd, GET, _flock(fcntl.F_WRLCK, byte))
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)


def _flock(kind: int, byte: int) -> bytes:
    return _FLOCK.pack(kind, os.SEEK_SET, byte, 1, 0)


def _at(place: int) -> int:
    return PLACES_AT + place * PLACE.size


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _open(path: Path) -> int:
    """The file, of its full size, so that nothing written later finds the disk full."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Unusable(f"{path} cannot be opened: {error.strerror}") from error
    try:
        os.posix_fallocate(fd, 0, SIZE)
        found = os.pread(fd, len(MAGIC), 0)
        if found == bytes(len(MAGIC)):
            os.pwrite(fd, MAGIC, 0)  # two may do so: they write the same
        elif found != MAGIC:
            raise Unusable(f"{path} is not a file of this version's: remove it")
    except OSError as error:
        os.close(fd)
        raise Unusable(f"{path} cannot be written: {error.strerror}") from error
    except Unusable:
        os.close(fd)
        raise
    return fd
