"""The pool alone, beside psycopg_pool and SQLAlchemy's QueuePool."""

from __future__ import annotations

import argparse
import gc
import resource
import threading
import time
import tracemalloc
from collections.abc import Callable
from timeit import timeit
from typing import Any, cast

from bench.measure import interleaved, quantile, table
from bench.peers import PEERS, CheckedPsycopgPool, Ours, Peer, PsycopgPool, quiet, versions
from django_connpool import ConnectionPool
from tests.cluster import Cluster
from tests.pool.fake import FakeConnection, FakeServer

NAMES = [peer.name for peer in PEERS]


def cycle(dsn: str, rounds: int, number: int = 20_000) -> None:
    """Borrow and give back, nobody else about."""
    peers = [make(dsn, 4) for make in PEERS]
    for peer in peers:
        peer.warm(1)

    def once(peer: Peer) -> Callable[[], float]:
        borrow, give = peer.borrow, peer.give
        return lambda: timeit(lambda: give(borrow()), number=number) / number * 1e6

    micros = interleaved([once(peer) for peer in peers], rounds)
    table(
        "uncontended cycle: borrow and give back (ours probes the socket and knows the holder)",
        ["", *NAMES],
        [["µs", *micros], ["ratio to psycopg_pool", *[m / micros[1] for m in micros]]],
    )
    pools: list[Any] = [peer.pool for peer in peers if isinstance(peer, (Ours, PsycopgPool))]
    micros = interleaved([lambda pool=pool: blocks(pool, number) for pool in pools], rounds)
    table(
        "the same as both document it: with pool.connection()",
        ["", *NAMES[:2]],
        [["µs", *micros], ["ratio to psycopg_pool", *[m / micros[1] for m in micros]]],
    )
    for peer in peers:
        peer.close()


def blocks(pool: Any, number: int) -> float:
    """Microseconds that an empty block costs."""
    began = time.perf_counter()
    for _ in range(number):
        with pool.connection():
            pass
    return (time.perf_counter() - began) / number * 1e6


def flatness(rounds: int, number: int = 20_000) -> None:
    """The same cycle with more and more slots, half of them on loan; no server."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(8192, hard), hard))
    sizes = (1, 10, 100, 1000)
    pools = []
    for size in sizes:
        pool: ConnectionPool[Any] = ConnectionPool(
            connection_class=cast(Any, FakeConnection),
            kwargs={"server": FakeServer()},
            min_size=0,
            max_size=size,
            check=False,
        )
        held = [pool.getconn() for _ in range(size)]
        for conn in held[size // 2 :]:
            pool.putconn(conn)
        pools.append((pool, held[: size // 2]))

    def once(pool: ConnectionPool[Any]) -> Callable[[], float]:
        borrow, give = pool.getconn, pool.putconn
        return lambda: timeit(lambda: give(borrow()), number=number) / number * 1e6

    micros = interleaved([once(pool) for pool, _ in pools], rounds)
    table(
        "the cycle by number of slots (a driver in Python, no socket probe)",
        ["slots", *map(str, sizes)],
        [["µs", *micros], ["ratio to 1 slot", *[m / micros[0] for m in micros]]],
    )
    for pool, held in pools:
        for conn in held:
            pool.putconn(conn)
        pool.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def contention(dsn: str, threads: int, rounds: int, seconds: float = 1.0) -> None:
    """Many threads, four connections, one query a loan."""
    makers = (*PEERS, CheckedPsycopgPool)
    names = [make.name for make in makers]
    rates: dict[str, list[float]] = {name: [] for name in names}
    shares: dict[str, list[float]] = {name: [] for name in names}
    waits: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for make in makers:
            peer = make(dsn, 4)
            peer.warm(4)
            counts, waited = _run(peer, threads, seconds)
            peer.close()
            rates[make.name].append(sum(counts) / seconds)
            shares[make.name].append(max(counts) / max(1, min(counts)))
            waits[make.name] += waited
    medians = {name: quantile(rates[name], 0.5) for name in names}
    table(
        f"{threads} threads on 4 connections",
        ["", *names],
        [
            ["loans/s", *[medians[name] for name in names]],
            ["ratio to psycopg_pool", *[medians[n] / medians["psycopg_pool"] for n in names]],
            ["most / least served thread", *[quantile(shares[n], 0.5) for n in names]],
            *[
                [f"wait {label}, ms", *[quantile(waits[n], q) * 1e3 for n in names]]
                for label, q in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))
            ],
        ],
    )


def _run(peer: Peer, threads: int, seconds: float) -> tuple[list[int], list[float]]:
    counts = [0] * threads
    waited: list[list[float]] = [[] for _ in range(threads)]
    ready = threading.Barrier(threads + 1)
    stop = threading.Event()

    def work(me: int) -> None:
        ready.wait()
        while not stop.is_set():
            began = time.perf_counter()
            conn = peer.borrow()
            waited[me].append(time.perf_counter() - began)
            conn.cursor().execute("SELECT 1")
            peer.give(conn)
            counts[me] += 1

    workers = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
    for worker in workers:
        worker.start()
    ready.wait()
    time.sleep(seconds)
    stop.set()
    for worker in workers:
        worker.join()
    return counts, [wait for waits in waited for wait in waits]


def slow_connects(dsn: str, delay: float = 0.1, waiters: int = 8) -> None:
    """Waiters that each need a connection of their own, when connecting is slow."""
    rows = []
    for name, make in {
        "django_connpool": lambda: Ours(dsn, 8, delay),
        "django_connpool, max_connecting=4": lambda: Ours(dsn, 8, delay, max_connecting=4),
        "psycopg_pool": lambda: PsycopgPool(dsn, 8, delay),
    }.items():
        peer = make()
        served = _all_at_once(peer, waiters)
        rows.append([name, served[0], served[-1]])
        peer.close()
    table(
        f"{waiters} waiters, connecting takes {delay * 1000:.0f} ms",
        ["", "first served, s", "last served, s"],
        rows,
    )


def _all_at_once(peer: Peer, waiters: int) -> list[float]:
    served: list[float] = []
    done = threading.Barrier(waiters)
    began = time.perf_counter()

    def work() -> None:
        conn = peer.borrow()
        served.append(time.perf_counter() - began)
        done.wait()
        peer.give(conn)

    workers = [threading.Thread(target=work) for _ in range(waiters)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sorted(served)


def spike(dsn: str) -> None:
    """Fifty jobs of 2 ms come at once upon 4 connections; connecting takes 150 ms."""
    rows = []
    for make in (Ours, PsycopgPool):
        peer = make(dsn, 20, 0.15)
        peer.pool.resize(4, 20)
        peer.pool.wait()

        def job(peer: Peer = peer) -> None:
            conn = peer.borrow()
            time.sleep(0.002)
            peer.give(conn)

        workers = [threading.Thread(target=job) for _ in range(50)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        time.sleep(0.5)
        rows.append([make.name, peer.pool.get_stats()["pool_size"]])
        peer.close()
    table("a spike of 50 jobs of 2 ms on 4 connections", ["", "connections after"], rows)


def restart(idle: int, patience: float = 40.0) -> None:
    """The server restarts under idle connections; then borrowers come, one after another."""
    rows = []
    for make in (Ours, PsycopgPool, CheckedPsycopgPool):
        with Cluster() as cluster:
            peer = make(cluster.dsn(), idle)
            peer.warm(idle)
            cluster.restart()
            failed, slowest = 0, 0.0
            began = time.perf_counter()
            for _ in range(idle + 2):
                if time.perf_counter() - began > patience:
                    break
                start = time.perf_counter()
                try:
                    conn = peer.borrow()
                except Exception:
                    failed += 1
                    slowest = max(slowest, time.perf_counter() - start)
                    continue
                slowest = max(slowest, time.perf_counter() - start)
                try:
                    conn.execute("SELECT 1")
                except Exception:
                    failed += 1
                peer.give(conn)
            rows.append([make.name, failed, slowest])
            peer.close()
    table(
        f"the server was restarted with {idle} idle connections",
        ["", "failed requests", "longest borrow, s"],
        rows,
    )


def server_down() -> None:
    """Nobody listens: how long until the error, and does it say so."""
    rows = []
    for make in (Ours, PsycopgPool):
        peer = make("host=127.0.0.1 port=1 dbname=x", 4, timeout=2.0)
        start = time.perf_counter()
        try:
            peer.borrow()
        except Exception as error:
            told = "yes" if "refused" in str(error) else "no"
            rows.append([make.name, time.perf_counter() - start, told])
        peer.close()
    table("the server is down (timeout 2 s)", ["", "error after, s", "says refused"], rows)


def footprint(dsn: str, pools: int = 10) -> None:
    """Threads and memory of idle pools."""
    rows = []
    for make in PEERS:
        gc.collect()
        before = threading.active_count()
        tracemalloc.start()
        peers = [make(dsn, 4) for _ in range(pools)]
        for peer in peers:
            peer.warm(1)
        time.sleep(0.2)
        size = tracemalloc.get_traced_memory()[0] / pools / 1024
        tracemalloc.stop()
        rows.append([make.name, threading.active_count() - before, size])
        for peer in peers:
            peer.close()
    table(
        f"{pools} pools with one idle connection each",
        ["", "background threads", "KiB a pool"],
        rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    rounds = parser.parse_args().rounds
    quiet()
    print(versions())
    # First, while nothing else has left a thread behind.
    with Cluster() as cluster:
        dsn = cluster.dsn(host=cluster.socket_dir)
        footprint(dsn)
        cycle(dsn, rounds)
        flatness(rounds)
        for threads in (4, 32, 256):
            contention(dsn, threads, rounds)
        slow_connects(dsn)
        spike(dsn)
    server_down()
    for idle in (1, 4, 20):
        restart(idle)


if __name__ == "__main__":
    main()
