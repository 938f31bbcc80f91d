"""A connection that listens: LISTEN, UNLISTEN and what was notified, without ever waiting."""

from __future__ import annotations

from time import monotonic
from typing import Any, NamedTuple

from psycopg import Error, OperationalError, errors, sql
from psycopg.pq import ConnStatus, ExecStatus

from .closing import await_end, bury, end_of, say_goodbye

PATIENCE = 30.0  # seconds of silence after which the server is asked, and then for its answer
LONGEST = 63  # bytes of a channel's name; the server cuts longer ones off


class Notification(NamedTuple):
    """What somebody has told by NOTIFY. With `missed`: that something may have been missed."""

    channel: str
    payload: str
    pid: int  # of the backend that told it
    missed: bool = False


GAP = Notification("", "", 0, missed=True)


def check_names(channels: tuple[str, ...]) -> None:
    """Raise TypeError or ValueError if one cannot be a channel's name."""
    if not channels:
        raise ValueError("name at least one channel to listen to")
    for name in channels:
        if not isinstance(name, str):
            raise TypeError(f"the name of a channel is a str, not {type(name).__name__}")
        if not name or "\0" in name or len(name.encode()) > LONGEST:
            raise ValueError(f"the name of a channel has 1 to {LONGEST} bytes: {name!r}")


class Channels:
    """A connection, and the channels that it listens to. For one thread at a time."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn
        self._pgconn = pgconn = conn.pgconn
        self._encoding: str = conn.info.encoding
        self.socket: int = pgconn.socket
        self.backend_pid: int = pgconn.backend_pid
        self.told: frozenset[str] = frozenset()  # to which the server has said that we listen
        self._asked: frozenset[str] | None = None  # to which we shall, once it has answered
        self.is_sending = False  # not all could be sent at once: come again soon
        self._since = monotonic()  # when something was last sent or heard

    @property
    def firm(self) -> frozenset[str]:
        """What is listened to, and will be when the server has answered to what is under way."""
        return self.told if self._asked is None else self.told & self._asked

    def want(self, channels: frozenset[str]) -> None:
        """Have exactly these listened to. Raises psycopg's errors.

        Come again after `PATIENCE`: a network that has lost the connection may not say so.
        """
        if self.is_sending:
            self._flush()
        is_silent = monotonic() >= self._since + PATIENCE
        if self._asked is not None:
            if is_silent:
                raise OperationalError(f"the server did not answer for {PATIENCE:g} s")
            return
        if channels == self.told and not is_silent:
            return
        commands = [
            *(_command(b"LISTEN ", name, self._conn) for name in sorted(channels - self.told)),
            *(_command(b"UNLISTEN ", name, self._conn) for name in sorted(self.told - channels)),
        ]
        self._pgconn.send_query(b"; ".join(commands))  # nothing new: an empty statement
        self._asked, self._since = channels, monotonic()
        self._flush()

    def _flush(self) -> None:
        self.is_sending = bool(self._pgconn.flush())

    def read(self) -> tuple[list[Notification], Error | None]:
        """What has come, and why nothing more will."""
        lost: Error | None = None
        self._since = monotonic()
        try:
            self._pgconn.consume_input()
            self._take_answer()
        except Error as error:
            lost = error
        found = []
        while (said := self._pgconn.notifies()) is not None:
            channel, payload = (
                text.decode(self._encoding, "replace") for text in (said.relname, said.extra)
            )
            found.append(Notification(channel, payload, said.be_pid))
        if lost is None and self._pgconn.status == ConnStatus.BAD:
            lost = OperationalError("the connection was lost")
        return found, lost

    def _take_answer(self) -> None:
        """Take what the server says to the last command. Raises what it refuses it with."""
        while self._asked is not None and not self._pgconn.is_busy():
            result = self._pgconn.get_result()
            if result is None:
                self.told, self._asked = self._asked, None
            elif result.status == ExecStatus.FATAL_ERROR:
                raise errors.error_from_result(result, encoding=self._encoding)

    def close(self, seconds: float = 0.0) -> None:
        """Close it, and wait so long for the server to have let go of it."""
        end = end_of(self._pgconn)
        self.say_goodbye()
        await_end(end, seconds)

    def say_goodbye(self) -> None:
        say_goodbye(self._conn, self._pgconn, self._conn.lock)

    def bury(self, grave: Any) -> None:
        """In a forked child: make it harmless without a byte to the server."""
        bury(self._pgconn, grave)
        self.say_goodbye()  # to nobody; psycopg warns of what was not closed


def _command(command: bytes, name: str, conn: Any) -> bytes:
    return command + sql.Identifier(name).as_bytes(conn)
