"""Server-sent events, before Django is asked: a chat's by the same positions as a socket, a build's progress.

A reader costs no thread. It is admitted, counted, told and closed by the manager as a socket is; it sends no commands.
"""

import asyncio
import contextlib
import functools
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import msgspec
import structlog
from django.conf import settings
from django.utils import translation

from accounts.rest.bodies import path_id
from accounts.rest.errors import error_body, error_headers, error_status
from accounts.tokens import Identity
from chat import protocol
from chat.doors import admission
from chat.doors.client import error_frame
from chat.turns import reads
from flows import build, graph
from flows import store as flows
from streams import database, metrics
from streams.abort import abort_of
from streams.errors import WireError
from streams.hub import Ring
from streams.log import Position
from streams.pump import Pump
from streams.sessions import Session
from streams.sse import EventStream, Receive, Send, until_left
from streams.states import Door
from streams.trace import new_trace

if TYPE_CHECKING:
    from chat.turns.manager import ChatManager

Scope = dict[str, Any]
CHAT_EVENTS = re.compile(r"/api/chats/([^/]+)/events/\Z")
BUILD_EVENTS = re.compile(r"/api/flows/([^/]+)/build/events/\Z")
POSITION = re.compile(r"([0-9a-f]{16}):([0-9]{1,16})\Z")
CLOSE_S = 2.0
QUIET = frozenset({"chat_deleted", "going_away", "slow_reader"})

log = structlog.get_logger("headrace.sse")


def is_event_path(scope: Scope) -> bool:
    return scope["method"] == "GET" and bool(CHAT_EVENTS.match(scope["path"]) or BUILD_EVENTS.match(scope["path"]))


async def serve(manager: "ChatManager", scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a GET of an event path, to its end. Refusals are REST's."""
    trace = new_trace()
    chat, flow = CHAT_EVENTS.match(scope["path"]), BUILD_EVENTS.match(scope["path"])
    identity = None
    begun = _Begun(send)
    try:
        identity = await admission.identify(scope)
        if not identity.may("chat" if chat else "flows"):
            raise WireError("forbidden")
        leave = await manager.take_place(identity, scope)
        try:
            if chat:
                await _serve_chat(manager, identity, chat.group(1), scope, receive, begun, trace)
            else:
                await _serve_build(identity, flow.group(1), scope, receive, begun, trace)
        finally:
            leave()
    except WireError as error:
        if not begun.is_begun:
            await refuse(error, scope, identity, send, trace)
    except OSError:
        pass  # the reader is gone
    except Exception:
        log.exception("events_failed", trace_id=trace)
        if not begun.is_begun:
            await refuse(WireError("internal"), scope, identity, send, trace)


class _Begun:
    """ASGI's send, which knows whether the answer has begun: after that no refusal can be written."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_begun = False

    async def __call__(self, message: dict[str, Any]) -> None:
        self.is_begun = True
        await self._send(message)


async def refuse(error: WireError, scope: Scope, identity: Identity | None, send: Send, trace: str) -> None:
    """REST's answer to an error, without Django."""
    metrics.refusals.labels(error.code).inc()
    locale = admission.locale_of(scope, identity.locale if identity else "")
    with translation.override(locale):
        body = msgspec.json.encode(error_body(error, trace))
    headers = {"Content-Type": "application/json", "X-Trace-Id": trace, **error_headers(error)}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error_status(error), "headers": raw})
    await send({"type": "http.response.body", "body": body})


# ---------------------------------------------------------------------------------------------------- chats


async def _serve_chat(
    manager: "ChatManager", identity: Identity, ref: str, scope: Scope, receive: Receive, send: Send, trace: str
) -> None:
    chat = str(path_id(ref))
    flow = await database.read(reads.flow_of_own_chat, chat, identity.user_id)
    admitted = admission.Admitted(
        identity=identity,
        address=admission.Address(flow=flow, skill=None, chat=chat, version=None, position=_wanted(scope)),
        locale=admission.locale_of(scope, identity.locale),
        door=Door.SSE,
        chat=chat,
        chat_kind="",
        has_row=True,
        flow=protocol.FlowInfo(id=flow, slug="", name="", version=None, greeting="", suggestions=[], params=None),
        skill="",
        version_id=None,
        graph=None,
    )
    make = functools.partial(EventReader, abort=abort_of(scope))
    reader = await manager.accept_client(admitted, scope, send, trace, make=make)
    try:
        await reader.serve(receive)
    finally:
        await asyncio.shield(manager.clear_client(reader, None))


def _wanted(scope: Scope) -> Position | None:
    """The position that the reader had; rubbish is none."""
    given = dict(scope["headers"]).get(b"last-event-id", b"").decode("latin-1")
    match = POSITION.match(given)
    return Position(match.group(1), int(match.group(2))) if match else None


class _Head(msgspec.Struct):
    """Of a frame: what its event is called, and the position of what has one."""

    type: str
    seq: int | None = None
    epoch: str | None = None


_head = msgspec.json.Decoder(_Head)


class EventReader:
    """A reader of one chat's events: to the manager a client like a socket's, without commands."""

    is_mine = True

    def __init__(
        self,
        manager: "ChatManager",
        admitted: admission.Admitted,
        session: Session,
        send: Callable[[dict[str, Any]], Awaitable[None]],
        trace: str,
        ring: Ring,
        write: Any = None,  # of ready-made frames, which only sockets take
        abort: Callable[[], None] | None = None,  # drops the connection, where the server can
    ) -> None:
        self.manager, self.admitted, self.session, self.ring, self.trace = manager, admitted, session, ring, trace
        self.chat, self.identity, self.locale = admitted.chat, admitted.identity, admitted.locale
        self.has_closed = False
        self.stream = EventStream(send)
        self._abort = abort
        self.pump = Pump(self._send_frame, session, manager.hub, self._snapshot)
        self._was_warned = False
        self.log = log.bind(trace_id=trace, session=session.id, chat=self.chat)

    async def serve(self, receive: Receive) -> None:
        """Send until the reader leaves, or this is closed."""
        await self.stream.begin(((b"x-trace-id", self.trace.encode()),))
        self.pump.follow(self.ring, self.admitted.address.position)
        pumping = asyncio.create_task(self.pump.run())
        leaving = asyncio.create_task(until_left(receive))
        comments = asyncio.create_task(self.stream.comment_every(settings.HEADRACE.sse_comment_s))
        tasks = (pumping, leaving, comments)
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if leaving not in done:
                await self._end(next(iter(done)), leaving)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _end(self, done: asyncio.Task, leaving: asyncio.Task) -> None:
        """The last words: why it ends, where the pump could not say it, and the end of the answer.

        Who does not read them is dropped: the answer could not be ended, and its connection would wait to flush.
        """
        error = None if done.cancelled() else done.exception()
        if isinstance(error, OSError):
            return
        if error is not None and not isinstance(error, WireError):
            self.log.error("events_failed", exc_info=error)
            error = WireError("internal")
        if error is not None:
            self.session.ended(None, error.code)
        if error is None or error.code != "slow_reader":
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._say_end(error)
                    return
        if self._abort is not None:
            self._abort()
            await asyncio.wait([leaving], timeout=CLOSE_S)  # the server knows by then, and misses no end

    async def _say_end(self, error: WireError | None) -> None:
        if error is not None:
            frame = protocol.encode_frame(error_frame(error, self.trace, self.locale))
            await self.stream.event("error", frame)
            self.session.sent(len(frame))
        await self.stream.end()

    async def _send_frame(self, frame: bytes) -> None:
        head = _head.decode(frame)
        epoch = head.epoch or self.pump.epoch
        await self.stream.event(head.type, frame, None if head.seq is None else f"{epoch}:{head.seq}")

    async def _snapshot(self) -> tuple[bytes, Position]:
        return await self.manager.clients.snapshot(self.chat)

    # What the manager does with any client.

    def post(self, frame: bytes) -> None:
        self.pump.post(frame)

    def becomes_mine(self) -> None:
        pass

    def tick(self, now: float, wall: float) -> None:
        """The token's end. A reader is silent by its nature: that alone closes nothing."""
        expires_at, bounds = self.identity.expires_at, settings.HEADRACE
        if expires_at is None:
            return
        if expires_at - wall < -bounds.auth_grace_s:
            self.close_soon(WireError("unauthorized"))
        elif expires_at - wall < bounds.auth_warning_s and not self._was_warned:
            self._was_warned = True
            self.post(protocol.encode_frame(protocol.AuthExpiring(in_s=max(0, int(expires_at - wall)))))

    def close_soon(self, error: WireError) -> None:
        if not self.has_closed:
            self.manager.tasks.spawn(self.close(error))

    async def close(self, error: WireError) -> None:
        """The error as the last event, where a socket would hear it too; then `serve` returns."""
        if self.has_closed:
            return
        self.has_closed = True
        self.session.ended(None, error.code)
        is_quiet = error.code in QUIET
        if not is_quiet:
            self.pump.post(protocol.encode_frame(error_frame(error, self.trace, self.locale)))
        self.pump.end(at_once=not is_quiet)


# --------------------------------------------------------------------------------------------------- builds


async def _serve_build(identity: Identity, ref: str, scope: Scope, receive: Receive, send: Send, trace: str) -> None:
    """The last build's events to its end, the draft's or `?version=n`'s: short, so neither counted nor resumed."""
    flow = await database.read(flows.own_flow, identity, ref)
    query = dict(parse_qsl(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True))
    version = await database.read(flows.wanted_version, flow.id, query.get("version"))
    built = await build.build_of(flow.id, version)
    if built is None:
        raise WireError("not_found")
    stream = EventStream(send)
    await stream.begin(((b"x-trace-id", trace.encode()),))
    with translation.override(admission.locale_of(scope, identity.locale)):
        writing = asyncio.create_task(_write_build(stream, flow.id, built, version))
        leaving = asyncio.create_task(until_left(receive))
        try:
            done, _ = await asyncio.wait([writing, leaving], return_when=asyncio.FIRST_COMPLETED)
            if writing in done and (failure := writing.exception()) is not None:
                await _end_build(stream, failure, trace)
        finally:
            for task in (writing, leaving):
                task.cancel()
            await asyncio.gather(writing, leaving, return_exceptions=True)


async def _end_build(stream: EventStream, failure: BaseException, trace: str) -> None:
    """How the build went can not be told any more: why, and the end of the answer."""
    if isinstance(failure, OSError) and not isinstance(failure, TimeoutError):
        return  # the reader is gone
    if not isinstance(failure, WireError):
        log.error("events_failed", trace_id=trace, exc_info=failure)
        failure = WireError("internal")
    shown = {"faults": [], **error_body(failure, trace)["error"]}
    async with asyncio.timeout(CLOSE_S):
        await stream.event("error", msgspec.json.encode(shown))
        await stream.event("end_of_stream", msgspec.json.encode({"status": "failure"}))
        await stream.end()


async def _write_build(stream: EventStream, flow: Any, built: build.Build, version: int | None) -> None:
    async with contextlib.aclosing(build.follow(flow, built, version)) as events:
        async for type_, fields in events:
            shown = {"faults": graph.faults_json(fields["faults"], translation.gettext)} if type_ == "error" else fields
            await stream.event(type_, msgspec.json.encode(shown))
    await stream.end()
