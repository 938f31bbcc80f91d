"""``cd testproject && gunicorn`` serves the shop; gunicorn reads this file by itself."""

from __future__ import annotations

wsgi_app = "testproject.wsgi"
worker_class = "gthread"
workers = 2
threads = 8
# A socket in the home directory, the same one for every site of this user.
control_socket_disable = True
