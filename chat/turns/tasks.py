"""The tasks that a manager owns besides its runs and duties, and how what it owns is ended: each step bounded."""

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import structlog

from streams.errors import WireError

SHUTDOWN_S = 5.0

log = structlog.get_logger("headrace.worker")


class Tasks:
    """Of one manager. Who makes a task here need not await it."""

    def __init__(self) -> None:
        self._all: set[asyncio.Task] = set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task:
        """A task that is kept, awaited at the end, its failure logged."""
        task = asyncio.create_task(work)
        self.own(task)
        return task

    def own(self, task: asyncio.Task) -> None:
        """As if it had been made here."""
        self._all.add(task)
        task.add_done_callback(self._forget)

    def all(self) -> list[asyncio.Task]:
        return list(self._all)

    def _forget(self, task: asyncio.Task) -> None:
        self._all.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, WireError):
            log.error("task_failed", exc_info=error)


@asynccontextmanager
async def shutdown_step() -> AsyncIterator[None]:
    """A bound on a step of the shutdown, whose failure must not keep the next one from its turn."""
    try:
        async with asyncio.timeout(SHUTDOWN_S):
            yield
    except (TimeoutError, WireError) as error:
        log.warning("shutdown_cut", reason=type(error).__name__)
    except Exception:
        log.exception("shutdown_cut")


async def end(tasks: Collection[asyncio.Task]) -> None:
    """Cancel them. Who does not heed that in `SHUTDOWN_S` is left behind."""
    for task in tasks:
        task.cancel()
    if tasks:
        done, pending = await asyncio.wait(tasks, timeout=SHUTDOWN_S)
        await asyncio.gather(*done, return_exceptions=True)  # they have told of their faults themselves
        for task in pending:
            log.warning("task_left", task=task.get_name())
