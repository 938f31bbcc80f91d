"""Lending connections and taking them back, first come, first served."""

from __future__ import annotations

from typing import Any, cast
from weakref import ref

from django_connpool.process import bursts
from django_connpool.process.cpython import expect_free
from django_connpool.redaction import public

from . import explain, view
from .checking import Checking
from .core import AUDIT_EVERY, CLEAN_TIMEOUT, Core
from .crew import Crew
from .line import Waiter
from .news import TIMED_OUT, WAITED
from .offers import Watch
from .outage import again
from .owners import this_thread
from .parking import Parking
from .prospects import gave_up, waiting_cannot_help
from .slot import CLOSING, GONE, HANDED, IDLE, LOAN, RETURNING, Lasting, Loans, Slot
from .upkeep import Upkeep

logger = bursts.logger("loans")


class Pool:
    """From the moment somebody asks for a connection to the moment it is given back.

    Where every loan comes by, the lock is taken by hand, inside the block whose end releases
    it: `with` costs 0.3 µs more. Between `acquire` and the rest of the block, or its end and
    `release`, no interrupt strikes: the interpreter looks for signals when a call has returned.
    When one keeps `acquire` from succeeding, `release` finds the lock free, which is expected.
    (The `try` before `release` is there for Python 3.10 too, which looks for signals at the
    beginning of a `finally` clause, but for one that begins with it.)
    """

    def __init__(self, core: Core, crew: Crew, upkeep: Upkeep, watch: Watch) -> None:
        self._core = core
        core.news.pool = ref(self)
        self._crew = crew
        self._upkeep = upkeep
        self._watch = watch
        self._checking = Checking(core, crew, upkeep)
        self.parking = Parking(core, upkeep, watch)

    # -- Borrowing ------------------------------------------------------------------------

    def getconn(self, timeout: float | None = None) -> Any:
        """Borrow a connection, waiting at most `timeout` seconds (the pool's by default).

        Give it back with `putconn`, or better use `connection()`. A connection that is
        dropped, or whose thread ends, comes back by itself, at the price of a new one.

        Raises PoolTimeout, TooManyRequests, PoolClosed, and when there is nothing to wait
        for the server's own OperationalError at once.
        """
        core = self._core
        slot = since = None
        try:
            idle = core.slots.idle
            # Whoever stands in line looks again, under the lock. And a signal handler must not
            # take a slot that the code it interrupted has in hand.
            if idle and not core.is_inside():
                lock = core.lock
                try:  # see the class
                    lock.acquire()
                    if core.serving and idle and (last := idle[-1]).state is IDLE:
                        if last.session.cleaning is not None:
                            last = core.slots.prefer_ready()
                        # The order matters to an interrupt between the lines: from the first
                        # on the slot is ours to put back, and nobody else takes it.
                        slot, last.state = last, LOAN
                        del idle[-1]
                        core.stats.requests_num += 1
                finally:
                    try:
                        lock.release()
                    except RuntimeError as error:
                        expect_free(error)
                now = core.clock()
                if slot is not None and not (
                    (now < slot.vet_at and slot.session.is_alive())
                    or self._checking.is_fit(slot, now, timeout)
                ):
                    slot, since = None, now
            if slot is None:
                slot = self._wait_for_slot(timeout, since)
                now = core.clock()
            # It becomes its borrower's, and the session forgets the connection: see `Session`.
            slot.since = now
            slot.loans = loans = this_thread.loans
            loans.add(slot)
            if core.describe is not None:
                slot.note = core.describe()
            if core.limits.times_loans:
                self._upkeep.attend_loan(slot)
            session = slot.session
            session.conn.__dict__["_pool"] = self
            try:  # without a variable for it: an error may keep this frame, and it for ever
                return session.conn
            finally:
                session.conn = None
        except BaseException:
            if slot is not None:
                if slot.state is LOAN:
                    slot.state = RETURNING
                core.inbox.append((Core.audit,))
                core.ticket.now()
            raise

    # -- Waiting --------------------------------------------------------------------------

    def _wait_for_slot(self, timeout: float | None, since: float | None) -> Slot:
        """Return one that is fit, in state LOAN: the next idle one, or what comes to the line.

        `since`: when this borrower began, if it has had one that was not fit.
        """
        core = self._core
        if core.is_inside():
            raise core.errors.failed(
                f"pool {core.name!r}: a finalizer or signal handler that interrupted the pool "
                "itself cannot wait for a connection"
            )
        seconds = core.limits.timeout if timeout is None else timeout
        now = core.clock()
        began = now if since is None else since
        note = core.describe() if core.describe is not None else None
        waiter = Waiter(began, since is not None, note)
        has_queued = False
        try:
            while True:
                # Whoever stands in line already has looked, and is looked after.
                if core.limits.has_offers and not core.line:
                    self._watch.serve(1)
                lock = core.lock
                try:  # see the class
                    lock.acquire()
                    queued = self._stand_in_line(waiter, seconds)
                finally:
                    try:
                        lock.release()
                    except RuntimeError as error:
                        expect_free(error)
                if core.warnings:
                    # Not here: a log handler that borrows would stand behind its own thread.
                    self._crew.in_a_thread(core.news.log_warnings, "warnings")
                if queued:
                    has_queued = True
                    self._upkeep.expect_lock(waiter.since)
                    if len(core.slots) < core.limits.max_size or core.slots.to_close:
                        self._crew.staff()
                    if not self._watch.wait(waiter, began + seconds - now):
                        self._leave_line(waiter, seconds)
                slot: Slot | None = waiter.slot
                if slot is None:
                    raise cast(BaseException, waiter.error)
                slot.waiter, slot.state = None, LOAN  # from here on it is ours
                now = core.clock()
                is_fresh = queued and self._checking.is_fresh(slot, now)
                if is_fresh or self._checking.is_fit(slot, now, began + seconds - now):
                    if has_queued:
                        slot.waited = slot.loan, now - began
                    return slot
                waiter = waiter.again()
                now = core.clock()
        except BaseException as error:
            # In this order: what it has accepted is its own; what it accepts no more is not.
            if waiter.slot is not None and waiter.slot.state is LOAN:
                waiter.slot.state = RETURNING
            waiter.left = True
            core.inbox.append((gave_up, waiter, error.__class__))
            self._read_notes(error)
            raise

    def tell_waited(self, conn: Any) -> None:
        """Those who listen hear that this loan was waited for, if it was. In its borrower's thread.

        Called when the connection is in hand, for a receiver may use the database.
        """
        slot: Slot = conn._slot
        waited, slot.waited = slot.waited, None
        if waited is not None and waited[0] == slot.loan:
            self._core.news.tell_here(WAITED, {"waited": waited[1]})

    def tell_timed_out(self, error: BaseException) -> None:
        """Those who listen hear of this error, if somebody has waited for it."""
        if waited := getattr(error, "numbers", {}).get("waited"):
            self._core.news.tell_here(TIMED_OUT, {"waited": waited, "error": error})

    def _read_notes(self, error: BaseException) -> None:
        """Do what the notes say, but not when an interrupt has just struck."""
        core = self._core
        if not isinstance(error, Exception):
            core.ticket.now()
            return
        with core.lock:
            core.catch_up()
        if core.slots.to_close:
            self._crew.staff()

    def _stand_in_line(self, waiter: Waiter, seconds: float) -> bool:
        """Under the lock: serve the waiter at once (False), queue it (True), or refuse it."""
        core, slots, line = self._core, self._core.slots, self._core.line
        if core.inbox:  # where somebody may have asked to close it
            core.catch_up()
        core.check_open()
        if core.parked:
            core.bring_in()
        if slots.idle and slots.idle[-1].state is not IDLE:
            core.audit()
        if core.serving and slots.idle:
            last = slots.prefer_ready() if slots.idle[-1].session.cleaning else slots.idle[-1]
            waiter.slot, last.waiter, last.state = last, waiter, HANDED
            del slots.idle[-1]
            core.stats.requests_num += not waiter.tries
            waiter.tries += 1
            return False
        outage = core.outage
        if outage is not None and waiting_cannot_help(core):
            now = core.clock()
            if now < outage.hurry(now):
                raise again(outage.error)
        if seconds <= 0:
            raise view.timeout(core, seconds)
        most = core.limits.max_waiting
        if most and len(line) >= most and not waiter.tries:
            text = (
                f"{len(line)} waiting already, and no more than "
                f"max_waiting ({most}) may; {slots.on_loan()} of at most "
                f"{core.limits.max_size} connections are on loan"
            )
            core.history.tell(core.clock(), "refused", text)
            full: Any = core.errors.full(f"pool {core.name!r}: {text}")
            full.numbers = core.numbers(waited=0.0)
            raise full
        if not line:
            core.line_since = core.clock()
            core.ticket.attend()
            core.schedule(core.line_since + AUDIT_EVERY)
        if waiter.tries:
            line.rejoin(waiter)
        else:
            core.stats.requests_queued += 1
            core.stats.requests_num += 1
            waiter.tries = 1
            line.append(waiter)
            core.history.lines_up(len(line))
        if core.parked:  # meanwhile, by who has not seen this one in line
            core.bring_in()
        if slots.on_loan() + len(line) > core.stats.peak:  # whom offers are looked at for
            core.stats.peak = max(core.stats.peak, slots.in_use() + len(line))
        return True

    def _leave_line(self, waiter: Waiter, seconds: float) -> None:
        """Give up waiting, unless served at the last moment. Raises PoolTimeout."""
        core = self._core
        with core.lock:
            core.line.leave(waiter)
            if waiter.slot is None and waiter.error is None:
                error = view.timeout(core, seconds)
                if core.outage and core.last_error:
                    error.__cause__ = public(core.last_error)
                raise error

    # -- Giving back ----------------------------------------------------------------------

    def putconn(self, conn: Any) -> None:
        """Give a connection back.

        Rolls back what was left open, with a warning. Raises ValueError when the
        connection is not on loan from this pool (another pool's, or given back before);
        in `strict` mode ProgrammingError, when it has been rolled back and is with the pool.
        """
        core = self._core
        try:
            slot: Slot | None = conn._slot
        except AttributeError:
            slot = None
        if slot is None or slot.state is not LOAN or slot.core is not core.ref:
            self._refuse(conn, slot)
            return
        session = slot.session
        over, loan = False, slot.loan
        if core.is_inside():
            core.put(Core.take_back, slot, conn, loan)
            return
        complaint = unfit = ""
        try:
            conn.__dict__["_pool"] = None  # as it was when it was new
            if not session.comes_back_fit(conn):
                complaint = self._complaint(slot)
                unfit = session.make_fit(conn)
            if core.closed:
                conn.close()  # at once; that the server has let go is waited for by a worker
            if unfit:
                self._checking.discard(slot, unfit, conn)
            else:
                now, lock = core.clock(), core.lock
                try:  # see the class
                    lock.acquire()
                    if slot.state is LOAN:  # or another thread has been faster
                        # One line, so that no interrupt finds a loan that is half over.
                        over, slot.state = True, RETURNING
                        core.moved_at = now
                        core.settle(slot, conn, now)
                finally:
                    try:
                        lock.release()
                    except RuntimeError as error:
                        expect_free(error)
        except BaseException:
            core.inbox.append((Core.take_back, slot, conn, None if over else loan))
            core.ticket.now()
            raise
        if not over and not unfit:
            self._refuse(conn, slot)
        if core.inbox or core.warnings or core.slots.to_close:
            self._upkeep.look_around()
            core.news.log_warnings()
            self._crew.tell()
        if complaint:
            raise core.errors.misuse(f"pool {core.name!r}: {complaint}")

    def _complaint(self, slot: Slot) -> str:
        """What is wrong with the way a connection is given back; logged, unless `strict`."""
        core, session = self._core, slot.session
        left = session.in_the_middle_of()
        if not left:
            if session.is_broken:
                with core.lock:
                    core.condemn()
            return ""
        in_transaction = left == "a transaction"
        if in_transaction:
            now = core.clock()
            slot.rolling_back = now, slot.loan
            self._upkeep.come_by(now + CLEAN_TIMEOUT)
        told = explain.given_back(slot, left, in_transaction)
        if core.limits.strict:
            return explain.GIVEN_BACK % told
        logger.warning("%s: " + explain.GIVEN_BACK, core.name, *told, extra=core.numbers())
        return ""

    def _refuse(self, conn: Any, slot: Slot | None) -> None:
        """What cannot be given back: an error, unless the pool has given it up itself."""
        owner: Any = slot.core() if slot is not None else getattr(conn, "_pool", None)
        mine = owner is self._core or owner is self
        if mine and slot is not None and slot.state in (CLOSING, GONE):
            return
        if mine:
            why = "it was given back already"
        elif owner is not None:
            why = f"it comes from pool {owner.name!r}"
        else:
            why = "it doesn't come from any pool"
        name = self._core.name
        raise ValueError(f"can't return connection to pool {name!r}, {why}: {conn}")

    def offers_until(self, at: float) -> None:
        """A borrower offers a connection, which is to be back in the pool at that moment."""
        self._watch.come_by(at)

    def expect_offers(self) -> None:
        """A borrower is going to offer what it does not use to those who wait."""
        self._watch.expect()

    def take_offers(self) -> None:
        """Give back, here and now, everything on loan that nobody is using."""
        self._watch.take_all()

    def outlive_thread(self, conn: Any, why: str = "") -> None:
        """Let a loan go on when the thread that borrowed it ends.

        For a connection that several threads share: from then on it comes back by
        `putconn`, or when nobody can reach it any more. `why` it is kept for long, if it is.
        """
        slot: Slot | None = getattr(conn, "_slot", None)
        with self._core.lock:
            if slot in self._core.slots.all and slot.state is LOAN and slot.loans:
                slot.loans.discard(slot)
                thread = slot.loans.thread
                slot.loans = Lasting(slot, why) if why else Loans(thread, [slot])

    def adopt(self, conn: Any) -> None:
        """What this connection, which is on loan, is like now belongs to it from its birth."""
        conn._slot.session.adopt(conn)
