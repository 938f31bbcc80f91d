"""One connection to the server: what was done to it, making it as it was, whether it lives.

What becomes of a session that did `SET` (where `reset` is "auto"):

1. Each statement passes a front before it is sent (fronts.py). changes.py notes what it may leave
   behind, in `dirt`, as statements.py judges its text. Of functions that do such things inside, the
   server is asked for their names (hidden.py, trust.py).
2. As long as the borrower's work goes on, the session stays with it: after each statement the
   wrapper asks for what keeps it (ties.py, asked in backends/offering.py), and does not offer it.
3. It is given back (`putconn`, in pool/pool.py). `comes_back_fit` says no, so `make_fit` sends what
   undoes the changes, and does not wait for the answer (session.py; what is sent: tidying.py,
   cleaning.py). Where that cannot be done, it is closed.
4. Whoever gets it next takes the answer first (`cleaned`, called by pool/checking.py). If it says
   that the session is not clean, it is closed, and he gets another.

Knows neither pool nor Django. psycopg's private names: private.py, fronts.py, twin.py, riding.py.
"""
