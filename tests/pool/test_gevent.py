"""The pool under gevent's monkey patching, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

from tests.cluster import Server

SCRIPT = """
from gevent import monkey
monkey.patch_all()
import logging, random, sys
import gevent
from django_connpool import ConnectionPool

logging.disable(logging.CRITICAL)
dsn, name = sys.argv[1:]
COUNT = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
kept, most = [], 0

def work():
    global most
    with pool.connection() as conn:
        conn.execute("SELECT pg_sleep(0.005)")
        most = max(most, conn.execute(COUNT, [name]).fetchone()[0])

def leak():
    kept.append(pool.getconn())

pool = ConnectionPool(dsn, min_size=0, max_size=10, timeout=60, kwargs={"autocommit": True})
greenlets = [gevent.spawn(work) for _ in range(500)]
for greenlet in random.sample(greenlets, 100):
    gevent.spawn_later(random.random() / 2, greenlet.kill)
gevent.joinall(greenlets, timeout=60)
assert all(greenlet.dead for greenlet in greenlets)
done = sum(greenlet.value is None and greenlet.successful() for greenlet in greenlets)
assert done >= 400, done
assert most <= 10, most
gevent.joinall([gevent.spawn(leak) for _ in range(30)], timeout=30)
assert len(kept) == 30, len(kept)
borrowed = [pool.getconn() for _ in range(10)]
print("whole")
"""


def test_greenlets_share_the_pool_and_give_back_when_killed(cluster: Server) -> None:
    name = "test-gevent"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, cluster.dsn(application_name=name), name],
        capture_output=True,
        text=True,
        timeout=100,
    )

    assert done.stdout.strip() == "whole", done.stderr
