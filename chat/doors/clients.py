"""The clients of this process, sockets and readers of events: who is here, what all of them hear, and who must go."""

import asyncio
import random
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
from django.conf import settings

from accounts import tokens
from accounts.passwords import network_of
from accounts.tokens import Credential, Identity
from chat import protocol, snapshot
from chat.doors.admission import Admitted
from chat.doors.client import ChatClient
from chat.turns import reads
from chat.turns.tasks import Tasks
from streams import database, frames, metrics
from streams import store as worker_store
from streams.clock import stamp
from streams.errors import WireError
from streams.hub import Hub, Ring
from streams.log import Log, Position
from streams.places import Places
from streams.sessions import Sessions
from streams.states import StreamState

# What sockets do after an event of this type.
STATES = {
    "turn_start": StreamState.STREAMING,
    "question": StreamState.PAUSED,
    "turn_end": StreamState.CONNECTED,
}
GROWTH_BYTES = 40  # `{"seq":` and a number before the type


class Clients:
    """Of one worker: by session, chat and user. `places` are shared with the other workers."""

    def __init__(self, worker: str, events: Log, hub: Hub, sessions: Sessions, tasks: Tasks) -> None:
        self.places = Places(events.masters)
        self.outage: bytes | None = None  # the `degraded` of one that lasts, for whoever comes meanwhile
        self._worker, self._log, self._hub, self._sessions, self._tasks = worker, events, hub, sessions, tasks
        self._by_session: dict[str, ChatClient] = {}
        self._by_chat: defaultdict[str, set[ChatClient]] = defaultdict(set)
        self._by_user: defaultdict[int, set[ChatClient]] = defaultdict(set)
        self._snapshots: dict[str, asyncio.Task] = {}
        hub.on_fresh = self._on_fresh
        hub.on_degraded = self._on_degraded

    async def take_place(self, identity: Identity, scope: dict[str, Any]) -> Callable[[], None]:
        """A place for one socket of this user and address, among those of all workers; what is returned gives it back.

        Raises WireError too_many_connections.
        """
        bounds = settings.HEADRACE
        return await self.places.take(
            {
                f"user:{identity.user_id}": bounds.sockets_per_user,
                f"address:{network_of(_address(scope) or '')}": bounds.sockets_per_address,
            }
        )

    async def accept(
        self,
        admitted: Admitted,
        scope: dict[str, Any],
        send: Callable[[dict[str, Any]], Awaitable[None]],
        trace: str,
        make: Callable[..., Any],
    ) -> Any:
        """A client, made by `make`, for who was admitted; its session open, its chat watched.

        Raises WireError unavailable.
        """
        ring = await self._hub.watch(admitted.chat)
        try:
            session = await self._sessions.open(
                user=admitted.identity.user_id,
                flow=admitted.flow.id,
                chat=admitted.chat,
                door=admitted.door,
                address=_address(scope),
                user_agent=_user_agent(scope),
                trace=trace,
            )
        except BaseException:
            self._hub.leave(admitted.chat)
            raise
        session.move(StreamState.CONNECTED)
        session.move(ring.state)
        write = scope.get("extensions", {}).get(frames.EXTENSION, {}).get("write")
        client = make(admitted, session, send, trace, ring, write)
        self._by_session[session.id] = client
        self._by_chat[client.chat].add(client)
        self._by_user[client.identity.user_id].add(client)
        client.log.info("socket_admitted", user=session.user, flow=session.flow, door=session.door.value)
        return client

    async def serve(self, client: ChatClient) -> None:
        """Serve it to its end; what fails in that closes it."""
        try:
            await client.serve()
        except WireError as error:
            await client.close(error)
        except Exception:
            client.log.exception("socket_failed")
            await client.close(WireError("internal"))

    async def forget(self, client: ChatClient, code: int | None) -> None:
        """Forget it: its session ends, its chat is left."""
        if self._by_session.pop(client.session.id, None) is None:
            return
        self._hub.leave(client.chat)
        self._drop(self._by_chat, client.chat, client)
        self._drop(self._by_user, client.identity.user_id, client)
        with suppress(WireError):  # the next write of the counters ends it
            await self._sessions.close(client.session, code)
        session = client.session
        client.log.info("socket_closed", code=session.close_code, reason=session.close_reason)

    @staticmethod
    def _drop(index: defaultdict[Any, set[ChatClient]], key: Any, client: ChatClient) -> None:
        index[key].discard(client)
        if not index[key]:
            del index[key]

    async def send_away(self, seconds: float) -> None:
        """All of them, over some seconds, to come back at another worker."""
        clients = list(self._by_session.values())
        pause_s = seconds / max(len(clients), 1)
        for client in clients:
            client.post(protocol.encode_frame(protocol.GoingAway(retry_after=round(random.uniform(0.2, 2), 2))))
            self._tasks.spawn(client.close(WireError("going_away")))
            await asyncio.sleep(pause_s)

    def of_chat(self, chat: str) -> list[ChatClient]:
        """This process's sockets of a chat that is known to be their user's."""
        return [client for client in self._by_chat.get(chat, ()) if client.is_mine]

    async def snapshot(self, chat: str) -> tuple[bytes, Position]:
        """Of one chat, made once for all who ask at the same time."""
        task = self._snapshots.get(chat)
        if task is None:
            task = self._snapshots[chat] = self._tasks.spawn(snapshot.take(self._log, chat))
            task.add_done_callback(lambda _: self._snapshots.pop(chat, None))
        return await asyncio.shield(task)

    def empty_snapshot(self, chat: str, position: Position) -> bytes:
        return snapshot.empty(chat, position)

    def server_info(self) -> protocol.ServerInfo:
        return protocol.ServerInfo(version=settings.HEADRACE_VERSION, time=_now())

    async def check_owner(self, client: ChatClient) -> None:
        """A socket admitted without a row reads whose the chat is by now. Raises WireError chat_not_found."""
        owner = await database.read(reads.owner, client.chat)
        if owner == (client.identity.user_id, client.admitted.flow.id):
            client.becomes_mine()
        elif owner is not None:
            raise WireError("chat_not_found")

    async def renewed(self, identity: Identity, token: str) -> Identity:
        """Who a fresh token for the same user says he is. Raises WireError unauthorized, forbidden."""
        fresh = await database.read(tokens.verify, Credential("header", token))
        if fresh.user_id != identity.user_id:
            raise WireError("unauthorized")
        if not fresh.may("chat"):
            raise WireError("forbidden")
        return fresh

    def tell_user(self, user: int, frame: bytes) -> None:
        for client in self._by_user.get(user, ()):
            client.post(frame)

    def close_session(self, session: str) -> None:
        client = self._by_session.get(session)
        if client is not None:
            client.close_soon(WireError("session_closed"))

    def chat_deleted(self, chat: str) -> None:
        """Told by a message, and by the chat's own event, which reaches who missed that."""
        for client in self.of_chat(chat):
            client.close_soon(WireError("chat_deleted"))

    def _on_fresh(self, ring: Ring, frames: list[bytes]) -> None:
        """What a chat's events say its sockets do. Growth of an answer, the most frequent, is told at a look."""
        state = ring.state
        for frame in frames:
            is_growth = b'"type":"delta"' in frame[:GROWTH_BYTES]
            kind = "delta" if is_growth else type_of(frame)
            state = StreamState.STREAMING if is_growth else STATES.get(kind, state)
            if kind == "chat" and msgspec.json.decode(frame).get("deleted"):
                self.chat_deleted(ring.chat)
        if state != ring.state:
            ring.state = state
            for client in self.of_chat(ring.chat):
                client.session.move(state)

    def _on_degraded(self, is_degraded: bool) -> None:
        frame = protocol.Degraded(since=_now()) if is_degraded else protocol.Restored()
        encoded = protocol.encode_frame(frame)
        self.outage = encoded if is_degraded else None
        for client in list(self._by_session.values()):
            client.post(encoded)

    def tick(self) -> None:
        now, wall = time.monotonic(), time.time()
        clients = list(self._by_session.values())
        for client in clients:
            client.tick(now, wall)
        lags = [client.pump.lag for client in clients]
        metrics.lagging_sockets.set(sum(map(bool, lags)))
        metrics.lag_events.set(max(lags, default=0))

    async def poll_logins(self) -> None:
        """Log-ins and users that ended, sessions that operators ended: their sockets close."""
        clients = list(self._by_session.values())
        if not clients:
            return
        logins = sorted({client.identity.login for client in clients if client.identity.login})
        users = sorted({client.identity.user_id for client in clients})
        ended = await database.read(tokens.ended_among, logins, users)
        for client in clients:
            if client.identity.login in ended or client.identity.user_id in ended:
                client.close_soon(WireError("unauthorized"))

    async def poll_closes(self) -> None:
        """Sockets that an operator wants closed."""
        if self._by_session:
            for session in await database.read(worker_store.closes_asked, self._worker):
                self.close_session(session)


def type_of(frame: bytes) -> str:
    """The type of an event as it lies in a ring."""
    start = frame.index(b'"type":"') + 8
    return frame[start : frame.index(b'"', start)].decode()


def _address(scope: dict[str, Any]) -> str | None:
    peer = scope.get("client")
    return peer[0] if peer else None


def _user_agent(scope: dict[str, Any]) -> str:
    headers = dict(scope.get("headers", []))
    return headers.get(b"user-agent", b"").decode("latin-1")[:255]


def _now() -> str:
    return stamp(datetime.now(UTC))
