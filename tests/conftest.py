from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from django.conf import settings
from django.core.management.base import OutputWrapper

from tests import inside, scratch
from tests.cluster import Cluster, Server
from tests.databases import Databases
from tests.proxy import Proxy


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes `-n auto` means: each starts a server of its own.

    A server that they were given they would have to share, and they count its connections. The
    quick ones wait for their server half of the time, so two of them share a core.
    """
    if os.environ.get("DATABASE_URL"):
        return 0
    cores = min(len(os.sched_getaffinity(0)), 8)
    return 2 * cores if "not stress" in config.option.markexpr else cores


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("TEST_DEPRECATIONS") == "allowed":
        # One environment looks at what dependencies will drop; the others must not fail with it.
        for category in ("DeprecationWarning", "PendingDeprecationWarning"):
            config.addinivalue_line("filterwarnings", f"default::{category}")
    # Django's commands flush what they wrote to when they are collected. It may be closed by then,
    # and the test that runs at that moment is blamed: see sessions/test_functions.py.
    OutputWrapper.__del__ = lambda self: None  # type: ignore[attr-defined]
    scratch.make_room_for_sockets()
    # The pools of a developer's own processes must not be seen by the tests, nor the tests by them.
    status = scratch.folder() / "status"
    status.mkdir(mode=0o700, exist_ok=True)
    settings.CONNPOOL_STATUS_DIR = os.environ["CONNPOOL_STATUS_DIR"] = str(status)


def pytest_collection_finish() -> None:
    """The collector, which tests ask often, need not look at what all of them have in common."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def cluster() -> Iterator[Server]:
    """The server of the whole run: that of DATABASE_URL, else one from the wheel.

    Other tests use it too: count and terminate only backends of a database or application_name
    of the test's own.
    """
    url = os.environ.get("DATABASE_URL")
    if url:
        yield Server.from_url(url)
        return
    with Cluster() as started:
        yield started


@pytest.fixture
def dsn(cluster: Server) -> str:
    """A connection string to the server of the whole run."""
    return cluster.dsn()


@pytest.fixture(autouse=True)
def nothing_was_logged() -> None:
    """What a test before this one has logged is no reason not to log it again."""
    inside.forget_bursts()


@pytest.fixture
def make_cluster() -> Iterator[Callable[..., Cluster]]:
    """A function that starts a server of the test's own, as `Cluster(**kwargs)` would."""
    with ExitStack() as stack:
        yield lambda **kwargs: stack.enter_context(Cluster(**kwargs))


@pytest.fixture
def throwaway_cluster(make_cluster: Callable[..., Cluster]) -> Cluster:
    """A server of the test's own, which it may stop, restart and hurt."""
    return make_cluster()


@pytest.fixture
def proxy(cluster: Server) -> Iterator[Proxy]:
    """A TCP proxy before the server of the whole run; `proxy.dsn()` goes through it."""
    with Proxy(cluster) as started:
        yield started


@pytest.fixture
def databases(cluster: Server, django_db_blocker: Any) -> Iterator[Databases]:
    """Databases of the test's own: `databases.add(pool={...})` returns a wrapper of one."""
    with django_db_blocker.unblock():
        added = Databases(cluster)
        try:
            yield added
        finally:
            added.remove()


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix: None, cluster: Server
) -> None:
    """Tell Django where the server is, just before pytest-django makes the test databases."""
    for alias in settings.DATABASES:
        point_at(cluster, settings.DATABASES[alias])


def point_at(server: Server, database: dict[str, Any]) -> None:
    """Change one entry of DATABASES in place, as the connection objects hold the same dict."""
    place = server.django()
    options = {**place.pop("OPTIONS"), **database["OPTIONS"]}
    database.update(place, OPTIONS=options)


@pytest.fixture(autouse=True)
def connecting_may_take_its_time(request: pytest.FixtureRequest) -> Iterator[None]:
    """A machine that is slow is no server that hangs, for which one more would be opened.

    Among the tests that take longer are those in which one does hang.
    """
    with pytest.MonkeyPatch.context() as patch:
        if not any(request.node.get_closest_marker(mark) for mark in ("e2e", "stress")):
            inside.tune(patch, hanging=60)
        yield


@pytest.fixture
def little_garbage() -> Iterator[None]:
    """The collector, which is asked hundreds of times, has only what the test leaves to look at."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
    gc.collect()
    gc.freeze()
