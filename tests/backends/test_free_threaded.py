"""What the package does where Python's threads run at the same time, as far as it can be simulated.

Such a Python has no global lock: references are not counted, and no thread looks at the frames of
another. Here the package is told so, and works with real threads on a real server.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster import Server

ROOT = Path(__file__).parents[2]
BUILD = "Py_GIL_DISABLED"

SITE = """
import json, sys, sysconfig, threading

known = sysconfig.get_config_var
sysconfig.get_config_var = lambda name: 1 if name == sys.argv[1] else known(name)

from django.conf import settings

settings.DATABASES["default"]["OPTIONS"]["pool"] = {"max_size": 3, "timeout": 5, "leak_after": 0.2}

import django

django.setup()
from django.db import connections, transaction
from django_connpool import PoolTimeout, pinned, pools, scope

wrong = []
pool = pools["default"]

def ask(wrapper, text):
    with wrapper.cursor() as cursor:
        cursor.execute(text)
        return cursor.fetchone()[0]

def work(number):
    for turn in range(15):
        wrapper = connections["default"]
        with scope(f"work {number}"):
            first = ask(wrapper, f"SELECT {number * 100 + turn}")
            if first != number * 100 + turn:
                wrong.append(first)
            if turn % 3 == 0:
                with transaction.atomic("default"):
                    ask(wrapper, f"SELECT set_config('app.turn', '{number}', true)")
                    if ask(wrapper, "SELECT current_setting('app.turn')") != str(number):
                        wrong.append("another's setting")
            elif turn % 3 == 1:
                mine = wrapper.connection
                backend = mine.info.backend_pid
                if ask(wrapper, "SELECT pg_backend_pid()") != backend:
                    wrong.append("another backend, although somebody has the connection")
            else:
                with pinned("default"):
                    if len({ask(wrapper, "SELECT pg_backend_pid()") for _ in range(2)}) != 1:
                        wrong.append("another backend in a block of pinned()")

def run(*targets):
    threads = [threading.Thread(target=target, args=args, daemon=True) for target, *args in targets]
    for thread in threads:
        thread.start()
    return threads

for thread in run(*((work, number) for number in range(8))):
    thread.join()
after = pool.snapshot()

begun, end = threading.Semaphore(0), threading.Event()

def hold():
    with transaction.atomic("default"):
        ask(connections["default"], "SELECT 1")
        begun.release()
        end.wait()

holders = run(*[(hold,)] * 3)
for _ in holders:
    assert begun.acquire(timeout=30)
pool.timeout = 0.3
try:
    pool.getconn(0.3)
except PoolTimeout as error:
    said = str(error)
during = pool.snapshot()
end.set()
for thread in holders:
    thread.join()
print(json.dumps({
    "wrong": wrong,
    "in_use": after["in_use"],
    "size": after["size"],
    "said": said,
    "at": [loan["at"] for loan in during["loans"]],
    "left": pool.snapshot()["in_use"],
}))
"""


@pytest.mark.e2e
def test_threads_that_run_at_the_same_time_get_connections_of_their_own(cluster: Server) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SITE, BUILD],
        cwd=ROOT,
        env={
            **os.environ,
            "DATABASE_URL": cluster.url(),
            "DJANGO_SETTINGS_MODULE": "tests.settings",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "testproject")]),
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["wrong"] == []
    assert (found["in_use"], found["left"]) == (0, 0)
    assert found["size"] <= 3
    assert "On loan to 'Thread-" in found["said"]
    assert found["at"] == [None, None, None]  # that is known by looking at frames
