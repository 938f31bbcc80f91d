"""What a pool's options say of its sessions, the same for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .pooler import AUTO, PGBOUNCER
from .statements import Judge
from .trust import Trust


class Policy:
    """How sessions are looked at before a loan, and made as they were after it.

    `check` and `reset` are the options of that name; see ConnectionPool.
    """

    def __init__(
        self,
        name: str,
        check: Callable[[Any], None] | str | bool | None = "auto",
        reset: Callable[[Any], None] | str | bool | None = "auto",
        reset_functions: Iterable[str] = (),
        behind: str = AUTO,
    ) -> None:
        self.name = name  # of the pool, for the log
        self.looks = bool(check)  # at the socket of an idle connection
        self.check: Callable[[Any], None] = check if callable(check) else _passes
        self.restores = reset in ("auto", "always") or reset is True  # what was changed
        self.cleans_each = reset in ("always", True) or callable(reset)  # not only what looks so
        self.reset = reset if callable(reset) else None
        self.behind = behind  # what stands at the other end: see pooler.py
        # A statement: what it may leave behind.
        self.judge = Judge(reset_functions, shared=behind == PGBOUNCER)
        self.forget()

    def forget(self) -> None:
        """Know nothing of the server: when new, and in a forked child."""
        self.trust = Trust(self.judge)  # whether its functions that change a session are known
        # Statements that clean, and that the server does not know: None until it has refused some
        # clean-up, and that was looked into.
        self.lacking: frozenset[bytes] | None = None
        self.may_lack = False  # it has
        if self.restores:
            self.judge.defined = self.trust.defined


def _passes(conn: Any) -> None:
    """The check of a pool whose option `check` names none."""
