"""Who gets the next connection. Knows neither psycopg nor Django: see core.py.

Why a borrower waits (`Pool.getconn`, in pool.py). It gets the first of these that there is:

1. An idle connection that is fit: one that was changed has to be clean first, one that was idle
   for long is asked whether it lives (checking.py).
2. One that another borrower has, and does not use (offers.py, parking.py).
3. Else it stands in line, first come, first served (line.py), and waits. It is refused at once
   where `max_waiting` stand there, or the server is down (outage.py). It is served by whoever
   comes first: a borrower that gives back (`Core.settle`); a worker that has opened another
   (crew.py), if there are fewer than `max_size` and than a bound it shares (sharing.py) allows, and
   if that is likely to come sooner than one that is given back (growth.py); after a millisecond,
   whoever looks again for what others do not use (`Watch`, in offers.py).
4. After `timeout` seconds, PoolTimeout, which says what all were doing (view.py, explain.py).

How a loan ends. Its borrower gives back (`Pool.putconn`): the session is made as it was (session/),
and `Core.settle` hands it to the first in line, puts it to the idle ones, or has a worker close it.
If the borrower does not:

* its thread has ended: a finalizer sees that (owners.py; of a task, tasks.py) and leaves a note in
  `Core.inbox`, which the background thread reads at once (upkeep.py), or whoever is there before.
  `Core.reclaim` then logs a warning and has a worker close the connection (crew.py). One that was
  only on offer, and is clean, becomes idle instead;
* nobody can reach the connection any more: the same, told by a weak reference (`Session.ref`);
* it was interrupted: the slot's state says in what, and `Core.audit` brings it to rest.
"""
