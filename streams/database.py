"""The one bridge from async code to a transaction: own threads, one hop a call, every hop bounded in time.

Commands go before work that is repeated until it is done. "Database is locked", a lost connection, a deadlock and a
lock or a statement that PostgreSQL gave up are repeated with jitter inside the bound; past it
WireError("unavailable"), or to a command "busy" where only its turn did not come. A call may therefore run more than
once, and one that was given up may still commit: what is called must be safe to repeat (docs: durability). The bound
frees the caller; what frees the thread are the limits of the connection (`postgres_options`).

On SQLite, whose transactions exclude each other anyway, writes that wait together are committed together: 2.7 times as
many begins a second at 50 senders (docs/decisions/008-grouped-commits.md). One that fails is undone alone.
"""

import asyncio
import contextvars
import itertools
import math
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TypeVar

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, connection, connections, transaction
from django.db.utils import InterfaceError, InternalError, OperationalError
from django.utils import timezone

from streams import metrics
from streams.errors import WireError

T = TypeVar("T")

# By how many seconds a job stands behind commands that come now: nothing waits for ever, the beat for nothing.
COMMAND, BACKGROUND, BEAT = 0.0, 2.0, -60.0
_WAITS = {
    COMMAND: metrics.database_wait.labels("command"),
    BACKGROUND: metrics.database_wait.labels("background"),
    BEAT: metrics.database_wait.labels("beat"),
}
# What SQLite says when another writer is at it, or the disk is away; other operational errors of it are faults.
_SQLITE_PASSING = ("locked", "busy", "unable to open", "disk i/o")
_IDLE_TOO_LONG = "25P03"  # idle_in_transaction_session_timeout: PostgreSQL has undone it and hung up


async def read(
    fn: Callable[..., T],
    *args: Any,
    bound_s: float | None = None,
    until_done: bool = False,
    on_return: Callable[[], None] | None = None,
) -> T:
    """`fn(*args)` on a database thread, without a transaction.

    `bound_s`: default `command_hop_s`. `until_done`: no bound, repeated while the database is away: for a run, whose
    own time bounds it.
    """
    return await _call(fn, args, False, bound_s, until_done, COMMAND, False, on_return)


async def write(
    fn: Callable[..., T],
    *args: Any,
    bound_s: float | None = None,
    until_done: bool = False,
    is_beat: bool = False,
    is_command: bool = False,
    on_return: Callable[[], None] | None = None,
) -> T:
    """`fn(*args)` on a database thread in one transaction.

    `until_done`: no bound, behind commands, repeated while the database is away. `is_beat`: before everything, for
    a busy worker must not look dead. `is_command`: of a client who can be told `busy`. `on_return` is called on the
    event loop once no thread works for this call any more: at its end, or later where it was given up.
    """
    priority = BEAT if is_beat else BACKGROUND if until_done else COMMAND
    return await _call(fn, args, True, bound_s, until_done, priority, is_command, on_return)


def now() -> datetime:
    """The database's clock, inside and outside of transactions."""
    if connection.vendor == "sqlite":  # in this process, on this clock
        return timezone.now()
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        return cursor.fetchone()[0].astimezone(UTC)


def close() -> None:
    """End the threads and their connections; the next call starts new ones."""
    global _pool
    with _pool_lock:
        pool, _pool = _pool, None
    if pool is not None:
        pool.close()


async def _call(
    fn: Callable[..., T],
    args: tuple[Any, ...],
    is_atomic: bool,
    bound_s: float | None,
    until_done: bool,
    priority: float,
    is_command: bool,
    on_return: Callable[[], None] | None,
) -> T:
    loop = asyncio.get_running_loop()
    bound_s = settings.HEADRACE.command_hop_s if bound_s is None else bound_s
    deadline = None if until_done else loop.time() + bound_s
    job = None
    try:
        for tries in itertools.count(1):
            job = _Job(fn, args, is_atomic, loop)
            threads = _threads()
            threads.submit(job, priority, can_refuse=not until_done)
            try:
                async with asyncio.timeout_at(deadline) as limit:
                    return await job.future
            except TimeoutError:
                if not limit.expired():  # the function's own
                    raise
                if is_command and not job.has_begun and threads.answered_within(bound_s):  # there is much to do
                    raise WireError("busy", retry_after=1) from None
                raise WireError("unavailable") from None
            except (OperationalError, InterfaceError, InternalError) as error:
                if not _is_passing(error):
                    raise
                pause_s = random.uniform(0.2, 1) * min(settings.HEADRACE.database_pause_s, 0.02 * 2 ** min(tries, 10))
                if deadline is not None and loop.time() + pause_s >= deadline:
                    raise WireError("unavailable") from error
            await asyncio.sleep(pause_s)
    finally:
        if job is not None:
            job.abandon(on_return)


def _is_passing(error: Exception) -> bool:
    if isinstance(error, InternalError):
        return getattr(error.__cause__, "sqlstate", None) == _IDLE_TOO_LONG
    if connection.vendor != "sqlite":
        return True
    sentence = str(error).lower()
    return any(word in sentence for word in _SQLITE_PASSING)


class _Job:
    """One try of one call."""

    __slots__ = (
        "args",
        "came_at",
        "context",
        "fn",
        "future",
        "has_begun",
        "is_abandoned",
        "is_atomic",
        "is_back",
        "loop",
        "on_return",
        "wait",
    )

    def __init__(self, fn: Callable, args: tuple[Any, ...], is_atomic: bool, loop: asyncio.AbstractEventLoop) -> None:
        self.fn = fn
        self.args = args
        self.is_atomic = is_atomic
        self.loop = loop
        self.future = loop.create_future()
        self.context = contextvars.copy_context()  # the log's names, the language
        self.has_begun = False
        self.is_abandoned = False
        self.is_back = False
        self.on_return: Callable[[], None] | None = None

    def queued(self, priority: float) -> None:
        self.came_at, self.wait = time.monotonic(), _WAITS[priority]

    def taken(self) -> None:
        """From the queue, by a thread."""
        self.wait.observe(time.monotonic() - self.came_at)

    def abandon(self, on_return: Callable[[], None] | None) -> None:
        """The caller has left. A job that has not begun is not begun."""
        self.is_abandoned = True
        if on_return is None:
            return
        if self.is_back:
            on_return()
        else:
            self.on_return = on_return

    def run(self) -> bool:
        """Whether the database answered."""
        result = error = None
        if not self.is_abandoned:
            try:
                if self.is_atomic:
                    with transaction.atomic():
                        result = self.call()
                else:
                    result = self.call()
            except BaseException as raised:
                error = raised
            _tidy(error)
        _answer(self.loop, [(self, result, error)])
        return error is None

    def call(self) -> Any:
        self.has_begun = True
        return self.context.run(self.fn, *self.args)

    def come_back(self, result: Any, error: BaseException | None) -> None:
        self.is_back = True
        if not self.future.done():
            if error is None:
                self.future.set_result(result)
            else:
                self.future.set_exception(error)
        if self.on_return is not None:
            self.on_return()


def _run_together(first: _Job, another: Callable[[float, int], "_Job | None"]) -> bool:
    """`first` and what waits behind it in one transaction. Where one of them fails, each is done again by itself.

    Whether the database answered.
    """
    group: list[tuple[_Job, Any, BaseException | None]] = []
    job: _Job | None = first
    began = time.monotonic()
    try:
        with transaction.atomic():
            while job is not None:
                group.append((job, None, None))
                if not job.is_abandoned:
                    group[-1] = (job, job.call(), None)
                job = another(began, len(group))
    except BaseException as error:
        _tidy(error)
        if len(group) <= 1:  # none: the transaction could not begin, for another process writes
            _answer(first.loop, [(first, None, error)])
            return False
        did_answer = [alone.run() for alone, _, _ in group]
        return any(did_answer)
    for loop in {job.loop for job, _, _ in group}:
        _answer(loop, [done for done in group if done[0].loop is loop])
    return True


def _answer(loop: asyncio.AbstractEventLoop, done: list[tuple[_Job, Any, BaseException | None]]) -> None:
    try:
        loop.call_soon_threadsafe(_come_back, done)
    except RuntimeError:  # the loop has ended, and with it whoever waited
        pass


def _come_back(done: list[tuple[_Job, Any, BaseException | None]]) -> None:
    for job, result, error in done:
        job.come_back(result, error)


def _tidy(error: BaseException | None) -> None:
    """Throw a broken connection away. A whole one is kept: whoever held all others would keep this thread from one."""
    held = connections[DEFAULT_DB_ALIAS]
    try:
        if error is not None and held.connection is not None and not held.is_usable():
            held.close()
    except Exception:
        held.connection = None


class _Threads:
    """Threads that take jobs by when they came, moved by their priority. Daemons: a killed transaction rolls back."""

    def __init__(self, count: int, is_grouping: bool) -> None:
        self._is_grouping = is_grouping
        self._answered_at = -math.inf
        self._next: _Job | None = None  # taken while a group was made, and not for it
        self._jobs: queue.PriorityQueue = queue.PriorityQueue()
        self._ages = itertools.count()
        self._threads = [threading.Thread(target=self._work, name=f"database-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, job: _Job, priority: float, *, can_refuse: bool) -> None:
        if can_refuse and priority == COMMAND and self._jobs.qsize() > settings.HEADRACE.database_waiting:
            job.abandon(None)
            job.is_back = True
            raise WireError("unavailable")
        job.queued(priority)
        self._jobs.put((job.came_at + priority, next(self._ages), job))

    def waiting(self) -> int:
        return self._jobs.qsize()

    def answered_within(self, seconds: float) -> bool:
        return time.monotonic() - self._answered_at < seconds

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put((math.inf, next(self._ages), None))
        for thread in self._threads:
            thread.join(settings.HEADRACE.command_hop_s)

    def _work(self) -> None:
        while True:
            job, self._next = self._next, None
            if job is None:
                job = self._jobs.get()[2]
                if job is None:
                    connections.close_all()
                    return
                job.taken()
            together = self._is_grouping and job.is_atomic
            if _run_together(job, self._another) if together else job.run():
                self._answered_at = time.monotonic()

    def _another(self, began: float, count: int) -> _Job | None:
        """One more for a group, if one waits and it may grow."""
        bounds = settings.HEADRACE
        if count >= bounds.database_group_jobs or time.monotonic() - began > bounds.database_group_s:
            return None
        try:
            due, age, job = self._jobs.get_nowait()
        except queue.Empty:
            return None
        if job is None:
            self._jobs.put((due, age, job))
            return None
        job.taken()
        if job.is_atomic:
            return job
        self._next = job
        return None


_pool: _Threads | None = None
_pool_lock = threading.Lock()


def _threads() -> _Threads:
    global _pool
    if _pool is None:
        with _pool_lock:
            if _pool is None:
                is_sqlite = connection.vendor == "sqlite"
                count = 1 if is_sqlite else settings.HEADRACE.database_threads
                _pool = _Threads(count, is_grouping=is_sqlite)
    return _pool


def _waiting() -> int:
    return 0 if _pool is None else _pool.waiting()


metrics.database_waiting.set_function(_waiting)


def _forget_threads() -> None:
    """After a fork the threads are the parent's."""
    global _pool, _pool_lock
    _pool = None
    _pool_lock = threading.Lock()


os.register_at_fork(after_in_child=_forget_threads)
