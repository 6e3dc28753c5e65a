"""Tells clients what rows owe them: reads the row, appends its event, and remembers what is to be marked as told."""

from collections.abc import Callable

import structlog

from chat import protocol
from chat.turns import owed, reads
from chat.turns.outbox import append_owed
from chat.turns.store import tidying
from streams import database
from streams.errors import WireError
from streams.hub import Hub, Ring
from streams.log import Log

log = structlog.get_logger("headrace.worker")


class Telling:
    """Of one worker. `is_running` says whether a run here tells a row's event itself."""

    def __init__(self, events: Log, hub: Hub, is_running: Callable[[str], bool]) -> None:
        self._log, self._hub, self._is_running = events, hub, is_running
        self._under_way: dict[str, bool] = {}  # rows being told, and whether they changed meanwhile
        self._told: dict[tuple[str, str], int] = {}  # appended, not yet marked in the row: its rev

    async def tell_all(self, rows: list[tuple[str, str]], chat: str) -> None:
        """What these rows (kind, id) of one chat owe, in their order."""
        async with self._hub.watched(chat) as ring:
            for kind, id_ in rows:
                await self._tell(kind, id_, ring)

    async def tell_late(self, kind: str, id_: str) -> None:
        """What a sweep found: unless it is told by now, or somebody here is at it."""
        if (kind, id_) in self._told or id_ in self._under_way or self._is_running(id_):
            return
        chat = id_ if kind == "chat" else await database.read(reads.chat_of_turn, id_)
        async with self._hub.watched(chat) as ring:
            await self._tell(kind, id_, ring)

    def confirmed(self, kind: str, id_: str, rev: int) -> None:
        """The event of this row's `rev` is in the log."""
        self._told[(kind, id_)] = rev

    async def mark_told(self) -> None:
        """As often as the worker beats: many rows at once."""
        told, self._told = self._told, {}
        if not told:
            return
        rows = [(kind, id_, rev) for (kind, id_), rev in told.items()]
        try:
            await database.write(tidying.mark_told, rows, until_done=True)
        except BaseException:
            self._told = told | self._told
            raise

    async def _tell(self, kind: str, id_: str, ring: Ring) -> None:
        if id_ in self._under_way:
            self._under_way[id_] = True
            return
        try:
            again = True
            while again:
                self._under_way[id_] = False
                await self._tell_once(kind, id_, ring)
                again = self._under_way[id_]
        except WireError as error:
            log.warning("event_owed", kind=kind, id=id_, code=error.code)  # the sweep tells it
        finally:
            self._under_way.pop(id_, None)

    async def _tell_once(self, kind: str, id_: str, ring: Ring) -> None:
        """The epoch is taken before the row is read; told another, the row is read again.

        So is a chat's after its event was appended: no fence orders that event with a `turn_start`, and one that
        was read before a turn began and appended behind it would move the head back.
        """
        epoch: str | None = ring.position.epoch
        told: list[protocol.Event] | None = None
        while epoch is not None:
            row = await database.read(owed.owed_event, kind, id_)
            if row is None:
                return
            if row.events == told:
                break
            turn = id_ if kind == "turn" else ""
            present = await append_owed(self._log, row.chat, turn, row.attempt, row.events, epoch, row.ends)
            if present is None and kind == "chat":
                told, present = row.events, epoch
            epoch = present
        self.confirmed(kind, id_, row.rev)
