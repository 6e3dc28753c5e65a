"""The runs of this process: what a committed transaction begins, how it stops, and how it is given back.

Transactions on chats go through here: a run that one begins is registered at once, and until one has its answer no
turn of its chat is judged abandoned.
"""

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import structlog
from django.conf import settings

from chat.turns import orders, reads, tasks
from chat.turns.control import Control
from chat.turns.runner import Run
from chat.turns.tasks import Tasks
from chat.turns.telling import Telling
from streams import database, metrics
from streams.hub import Hub
from streams.log import Log

log = structlog.get_logger("headrace.worker")

RELEASED_AT_ONCE = 16
RELEASED_EVERY_S = 0.5


class Runs:
    """Of one worker, by turn and attempt. `is_draining`: no more are taken. `telling` tells what no run does."""

    def __init__(
        self, worker: str, events: Log, hub: Hub, control: Control, tasks: Tasks, is_draining: Callable[[], bool]
    ) -> None:
        self.runs_turns = settings.TURNS
        self.telling = Telling(events, hub, self._tells_itself)
        self._worker, self._log, self._hub = worker, events, hub
        self._control, self._tasks, self._is_draining = control, tasks, is_draining
        self._by_attempt: dict[tuple[str, int], Run] = {}
        self._run_tasks: dict[tuple[str, int], asyncio.Task] = {}
        self._under_way: Counter[str] = Counter()  # transactions of a chat

    def __len__(self) -> int:
        return len(self._by_attempt)

    def tasks(self) -> list[asyncio.Task]:
        return list(self._run_tasks.values())

    async def transact(
        self, chat: str, fn: Callable[..., orders.Outcome], *args: Any, is_told: bool = False
    ) -> dict[str, Any]:
        """A transaction that may begin a run. The epoch is taken before it is sent.

        `is_told`: return when what it owes is in the log, or after a while.
        """
        async with self._hub.watched(chat) as ring:
            epoch = ring.position.epoch
            outcome = await database.write(fn, *args, is_command=True, on_return=self._sends(chat))
            telling = self.apply(outcome, chat, epoch)
            if is_told and telling is not None:
                await asyncio.wait([telling], timeout=settings.HEADRACE.command_hop_s)
        return outcome.reply

    def runner(self) -> str | None:
        """This worker, where it can take one more turn; else a sweep finds who can."""
        return self._worker if self.runs_turns and not self._is_draining() and self.has_room() else None

    def has_room(self) -> bool:
        """Under the bound of running turns of a worker; a process that runs none leaves that to those that do."""
        return not self.runs_turns or self.room() > 0

    def room(self) -> int:
        """How many turns more this worker may run."""
        return max(0, settings.HEADRACE.turns_per_worker - len(self._by_attempt))

    def apply(self, outcome: orders.Outcome, chat: str, epoch: str) -> asyncio.Task | None:
        """What a committed transaction brings about. Awaits nothing: a run is registered at once.

        Returns the task that tells what is owed, if anything is.
        """
        for turn in outcome.stops:
            if not self.stop(turn):
                self._control.send("stop", turn=turn)
        for end, code in outcome.ended:
            metrics.turns_ended.labels(end, code).inc()
        if outcome.is_takeover:
            metrics.takeovers.inc()
        rows = [("turn", turn) for turn in outcome.owed] + ([("chat", chat)] if outcome.owes_chat else [])
        telling = self._tasks.spawn(self.telling.tell_all(rows, chat)) if rows else None
        if outcome.run is not None:
            self._begin(outcome.run, epoch, telling)
        if outcome.is_released:
            self._control.send("released")
        if outcome.listed is not None:
            user, item = outcome.listed
            self._control.send("chats", user=user, data=item)
        return telling

    def _begin(self, order: orders.RunOrder, epoch: str, telling: asyncio.Task | None) -> None:
        """`telling`: what the same transaction owes, an end before this beginning, goes first."""
        key = (order.turn, order.attempt)
        sends = functools.partial(self._sends, order.chat)
        run = Run(order, self._log, epoch, self.runner, sends, self._finished, self.telling.confirmed, self._tasks.own)
        self._by_attempt[key] = run
        self._hub.hold(order.chat)  # whoever began it watches the chat; the run leaves it at its end
        task = asyncio.create_task(self._run(run, telling), name=f"turn-{order.turn}-{order.attempt}")
        self._run_tasks[key] = task
        task.add_done_callback(lambda _: self._left(key))

    async def _run(self, run: Run, telling: asyncio.Task | None) -> None:
        try:
            if telling is not None:
                await asyncio.wait([telling])  # bounded by the bounds of its hop and its append
            await run.run()
        except Exception:
            log.exception("run_failed", turn=run.order.turn, attempt=run.order.attempt)
        finally:
            self._hub.leave(run.order.chat)

    def _left(self, key: tuple[str, int]) -> None:
        self._by_attempt.pop(key, None)
        self._run_tasks.pop(key, None)

    def _finished(self, run: Run, outcome: orders.Outcome) -> None:
        """A run's own transaction ended or suspended its turn: what follows begins."""
        self.apply(outcome, run.order.chat, run.epoch)

    def _sends(self, chat: str) -> Callable[[], None]:
        """A transaction is under way until what this returns is called, once no thread works on it any more.

        Until then no turn of this chat is judged abandoned: the commit may come late.
        """
        self._under_way[chat] += 1
        return functools.partial(self._settled, chat)

    def _settled(self, chat: str) -> None:
        self._under_way[chat] -= 1
        if self._under_way[chat] <= 0:
            del self._under_way[chat]

    def has_in_hand(self, turn: str, attempt: int, chat: str) -> bool:
        """Whether this worker runs that attempt, or a transaction of its chat is on its way."""
        return (turn, attempt) in self._by_attempt or self._under_way[chat] > 0

    def _tells_itself(self, row: str) -> bool:
        """Whether a run here tells what this row owes: its turn, or the chat that it gave a title."""
        orders_here = (run.order for run in self._by_attempt.values())
        return any(row == order.turn or (order.titled is not None and row == order.chat) for order in orders_here)

    def stop(self, turn: str) -> bool:
        found = [run for (id_, _), run in self._by_attempt.items() if id_ == turn]
        for run in found:
            run.stop()
        return bool(found)

    async def poll_stops(self) -> None:
        running = [turn for turn, _ in self._by_attempt]
        if running:
            for turn in await database.read(reads.stopped_among, running):
                self.stop(turn)

    async def drain(self, seconds: float) -> None:
        """Let what runs end. What still runs is given back, some at a time, the last when the time is over."""
        deadline = time.monotonic() + seconds
        while self._run_tasks and (left_s := deadline - self._release_s(seconds) - time.monotonic()) > 0:
            await asyncio.wait(self._run_tasks.values(), timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        await self.release(self._release_s(seconds))

    def _release_s(self, seconds: float) -> float:
        """Of so many that a drain has."""
        return min(seconds / 3, len(self._by_attempt) // RELEASED_AT_ONCE * RELEASED_EVERY_S)

    async def release(self, over_s: float = 0.0) -> None:
        """Turns that run here are nobody's, and the others hear of it at once.

        `over_s`: some at a time, so that the rest still runs here while others take those up.
        """
        runs = list(self._by_attempt.items())
        size = RELEASED_AT_ONCE if over_s else max(len(runs), 1)
        groups = [runs[first : first + size] for first in range(0, len(runs), size)]
        deadline = time.monotonic() + over_s + tasks.SHUTDOWN_S
        for i, group in enumerate(groups):
            now = time.monotonic()
            if i and now > deadline:
                break  # what is left runs on, and an end gives it back at once
            await self._release([run for key, run in group if key in self._by_attempt])
            if i < len(groups) - 1:
                self._tasks.spawn(self._control.tell_others("released"))
                await asyncio.sleep(now + over_s / len(groups) - time.monotonic())
        if groups:
            async with tasks.shutdown_step():
                await self._control.tell_others("released")

    async def _release(self, runs: list[Run]) -> None:
        releases = [self._tasks.spawn(run.release()) for run in runs]
        if releases:
            await asyncio.wait(releases, timeout=tasks.SHUTDOWN_S)
            await tasks.end(releases)
