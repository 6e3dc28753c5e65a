"""A worker's duties towards all chats: say that it lives, take up what nobody runs, tell what nobody told, tidy up.

Looks at turns, not at burials (docs: durability). Each row by itself: one that can't be dealt with keeps nobody from
the others.
"""

import asyncio
import functools
import math
import os
import random
import socket as sockets
import time
from collections.abc import Coroutine, Iterator
from typing import TYPE_CHECKING, Any

import structlog
from django.conf import settings

from accounts import store as accounts
from chat.files import tidying as files
from chat.turns import owed, reads
from chat.turns.store import asking, running, tidying
from streams import database
from streams import store as worker_store
from streams.errors import WireError

if TYPE_CHECKING:
    from chat.turns.manager import ChatManager

log = structlog.get_logger("headrace.worker")

CLAIMS_OVER_S = 0.2
CLAIMS_AT_ONCE = 8


class Sweep:
    """Of one manager's worker."""

    def __init__(self, manager: "ChatManager") -> None:
        self._manager = manager
        self._is_to_take = False  # a look at what was given back is about to be
        self._claiming = asyncio.Lock()
        self._seen_at = 0.0  # when a beat was last written, monotonic
        self._judges_from = 0.0  # after an outage of the database nobody is judged dead before this

    async def beat(self) -> None:
        """Say that this worker lives. Nothing else may hold it up."""
        manager = self._manager
        was_buried = await database.write(
            functools.partial(
                worker_store.beat,
                manager.worker,
                host=sockets.gethostname(),
                pid=os.getpid(),
                runs_turns=manager.runs.runs_turns,
                draining=manager.is_draining,
            ),
            is_beat=True,
            until_done=self._seen_at > 0,  # the first one is tried once: a start does not wait for ever
        )
        now = time.monotonic()
        if self._seen_at and now - self._seen_at > settings.HEADRACE.dead_after_s:
            self._judges_from = now + settings.HEADRACE.dead_after_s
        self._seen_at = now
        if was_buried:
            await manager.sessions.write_counters(all_live=True)

    async def sweep(self) -> None:
        """Whatever nobody runs is taken, whatever is owed is told."""
        manager = self._manager
        now = time.monotonic()
        if now < self._judges_from or now - self._seen_at > settings.HEADRACE.dead_after_s:
            return  # who could not say that he lives does not judge who does
        async with self._claiming:
            await self._claim()
        others = await database.read(worker_store.live_workers) - {manager.worker}
        manager.control.others = len(others)
        for kind, id_ in await database.read(owed.owed_rows, others):
            await self._try(manager.telling.tell_late(kind, id_), row=id_)
        for chat, question in await database.read(reads.due_questions):
            expires = manager.runs.transact(chat, asking.expire, chat, question, manager.runs.runner())
            await self._try(expires, row=question)
        for flow in await database.read(reads.flows_deleted_with_turns):
            await self._try(manager.commands.end_turns_of_flow(flow), row=flow)
        in_use = await database.read(reads.workers_in_use)
        await database.write(worker_store.bury_idle, in_use)

    def take_released_soon(self) -> None:
        """What somebody gave back just now. One look at a time, however many say so."""
        if not self._is_to_take:
            self._is_to_take = True
            self._manager.tasks.spawn(self._take_released())

    async def _take_released(self) -> None:
        """Workers come one after the other, so that each gets some."""
        await asyncio.sleep(random.uniform(0, CLAIMS_OVER_S))
        async with self._claiming:
            self._is_to_take = False  # who says so from here on is looked for again
            await self._claim()

    async def purge(self) -> None:
        """What is past its time: debug and call chats, commands, sessions, log-ins, files that no message names.

        A piece at a time, so that commands go between, until nothing of it is left.
        """
        for chat in await database.read(reads.past_chats):
            await self._try(database.write(tidying.purge, chat, until_done=True), row=chat)
        for forget in (
            tidying.forget_commands,
            worker_store.forget_sessions,
            accounts.forget_logins,
            accounts.forget_page_sessions,
        ):
            while await database.write(forget, until_done=True):
                pass
        await files.remove_unnamed()

    def _may_claim(self) -> bool:
        """Not while this worker is full or leaves, its Redis is away, or its database was until just now."""
        manager = self._manager
        return bool(manager.runs.runner()) and not manager.hub.is_degraded and time.monotonic() >= self._judges_from

    async def _claim(self) -> None:
        """Take what nobody runs, until this worker is full: its share of what there is, then of what is left.

        In no order, so that workers that look at once do not all reach for the same turn.
        """
        runs, limit = self._manager.runs, settings.HEADRACE.turns_per_worker
        takes_all = False
        while self._may_claim():
            found, takers = await database.read(reads.claimable, self._manager.worker, limit)
            found = [row for row in found if not runs.has_in_hand(row.turn, row.attempt, row.chat)]
            if not found:
                return
            share = len(found) if takes_all else math.ceil(len(found) / takers)
            rows = iter(random.sample(found, min(share, runs.room())))
            taken = await asyncio.gather(*(self._claim_each(rows) for _ in range(CLAIMS_AT_ONCE)))
            if share == len(found):
                return
            takes_all = not any(taken)  # others were quicker; what they have not taken must not wait

    async def _claim_each(self, rows: Iterator[reads.Claimable]) -> int:
        """One after the other, beside those that take of the same `rows`. How many it got."""
        runs, taken = self._manager.runs, 0
        for row in rows:
            if runs.has_in_hand(row.turn, row.attempt, row.chat):
                continue
            if not self._may_claim():
                break
            # A released turn is nobody's; one of this worker's own was left by a fault.
            seen = (row.turn, row.chat, row.attempt, row.worker, self._manager.worker, row.worker is not None)
            await self._try(runs.transact(row.chat, running.claim, *seen), row=row.turn)
            taken += runs.has_in_hand(row.turn, row.attempt + 1, row.chat)
        return taken

    async def _try(self, work: Coroutine[Any, Any, Any], row: str) -> None:
        try:
            await work
        except WireError as error:
            log.warning("row_left", row=row, code=error.code)
        except Exception:
            log.exception("row_left", row=row)
