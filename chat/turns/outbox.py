"""A run's way into the event log: joins, numbers and sends its events, one batch on its way at a time.

What comes while a batch is under way is the next one; deltas of one part that wait are joined. A batch is frozen
once it was sent. Told of another epoch, it asks for the turn's whole state and begins there with that.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable

import msgspec
import structlog
from django.conf import settings

from chat import protocol
from streams.errors import WireError
from streams.log import Appended, Batch, Fenced, Log, NewEpoch

# A JSON string is at most six times its characters, so a text of this length needs no measuring.
_SAFE_SHARE = 8
WAITS_S = 0.01  # what can wait


log = structlog.get_logger("headrace.turn")


class Lost(BaseException):
    """The turn is not this attempt's any more, or its log is out of reach: fall silent.

    No Exception, so that no handler takes it for a fault of its own.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Outbox:
    """`restate` gives the turn's whole state and the event it owes, or null where the run lost its turn."""

    def __init__(
        self,
        log: Log,
        chat: str,
        turn: str,
        attempt: int,
        epoch: str,
        restate: Callable[[], Awaitable[list[protocol.Event] | None]],
        on_lost: Callable[[Lost], None],
    ) -> None:
        self._log = log
        self._chat, self._turn, self._attempt = chat, turn, attempt
        self.epoch = epoch
        self._restate = restate
        self._on_lost = on_lost
        self._bounds = settings.HEADRACE
        self._waiting: list[protocol.Event] = []
        self._open_delta: tuple[str, list[str]] | None = None
        self._tokens = 0
        self._bytes = 0
        self._n = 0
        self._is_sending = False  # or about to
        self._is_due = False  # something waits that cannot wait longer
        self._later: asyncio.TimerHandle | None = None  # for what can
        self._reply: asyncio.Future | None = None  # to the batch that is on its way
        self._restating: asyncio.Task | None = None
        self._changed = asyncio.Event()
        self._lost: Lost | None = None

    def put(self, event: protocol.Event, *, can_wait: bool = False) -> None:
        """`can_wait`: a moment, so that a first text which comes at once stands in the same append, not behind it."""
        self._close_delta()
        self._waiting.append(event)
        self._bytes += _weight(event)
        if not can_wait:
            self._wake()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(WAITS_S, self._waited)

    def delta(self, part: str, text: str, tokens: int = 1) -> None:
        if self._open_delta is not None and self._open_delta[0] == part:
            self._open_delta[1].append(text)
        else:
            self._close_delta()
            self._open_delta = (part, [text])
        self._tokens += tokens
        self._bytes += len(text)
        self._wake()

    async def room(self) -> None:
        """Back-pressure: returns once less than the bound waits. Raises Lost."""
        while not self._lost and (
            self._tokens > self._bounds.pending_tokens or self._bytes > self._bounds.pending_events_bytes
        ):
            self._wake()
            await self._change()
        if self._lost:
            raise self._lost

    async def flush(self) -> None:
        """Returns once all that was put is in the log. Raises Lost; bounded by the append's own bound."""
        while not self._lost and (self._waiting or self._open_delta or self._is_sending):
            self._wake()
            await self._change()
        if self._lost:
            raise self._lost

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _wake(self) -> None:
        """In the next step of the loop: what comes in this one goes into the same batch."""
        self._is_due = True
        if not self._is_sending and self._lost is None:
            self._is_sending = True
            asyncio.get_running_loop().call_soon(self._send)

    def _waited(self) -> None:
        self._later = None
        self._wake()

    def _close_delta(self) -> None:
        if self._open_delta is not None:
            part, texts = self._open_delta
            self._open_delta = None
            self._waiting.append(protocol.Delta(part=part, text="".join(texts)))

    def _send(self) -> None:
        """What waits, as one batch."""
        self._close_delta()
        if not self._is_due or not self._waiting or self._lost:
            self._is_due = self._is_sending = False
            self._changed.set()
            return
        events, self._waiting = self._waiting, []
        self._tokens = self._bytes = 0
        self._is_due = False
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._n += 1
        try:
            batch = Batch(
                chat=self._chat,
                epoch=self.epoch,
                turn=self._turn,
                attempt=self._attempt,
                n=self._n,
                frames=tuple(frames_of(events)),
                ends=_has_end(events),
            )
            self._submit(batch)
        except Exception as error:
            self._fail(error)

    def _submit(self, batch: Batch) -> None:
        self._reply = self._log.submit(batch)
        self._reply.add_done_callback(functools.partial(self._on_reply, batch))

    def _on_reply(self, batch: Batch, reply: asyncio.Future) -> None:
        if reply.cancelled():
            return
        error = reply.exception()
        if error is not None:
            self._fail(error)
            return
        match reply.result():
            case Appended():
                self._changed.set()
                self._send()
            case Fenced():
                self._fail(Lost("fenced"))
            case NewEpoch(epoch=epoch):
                self._restating = asyncio.create_task(self._begin_anew(batch, epoch))

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, WireError):
            self._lost = Lost(error.code)
        elif isinstance(error, Lost):
            self._lost = error
        else:
            log.error("append_failed", turn=self._turn, attempt=self._attempt, exc_info=error)
            self._lost = Lost("internal")
        self._is_sending = False
        self._changed.set()
        self._on_lost(self._lost)

    async def _begin_anew(self, batch: Batch, epoch: str) -> None:
        try:
            self._submit(await self._batch_for_epoch(batch, epoch))
        except (Exception, Lost) as error:
            self._fail(error)

    async def _batch_for_epoch(self, batch: Batch, epoch: str) -> Batch:
        """The first batch of another epoch: the whole state so far; what waited is in there and is dropped."""
        events = await self._restate()
        if events is None:
            raise Lost("fenced")
        self._waiting = [
            event for event in self._waiting if isinstance(event, protocol.TurnEnd | protocol.QuestionEvent)
        ]
        self._open_delta = None
        told = {type(event) for event in events}
        self._waiting = [event for event in self._waiting if type(event) not in told]
        self._tokens = self._bytes = 0
        self.epoch = epoch
        return msgspec.structs.replace(batch, epoch=epoch, frames=tuple(frames_of(events)), ends=_has_end(events))

    def close(self) -> None:
        """What was not sent is not sent any more."""
        self._lost = self._lost or Lost("closed")
        for work in (self._reply, self._restating, self._later):
            if work is not None:
                work.cancel()


def _has_end(events: list[protocol.Event]) -> bool:
    return any(isinstance(event, protocol.TurnEnd) for event in events)


def _weight(event: protocol.Event) -> int:
    """In bytes, what of it a handler may send as much of as it likes; the rest of an event is small."""
    held = (getattr(event, name, None) for name in ("text", "data", "output"))
    return sum(len(msgspec.json.encode(value)) for value in held if value)


async def append_owed(
    log: Log, chat: str, turn: str, attempt: int, events: list[protocol.Event], epoch: str, ends: bool
) -> str | None:
    """Append a row's owed event once, outside a run (n = 0). Returns the present epoch where it is another.

    Null means that it is told: appended, or refused because something newer is in the log.
    """
    batch = Batch(chat=chat, epoch=epoch, turn=turn, attempt=attempt, n=0, frames=tuple(frames_of(events)), ends=ends)
    reply = await log.append(batch)
    if isinstance(reply, Appended | Fenced):
        return None
    return reply.epoch


def frames_of(events: list[protocol.Event]) -> list[bytes]:
    """Each event encoded, none over the bound: longer deltas are split, what a state can't hold follows it."""
    limit = settings.HEADRACE.event_bytes
    frames: list[bytes] = []
    for event in events:
        frames.extend(_frames(event, limit))
    return frames


def _frames(event: protocol.Event, limit: int) -> list[bytes]:
    if isinstance(event, protocol.Delta) and len(event.text) < limit // _SAFE_SHARE:
        return [protocol.encode_event(event)]
    encoded = protocol.encode_event(event)
    if len(encoded) + 32 <= limit:
        return [encoded]
    if isinstance(event, protocol.Delta):
        half = len(event.text) // 2
        head = msgspec.structs.replace(event, text=event.text[:half])
        tail = msgspec.structs.replace(event, text=event.text[half:])
        return [*_frames(head, limit), *_frames(tail, limit)]
    if isinstance(event, protocol.TurnStart) and event.parts:
        return _spread(event, limit)
    if isinstance(event, protocol.TurnEnd):
        return [_fitting(event, limit)]
    return [encoded]


def _fitting(event: protocol.TurnEnd, limit: int) -> bytes:
    """Without the parts, which a client has; else without the data, which are in the row; else without both."""
    bare = msgspec.structs.replace(event.message, parts=None)
    without_parts = msgspec.structs.replace(event, message=bare)
    without_data = msgspec.structs.replace(event, data=None)
    for shorter in (without_parts, without_data):
        encoded = protocol.encode_event(shorter)
        if len(encoded) + 32 <= limit:
            return encoded
    return protocol.encode_event(msgspec.structs.replace(event, message=bare, data=None))


def _spread(event: protocol.TurnStart, limit: int) -> list[bytes]:
    """`turn_start` with the parts that fit, the rest as `part`, `delta`, `part_end` behind it."""
    room = limit - len(protocol.encode_event(msgspec.structs.replace(event, parts=[]))) - 64
    fitting: list[protocol.Part] = []
    for part in event.parts:
        room -= len(msgspec.json.encode(part)) + 1
        if room < 0:
            break
        fitting.append(part)
    frames = [protocol.encode_event(msgspec.structs.replace(event, parts=fitting))]
    for part in event.parts[len(fitting) :]:
        frames.extend(frames_of(part_events(event.turn, part)))
    return frames


def part_events(turn: str, part: protocol.Part, *, is_open: bool = False) -> list[protocol.Event]:
    """A part as the events that show it; an open one lacks its `part_end`."""
    events: list[protocol.Event] = [
        protocol.PartStart(
            turn=turn, part=part.id, kind=part.kind, node=part.node, data=None if part.text else part.data
        )
    ]
    if part.text:
        events.append(protocol.Delta(part=part.id, text=part.text))
    if not is_open:
        events.append(protocol.PartEnd(part=part.id, data=part.data if part.text else None))
    return events
