"""Django's wrappers over the pools. From the top floor to the ground; each knows those below it.

postgresql, postgis   the engines; mixin: the name by which others make theirs
wrapper               what is different from Django's wrapper, hook by hook
querying              how a cursor is made; cursors: what stands before psycopg's
work                  where work begins and ends: what is left, lost atomic blocks
offering              between two statements: offered to others or given back, and taken up again
holding               where the connection is; how it gets into the hand, and out of it
bound                 which pool; opener opens its connections
loans                 what is known of a connection on loan

Beside them: in_vain, stacked (other packages' wrappers), djangos, creation,
operations, schema, watching (for the debug toolbar). Who takes what is offered: pool/offers.py.
"""
