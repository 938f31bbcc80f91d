"""One connection to the server: what was done to it, making it as it was, whether it lives.

What becomes of a session that did `SET`:

1. Each statement passes a front before it is sent (fronts.py). changes.py notes what it may leave
   behind, in `dirt`, as statements.py judges its text. Of functions that do such things inside, the
   server is asked for their names (hidden.py, trust.py).
2. As long as the borrower's work goes on, the session stays with it (ties.py): others do not get it
   between two statements.
3. When it is given back (`putconn`, in pool/pool.py), it is not `comes_back_fit`. `make_fit` has
   what undoes the changes sent, and nobody waits for the answer (session.py; what is sent:
   tidying.py, cleaning.py).
4. Whoever gets it next takes the answer first (`cleaned`, called by pool/checking.py). If it could
   not be cleaned, it is closed, and he gets another.

Knows neither pool nor Django. psycopg's private names: private.py, fronts.py, twin.py, riding.py.
"""
