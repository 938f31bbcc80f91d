"""Django's wrappers over the pools. From the top floor to the ground; each knows those below it.

postgresql, postgis   the engines; mixin: the name by which others make theirs
wrapper               Django's hooks for connecting, closing, transactions and threads
querying              how a cursor is made (`_cursor`, `create_cursor`, `temporary_connection`);
                      cursors: what stands before psycopg's
work                  where work begins and ends: what is left, lost atomic blocks;
                      `execute_wrapper`
offering              between two statements: offered to others or given back, and taken up again
holding               where the connection is (`connection`); how it gets into the hand and out
bound                 which pool, `pool`; opener opens its connections
loans                 what is known of a connection on loan

Beside them: in_vain, stacked (other packages' wrappers), djangos, creation,
operations, schema, watching (for the debug toolbar). Who takes what is offered: pool/offers.py.

What gives back, and where the connection is then:

end_statement, release_if_free, release_after_use
                      a statement ends: on offer; in the hand, if something keeps it
_let_go               in the pool, while the work goes on: its next statement borrows
end_work              work ends: parked (`end_offered`) or in the pool (`_end_work`)
end_loan, unpark      in the pool, also what was parked
give_back, _hand_back from the hand into the pool; the first as Django's `close` would
surrender             from the offer into the pool, in any thread
stop_resuming         from the offer into the hand
"""
