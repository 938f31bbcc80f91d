"""Who gets the next connection. Knows neither psycopg nor Django: see core.py.

Why a borrower waits (`Pool.getconn`, in pool.py). It gets the first of these that there is:

1. An idle connection that is fit: one that was changed has to be clean first, one that was idle
   for long is asked whether it lives (checking.py). None, while the pool is suspended (control.py).
2. What a thread has parked (parking.py); where no more can be opened, also what a borrower has on
   offer, because it does not use it at the moment (offers.py).
3. Else it stands in line, first come, first served (line.py), and waits for whoever comes first: a
   borrower that gives back (`Core.settle`); a worker that has opened another (`would_open` in
   crew.py says when: `max_size`, `max_connecting`, an outage, growth.py's rule whether it is worth
   it, and in sharing.py bounds that pools share); after a millisecond or more, whoever looks again
   for what is on offer (`Watch` in offers.py).
4. It gets an error instead. At once: `max_waiting` are in line, or the server is down and waiting
   cannot help (prospects.py). After `timeout` seconds: PoolTimeout. Before that: an outage has no
   prospect any more (`judge`, there), all who have one wait for one (locking.py), or the pool is
   closed. The error says what all were doing (view.py, explain.py).

How a loan ends. Its borrower gives back (`Pool.putconn`): the session is made as it was (session/),
and `Core.settle` hands it to the first in line, puts it to the idle ones, or has a worker close it.
If the borrower does not:

* its thread has ended: a finalizer in that thread (owners.py; of a task, tasks.py) leaves a note in
  `Core.inbox`. The background thread reads it at once (upkeep.py), or whoever does before. What was
  only on offer is lent again, if it is clean. Else, unless another thread works with it
  (`Slot.is_orphan`), `Core.reclaim` logs a warning and has a worker close it (crew.py);
* nobody can reach the connection any more: `Session` is told (`_sign`), and leaves such a note;
* it was interrupted: the slot's state says in what, and `Core.audit` brings it to rest.
"""
