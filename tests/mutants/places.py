"""Where the package is broken on purpose, one place at a time: each a rule that tests must know."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """One way to break the package."""

    file: str  # below django_connpool/
    before: str  # text that stands there exactly once
    after: str
    breaks: str  # the rule that no longer holds


MUTANTS = [
    # A connection that is given back
    Mutant(
        "session/session.py",
        "            pgconn.transaction_status  # IDLE is 0\n            or pgconn",
        "            pgconn",
        "what is given back in a transaction is rolled back",
    ),
    Mutant(
        "session/session.py",
        "            or pgconn.pipeline_status\n            or policy.cleans_each",
        "            or policy.cleans_each",
        "what is given back in a pipeline is taken out of it",
    ),
    Mutant(
        "session/session.py",
        "                known.dirt\n                or touch",
        "                False\n                or touch",
        "what statements changed is cleaned",
    ),
    Mutant(
        "session/session.py",
        "                or (touch.touched and self.original.differs(conn))\n",
        "",
        "what is changed on the connection object is restored",
    ),
    Mutant(
        "session/session.py",
        "                or (known.called and reported(pgconn) != self.original.reported)\n",
        "",
        "a setting that the server reports is noticed",
    ),
    Mutant(
        "session/session.py",
        "            or policy.cleans_each\n            or policy.trust.lost\n        ):",
        "            or policy.trust.lost\n        ):",
        'reset="always" cleans always',
    ),
    # The line
    Mutant(
        "pool/core.py",
        "if waiter.slot is not None or waiter.left:",
        "if waiter.left:",
        "who is served already is passed over",
    ),
    Mutant(
        "pool/core.py",
        "            now >= slot.retire_at\n            or (len",
        "            (len",
        "what is too old is closed when it is given back",
    ),
    Mutant(
        "pool/core.py",
        "            or (self.winding_up and waiter is None)\n",
        "",
        "a pool that winds up keeps nothing",
    ),
    Mutant(
        "pool/core.py",
        "vet_at if vet_at < slot.retire_at else slot.retire_at",
        "vet_at",
        "what is too old is not lent",
    ),
    Mutant(
        "pool/line.py",
        "return Waiter(self.since, self.tries, self.note)",
        "return Waiter(self.since, 0, self.note)",
        "who stands in line again keeps the number of attempts",
    ),
    Mutant(
        "pool/line.py",
        "            expect_free(error)",
        "            raise",
        "a gate may be opened twice",
    ),
    # Growth and supply
    Mutant(
        "pool/growth.py",
        "    if waiting <= opening:\n        return False\n",
        "",
        "no more attempts than borrowers in line",
    ),
    Mutant(
        "pool/growth.py",
        "if not on_loan or stalled_for >= enough:",
        "if not on_loan:",
        "a line that does not move makes the pool grow",
    ),
    Mutant(
        "pool/growth.py",
        "        return not opening\n",
        "        return True\n",
        "under load one connection is opened at a time",
    ),
    Mutant(
        "pool/outage.py",
        "in (STARTING, UNFIT) or loans or self",
        "in (STARTING, UNFIT) or self",
        "with something on loan a full server is waited for",
    ),
    Mutant(
        "pool/crew.py",
        "            or len(slots) + coming >= core.limits.most\n",
        "",
        "max_size is the bound",
    ),
    Mutant(
        "pool/crew.py",
        "            or len(slots.opening) + coming >= core.limits.max_connecting\n",
        "",
        "max_connecting bounds the attempts",
    ),
    Mutant(
        "pool/crew.py",
        "            return False  # one probe at a time\n",
        "            pass\n",
        "in an outage there is one attempt at a time",
    ),
    Mutant(
        "pool/slot.py",
        "not session.in_use() and ",
        "",
        "a dead thread's loan that another thread uses is left to it",
    ),
    # What stays with its thread
    Mutant(
        "pool/parking.py",
        "if core.line or not core.serving:  # last",
        "if not core.serving:  # last",
        "who gets in line while another parks is seen",
    ),
    Mutant(
        "pool/pool.py",
        "        if core.parked:  # meanwhile, by who has not seen this one in line\n"
        "            core.bring_in()\n",
        "",
        "what another parks while one gets in line is seen",
    ),
    Mutant(
        "pool/parking.py",
        " or not slot.session.can_stay()",
        "",
        "a session that was changed is not gone on with",
    ),
    Mutant(
        "pool/parking.py",
        "            or not slot.session.is_alive()\n",
        "",
        "the next request does not get a connection that has died",
    ),
    Mutant(
        "pool/parking.py",
        "            or now >= slot.retire_at\n            or now > ended",
        "            or now > ended",
        "nor one that is too old",
    ),
    Mutant(
        "pool/parking.py",
        "            or len(slots.all) > limits.max_size + len(slots.closing)\n",
        "",
        "a pool that got smaller gets back what is too much",
    ),
    Mutant(
        "pool/offers.py",
        "        ended = self.ended[0]\n        del self.ended[0]\n",
        "        ended = 1.0\n",
        "what was parked a moment ago, and is used again, is not taken",
    ),
    Mutant(
        "pool/core.py",
        "                slot.session.conn, slot.state = offer.pop(), RETURNING\n",
        "                conn = offer.pop()\n                slot.session.conn = conn\n"
        "                slot.state = RETURNING\n",
        "an interrupt as parked connections become idle loses none",
    ),
    Mutant(
        "backends/offering.py",
        "        slot.patience, slot.idle_limit = self.terms  #",
        "        #",
        "a block of hold() holds for what was parked, too",
    ),
    # What a session goes back to
    Mutant("session/cleaning.py", '    (SETTINGS, b"RESET ALL"),\n', "", "settings go back"),
    Mutant(
        "session/cleaning.py",
        '    (ROLES, b"RESET SESSION AUTHORIZATION"),\n',
        "",
        "the session user goes back",
    ),
    Mutant("session/cleaning.py", '    (CHANNELS, b"UNLISTEN *"),\n', "", "channels are left"),
    Mutant(
        "session/cleaning.py",
        '    (LOCKS, b"SELECT pg_catalog.pg_advisory_unlock_all()"),\n',
        "",
        "advisory locks are given up",
    ),
    Mutant("session/cleaning.py", '    (TEMP, b"DISCARD TEMP"),\n', "", "temporary tables go"),
    Mutant(
        "session/cleaning.py", '    (SEQUENCES, b"DISCARD SEQUENCES"),\n', "", "sequences forget"
    ),
    Mutant(
        "session/cleaning.py",
        '    (PREPARED, b"DEALLOCATE ALL"),\n',
        "",
        "prepared statements go",
    ),
    Mutant(
        "session/changes.py",
        "        if at_rest or bits & ENDS:\n            self.kept = self.dirt\n",
        "",
        "what was set before a transaction stays after its rollback",
    ),
    Mutant(
        "session/changes.py",
        "        if bits & CALLS:\n            self.called = True\n",
        "",
        "a function may have set something",
    ),
    Mutant(
        "session/objects.py",
        "        if now != {**self._attributes, **passing}:\n            return True\n",
        "",
        "an attribute that was put on a connection is noticed",
    ),
    Mutant(
        "session/closing.py",
        "            if interrupt is not None:\n",
        "            if False:\n",
        "a busy backend is asked to stop",
    ),
    # Django's side
    Mutant(
        "backends/offering.py",
        "        if connection is None or self.in_atomic_block or self.kept:",
        "        if connection is None or self.kept:",
        "nothing is given back in an atomic block",
    ),
    Mutant(
        "backends/offering.py",
        "        elif not loans.is_at_rest(",
        "        elif False and not loans.is_at_rest(",
        "state that a request may need stays with it",
    ),
    Mutant(
        "backends/offering.py",
        "        elif self.by_hand and not (",
        "        elif False and not (",
        "a connection that somebody else has, too, is not offered",
    ),
    Mutant(
        "backends/offering.py",
        "        if life is not None and life.ended:  # in another",
        "        if False:  # in another",
        "what is offered as the work ends goes back",
    ),
    Mutant(
        "backends/work.py",
        "self.by_hand and COUNTS and count(connection) > ONE_VARIABLE + 1",
        "COUNTS and count(connection) > ONE_VARIABLE",
        "what is at rest where other work begins goes back, whoever looks at it",
    ),
    Mutant(
        "pool/offers.py",
        "    return sorted(ripe, key=lambda offer: offer.slot.turned_at)[: len(line) + more]\n",
        "    return sorted(ripe, key=lambda offer: -offer.slot.turned_at)[: len(line) + more]\n",
        "what is longest on offer is taken first",
    ),
    Mutant(
        "pool/offers.py",
        "if now - one.slot.turned_at >= one.slot.patience]",
        "if True]",
        "what was just offered is left to its borrower",
    ),
    Mutant(
        "pool/offers.py",
        "        if self.offer:\n",
        "        if False:\n",
        "what a borrower has left behind on offer goes back",
    ),
    Mutant(
        "backends/offering.py",
        "        if self._thread_sharing_count:  # another",
        "        if False:  # another",
        "what threads share is not given back early",
    ),
    Mutant(
        "session/ties.py",
        "    if conn.autocommit != autocommit:\n",
        "    if False:\n",
        "nothing is given back early without autocommit",
    ),
    Mutant(
        "session/ties.py",
        "_DEAD or ties(session, conn, autocommit):",
        "_DEAD:",
        "what a thread has set stays with it",
    ),
    Mutant(
        "backends/wrapper.py",
        "            self._thread_ident != get_ident()\n            or running",
        "            running",
        "Django's rule of the thread that made a wrapper holds",
    ),
    Mutant(
        "backends/holding.py",
        "                    work.borrowers.discard(self)\n",
        "                    pass\n",
        "who has given back is no borrower of its work",
    ),
    Mutant(
        "registry.py",
        "            wrapper.bound_settings == wrapper.settings_dict or self._means(wrapper)\n",
        "            True\n",
        "other settings are another pool",
    ),
    Mutant(
        "identity.py",
        '        "ATOMIC_REQUESTS",\n',
        "",
        "what only changes the use of a connection is no other pool",
    ),
    Mutant(
        "process/ending.py",
        "                part.abandon(grave)\n",
        "                pass\n",
        "a child does not use its parent's connections",
    ),
    # What an interrupt leaves half done
    Mutant(
        "pool/slots.py",
        "if slot.is_nobodys and slot not in self.to_close:",
        "if False:",
        "what was to be closed is closed by another",
    ),
    Mutant(
        "pool/core.py",
        "                    continue\n                slot.state = RETURNING\n",
        "                    continue\n",
        "what was handed to somebody who has gone goes to the next",
    ),
    Mutant(
        "pool/pool.py",
        "                if slot.state is LOAN:\n                    slot.state = RETURNING\n",
        "",
        "a borrower that is interrupted leaves what it had in hand",
    ),
    Mutant(
        "process/threads.py",
        "        job.over = True  # first, and no call: at one the next interrupt may strike\n",
        "",
        "a worker that is interrupted leaves its job to others",
    ),
    # Hands
    Mutant(
        "status/hands.py",
        "if not _is_same_user(client):",
        "if False:",
        "only its own user commands a process",
    ),
    Mutant(
        "pool/control.py",
        "is_over = number is not None and slot.loan != number",
        "is_over = False",
        "a later loan of the same connection is not cancelled",
    ),
    Mutant(
        "status/server.py",
        "        if not threads.start(thread):  # and",
        "        if self._answer_all():  # and",
        "no client is served by the thread that looks after the pools",
    ),
    Mutant(
        "status/server.py",
        "if _listeners and all(listener.is_there() for listener in _listeners):",
        "if _listeners:",
        "sockets that were removed come back",
    ),
    # The page and the probes
    Mutant(
        "web/access.py",
        "return bool(expected) and constant_time_compare(said, expected)",
        "return constant_time_compare(said, expected)",
        "an empty token opens nothing",
    ),
    Mutant(
        "web/access.py",
        "    if user is None:\n        return False\n    permission",
        "    if user is None:\n        return True\n    permission",
        "a token acts on nothing",
    ),
    Mutant(
        "web/access.py",
        'if not hasattr(request, "user") or not can_ask():',
        'if not hasattr(request, "user"):',
        "nobody is looked up in a database that would not answer",
    ),
    Mutant(
        "web/access.py",
        'return constant_time_compare(found or "", _proof())',
        "return True",
        "a cookie opens no longer than its token",
    ),
    Mutant(
        "web/page.py",
        '@quiet("POST")\n@csrf_protect\ndef act(',
        '@quiet("POST")\ndef act(',
        "who acts needs the CSRF token",
    ),
    Mutant(
        "web/views.py",
        "view._non_atomic_requests = _EveryAlias()",
        'view._non_atomic_requests = {"default"}',
        "a probe begins no transaction",
    ),
    Mutant(
        "web/charts.py",
        "        if place + 1 not in seen:\n",
        "        if place == KEPT - 1:\n",
        "a chart has gaps where nobody has looked",
    ),
    Mutant(
        "status/readiness.py",
        'if outage["young"] or outage["failed"] > limits.down_for:',
        'if outage["young"]:',
        "a process that is down comes to be tried again",
    ),
    Mutant(
        "pool/history.py",
        "        self._most_waiting = waiting\n        return moment",
        "        return moment",
        "a long line belongs to one moment",
    ),
    Mutant(
        "pool/view.py",
        "(slot.loan == number and text) or None",
        "str(slot.session.last_statement)",
        "a loan's statement is told without its values",
    ),
    # What is counted
    Mutant(
        "pool/core.py",
        "+= bool(session.cleaning.undoes)",
        "+= 1",
        "a session that is only asked something was not cleaned",
    ),
    Mutant(
        "pool/core.py",
        "loans_leaked += not slot.reported",
        "loans_leaked += 1",
        "a loan is one leak, reported or reclaimed or both",
    ),
    Mutant(
        "pool/stats.py",
        " - self.requests_refused",
        "",
        "who is refused was not served at once",
    ),
    Mutant(
        "status/metrics.py",
        "counts[0] += at_once(pool)",
        "pass",
        "who is served at once is in the histogram of waits",
    ),
    # What is told
    Mutant(
        "pool/pool.py",
        "if waited is not None and waited[0] == slot.loan:",
        "if waited is not None:",
        "a wait that nobody has told of is not the next borrower's",
    ),
    Mutant(
        "signals.py",
        "bool(_SIGNALS[event].receivers) and event not in _present.telling",
        "bool(_SIGNALS[event].receivers)",
        "what a receiver does itself is not told",
    ),
    Mutant(
        "pool/prospects.py",
        "        core.news.note(OUTAGE_ENDED, lasted=lasted)\n",
        "",
        "the end of an outage is told",
    ),
    Mutant(
        "backends/holding.py",
        "                self._keep_during(binding.pool.tell_waited, connection)",
        "                binding.pool.tell_waited(connection)",
        "a receiver that queries leaves the connection in hand",
    ),
    Mutant(
        "overload.py",
        "    if isinstance(error, OperationalError):\n        error = error.__cause__\n",
        "",
        "an overload is known when Django has wrapped it",
    ),
    Mutant(
        "overload.py",
        "    response._has_been_logged = True  # type: ignore[attr-defined]\n",
        "",
        "Django does not log each overload",
    ),
    Mutant(
        "process/bursts.py",
        "                burst.more += 1\n                return False\n",
        "                burst.more += 1\n",
        "a thing is said once in a burst",
    ),
    # Credentials
    Mutant(
        "session/credentials.py",
        "            if not refuses_credentials(error):\n                raise\n",
        "            raise\n",
        "a refused login is tried with new credentials",
    ),
    Mutant(
        "session/credentials.py",
        "            if renewed.found == answer.found:  #",
        "            if False:  #",
        "the same credentials are not tried twice",
    ),
    Mutant(
        "session/credentials.py",
        "self.at >= came or (self.error is None and",
        "(self.error is None and",
        "who waits for credentials gets the answer that is given meanwhile",
    ),
    Mutant(
        "session/credentials.py",
        "forks.in_child(_in_child, forks.Floor.POOLS)\n",
        "",
        "a child asks for credentials itself",
    ),
    Mutant(
        "conf.py",
        'HIDDEN = {"credentials"}',
        "HIDDEN: set[str] = set()",
        "what stands in the place of credentials is not shown",
    ),
    # Plans and types
    Mutant(
        "session/fronts.py",
        "        plans.note_error(self._conn, state, result)\n",
        "",
        "a stale plan is forgotten",
    ),
    Mutant(
        "session/plans.py",
        "        and diag.context is None\n",
        "",
        "what a function runs into is not sent again",
    ),
    Mutant(
        "session/plans.py",
        "        slot.plans_are_stale()\n",
        "        pass\n",
        "a session with a stale plan is not lent again",
    ),
    Mutant(
        "pool/slot.py",
        "    if generation == core.generation:\n",
        "    if True:\n",
        "one stale plan has connections replaced once",
    ),
    Mutant(
        "backends/schema.py",
        "        _forget_oids()\n",
        "",
        "types that a migration makes by SQL of its own are learned",
    ),
    # Who listens
    Mutant(
        "switchboard.py",
        "            listener.is_behind = listener.is_behind or listener.is_ready\n",
        "",
        "who listens is told of a gap",
    ),
    Mutant(
        "switchboard.py",
        "            if not self._forget(listener):  #",
        "            if self._forget(listener) and False:  #",
        "who begins to listen is not told of errors of earlier times",
    ),
    Mutant(
        "switchboard.py",
        "self._borrow() if self._counts else Channels(self._connect())",
        "Channels(self._connect())",
        "who listens may count in max_size",
    ),
    Mutant(
        "switchboard.py",
        "        self._conn.lock.release()\n        self._pool.putconn(self._conn)\n",
        "        self._conn.lock.release()\n",
        "its place is given back",
    ),
    Mutant(
        "pool/locking.py",
        "[slot for slot in slots if not slot.lasts]",
        "list(slots)",
        "a loan that lasts hides no others that wait for each other",
    ),
    Mutant(
        "session/credentials.py",
        "except (Exception, SystemExit) as error:",
        "except Exception as error:",
        "a callable that leaves by sys.exit() is told",
    ),
    Mutant(
        "switchboard.py",
        "            channels.bury(grave)\n",
        "            pass\n",
        "a child leaves the connection that its parent listens on alone",
    ),
    Mutant(
        "session/channels.py",
        "return self.told if self._asked is None else self.told & self._asked",
        "return self.told",
        "a channel that is just being left is not listened to",
    ),
    Mutant(
        "listening.py",
        "            items = (GAP,)\n",
        "",
        "who does not keep up is told so",
    ),
    Mutant(
        "listening.py",
        "                event.clear()\n                found = look()  # after",
        "                found = look()\n                event.clear()  # after",
        "what comes between a look and the wait is heard",
    ),
    Mutant(
        "registry.py",
        "    for end in at_closing:\n        end(binding.pool, timeout)\n",
        "",
        "who listens to a database does not keep it from being dropped",
    ),
    # Servers that change
    Mutant(
        "session/roles.py",
        "role.wanted not in _READ_ONLY and _is_old(role)",
        "role.wanted not in _READ_ONLY",
        "what was opened on a read-only server just now is not opened again at once",
    ),
    Mutant(
        "session/roles.py",
        "role.wanted not in _READ_ONLY and _is_old(role)",
        "_is_old(role)",
        "who asked for a standby stays with it",
    ),
    Mutant(
        "session/parameters.py",
        "min(connect_timeout, CONNECT_TIMEOUT_EACH) if several else connect_timeout",
        "connect_timeout",
        "the second of several hosts is reached in time",
    ),
    Mutant(
        "session/changes.py",
        "            pooler.refuse_lasting(self.last, conn)\n",
        "            pass\n",
        "what strangers would get is refused behind a pooler",
    ),
    Mutant(
        "session/tidying.py",
        "dirt, doubtful = (pooler.TRACKED if setup else 0), True",
        "doubtful = True",
        "nothing is cleaned in strangers' sessions",
    ),
    Mutant(
        "session/opening.py",
        "                setup[:0] = pooler.born_with(session.pgconn)\n",
        "                pass\n",
        "a cleaned session behind a pooler is as its client has asked for",
    ),
    Mutant(
        "session/cleaning.py",
        "if each[1] not in lacking) if lacking else _UNDO",
        ") if lacking else _UNDO",
        "what a server does not know is left out of what cleans",
    ),
    Mutant(
        "session/opening.py",
        "        tidying.clean_anew(session, policy)\n",
        "",
        "who is served a session on which that was tried out finds it as it was set up",
    ),
    # Tasks
    Mutant(
        "pool/tasks.py",
        "        if not self.left and not self._loop.is_running():",
        "        if False:",
        "a task whose loop stands still is passed over",
    ),
    Mutant(
        "pool/tasks.py",
        "            if not slot.session.is_busy():\n                slot.thread_ended(self)",
        "            pass",
        "a task that ends gives back",
    ),
    Mutant(
        "pool/tasks.py",
        "            if not slot.session.is_busy():\n",
        "            if True:\n",
        "a connection that another task works with is left to it",
    ),
    Mutant(
        "pool/tasks.py",
        "            self.waiter.left = True\n",
        "",
        "what is handed to a task that is cancelled goes to the next",
    ),
    Mutant(
        "pool/tasks.py",
        "        errand._is_missed = True\n",
        "",
        "what is being checked for a task that is cancelled comes back",
    ),
    Mutant(
        "pool/awaiting.py",
        "            if waiter.left:\n                return None\n",
        "",
        "a task that was passed over stands in line again",
    ),
    Mutant(
        "pool/awaiting.py",
        "        if slot is None or not slot.session.takes_time():",
        "        if True:",
        "nobody waits for a server in the thread of a loop",
    ),
    Mutant(
        "session/twin.py",
        "            changes.expect_the_worst()",
        "            pass",
        "what cursors of a task's own do is not unseen",
    ),
    Mutant(
        "session/twin.py",
        "await asyncio.shield(self._begin_ending(self._end(gen)))",
        "await self._begin_ending(self._end(gen))",
        "what ends a statement goes on when its task is cancelled again",
    ),
    Mutant(
        "session/twin.py",
        "        twin._begin_ending(twin._stop(behind(lent)))",
        "        pass",
        "a statement of another task is ended before its connection is closed",
    ),
    Mutant(
        "pool/awaiting.py",
        "                place.slot, slot.waiter, slot.state = slot, None, LOAN",
        "                slot.waiter, slot.state = None, LOAN",
        "what a task in line has accepted is its own at once",
    ),
    Mutant(
        "pool/tasks.py",
        "        if not self.is_over and (self.slot or self.errand or self.waiter):",
        "        if False:",
        "what a second interrupt has kept is given up",
    ),
    Mutant(
        "pool/tasks.py",
        "        if not errand._is_at_it:",
        "        if False:",
        "what nobody has begun to look at is given up by who was interrupted",
    ),
    Mutant(
        "session/twin.py",
        "        return conn._start_query() if conn._forgets else started",
        "        return started",
        "sequences of an earlier loan are not seen by tasks",
    ),
    Mutant(
        "session/private.py",
        "        own[_PREPARED] = found[_PREPARED]",
        "        pass",
        "tasks and threads know of the same prepared statements",
    ),
    Mutant(
        "aio/pool.py",
        "                if self.sync is pool:\n                    raise\n",
        "                raise\n",
        "a task goes on to the pool that takes the place of its own",
    ),
    # What strangers are shown, and what an interpreter is not relied on for
    Mutant(
        "status/bundle.py",
        "_value(value) if name in _PARAMETERS else HIDDEN",
        "_value(value)",
        "a password that is a number is not reported",
    ),
    Mutant(
        "status/harmless.py",
        'return "; ".join(found) or HIDDEN',
        "return text",
        "of an error only known phrases are reported",
    ),
    Mutant(
        "status/harmless.py",
        "return reader(found) if reader is not None else HIDDEN",
        "return reader(found) if reader is not None else found",
        "a text of which nothing is known is not reported",
    ),
    Mutant(
        "process/cpython.py",
        "not (FREE_THREADED or compiles) and _counts_right(one_variable)",
        "True",
        "references are counted only where a count is what it is taken for",
    ),
    Mutant(
        "process/cpython.py",
        'dict if FREE_THREADED else getattr(sys, "_current_frames", dict)',
        'getattr(sys, "_current_frames", dict)',
        "no thread looks at the frames of others where they run meanwhile",
    ),
    # Bounds that pools share
    Mutant(
        "places/policy.py",
        "    return (not has_none, 0.0",
        "    return (0.0",
        "who has none comes before who has some",
    ),
    Mutant(
        "places/policy.py",
        "return max((SLOW if one.held > 0 else FAST for one",
        "return max((FAST for one",
        "a table is looked at seldom while nobody waits who has none",
    ),
    Mutant(
        "places/policy.py",
        "    return max(0, min(mine, wanted - sum(before)))",
        "    return max(0, min(mine, wanted))",
        "two do not both give for one that waits",
    ),
    Mutant(
        "places/policy.py",
        "    if staying < 1 or not waiting or not in_want(free, others):",
        "    if True:",
        "who has none gets one of those that are always used",
    ),
    Mutant(
        "places/tenant.py",
        "        return min([bound.most, *(one.bound for one in others)])",
        "        return bound.most",
        "the smaller of two bounds holds",
    ),
    Mutant(
        "places/tenant.py",
        "one.claim.held and one.pace < mine]",
        "one.claim.held and not one.pace]",
        "who looks seldom is woken for one that has none",
    ),
    Mutant(
        "places/tenant.py",
        "                for place in hold.places - known:",
        "                for place in ():",
        "a place that an interrupt has taken halfway is given back",
    ),
    Mutant(
        "places/ledger.py",
        "            until = now + AFTER_DEATH\n",
        "            until = 0.0\n",
        "the place of a dead holder rests until its session has ended",
    ),
    # A statement that ends where nothing is out of the ordinary
    Mutant(
        "backends/offering.py",
        "            or self.kept\n            or self.by_hand\n",
        "            or self.by_hand\n",
        "a statement in a block that keeps its connection leaves it in hand",
    ),
    Mutant(
        "backends/offering.py",
        "            or self.kept\n            or self.by_hand\n",
        "            or self.kept\n",
        "a statement on what others may have, too, leaves it in hand",
    ),
    Mutant(
        "backends/offering.py",
        "            or self._thread_sharing_count\n            or (offer",
        "            or (offer",
        "a statement on what threads share leaves it in hand",
    ),
    Mutant(
        "backends/offering.py",
        "            session.pgconn.transaction_status\n            or known.dirt",
        "            known.dirt",
        "a statement that begins a transaction by hand leaves it in hand",
    ),
    Mutant(
        "backends/offering.py",
        "            or known.dirt\n            or known.called\n",
        "            or known.called\n",
        "a statement that leaves something in the session leaves it in hand",
    ),
    Mutant(
        "backends/offering.py",
        "            or known.called\n            or touch.touched\n",
        "            or touch.touched\n",
        "a statement that calls a function that sets something leaves it in hand",
    ),
    Mutant(
        "backends/offering.py",
        "            or touch.touched\n            or touch.switched\n",
        "            or touch.switched\n",
        "a statement on a connection object that was changed leaves it in hand",
    ),
    Mutant(
        "backends/offering.py",
        "            or (now - slot.since >= LONGEST and loans.line(connection))\n",
        "",
        "a statement of a long loan, while others wait, gives back",
    ),
    Mutant(
        "backends/offering.py",
        "        if (life := self.life) is not None and life.ended:",
        "        if False:",
        "a statement of work that has ended gives back",
    ),
    Mutant(
        "backends/offering.py",
        "        if offer is None or offer.slot is not slot or offer.ended:\n"
        "            offer = self._make_offer(slot)\n        # As",
        "        if offer is None or offer.slot is not slot:\n"
        "            offer = self._make_offer(slot)\n        # As",
        "what an interrupt has left as parked is offered anew",
    ),
    Mutant(
        "backends/holding.py",
        "self.release != TRANSACTION and idle_limit == NEVER",
        "idle_limit == NEVER",
        "with release 'transaction' each statement gives back",
    ),
    Mutant(
        "backends/holding.py",
        "self.release != TRANSACTION and idle_limit == NEVER",
        "self.release != TRANSACTION",
        "with max_hold_idle each statement has somebody look at what it offers",
    ),
    Mutant(
        "backends/offering.py",
        "            or self.pauses\n            or self._thread_sharing_count\n",
        "            or self._thread_sharing_count\n",
        "who pauses in a crowd gives back at once",
    ),
    Mutant(
        "backends/offering.py",
        "was_taken or monotonic() - self.went_at >= loans.SETTLED",
        "True",
        "who goes on at once offers again",
    ),
    Mutant(
        "backends/offering.py",
        "was_taken or monotonic() - self.went_at >= loans.SETTLED",
        "was_taken",
        "who gave back and came late goes on to give back",
    ),
    Mutant(
        "backends/offering.py",
        "bool(line) or now - loans.served(connection) < CROWDED",
        "True",
        "who pauses while nobody waits offers",
    ),
    Mutant(
        "backends/offering.py",
        "bool(line) or now - loans.served(connection) < CROWDED",
        "now - loans.served(connection) < CROWDED",
        "who pauses keeps nobody in line waiting, however long the line stands",
    ),
    Mutant(
        "borrowing.py",
        "        if not is_of_other_work(wrapper, outer):\n            wrapper.before_work()",
        "        if True:\n            wrapper.before_work()",
        "a task that begins leaves alone what another goes on with in its thread",
    ),
    Mutant(
        "pool/crew.py",
        "        if core.line and (alone or self._growth_is_worth_it(coming)):\n",
        "        if core.line and (alone or self._growth_is_worth_it(coming)):\n"
        "            core.grew_at = core.clock()\n",
        "to ask whether the pool should grow is not to grow",
    ),
    Mutant(
        "process/ending.py",
        "    threads.await_all()\n",
        "",
        "our short threads have ended when the interpreter is taken down",
    ),
    Mutant(
        "pool/checking.py",
        "            and (now < slot.turned_at + JUST_USED or session.is_alive())\n",
        "            and (True or session.is_alive())\n",
        "what is handed over, and was not used a moment ago, is looked at",
    ),
    Mutant(
        "middleware.py",
        "        settle()\n        requests.disconnect()",
        "        requests.disconnect()\n        settle()",
        "beside the middleware no receivers are called",
    ),
    Mutant(
        "session/session.py",
        "weakref.ref(behind if sign is None else sign, lost)",
        "weakref.ref(behind, lost)",
        "what the garbage collector ends may use its connection to the last",
    ),
    Mutant(
        "backends/holding.py",
        "loans.GIVEN_BACK if goes_on else None",
        "None",
        "work that fails to go on may try again",
    ),
    Mutant(
        "backends/offering.py",
        "            self.run_on_commit, self.resumes = hooks, self._binding\n",
        "            self.resumes = self._binding\n",
        "what waits for a commit goes on to wait when its connection was taken",
    ),
    Mutant(
        "session/fronts.py",
        "if issubclass(front, WatchedPlain):",
        "if issubclass(front, _NoConnection):",
        "a cursor needs no dictionary",
    ),
    Mutant(
        "backends/wrapper.py",
        "            return  # as with most",
        "            pass  # as with most",
        "an alias that holds nothing is told by one look",
    ),
    Mutant(
        "session/session.py",
        "self.pgconn.transaction_status\n            or known.dirt",
        "known.dirt",
        "what is in a transaction is not parked",
    ),
    Mutant(
        "session/session.py",
        "            or policy.trust.lost\n        )\n\n    def goes_on",
        "        )\n\n    def goes_on",
        "what may have called a function that nobody knows yet is not parked",
    ),
    Mutant(
        "session/session.py",
        "if self._policy.trust.lost:  # first:",
        "if False:  # first:",
        "what was parked before a function was found is cleaned",
    ),
    # An alias that a request does not touch
    Mutant(
        "backends/holding.py",
        "self.by_hand = self.is_idle = False",
        "self.by_hand = False",
        "a wrapper that borrows is not idle",
    ),
    Mutant(
        "backends/holding.py",
        "            wrapper.is_idle = False\n",
        "",
        "a wrapper that somebody gives a connection is not idle",
    ),
    Mutant(
        "backends/offering.py",
        "        # First, so that after an interrupt the end of the work finds what is in hand.\n"
        "        self.is_idle = False\n",
        "        # First, so that after an interrupt the end of the work finds what is in hand.\n",
        "a wrapper that goes on with what it has parked is not idle",
    ),
    Mutant(
        "backends/offering.py",
        "        self.is_idle = False\n        self.noted.add(self.me)\n        self.offer,",
        "        self.noted.add(self.me)\n        self.offer,",
        "a wrapper that gave back between two statements is not idle",
    ),
    Mutant(
        "backends/holding.py",
        "        self.is_idle = self.floor is None\n        self.offer:",
        "        self.is_idle = True\n        self.offer:",
        "a class of others hears of each request's end",
    ),
    Mutant(
        "backends/wrapper.py",
        "        if self.in_hand is None and self.offer is not None and self.resumes is not None:",
        "        if self.in_hand is None and self.offer is not None:",
        "a wrapper whose work was ended by another thread borrows nothing to say that it is usable",
    ),
    Mutant(
        "backends/wrapper.py",
        "        if self.in_hand is None and self.offer is not None and self.resumes is not None:",
        "        if self.in_hand is None and self.resumes is not None:",
        "a wrapper whose connection was closed below it is not usable",
    ),
    # Another thread's wrapper of an alias
    Mutant(
        "registry.py",
        "            or not self.announced  # in a forked child\n",
        "",
        "a forked child announces its pools",
    ),
    Mutant(
        "registry.py",
        "            or wrapper.settings_dict != self.settings\n",
        "",
        "settings that were changed in place mean another pool",
    ),
    Mutant(
        "registry.py",
        "            or (settings.USE_TZ, wrapper.timezone_name) != self.key[1:3]\n",
        "",
        "the time zone of the project is looked at for each wrapper",
    ),
    Mutant(
        "registry.py",
        "            or self.pool.closed\n        ):\n            return False",
        "        ):\n            return False",
        "another thread has no pool that was closed by hand",
    ),
]
