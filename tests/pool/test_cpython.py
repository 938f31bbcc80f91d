"""What CPython does not promise still means what we think, and where it is missing there is a way.

No other file of the package uses such a name.
"""

from __future__ import annotations

import ast
import asyncio
import gc
import subprocess
import sys
import sysconfig
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.inside import cpython as known

GLOBAL_LOCK = "_is_gil_enabled"  # of sys
COMPILER = "_jit"  # of sys
ENDS = "_SHUTTING_DOWN"  # of threading
PACKAGE = Path(__file__).parents[2] / "django_connpool"


def without(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> ModuleType:
    """The module as it is where Python does not have that name."""
    monkeypatch.delattr(owner, name)
    return anew()


def anew() -> ModuleType:
    assert known.__file__ is not None
    spec = spec_from_file_location(known.__name__, known.__file__)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# -- Locks --------------------------------------------------------------------------------


def as_documented(lock: Any) -> Callable[[], bool]:
    return partial(known.is_owned_as_documented, lock)


@pytest.mark.parametrize("how", [known.ownership, as_documented])
def test_a_lock_is_owned_by_the_thread_that_is_inside(
    how: Callable[[Any], Callable[[], bool]],
) -> None:
    lock = threading.RLock()
    is_owned = how(lock)
    assert not is_owned()
    with lock, lock:
        assert is_owned()
        with ThreadPoolExecutor(1) as executor:
            assert not executor.submit(is_owned).result()
    assert not is_owned()


def test_a_lock_that_does_not_say_whose_it_is_is_asked_as_documented() -> None:
    lock = threading.Lock()
    is_owned = known.ownership(lock)
    assert not is_owned()
    with lock:
        assert is_owned()


@pytest.mark.parametrize("make", [threading.Lock, threading.RLock])
def test_a_free_lock_is_expected_to_say_so(make: Callable[[], Any]) -> None:
    with pytest.raises(RuntimeError) as caught:
        make().release()
    known.expect_free(caught.value)


def test_any_other_error_is_not_expected() -> None:
    with pytest.raises(RuntimeError, match="of a signal handler"):
        known.expect_free(RuntimeError("of a signal handler"))


def test_a_free_lock_may_say_so_in_other_words(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lock:
        def release(self) -> None:
            raise RuntimeError("nobody has this lock")

    monkeypatch.setattr(threading, "Lock", Lock)
    anew().expect_free(RuntimeError("nobody has this lock"))


# -- Threads ------------------------------------------------------------------------------


def test_the_frame_of_each_thread_is_seen() -> None:
    begun, end = threading.Event(), threading.Event()

    def stays_here() -> None:
        begun.set()
        end.wait()

    thread = threading.Thread(target=stays_here)
    thread.start()
    begun.wait()
    frames = known.frames_of_threads()
    try:
        assert thread.ident is not None
        frame = frames[thread.ident]
        names = []
        while frame is not None:
            names.append(frame.f_code.co_name)
            frame = frame.f_back  # type: ignore[assignment]
        assert "stays_here" in names
        assert threading.get_ident() in frames
    finally:
        frames.clear()
        end.set()
        thread.join()


def test_no_frames_are_seen_where_python_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert without(monkeypatch, sys, "_current_frames").frames_of_threads() == {}


def free_threaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a build of Python in which threads may run at the same time."""
    known = sysconfig.get_config_var
    monkeypatch.setattr(
        sysconfig,
        "get_config_var",
        lambda name: 1 if name == "Py_GIL_DISABLED" else known(name),
    )


def test_no_frames_are_looked_at_where_their_threads_run_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free_threaded(monkeypatch)
    assert anew().frames_of_threads() == {}


ENDING = """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location

spec = spec_from_file_location("cpython", sys.argv[1])
known = module_from_spec(spec)
spec.loader.exec_module(known)
main = threading.current_thread()

def late():
    before = known.is_awaiting_threads()
    if sys.argv[2] == "executor":
        while not known.is_awaiting_threads():
            time.sleep(0.01)
    else:
        while main.is_alive():
            time.sleep(0.01)
        delattr(threading, sys.argv[3])
    print(before, known.is_awaiting_threads())

if sys.argv[2] == "executor":
    ThreadPoolExecutor(1).submit(late)
else:
    threading.Thread(target=late).start()
"""


@pytest.mark.parametrize("way", ["executor", "where Python does not say"])
def test_the_end_of_the_interpreter_is_seen_by_the_threads_it_waits_for(way: str) -> None:
    script = [sys.executable, "-c", ENDING, str(known.__file__), way, ENDS]
    done = subprocess.run(script, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_a_thread_that_has_ended_is_not_known_to_the_system_for_long() -> None:
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    if sys.platform == "linux":
        assert known.lingers(thread)
    end.set()
    thread.join()
    while known.lingers(thread):  # Python 3.12 and earlier
        pass
    assert not known.lingers(threading.main_thread())  # what a greenlet goes by


def test_something_is_done_soon() -> None:
    done: list[int] = []
    later = known.soon(lambda: done.append(threading.get_ident()))
    later()
    for _ in range(1000):
        pass
    assert done == [threading.main_thread().ident]


def test_something_is_done_at_once_without_ctypes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ctypes", None)
    done: list[int] = []
    known.soon(lambda: done.append(1))()
    assert done == [1]


# -- Event loops --------------------------------------------------------------------------


@pytest.mark.parametrize("is_missing", [False, True])
def test_an_event_loop_is_seen_where_it_runs(
    is_missing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = (
        without(monkeypatch, asyncio, "_get_running_loop") if is_missing else known
    ).running_loop

    async def ask() -> None:
        assert asking() is asyncio.get_running_loop()
        assert await asyncio.to_thread(asking) is None

    assert asking() is None
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(ask())
    finally:
        loop.close()


# -- References ---------------------------------------------------------------------------


def test_references_are_counted() -> None:
    thing = object()
    assert known.count(thing) == known.ONE_VARIABLE
    others = [thing, thing]
    assert known.count(thing) == known.ONE_VARIABLE + len(others)


@pytest.mark.parametrize(("lock", "counts"), [(True, True), (False, False)])
def test_references_are_not_counted_without_the_global_lock(
    lock: bool, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, GLOBAL_LOCK, lambda: lock, raising=False)
    module = anew()
    assert (module.COUNTS, bool(module.ONE_VARIABLE)) == (counts, counts)


def test_references_are_not_counted_in_a_build_that_can_do_without_the_lock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, GLOBAL_LOCK, lambda: True, raising=False)  # an extension wants it
    free_threaded(monkeypatch)
    assert not anew().COUNTS


def test_references_are_not_counted_where_a_compiler_leaves_some_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for is_enabled in (True, False):
        jit = SimpleNamespace(is_enabled=lambda said=is_enabled: said)
        monkeypatch.setattr(sys, COMPILER, jit, raising=False)
        assert anew().COUNTS is not is_enabled


@pytest.mark.parametrize(
    "wrong", [lambda real: 2, lambda real: min(real, 4), lambda real: 2 * real]
)
def test_references_are_not_counted_where_a_count_is_not_what_it_is_taken_for(
    wrong: Callable[[int], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = sys.getrefcount
    monkeypatch.setattr(sys, "getrefcount", lambda thing: wrong(count(thing)))
    module = anew()
    assert (module.COUNTS, module.ONE_VARIABLE) == (False, 0)


# -- multiprocessing ----------------------------------------------------------------------


CHILD = """
import multiprocessing, multiprocessing.process, multiprocessing.util, sys
from importlib.util import module_from_spec, spec_from_file_location

spec = spec_from_file_location("cpython", sys.argv[1])
known = module_from_spec(spec)
spec.loader.exec_module(known)

def leave():
    print("left", flush=True)

def work():
    print("worked", flush=True)

if len(sys.argv) > 2:
    del multiprocessing.util.Finalize
known.at_end_of_children(leave)
if len(sys.argv) <= 2:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
print("parent")
"""


def children(*arguments: str) -> str:
    script = [sys.executable, "-W", "ignore", "-c", CHILD, str(known.__file__), *arguments]
    return subprocess.run(script, capture_output=True, text=True, timeout=60, check=True).stdout


def test_children_of_multiprocessing_leave() -> None:
    assert children().split() == ["worked", "left", "parent"]


def test_where_multiprocessing_has_no_such_thing_nobody_leaves() -> None:
    assert children("without").split() == ["parent"]


# -- The garbage collector ----------------------------------------------------------------


def test_a_sign_of_life_goes_after_those_who_may_still_use_what_it_lies_on() -> None:
    class Thing:
        sign: Any

    said: list[Any] = []

    def user(thing: Thing) -> Iterator[None]:
        try:
            yield
        finally:
            said.append("used" if seen() is not None else "too early")

    thing = Thing()
    thing.sign = known.sign_of_life()
    seen = weakref.ref(thing.sign, lambda _: said.append("gone"))
    circle: list[Any] = [user(thing)]
    next(circle[0])
    circle.append(circle)
    del thing, circle
    gc.collect()
    assert said == ["used", "gone"]


def test_where_the_collector_knows_it_there_is_no_sign_of_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(known, "FREE_THREADED", True)
    assert known.sign_of_life() is None


def test_each_sign_of_life_is_another_object_that_the_collector_does_not_know() -> None:
    signs = [known.sign_of_life() for _ in range(3)]
    assert len({*map(id, signs)}) == 3
    assert not any(map(gc.is_tracked, signs))


# -- No other file ------------------------------------------------------------------------

NAMES = {
    GLOBAL_LOCK,
    ENDS,
    *("_is_owned", "_current_frames", "_getframe", "_get_running_loop"),
    *("getrefcount", COMPILER, "Py_GIL_DISABLED", "pythonapi", "Finalize", "register_after_fork"),
}
TEXTS = ("/proc/self/task", "release unlocked", "un-acquired lock")


def used(path: Path) -> set[str]:
    """What a file has of them, in whatever way it asks."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.ImportFrom):
            found |= {one.name for one in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
            found |= {text for text in TEXTS if text in node.value}
    return found & {*NAMES, *TEXTS}


@pytest.mark.once
def test_no_other_file_uses_them() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if path.name != "cpython.py"]
    assert {str(path): found for path in files if (found := used(path))} == {}


def test_each_of_them_is_used_here() -> None:
    assert known.__file__ is not None
    here = used(Path(known.__file__))
    assert {*NAMES} - here == {"_getframe"}  # inspect.currentframe() is promised
