"""Signals of the pools. Receivers run in the thread that caused them, and must not raise."""

from __future__ import annotations

from django.dispatch import Signal

# Sent when this process makes a pool, with the argument `pool`.
pool_created = Signal()

# Sent before a pool opens a connection, in the thread that opens it, with the argument `alias`.
connecting = Signal()

# Sent when a borrower has stood in line for a connection and got one, in its own thread and outside
# of locks, with the arguments `pool`, `name` (the pool's) and `waited` (seconds). What a receiver
# raises is logged.
connection_waited = Signal()

# The same when it has waited in vain, with `error`, the PoolTimeout, beside these.
borrow_timed_out = Signal()
