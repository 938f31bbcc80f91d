"""Wrappers over the pools, in place of Django's own.

A connection is borrowed where Django opens one, offered to others between two statements, and given
back where Django closes it.

From the top floor to the ground; each knows those below it. "In hand", "on offer" and "parked" are
explained at `Holding`.

postgresql, postgis   the engines; mixin: the name by which others make theirs
wrapper               Django's hooks: `connect`, `close`, `close_if_unusable_or_obsolete`,
                      `is_usable`, autocommit, commit, rollback, savepoints, thread sharing,
                      `close_pool`, `ensure_timezone`, `schema_editor`
querying              how a cursor is made (`_cursor`, `create_cursor`, `temporary_connection`);
                      cursors: what stands before psycopg's, and borrows when it executes
work                  where work begins and ends: what is left, lost atomic blocks;
                      `execute_wrapper`
offering              between two statements: offered to others or given back, and taken up again
holding               where the connection is (`connection`); how it gets into the hand and out
bound                 which pool, `pool`; opener opens its connections, each as Django does, by a
                      wrapper of its own: what Django does to a new connection is done once
loans                 what is known of a connection on loan

Beside them: creation (test databases close their pools), operations (`compose_sql` leaves nothing),
schema (a new type replaces connections), in_vain (work that has waited in vain does not do so
again), stacked (other packages' wrappers), djangos (which of Django's methods are its own),
watching (for the debug toolbar). Who takes what is offered: pool/offers.py.

What gives back, and where the connection is then:

end_statement, release_if_free, release_after_use
                      a statement ends: on offer; in the hand, if something keeps it; in the pool
                      (`_let_go`), if somebody waits, or by `release`
_let_go               in the pool, while the work goes on: its next statement borrows
end_work              work ends: parked (`end_offered`) or in the pool (`_end_work`)
end_loan, unpark      in the pool, also what was parked
give_back, _hand_back from the hand into the pool; the first as Django's `close` would
surrender             from the offer into the pool, in any thread
stop_resuming         from the offer into the hand
"""
