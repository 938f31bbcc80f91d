"""Sharing a bound, in any order of events: never more than it, and nobody waits in vain."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from .members import Clock, Member, Server, host_bound, turns

BOUND = 3
PROCESSES = 4
which = st.integers(0, PROCESSES - 1)


class Sharing(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.server = Server(BOUND)
        self.members: list[Member] = []

    @initialize(size=st.sampled_from([1, 2, 99]))
    def begin(self, size: int) -> None:
        self.members = [self.born(size) for _ in range(PROCESSES)]

    def born(self, size: int) -> Member:
        return Member(
            self.clock, self.server, [host_bound(Path(self.folder.name), BOUND)], "", size
        )

    @rule(which=which, borrowers=st.integers(1, 4))
    def arrive(self, which: int, borrowers: int) -> None:
        if not self.members[which].is_stopped:
            for _ in range(borrowers):
                self.members[which].arrive()

    @rule(which=which)
    def finish(self, which: int) -> None:
        member = self.members[which]
        if member.busy and not member.is_stopped:
            member.finish()

    @rule(which=which)
    def turn(self, which: int) -> None:
        self.members[which].turn()

    @rule(seconds=st.sampled_from([0.005, 0.02, 0.2]))
    def time_goes_by(self, seconds: float) -> None:
        turns(self.clock, self.server, self.members, seconds)

    @rule(which=which, lasts=st.sampled_from([0.0, 0.1, 0.9]))
    def kill(self, which: int, lasts: float) -> None:
        """And another process is started in its place."""
        killed = self.members[which]
        killed.kill(lasts)
        self.members[which] = self.born(killed.size)

    @rule(which=which)
    def stop_or_go_on(self, which: int) -> None:
        self.members[which].is_stopped ^= True

    @invariant()
    def the_server_never_has_more(self) -> None:
        assert len(self.server.sessions) <= BOUND
        assert self.server.most <= BOUND

    def teardown(self) -> None:
        try:
            if self.members:
                self.everybody_is_served()
        finally:
            for member in self.members:
                member.tenant.forget()
            self.folder.cleanup()

    def everybody_is_served(self) -> None:
        """When all go on, loans end, and nobody comes any more, nobody is left in line."""
        for member in self.members:
            member.is_stopped = False
        # Work of 50 ms each; the dead have their places for a second.
        until = self.clock.now + 30
        while any(member.line for member in self.members):
            assert self.clock.now < until, [
                (member.held, len(member.line), vars(member.tenant)) for member in self.members
            ]
            turns(self.clock, self.server, self.members, 0.05)
            for member in self.members:
                if member.busy and self.clock.now - member.busy[0][2] >= 0.05:
                    member.finish()
        self.the_server_never_has_more()


TestSharing = pytest.mark.once(Sharing.TestCase)
TestSharing.settings = settings(
    max_examples=30,
    stateful_step_count=40,
    deadline=None,
    phases=set(Phase) - {Phase.shrink},  # which takes minutes; the steps are told anyway
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
