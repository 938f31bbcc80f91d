"""How gunicorn serves the shop: `cd testproject && gunicorn` reads this file by itself.

Its numbers are written out, and not computed, because `manage.py check --database default` reads
them: it says when all pools together may open more connections than the server admits.
"""

from __future__ import annotations

wsgi_app = "testproject.wsgi"
# Each worker has a pool of its own: workers x max_size is the most that the server sees.
workers = 2
# Threads share it. It may be smaller than their number: between two statements of a request its
# connection is on offer, and whoever needs one takes it.
worker_class = "gthread"
threads = 8
# A socket in the home directory, the same one for every site of this user.
control_socket_disable = True
# No hook is needed for the pool, nor for preload_app: a worker begins with an empty pool.
