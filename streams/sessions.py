"""The sockets of this worker: what they carried, counted in memory, written for all in one statement.

A session's row is made when the socket is admitted and closed when it ends. A close that finds the database away is
kept and goes with the next write.
"""

import asyncio
import time
import uuid
from typing import Any

from django.conf import settings

from streams import database, metrics, store
from streams.errors import CATALOGUE, WireError
from streams.samples import Point, Samples
from streams.states import ENDS, Door, Kind, StreamState, can_move

_ORDERLY = frozenset({"idle", "going_away", "chat_deleted"})  # ends by a catalogue code that are no errors
_OPEN = {door: metrics.sockets.labels(door.value) for door in Door}
for _reason in ("left", *(code for code, entry in CATALOGUE.items() if entry.close)):
    metrics.socket_closes.labels(_reason)  # shown before the first


class Session:
    """One admitted socket. Counters: frames and their payload bytes (docs: wire, 7)."""

    __slots__ = (
        "_began",
        "address",
        "bytes_recv",
        "bytes_sent",
        "chat",
        "chunks_recv",
        "chunks_sent",
        "close_code",
        "close_reason",
        "door",
        "flow",
        "id",
        "is_dirty",
        "kind",
        "samples",
        "state",
        "trace",
        "user",
    )

    def __init__(
        self,
        *,
        user: int | None,
        flow: str | None,
        chat: str | None,
        door: Door,
        kind: Kind,
        address: str | None,
        trace: str,
    ) -> None:
        self.id = str(uuid.uuid4())
        self.user = user
        self.address = address
        self.flow = flow
        self.chat = chat
        self.door = door
        self.kind = kind
        self.trace = trace
        self.state = StreamState.CONNECTING
        self.chunks_sent = self.bytes_sent = self.chunks_recv = self.bytes_recv = 0
        self.close_code: int | None = None
        self.close_reason = ""
        self.is_dirty = False
        self.samples = Samples(settings.HEADRACE.session_samples)
        self._began = time.monotonic()

    def sent(self, nbytes: int, frames: int = 1) -> None:
        """`frames` of `nbytes` in all were written; call it when the write returned."""
        self.chunks_sent += frames
        self.bytes_sent += nbytes
        self.is_dirty = True

    def received(self, nbytes: int) -> None:
        """A frame came, a bad one included."""
        self.chunks_recv += 1
        self.bytes_recv += nbytes
        self.is_dirty = True

    def move(self, state: StreamState) -> bool:
        """Change the state where that is a legal move; says whether it was."""
        state = StreamState(state)
        if state in ENDS or not can_move(self.state, state):
            return False
        self.state = state
        self.is_dirty = True
        return True

    def ended(self, code: int | None, reason: str) -> None:
        """Note why it ends, before its close is written; the first who says it is right."""
        if self.close_code is None and not self.close_reason:
            self.close_code = code
            self.close_reason = reason

    def sample(self) -> bool:
        """Take a point of the counters, where it is time for one; the last one always is taken."""
        at_s = round(time.monotonic() - self._began, 1)
        point = Point(at_s, self.bytes_sent, self.chunks_sent, self.bytes_recv, self.chunks_recv)
        return self.samples.add(point, is_last=self.state in ENDS)

    def row(self) -> store.SessionRow:
        return store.SessionRow(
            self.id, self.state.value, self.chunks_sent, self.bytes_sent, self.chunks_recv, self.bytes_recv,
            self.state in ENDS, self.close_code, self.close_reason,
        )  # fmt: skip


class Sessions:
    """The registry of one worker's sessions, by id."""

    def __init__(self, worker: str) -> None:
        self.worker = worker
        self.live: dict[str, Session] = {}
        self._ended: dict[str, Session] = {}  # not written yet
        self._writing = asyncio.Lock()

    async def open(
        self,
        *,
        user: int | None,
        flow: str | None = None,
        chat: str | None = None,
        door: Door = Door.CHAT,
        kind: Kind = Kind.TEXT,
        address: str | None = None,
        user_agent: str = "",
        dialect: str = "headrace.v1",
        trace: str = "",
    ) -> Session:
        """Make the row of a socket that was admitted. Raises WireError("unavailable")."""
        session = Session(user=user, flow=flow, chat=chat, door=door, kind=kind, address=address, trace=trace)
        values: dict[str, Any] = {
            "id": session.id,
            "user_id": user,
            "flow": flow,
            "chat": chat,
            "door": Door(door).value,
            "kind": Kind(kind).value,
            "worker": self.worker,
            "address": address,
            "user_agent": user_agent,
            "dialect": dialect,
            "trace": trace,
        }
        is_back = has_failed = False

        def on_return() -> None:
            nonlocal is_back
            is_back = True
            if has_failed:
                self._end(session)

        try:
            await database.write(store.create_session, values, on_return=on_return)
        except BaseException:
            # The row may come to be all the same, later than we waited: what is ended then is ended after that.
            has_failed = True
            session.ended(None, "unavailable")
            if is_back:
                self._end(session)
            raise
        self.live[session.id] = session
        _OPEN[session.door].inc()
        return session

    async def close(self, session: Session, code: int | None, reason: str = "") -> None:
        """End a session with its last counters; code and reason as `ended` noted them, else these.

        Raises WireError("unavailable"); the next write takes it along then.
        """
        if session.state in ENDS:
            return
        session.ended(code, reason)
        self._end(session)
        await self._write([])

    async def write_counters(self, all_live: bool = False) -> None:
        """Write what changed, in one statement. `all_live`: this worker was buried and lives, so its rows do too."""
        changed = [session for session in self.live.values() if session.is_dirty or all_live]
        for session in changed:
            session.is_dirty = False
        try:
            await self._write(changed)
        except BaseException:
            for session in changed:
                session.is_dirty = True
            raise

    def _end(self, session: Session) -> None:
        if self.live.pop(session.id, None) is not None:
            _OPEN[session.door].dec()
            reason = session.close_reason
            metrics.socket_closes.labels(reason if reason in CATALOGUE else "left").inc()
        is_error = session.close_reason in CATALOGUE and session.close_reason not in _ORDERLY
        session.state = StreamState.ERROR if is_error else StreamState.DISCONNECTED
        self._ended[session.id] = session

    async def _write(self, changed: list[Session]) -> None:
        """One writer at a time; what ends meanwhile goes together with the next.

        Raises WireError("unavailable") where its turn does not come: what ended goes with the counters then.
        """
        try:
            async with asyncio.timeout(settings.HEADRACE.command_hop_s):
                await self._writing.acquire()
        except TimeoutError:
            raise WireError("unavailable") from None
        try:
            ended = list(self._ended.values())
            sessions = {*changed, *ended}
            if not sessions:
                return
            taken = {session.id: list(session.samples.points) for session in sessions if session.sample()}
            await database.write(_write_all, self.worker, [session.row() for session in sessions], taken)
            for session in ended:
                self._ended.pop(session.id, None)
        finally:
            self._writing.release()


def _write_all(worker: str, rows: list[store.SessionRow], taken: dict[str, list[Point]]) -> None:
    store.write_sessions(worker, rows)
    if taken:
        store.write_samples(taken)
