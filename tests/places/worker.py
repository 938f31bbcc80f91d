"""A process that shares a bound: `python -m tests.places.worker`, told by one line of JSON.

Says that it has begun and, at its end, what it has done, as lines of JSON. It works until its input
ends. With the argument `nursery` it forks such a process for each line, and says its pid.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from django_connpool import ConnectionPool
from tests.inside import places


def nursery() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if not (pid := os.fork()):
            # Its own, which never ends.
            os.dup2(os.pipe()[0], 0)
            main(json.loads(line))
        print(pid, flush=True)


def main(asked: dict[str, Any]) -> None:
    bound = places.Bound("a bound", asked["most"], path=Path(asked["path"]))
    tenant = places.Tenant(asked["name"], "", [bound], True)
    pool: ConnectionPool[Any] = ConnectionPool(
        asked["dsn"],
        kwargs={"autocommit": True, "application_name": asked["application_name"]},
        min_size=0,
        max_size=asked.get("max_size", 10),
        timeout=30,
        name=asked["name"],
        places=tenant,
    )
    if asked.get("forks"):  # what it has borrowed before is not the child's
        with pool.connection():
            if os.fork():
                os.wait()
                return
    done, errors, over = [0], [], threading.Event()
    longest = [0.0]
    hold = asked.get("hold", 0.003)  # seconds, at most

    def work(number: int) -> None:
        chance = random.Random(f"{asked['name']} {number}")
        while not over.is_set():
            began = time.monotonic()
            try:
                with pool.connection() as connection:
                    longest[0] = max(longest[0], time.monotonic() - began)
                    connection.execute("SELECT pg_sleep(%s)", [chance.uniform(0, hold)])
                done[0] += 1
            except Exception as error:
                errors.append(str(error))
            # Now and then it has nothing to do.
            if chance.random() < 0.01:
                over.wait(chance.uniform(0, 0.2))

    threads = [threading.Thread(target=work, args=(one,)) for one in range(asked["threads"])]
    for thread in threads:
        thread.start()
    if "forked" in asked:
        threading.Event().wait()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    sys.stdin.read()
    over.set()
    for thread in threads:
        thread.join()
    seen = pool.snapshot()
    pool.close()
    print(
        json.dumps({"done": done[0], "errors": errors[:3], "longest": longest[0], **seen["stats"]})
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["nursery"]:
        nursery()
    else:
        main(json.loads(sys.stdin.readline()))
