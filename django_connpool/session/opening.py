"""Opening a connection, and knowing what it was like when it was new."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any
from weakref import WeakSet

import psycopg
from psycopg.pq import TransactionStatus

from django_connpool.process import bursts
from django_connpool.redaction import named, one_line

from . import changes, cleaning, cursors, parameters, pooler, refusals, rest, tidying
from .closing import discard
from .objects import noticing
from .policy import Policy
from .session import Session, SessionKeeper
from .setup import recording

logger = bursts.logger("sessions")


class Opening:
    """Opens a pool's connections with psycopg; what a pool calls its `Opener`.

    `conninfo`, `kwargs`, `connection_class` and `configure` are ConnectionPool's.
    `command_timeout`: seconds that a statement may run, or None.
    """

    def __init__(
        self,
        policy: Policy,
        conninfo: str | Callable[[], str],
        kwargs: dict[str, Any] | Callable[[], dict[str, Any]] | None,
        connection_class: Any,
        configure: Callable[[Any], None] | None,
        command_timeout: float | None,
    ) -> None:
        self.policy = policy
        self.conninfo = conninfo
        self.kwargs = kwargs
        self.connection_class = connection_class
        self._configure = configure
        self._command_timeout = command_timeout
        self.forget()

    def forget(self) -> None:
        """Start anew: when new, and in a forked child."""
        self.policy.forget()
        self._lock = threading.Lock()  # guards the next; no other is taken inside
        self._sessions: WeakSet[Session] = WeakSet()
        self._has_said = False  # that a pooler stands there

    def meaning(self, error: BaseException) -> tuple[str, bool]:
        """What kind of refusal an error of `open` is, and whether time may do away with it."""
        return refusals.meaning(error)

    def open(self, keeper: SessionKeeper, hurry: bool) -> Session:
        """Return a new session, configured. Blocks; raises what the driver or the user raises.

        It is `keeper`'s from then on, which is found again as `_slot` of the connection. `hurry`:
        somebody waits for it.
        """
        conn: Any = None
        with ExitStack() as unless_done:
            # Before it is there: an interrupt may strike as soon as it is.
            unless_done.callback(lambda: discard(conn))
            conn = self._connect()
            conn.__dict__["_pool"] = None
            cursors.set_watch(conn, self.policy.judge)
            with recording(conn):
                self._set_up(conn)
            cursors.set_watch(conn, self.policy.judge)  # the user may have chosen other cursors
            conn._slot = keeper
            session = keeper.session = Session(conn, self.policy, keeper.connection_died)
            with self._lock:
                self._sessions.add(session)
            self._get_to_know(session, hurry)
            unless_done.pop_all()
        return session

    def _get_to_know(self, session: Session, hurry: bool) -> None:
        """Look at what stands at the other end, and ask it what has to be known of it."""
        policy, setup = self.policy, session.changes.setup
        if pooler.is_likely(session.pgconn):
            if setup is not None:
                setup[:0] = pooler.born_with(session.pgconn)
            if policy.behind == pooler.AUTO:
                self._say_pooler()
        # Not by one that was made to open it; and by what was learned meanwhile.
        changes.judge_by(session.conn, policy.judge)
        if policy.restores and isinstance(session.conn, psycopg.Connection):
            policy.trust.opened(session)
            tries = policy.may_lack and policy.lacking is None and not policy.judge.shared
            if tries and setup is not None:
                self._find_lacking(session)
            elif policy.trust.lost and not hurry:
                tidying.ask(session, policy)

    def _connect(self) -> Any:
        conninfo = self.conninfo() if callable(self.conninfo) else self.conninfo
        kwargs = self.kwargs() if callable(self.kwargs) else self.kwargs or {}
        kwargs = parameters.completed(
            conninfo, kwargs, self._command_timeout, parameters.CONNECT_TIMEOUT
        )
        if self.policy.judge.shared:  # where what one has prepared another may not find
            kwargs.setdefault("prepare_threshold", None)
        try:
            return noticing(self.connection_class).connect(conninfo, **kwargs)
        except psycopg.OperationalError as error:
            raise pooler.explained(error) from error.__cause__

    def _find_lacking(self, session: Session) -> None:
        """A clean-up was not understood: find out what this server does not know. Once."""
        policy = self.policy
        policy.lacking = found = cleaning.find_lacking(session.pgconn)
        tidying.clean_anew(session, policy)
        if found:
            said = ", ".join(sorted(each.decode() for each in found))
            text = "%s: sessions are cleaned without what this server does not know: %s"
            logger.warning(text, policy.name, said, extra={"pool": policy.name})

    def _say_pooler(self) -> None:
        """Say that a pooler seems to stand before the server; once."""
        with self._lock:
            is_news, self._has_said = not self._has_said, True
        if is_news:
            text = (
                "%s: a pooler seems to stand before the server. If it lends a session for one "
                'transaction, what is SET reaches strangers: set the pool option "behind" to '
                '"pgbouncer"; else to "server"'
            )
            logger.warning(text, self.policy.name, extra={"pool": self.policy.name})

    def _set_up(self, conn: Any) -> None:
        """Have the user configure the session; ProgrammingError when that leaves a transaction."""
        if self._configure is None:
            return
        self._configure(conn)
        status = conn.pgconn.transaction_status
        if status != rest.IDLE:
            raise psycopg.ProgrammingError(
                f"the configure callback {named(self._configure)} left the connection in status "
                f"{TransactionStatus(status).name}: closed"
            )

    # -- What servers tell of their functions ---------------------------------------------

    @property
    def has_answers(self) -> bool:
        """Whether there is something for `read_answers` to read."""
        return bool(self.policy.trust.answers)

    def read_answers(self) -> None:
        """Learn what servers have told of their functions. Takes milliseconds to seconds.

        What an interrupt leaves unlearned is read again.
        """
        trust, judge = self.policy.trust, self.policy.judge
        while trust.answers:
            question = trust.answers[0]
            try:
                grown = trust.read(question)
                with self._lock:
                    sessions = list(self._sessions)
                doubted = []
                for session in sessions:
                    session.changes.use(judge)
                    if grown and session.is_lent:
                        doubted.append(session)
                trust.learned(question, doubted)
            except Exception as error:
                if trust.refused(question):
                    logger.warning(
                        "%s: every session is cleaned, for the server does not tell which of its "
                        "functions change one: %s",
                        self.policy.name,
                        one_line(error),
                        extra={"pool": self.policy.name},
                    )
            with suppress(ValueError):
                trust.answers.remove(question)
