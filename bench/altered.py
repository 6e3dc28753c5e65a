"""Headrace itself with one thing changed: `python -m bench.altered storeless|counted`, else as `manage.py serve`.

storeless: the event log is kept in this process's memory. Nothing outlives it, and no other worker hears of an event.
counted: `/metrics` also say how many transactions went over the bridge to the database.
"""

import asyncio
import os
import secrets
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from django.conf import settings
from django.core.management import execute_from_command_line

from streams import log


class Kept:
    """A chat's log: its epoch, the newest frames, the number of the last one."""

    def __init__(self) -> None:
        self.epoch = secrets.token_hex(8)
        self.frames: deque[bytes] = deque(maxlen=settings.HEADRACE.log_events)
        self.top = 0

    def append(self, frames: tuple[bytes, ...]) -> log.Appended:
        first = self.top + 1
        for frame in frames:
            self.top += 1
            self.frames.append(b'{"seq":%d,%b' % (self.top, frame))
        return log.Appended(self.epoch, first, self.top)

    def read(self, after: int, limit: int | None) -> list[Any]:
        """As the log's script answers: epoch, top, the oldest that is kept, the first of what follows, and that."""
        oldest = self.top - len(self.frames) + 1
        start = max(after + 1, oldest)
        found = list(self.frames)[start - oldest :] if limit != 0 else []
        kept = oldest if self.frames and limit != 0 else 0
        return [self.epoch.encode(), self.top, kept, start, found[:limit]]


class MemoryLog(log.Log):
    """No fence and no store: what the strict log is compared with. Answers in the next step of the loop, as Redis'."""

    def __init__(self) -> None:
        super().__init__()
        self._kept: dict[str, Kept] = {}

    def submit(self, batch: log.Batch) -> asyncio.Future:
        def take() -> log.Appended | log.NewEpoch:
            kept = self._of(batch.chat)
            if batch.epoch and batch.epoch != kept.epoch:
                return log.NewEpoch(kept.epoch)
            appended = kept.append(batch.frames)
            self.on_appended(batch, appended, False)
            return appended

        return self._soon(take)

    def _read(
        self,
        chat: str,
        after: int,
        limit: int | None,
        max_bytes: int | None,
        then: Callable[[list[Any]], Any] | None = None,
    ) -> asyncio.Future:
        return self._soon(lambda: (then or log._as_read)(self._of(chat).read(after, limit)))

    def _of(self, chat: str) -> Kept:
        return self._kept.setdefault(chat, Kept())

    def _soon(self, work: Callable[[], Any]) -> asyncio.Future:
        loop = asyncio.get_running_loop()
        future = loop.create_future()

        def do() -> None:
            if not future.done():
                future.set_result(work())

        loop.call_soon(do)
        return future


def storeless() -> None:
    log.Log = MemoryLog


def counted() -> None:
    from prometheus_client import Counter

    from streams import database, metrics

    found = Counter("bench_transactions", "Over the bridge to the database.", ["what"], registry=metrics.registry)
    write = database.write

    def counting(what: Callable[..., Any], *args: Any, **more: Any) -> Awaitable[Any]:
        found.labels(getattr(what, "__name__", "other")).inc()
        return write(what, *args, **more)

    database.write = counting


CHANGES = {"storeless": storeless, "counted": counted}

if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    CHANGES[sys.argv[1]]()
    execute_from_command_line(["manage.py", "serve"])
