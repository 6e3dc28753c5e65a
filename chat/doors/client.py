"""One connection: its commands, its limits, its pump. It begins turns through ChatManager and never runs one."""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import msgspec
import structlog
from django.conf import settings

from accounts import locale as languages
from accounts.tokens import Identity
from chat import protocol
from chat.doors.admission import Admitted
from streams.errors import WireError, shape_of
from streams.hub import Ring
from streams.log import Position
from streams.pump import Pump
from streams.sessions import Session
from streams.states import StreamState

if TYPE_CHECKING:
    from chat.turns.manager import ChatManager

COMMANDS_WAITING = 64
EARLY_FRAMES = 64
CLOSE_S = 2.0
WINDOW_S = 60


class Bucket:
    """A rate with a burst: `take` says how many seconds too early something came, 0 where it may pass."""

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s, self._burst = per_s, burst
        self._left, self._at = float(burst), time.monotonic()

    def take(self, count: int = 1) -> float:
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        count = min(count, self._burst)
        if self._left < count:
            return (count - self._left) / self._per_s
        self._left -= count
        return 0.0


class Window:
    """How often something happened in the last minute."""

    def __init__(self) -> None:
        self._at: deque[float] = deque()

    def add(self) -> int:
        now = time.monotonic()
        self._at.append(now)
        while self._at[0] < now - WINDOW_S:
            self._at.popleft()
        return len(self._at)


class ChatClient:
    """A socket that was admitted. `commands` is the table type -> coroutine; other floors may add to it at start."""

    commands: dict[str, Callable[["ChatClient", Any], Awaitable[None]]] = {}

    def __init__(
        self,
        manager: "ChatManager",
        admitted: Admitted,
        session: Session,
        send: Callable[[dict[str, Any]], Awaitable[None]],
        trace: str,
        ring: Ring,
        write: Callable[[bytes], bool] | None = None,
    ) -> None:
        bounds = settings.HEADRACE
        self.manager, self.admitted, self.session = manager, admitted, session
        self.chat, self.identity, self.locale = admitted.chat, admitted.identity, admitted.locale
        self.trace = trace
        self.ring = ring
        self.expires_at = admitted.identity.expires_at
        self.heard_at = time.monotonic()
        self.is_mine = admitted.has_row  # the chat's row is known to be this user's
        self.has_closed = False
        self.pump = Pump(self._send_text, session, manager.hub, self._snapshot, write)
        self.pump.on_paused = lambda is_paused: session.move(StreamState.PAUSED if is_paused else ring.state)
        self._pumping: asyncio.Task | None = None
        # What others post before the greeting is out; none of it is worth more than the newest.
        self._early: deque[bytes] | None = deque(maxlen=EARLY_FRAMES)
        self._send = send
        self._waiting: asyncio.Queue[protocol.CommandFrame] = asyncio.Queue(COMMANDS_WAITING)
        self._rate = Bucket(bounds.commands_per_s, bounds.commands_burst)
        self._ack_rate = Bucket(bounds.acks_per_s, bounds.acks_burst)
        self._bad, self._refused = Window(), Window()
        self._was_warned = False
        self._start = ring.position
        self.log = structlog.get_logger("headrace.socket").bind(trace_id=trace, session=session.id, chat=self.chat)

    # -------------------------------------------------------------------------------------- in and out

    async def serve(self) -> None:
        """Send and do commands until the socket ends or is closed, or this is cancelled."""
        while not self.is_mine:
            # Somebody may have spoken since its admission, in a log that was lost since. That nothing is missing, only
            # a row says that is not there after the position was taken.
            position = self.ring.position
            await self.manager.clients.check_owner(self)
            if self.ring.position == position:
                break
        await self._greet()
        if self.has_closed:
            return
        if not self.is_mine:
            self.ring.listeners.add(self._on_first_event)
        pumping = self._pumping = asyncio.create_task(self.pump.run())
        working = asyncio.create_task(self._work())
        try:
            done, _ = await asyncio.wait([pumping, working], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = None if task.cancelled() else task.exception()
                if isinstance(error, WireError):
                    await self.close(error)
                elif isinstance(error, OSError):
                    pass  # the peer is gone; the server tells the consumer
                elif error is not None:
                    self.log.error("socket_failed", exc_info=error)
                    await self.close(WireError("internal"))
        finally:
            self.ring.listeners.discard(self._on_first_event)
            for task in (pumping, working):
                task.cancel()
            await asyncio.gather(pumping, working, return_exceptions=True)

    async def _greet(self) -> None:
        admitted, position = self.admitted, self.ring.position
        wanted = admitted.address.position
        self._start = position
        resumed = wanted is not None and self.is_mine and await self.manager.hub.holds(self.ring, wanted)
        self.pump.post(
            protocol.encode_frame(
                protocol.Welcome(
                    epoch=position.epoch,
                    seq=position.seq,
                    session=self.session.id,
                    trace=self.trace,
                    chat=self.chat,
                    flow=admitted.flow,
                    user=protocol.UserInfo(id=str(self.identity.user_id), name=self.identity.name),
                    skill=admitted.skill,
                    server=self.manager.clients.server_info(),
                    limits=protocol.Limits(
                        text_chars=settings.HEADRACE.text_chars,
                        frame_bytes=settings.HEADRACE.frame_in_bytes,
                        file_bytes=settings.HEADRACE.file_bytes,
                        files_per_say=settings.HEADRACE.files_per_say,
                    ),
                    resumed=resumed,
                )
            )
        )
        if self.manager.clients.outage is not None:
            self.pump.post(self.manager.clients.outage)
        if self.is_mine:
            self.pump.follow(self.ring, wanted if resumed else None)
        else:
            self.pump.post(self.manager.clients.empty_snapshot(self.chat, position))
        early, self._early = self._early, None
        for frame in early:
            self.pump.post(frame)

    def post(self, frame: bytes) -> None:
        """A frame without a position, from anybody; none goes before `welcome`."""
        if self._early is None:
            self.pump.post(frame)
        else:
            self._early.append(frame)

    def received(self, text: str | None, data: bytes | None) -> None:
        """One frame from the client. Never waits: commands are done in their order by a task of their own."""
        size = len(data) if text is None else len(text.encode())
        self.session.received(size)
        if text is None:
            self._count_bad(WireError("bad_binary_frame"))
            return
        if self._is_too_much(text, size):
            return
        bounds = settings.HEADRACE
        try:
            command = protocol.decode_command(text, bounds.json_depth, bounds.json_brackets)
        except WireError as error:
            self._count_bad(error)
            return
        if not isinstance(command, protocol.Ping):  # a page that is merely open is silent
            self.heard_at = time.monotonic()
        if isinstance(command, protocol.Ack | protocol.Ping | protocol.Auth):
            self._quick(command)
            return
        wait_s = self._rate.take()
        if wait_s or self._waiting.full():
            self._refuse(WireError("rate_limited", id=command.id, retry_after=round(max(wait_s, 0.05), 3)))
            return
        self._waiting.put_nowait(command)

    def _is_too_much(self, text: str, size: int) -> bool:
        """A large frame is judged before it is read: reading it is the work. It counts once for each
        `command_bytes` that it fills, and once more where it turns out to be a command."""
        weight = size // settings.HEADRACE.command_bytes
        wait_s = self._rate.take(weight) if weight else 0.0
        if wait_s:
            self._refuse(WireError("rate_limited", id=protocol.id_in_front(text), retry_after=round(wait_s, 3)))
        return wait_s > 0

    def _quick(self, command: protocol.CommandFrame) -> None:
        wait_s = self._ack_rate.take()
        if wait_s:
            self._refuse(WireError("rate_limited", retry_after=round(wait_s, 3)))
        elif isinstance(command, protocol.Ping):
            self.post(protocol.encode_frame(protocol.Pong(t=command.t)))
        elif isinstance(command, protocol.Ack):
            try:
                self.pump.ack(command.seq)
            except WireError as error:
                self._count_bad(error)
        elif self._waiting.full():
            self._refuse(WireError("rate_limited", retry_after=1))
        else:
            self._waiting.put_nowait(command)

    async def _work(self) -> None:
        """Commands, one after the other, each answered once."""
        while True:
            command = await self._waiting.get()
            try:
                await self.commands[command.__struct_config__.tag](self, command)
            except WireError as error:
                if error.code == "chat_not_found" and not self.is_mine:
                    error.extra["id"] = getattr(command, "id", None)
                    raise
                self.post_error(error, getattr(command, "id", None))
            except Exception:
                self.log.exception("command_failed", type=command.__struct_config__.tag)
                self.post_error(WireError("internal"), getattr(command, "id", None))

    def reply(self, command: str, reply: dict[str, Any]) -> None:
        self.post(protocol.encode_frame(protocol.Ok(id=command, **reply)))

    def post_error(self, error: WireError, command: str | None = None) -> None:
        self.post(protocol.encode_frame(error_frame(error, self.trace, self.locale, command)))

    def _count_bad(self, error: WireError) -> None:
        if self._bad.add() > settings.HEADRACE.bad_frames_per_minute:
            self.close_soon(WireError("too_many_errors", retry_after=WINDOW_S))
        else:
            self.post_error(error, error.extra.get("id"))

    def _refuse(self, error: WireError) -> None:
        if self._refused.add() >= settings.HEADRACE.refusals_per_minute:
            self.close_soon(WireError("rate_limited", close=1008, retry_after=WINDOW_S))
        else:
            self.post_error(error, error.extra.get("id"))

    async def _send_text(self, frame: bytes) -> None:
        await self._send({"type": "websocket.send", "text": frame.decode()})

    # ------------------------------------------------------------------------------------------- close

    def close_soon(self, error: WireError) -> None:
        """From code that can't wait: the close goes out by a task that the manager owns."""
        if not self.has_closed:
            self.manager.tasks.spawn(self.close(error))

    async def close(self, error: WireError) -> None:
        """Error frame, then the close with the catalogue's code and the code's name as reason. Bounded."""
        if self.has_closed:
            return
        self.has_closed = True
        code = error.extra.get("close") or error.entry.close or 1011
        self.session.ended(code, error.code)
        is_quiet = error.code in ("idle", "chat_deleted", "going_away", "slow_reader")
        last = None if is_quiet else error_frame(error, self.trace, self.locale, error.extra.get("id"))
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._send_last(last)
                await close_socket(self._send, code, error.code)
        except (OSError, TimeoutError, WireError):
            pass  # the peer is gone or does not read; the server's watchdog frees the socket

    async def _send_last(self, error: protocol.Error | None) -> None:
        """What was posted before, then this, and nothing after it; without an error also the events that are there."""
        frame = None if error is None else protocol.encode_frame(error)
        if self._pumping is None or self._pumping.done():
            if frame is not None:
                await self._send_text(frame)
                self.session.sent(len(frame))
            return
        if frame is not None:
            self.pump.post(frame)
        self.pump.end(at_once=frame is not None)
        await asyncio.wait([self._pumping], timeout=CLOSE_S / 2)
        self._pumping.cancel()

    # ------------------------------------------------------------------------------------- whose chat

    def _on_first_event(self) -> None:
        """Something is in the log of a chat whose row this socket has not seen: it hears nothing before that."""
        self.ring.listeners.discard(self._on_first_event)
        self.manager.tasks.spawn(self._claim_or_close())

    async def _claim_or_close(self) -> None:
        try:
            await self.manager.clients.check_owner(self)
        except WireError as error:
            await self.close(error)

    def becomes_mine(self) -> None:
        if not self.is_mine:
            self.is_mine = True
            self.session.move(self.ring.state)
            self.ring.listeners.discard(self._on_first_event)
            if self._early is None:  # it was greeted with an empty chat
                self.pump.follow(self.ring, self._start)

    async def _snapshot(self) -> tuple[bytes, Position]:
        return await self.manager.clients.snapshot(self.chat)

    # -------------------------------------------------------------------------------------- once a second

    def tick(self, now: float, wall: float) -> None:
        """Silence and the token's end. `now`: monotonic seconds; `wall`: seconds since 1970."""
        bounds = settings.HEADRACE
        if now - self.heard_at > bounds.chat_idle_s:
            self.close_soon(WireError("idle"))
        if self.expires_at is None:
            return
        left = self.expires_at - wall
        if left < -bounds.auth_grace_s:
            self.close_soon(WireError("unauthorized"))
        elif left < bounds.auth_warning_s and not self._was_warned:
            self._was_warned = True
            self.post(protocol.encode_frame(protocol.AuthExpiring(in_s=max(0, int(left)))))

    def authorised(self, identity: Identity) -> None:
        """By a fresh token: its end, its log-in and its API key count from now on."""
        self.identity, self.expires_at, self._was_warned = identity, identity.expires_at, False
        self.admitted = msgspec.structs.replace(self.admitted, identity=identity)


async def close_socket(send: Callable[[dict[str, Any]], Awaitable[None]], code: int, reason: str) -> None:
    """Close. A server that takes no such code from an application (Daphne: 1000, 3000 to 4999) says 3000 more."""
    try:
        await send({"type": "websocket.close", "code": code, "reason": reason})
    except OSError:
        raise
    except Exception:
        await send({"type": "websocket.close", "code": code + 3000, "reason": reason})


def error_frame(error: WireError, trace: str, locale: str, command: str | None = None) -> protocol.Error:
    shape = shape_of(error, languages.sentence(error, locale), "field", "retry_after")
    return protocol.Error(**shape, trace=trace, id=command)


# ------------------------------------------------------------------------------------------------- commands


async def _say(client: ChatClient, command: protocol.Say) -> None:
    client.reply(command.id, await client.manager.commands.say(client.admitted, command))
    client.becomes_mine()


async def _own(client: ChatClient, missing: str) -> None:
    """A chat without a row has nothing that could be meant."""
    if not client.is_mine:
        await client.manager.clients.check_owner(client)
    if not client.is_mine:
        raise WireError(missing)


async def _answer(client: ChatClient, command: protocol.AnswerCommand) -> None:
    await _own(client, "question_not_found")
    client.reply(command.id, await client.manager.commands.answer(client.identity, client.chat, command))


async def _stop(client: ChatClient, command: protocol.Stop) -> None:
    await _own(client, "turn_not_running")
    client.reply(command.id, await client.manager.commands.stop_turn(client.identity, client.chat, command))


async def _regenerate(client: ChatClient, command: protocol.Regenerate) -> None:
    await _own(client, "message_not_found")
    client.reply(command.id, await client.manager.commands.regenerate(client.admitted, command))


async def _edit(client: ChatClient, command: protocol.Edit) -> None:
    await _own(client, "message_not_found")
    client.reply(command.id, await client.manager.commands.edit(client.admitted, command))


async def _auth(client: ChatClient, command: protocol.Auth) -> None:
    client.authorised(await client.manager.clients.renewed(client.identity, command.token))


ChatClient.commands |= {
    "say": _say,
    "answer": _answer,
    "stop": _stop,
    "regenerate": _regenerate,
    "edit": _edit,
    "auth": _auth,
}
