"""Giving back by hand or at the end of some work, and warming up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import wraps
from threading import get_ident
from typing import Any, ParamSpec, TypeVar, cast

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.db import connections
from django.db.transaction import TransactionManagementError

from . import bounds, holders
from .backends.loans import takes_time
from .backends.work import holds_outside_of, is_of_other_work
from .connection_pool import ConnectionPool
from .places.terms import ROLES
from .process import forks, uwsgi
from .readers import RELEASES
from .registry import is_pooled
from .scopes import Scope, current, going_on

P = ParamSpec("P")
T = TypeVar("T")


def _borrowers(using: str | None) -> list[Any]:
    """The pooled database wrappers of this thread, of one alias or of all."""
    initialized = connections.all(initialized_only=True)
    wrappers = initialized if using is None else [connections[using]]
    return [wrapper for wrapper in wrappers if is_pooled(wrapper)]


def release(using: str | None = None) -> None:
    """Give this thread's connections back now, of one alias or of all.

    What is inside an atomic block stays, since giving it back would end its transaction, and
    what a `pinned()` block keeps. The next query borrows again.
    """
    wrappers = _borrowers(using)
    for wrapper in wrappers:
        wrapper.end_lost_block()
    for wrapper in wrappers:
        wrapper.end_loan()


def before_work() -> None:
    """Some work begins: what this thread holds at rest goes back before.

    What an atomic block, a server-side cursor or `pinned()` keeps stays with who has begun that,
    and what another task's work goes on with stays with that. An atomic block that nobody will end
    is ended.
    """
    outer = current.get()
    for wrapper in holders.here():
        if not is_of_other_work(wrapper, outer):
            wrapper.before_work()


async def before_work_in_its_thread() -> None:
    """As `before_work`, in the thread in which Django runs the queries of async code."""
    # Asked here first, because the way to that thread and back costs more than a query.
    outer = current.get()
    if any(holds_outside_of(wrapper, outer) for wrapper in holders.anywhere()):
        await sync_to_async(before_work, thread_sensitive=True)()


def release_loans(work: Scope) -> None:
    """Give back what was borrowed for that work, which ends here, and nobody else's loans.

    Those of other threads, too; what they are using they give back themselves. An atomic block
    that was begun in this work is ended as well: what it has done is rolled back.
    """
    life = work.life
    life.thread = get_ident()
    work.end()
    if life.has_blocks:
        for wrapper in holders.here():
            wrapper.end_blocks_of(life)
    # Not all wrappers of the thread are looked at: that costs microseconds for each alias.
    for wrapper in work.holders():
        if wrapper.is_of_this_thread or (
            wrapper.allow_thread_sharing and wrapper in connections.all(initialized_only=True)
        ):
            wrapper.end_work()
        else:
            wrapper.resumes = None
            wrapper.surrender()


def release_between(work: Scope) -> None:
    """Give back what was borrowed for that work, which pauses here, unless it is in use.

    In use is what is in a transaction, and what a server-side cursor reads from.
    """
    for wrapper in work.holders():
        wrapper.surrender()


async def release_between_in_its_thread(work: Scope) -> None:
    """As `release_between`; what takes time in the thread of the queries, and not in the loop's."""
    # Each is read once: a job of the stream's may be running there.
    offers = [wrapper.offer for wrapper in work.holders()]
    if any(offer and takes_time(offer) for offer in offers):
        await sync_to_async(release_between, thread_sensitive=True)(work)
    else:
        release_between(work)


class scope:
    """A piece of work under a name, for `with`, `async with` and as a decorator.

    Reports and errors name it. At its end, however it ends, what was borrowed for it is
    given back: this thread's connections at once (those of the thread in which Django runs
    the queries, after `async with`), other threads' as soon as they are not using them.

    It begins without a connection, unless an atomic block, a server-side cursor or `pinned()` of
    before keeps one; what those keep stays. An atomic block that was begun inside and is
    still open at its end, as an interrupt can leave one, is rolled back.

    Without a name it goes by that of the work it is a part of.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self._entered: list[tuple[Scope, Scope | None]] = []  # and what each is a part of

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        name = self.name or function.__qualname__
        if not iscoroutinefunction(function):

            @wraps(function)
            def call(*args: P.args, **kwargs: P.kwargs) -> T:
                with scope(name):
                    return function(*args, **kwargs)

            return call

        @wraps(function)
        async def call_async(*args: P.args, **kwargs: P.kwargs) -> Any:
            async with scope(name):
                return await function(*args, **kwargs)

        return cast(Callable[P, T], call_async)

    def __enter__(self) -> None:
        before_work()
        self._enter()

    def _enter(self) -> None:
        outer = going_on()
        work = Scope(self.name or (outer.note if outer else None), self)
        work.task = outer.task if outer else None
        self._entered.append((work, outer))
        current.set(work)

    def __exit__(self, *exc_info: object) -> None:
        work, outer = self._entered.pop()
        try:
            release_loans(work)
        finally:
            _leave(work, outer)

    async def __aenter__(self) -> None:
        await before_work_in_its_thread()
        self._enter()
        self._entered[-1][0].is_of_this_task()

    async def __aexit__(self, *exc_info: object) -> None:
        work, outer = self._entered.pop()
        try:
            await release_in_its_thread(work, has_failed=exc_info[0] is not None)
        finally:
            _leave(work, outer)


def _leave(work: Scope, outer: Scope | None) -> None:
    """Go on with the outer work, which has to give back what something of its own has kept."""
    current.set(outer)
    if outer is not None:
        for wrapper in work.holders():
            if wrapper.in_atomic_block or wrapper.kept:
                outer.borrowers.add(wrapper)
                wrapper.life = outer.life


async def release_in_its_thread(work: Scope, *, has_failed: bool = False) -> None:
    """As `release_loans`, in the thread in which Django runs the queries of async code.

    The way to that thread and back costs more than a query. So what is on offer is given back from
    here, and that thread is asked for what has to be done there, and for whatever is held when
    `has_failed`: a job of what was cancelled may be running in it.
    """
    work.end()
    holders = work.holders()
    if (
        work.life.has_blocks
        or (has_failed and any(one.in_hand is not None or one.offer for one in holders))
        or not all(one.end_from_afar(work.life) for one in holders)
    ):
        await sync_to_async(release_loans, thread_sensitive=True)(work)


@contextmanager
def released(using: str | None = None) -> Iterator[None]:
    """A block that begins without a connection, for slow work that needs none.

    Raises TransactionManagementError inside an atomic block or an open transaction, which
    would be lost.
    """
    for wrapper in _borrowers(using):
        if wrapper.in_atomic_block or (wrapper.in_hand is not None and not wrapper.autocommit):
            raise TransactionManagementError(
                f"released() cannot give the connection of {wrapper.alias!r} back inside a "
                "transaction: end the transaction first, or move the slow work out of it."
            )
    release(using)
    yield


@contextmanager
def pinned(using: str | None = None) -> Iterator[None]:
    """A block that keeps one connection, of one alias or for each, from its first query on.

    For what belongs to a session and cannot be seen from outside, with `release` "transaction".
    """
    with ExitStack() as stack:
        for wrapper in _pooled(using):
            stack.enter_context(wrapper.keeping("by pinned()"))
        yield


@contextmanager
def hold(mode: str, using: str | None = None) -> Iterator[None]:
    """A block in which the option `release` is `mode`: "auto", "request" or "transaction".

    Raises ValueError for another mode.
    """
    if mode not in RELEASES:
        raise ValueError(f'hold() takes "auto", "request" or "transaction", not {mode!r}')
    before = [(wrapper, wrapper.mode) for wrapper in _pooled(using)]
    try:
        for wrapper, _ in before:
            wrapper.set_mode(mode)
        yield
    finally:
        for wrapper, was in before:
            wrapper.set_mode(was)
            wrapper.release_if_free()


@contextmanager
def priority(role: str, using: str | None = None) -> Iterator[None]:
    """A block of work that is "admin" or "background", where the options tell these apart.

    "admin" may also take what `reserve` keeps back, "background" at most `background_max`. It
    begins and ends without a connection, unless an atomic block or `pinned()` keeps one; what
    those keep stays. Raises ValueError for another role.
    """
    if role not in ROLES:
        raise ValueError(f'priority() takes "admin" or "background", not {role!r}')
    before = [(wrapper, wrapper.role) for wrapper in _pooled(using)]
    try:
        for wrapper, _ in before:
            _set_role(wrapper, ROLES[role])
        yield
    finally:
        for wrapper, was in before:
            _set_role(wrapper, was)


def in_background() -> AbstractContextManager[None]:
    """The block that a task of a runner is: "background", if anything is said of such work."""
    return priority("background") if bounds.limits_background() else nullcontext()


def _set_role(wrapper: Any, role: str) -> None:
    """Have it borrow for such work from now on, where the options tell it from others."""
    if role != wrapper.role and bounds.have_roles(wrapper.settings_dict):
        wrapper.end_loan()
        wrapper.role, wrapper._binding = role, None


def _pooled(using: str | None) -> list[Any]:
    """This thread's database wrappers of one alias, or of all that are pooled."""
    aliases = connections if using is None else [using]
    return [wrapper for wrapper in map(connections.__getitem__, aliases) if is_pooled(wrapper)]


def warm() -> None:
    """Open `min_size` connections of every pool, in the background, and keep them open.

    For processes that serve; the middleware calls it at their first request.
    """
    for pool in _pools():
        if pool.min_size:
            pool.warm()


def settle() -> None:
    """The application is loaded, by a process that may serve, or only fork those that will.

    Raises ImproperlyConfigured for pool options that are unknown or impossible.
    """
    pools = _pools()
    uwsgi.call_after_fork(forks.notice)
    if uwsgi.is_loading():  # nobody here will use what was opened, or look after it
        release()
        for pool in pools:
            pool.drain()


def _pools() -> list[ConnectionPool[Any]]:
    """The pool of every alias, made if there was none."""
    return [wrapper.pool for wrapper in _pooled(None)]
