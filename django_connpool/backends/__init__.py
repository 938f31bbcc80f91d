"""Django's wrappers over the pools. From the top floor to the ground; each knows those below it.

postgresql, postgis   the engines; mixin: the name by which others make theirs
wrapper               what is different from Django's wrapper, hook by hook
work                  where work begins and ends: what is left, lost atomic blocks
releasing             `release: "transaction"`: when a connection is given back, and borrowed again
pauses                between two statements: given back, or set aside (bursts)
holding               where the connection is; how it gets into the hand, and out of it
bound                 which pool; opener opens its connections
recall                taking back from threads that do not use theirs
loans                 what is known of a connection on loan

Beside them: cursors (of releasing), in_vain, stacked (other packages' wrappers), djangos, creation,
schema, closed_cursors.
"""
